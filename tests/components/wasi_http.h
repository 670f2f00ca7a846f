// wasi:http 0.2 by hand: the canonical ABI of what test guests use, without bindings and without a
// C library, so that a guest can do each step wrong in just the way a test wants.
//
// Conventions: a resource is its handle, int32_t. A function whose result does not fit one number
// writes it to a return area, whose layout is given at its type below; sizes and alignment are the
// canonical ABI's.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WASI_VERSION "0.2.12"
#define WASI_IMPORT(interface, name) \
  __attribute__((import_module("wasi:" interface "@" WASI_VERSION), import_name(name))) extern
#define WASI_EXPORT(name) __attribute__((export_name(name)))

// ---- return areas ----

// string and list<u8>. Not terminated by a zero.
typedef struct {
  const char* at;
  size_t size;
} Text;

typedef struct {
  uint8_t some;
  Text value;
} OptionText;

// list<string> and list<list<u8>>
typedef struct {
  const Text* at;
  size_t size;
} Texts;

// list<tuple<string, string>> and list<tuple<string, list<u8>>>
typedef struct {
  Text name;
  Text value;
} Pair;

typedef struct {
  const Pair* at;
  size_t size;
} Pairs;

// variant method, variant scheme: `other` has text.
enum { kMethodOther = 9, kSchemeHttp = 0, kSchemeHttps = 1, kSchemeOther = 2 };

typedef struct {
  uint8_t tag;
  Text other;
} Method;

typedef struct {
  uint8_t some;
  _Alignas(4) uint8_t tag;
  Text other;
} OptionScheme;

// result<own<T>>
typedef struct {
  uint8_t failed;
  int32_t handle;
} ResultHandle;

// variant stream-error { last-operation-failed(own<error>), closed }
enum { kStreamFailed = 0, kStreamClosed = 1 };

typedef struct {
  uint8_t tag;
  int32_t error;
} StreamError;

// result<list<u8>, stream-error>
typedef struct {
  uint8_t failed;
  union {
    Text bytes;
    StreamError error;
  };
} ResultBytes;

// result<_, stream-error>
typedef struct {
  uint8_t failed;
  StreamError error;
} ResultStream;

// result<u64, stream-error>
typedef struct {
  uint8_t failed;
  union {
    uint64_t count;
    StreamError error;
  };
} ResultCount;

// variant error-code: the largest case has 24 bytes at 8.
typedef struct {
  uint8_t tag;
  uint64_t payload[3];
} ErrorCode;

// result<own<T>, error-code> and result<_, error-code>
typedef struct {
  uint8_t failed;
  union {
    ErrorCode error;
    int32_t handle;
  };
} ResultCode;

// option<error-code>
typedef struct {
  uint8_t some;
  ErrorCode error;
} OptionCode;

// option<result<result<T, error-code>>>, T an incoming-response or an option<trailers>
typedef struct {
  uint8_t ready;
  _Alignas(8) uint8_t taken;  // the outer result: an error says that it was taken before
  _Alignas(8) uint8_t failed;
  union {
    ErrorCode error;
    int32_t response;
    struct {
      uint8_t some;
      int32_t handle;
    } trailers;
  };
} Future;

// result<_, header-error>
typedef struct {
  uint8_t failed;
  uint8_t error;
} ResultHeader;

_Static_assert(sizeof(Text) == 8 && sizeof(OptionText) == 12 && sizeof(Pair) == 16, "layout");
_Static_assert(sizeof(Method) == 12 && sizeof(OptionScheme) == 16, "layout");
_Static_assert(sizeof(ResultHandle) == 8 && sizeof(ResultBytes) == 12, "layout");
_Static_assert(sizeof(ResultStream) == 12 && sizeof(ResultCount) == 16, "layout");
_Static_assert(sizeof(ErrorCode) == 32 && sizeof(ResultCode) == 40, "layout");
_Static_assert(sizeof(Future) == 56 && offsetof(Future, response) == 24, "layout");

// ---- wasi:http/types ----

#define HTTP_TYPES(name) WASI_IMPORT("http/types", name)

HTTP_TYPES("[constructor]fields") int32_t fields_new(void);
HTTP_TYPES("[method]fields.append")
void fields_append(int32_t self, const char*, size_t, const char*, size_t, ResultHeader*);
HTTP_TYPES("[method]fields.entries") void fields_entries(int32_t self, Pairs*);
HTTP_TYPES("[method]fields.get")
void fields_get(int32_t self, const char*, size_t, Texts*);
HTTP_TYPES("[resource-drop]fields") void fields_drop(int32_t);

HTTP_TYPES("[method]incoming-request.method") void request_method(int32_t self, Method*);
HTTP_TYPES("[method]incoming-request.path-with-query") void request_path(int32_t self, OptionText*);
HTTP_TYPES("[method]incoming-request.scheme") void request_scheme(int32_t self, OptionScheme*);
HTTP_TYPES("[method]incoming-request.authority") void request_authority(int32_t self, OptionText*);
HTTP_TYPES("[method]incoming-request.headers") int32_t request_headers(int32_t self);
HTTP_TYPES("[method]incoming-request.consume") void request_consume(int32_t self, ResultHandle*);
HTTP_TYPES("[resource-drop]incoming-request") void request_drop(int32_t);

HTTP_TYPES("[method]incoming-body.stream") void incoming_body_stream(int32_t self, ResultHandle*);
HTTP_TYPES("[static]incoming-body.finish") int32_t incoming_body_finish(int32_t self);
HTTP_TYPES("[resource-drop]incoming-body") void incoming_body_drop(int32_t);
HTTP_TYPES("[method]future-trailers.subscribe") int32_t future_trailers_subscribe(int32_t self);
HTTP_TYPES("[method]future-trailers.get") void future_trailers_get(int32_t self, Future*);
HTTP_TYPES("[resource-drop]future-trailers") void future_trailers_drop(int32_t);

HTTP_TYPES("[constructor]outgoing-response") int32_t response_new(int32_t headers);
HTTP_TYPES("[method]outgoing-response.set-status-code")
int32_t response_set_status(int32_t self, int32_t status);
HTTP_TYPES("[method]outgoing-response.body") void response_body(int32_t self, ResultHandle*);
HTTP_TYPES("[method]outgoing-body.write") void outgoing_body_write(int32_t self, ResultHandle*);
HTTP_TYPES("[static]outgoing-body.finish")
void outgoing_body_finish(int32_t self, int32_t has_trailers, int32_t trailers, ResultCode*);
HTTP_TYPES("[resource-drop]outgoing-body") void outgoing_body_drop(int32_t);

// result<own<outgoing-response>, error-code>, flattened: with `failed`, the second number is the
// case of the error code and the rest its payload.
HTTP_TYPES("[static]response-outparam.set")
void outparam_set_raw(int32_t self, int32_t failed, int32_t response_or_case, int32_t, int64_t,
                      int32_t, int32_t, int32_t, int32_t);
HTTP_TYPES("[resource-drop]response-outparam") void outparam_drop(int32_t);

HTTP_TYPES("[constructor]outgoing-request") int32_t outgoing_request_new(int32_t headers);
HTTP_TYPES("[method]outgoing-request.set-method")
int32_t outgoing_request_set_method(int32_t self, int32_t tag, const char*, size_t);
HTTP_TYPES("[method]outgoing-request.set-scheme")
int32_t outgoing_request_set_scheme(int32_t self, int32_t some, int32_t tag, const char*, size_t);
HTTP_TYPES("[method]outgoing-request.set-authority")
int32_t outgoing_request_set_authority(int32_t self, int32_t some, const char*, size_t);
HTTP_TYPES("[method]outgoing-request.set-path-with-query")
int32_t outgoing_request_set_path(int32_t self, int32_t some, const char*, size_t);
HTTP_TYPES("[method]outgoing-request.body") void outgoing_request_body(int32_t self, ResultHandle*);
HTTP_TYPES("[constructor]request-options") int32_t options_new(void);
HTTP_TYPES("[method]request-options.set-connect-timeout")
int32_t options_set_connect(int32_t self, int32_t some, uint64_t nanoseconds);
HTTP_TYPES("[method]request-options.set-first-byte-timeout")
int32_t options_set_first_byte(int32_t self, int32_t some, uint64_t nanoseconds);
HTTP_TYPES("[method]request-options.set-between-bytes-timeout")
int32_t options_set_between_bytes(int32_t self, int32_t some, uint64_t nanoseconds);

HTTP_TYPES("[method]future-incoming-response.subscribe")
int32_t future_response_subscribe(int32_t self);
HTTP_TYPES("[method]future-incoming-response.get") void future_response_get(int32_t self, Future*);
HTTP_TYPES("[resource-drop]future-incoming-response") void future_response_drop(int32_t);
HTTP_TYPES("[method]incoming-response.status") int32_t incoming_response_status(int32_t self);
HTTP_TYPES("[method]incoming-response.headers") int32_t incoming_response_headers(int32_t self);
HTTP_TYPES("[method]incoming-response.consume")
void incoming_response_consume(int32_t self, ResultHandle*);
HTTP_TYPES("[resource-drop]incoming-response") void incoming_response_drop(int32_t);
HTTP_TYPES("http-error-code") void http_error_code(int32_t io_error, OptionCode*);

// The second number says whether there are options.
WASI_IMPORT("http/outgoing-handler", "handle")
void outgoing_handle(int32_t request, int32_t has_options, int32_t options, ResultCode*);

// ---- wasi:io ----

WASI_IMPORT("io/streams", "[method]input-stream.blocking-read")
void input_blocking_read(int32_t self, uint64_t size_max, ResultBytes*);
WASI_IMPORT("io/streams", "[resource-drop]input-stream") void input_drop(int32_t);
WASI_IMPORT("io/streams", "[method]output-stream.check-write")
void output_check_write(int32_t self, ResultCount*);
WASI_IMPORT("io/streams", "[method]output-stream.write")
void output_write(int32_t self, const char*, size_t, ResultStream*);
WASI_IMPORT("io/streams", "[method]output-stream.blocking-write-and-flush")
void output_blocking_write_and_flush(int32_t self, const char*, size_t, ResultStream*);
WASI_IMPORT("io/streams", "[method]output-stream.blocking-flush")
void output_blocking_flush(int32_t self, ResultStream*);
WASI_IMPORT("io/streams", "[method]output-stream.blocking-splice")
void output_blocking_splice(int32_t self, int32_t input, uint64_t size_max, ResultCount*);
WASI_IMPORT("io/streams", "[method]output-stream.subscribe") int32_t output_subscribe(int32_t self);
WASI_IMPORT("io/streams", "[resource-drop]output-stream") void output_drop(int32_t);
WASI_IMPORT("io/error", "[resource-drop]error") void io_error_drop(int32_t);
WASI_IMPORT("io/poll", "[method]pollable.block") void pollable_block(int32_t self);
WASI_IMPORT("io/poll", "[resource-drop]pollable") void pollable_drop(int32_t);

typedef struct {
  const uint32_t* at;
  size_t size;
} Indexes;
WASI_IMPORT("io/poll", "poll") void poll_list(const int32_t* pollables, size_t, Indexes*);

// ---- wasi:clocks, wasi:cli, wasi:random ----

WASI_IMPORT("clocks/monotonic-clock", "now") uint64_t monotonic_now(void);
WASI_IMPORT("clocks/monotonic-clock", "subscribe-duration")
int32_t subscribe_duration(uint64_t nanoseconds);
WASI_IMPORT("random/random", "get-random-u64") uint64_t random_u64(void);
WASI_IMPORT("cli/stdout", "get-stdout") int32_t get_stdout(void);
WASI_IMPORT("cli/stderr", "get-stderr") int32_t get_stderr(void);
WASI_IMPORT("cli/environment", "get-environment") void get_environment(Pairs*);
WASI_IMPORT("cli/environment", "get-arguments") void get_arguments(Texts*);
WASI_IMPORT("cli/exit", "exit") void cli_exit(int32_t failed);

// ---- memory ----

// One stack of allocations, taken back as a whole at the end of a request or of a step in a loop,
// so that an instance that serves many requests or streams gigabytes stays small.

extern char __heap_base;  // from the linker
extern char* arena_top;

// Traps when memory is refused.
void* arena_allocate(size_t size, size_t alignment);
