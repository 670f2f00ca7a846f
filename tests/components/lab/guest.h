// What the modes of the lab share: text, the request, an answer, bodies, time. Handles are those of
// ../wasi_http.h; all memory is in its arena.

#pragma once

#include "../wasi_http.h"

// ---- text ----

#define TEXT(literal) ((Text){literal, sizeof(literal) - 1})

bool equal(Text a, Text b);
bool starts_with(Text text, Text prefix);
Text skip(Text text, size_t count);

// The index of the first character that is one of `wanted`, or the size.
size_t find(Text text, Text wanted);

// Text that is put together, in the arena: nothing else may allocate there between the first and
// the last piece.
typedef struct {
  char* at;
  size_t size;
} Builder;

Builder build(void);
void add(Builder* builder, Text text);
void add_number(Builder* builder, uint64_t number);
void add_hex(Builder* builder, Text bytes);
Text built(const Builder* builder);

// ---- a request ----

typedef struct {
  int32_t request;
  int32_t outparam;
  Text path;   // without the query
  Text query;  // without the question mark
} Exchange;

// The methods that have a case of their own, in its order.
extern const Text kMethods[kMethodOther];

// The value of a name in the query, percent-decoded; an empty text when it is not there.
Text parameter(const Exchange* x, Text name);
uint64_t number(const Exchange* x, Text name, uint64_t otherwise);

// ---- an answer ----

typedef struct {
  int32_t response;
  int32_t body;
  int32_t stream;
} Answer;

void append(int32_t fields, Text name, Text value);
int32_t text_headers(void);

// A response with an open body that is not yet handed to the host; send_head() hands it over, and
// start() does both.
Answer prepare(int32_t status, int32_t headers);
void send_head(const Exchange* x, const Answer* answer);
Answer start(const Exchange* x, int32_t status, int32_t headers);

// Writes as much at a time as the host has room for. False when the client is gone or the length is
// exceeded.
bool write_all(int32_t stream, Text bytes);

// The same, in the way that most guests use: at most 4096 bytes, and wait until they are out.
bool write_and_flush(int32_t stream, Text bytes);

void finish_with(const Answer* answer, bool has_trailers, int32_t trailers);
void finish(const Answer* answer);

// Gives up a body in the middle: the client must be able to see that it was cut.
void abandon(const Answer* answer);

void drop_error(StreamError error);

void reply(const Exchange* x, int32_t status, Text body);
void reply_number(const Exchange* x, uint64_t value, Text unit);

// ---- a body that comes in ----

typedef struct {
  int32_t body;
  int32_t stream;
} Incoming;

// False when it was taken before.
bool open_body(ResultHandle consumed, Incoming* incoming);
bool open_request(const Exchange* x, Incoming* incoming);

// Reads to the end and writes what was read. False when one of the two failed before the end.
bool copy_body(int32_t input, int32_t output);

// The same, in the host.
bool splice_body(int32_t input, int32_t output);

// Ends both; the trailers that came in go out.
void finish_with_trailers(const Answer* answer, const Incoming* incoming);

// ---- time and work ----

void sleep_ms(uint64_t ms);
void work(uint64_t rounds);

// What is stored here was computed for nothing, and is not optimised away.
extern volatile uint64_t sink;

// Bytes for anybody, for the length of one mode.
extern char block[65536];
