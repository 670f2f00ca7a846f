// One component with many behaviours, good and hostile, chosen by the path of the request. README.md has the table.
// No C library: each step is one call of wasi:http, in the order that the mode wants.

#include "wasi_http.h"

// ---- text ----

#define TEXT(literal) ((Text){literal, sizeof(literal) - 1})

static bool equal(Text a, Text b) {
  if (a.size != b.size) {
    return false;
  }
  for (size_t i = 0; i < a.size; ++i) {
    if (a.at[i] != b.at[i]) {
      return false;
    }
  }
  return true;
}

static bool starts_with(Text text, Text prefix) {
  return text.size >= prefix.size && equal((Text){text.at, prefix.size}, prefix);
}

static Text skip(Text text, size_t count) { return (Text){text.at + count, text.size - count}; }

// The index of the first character that is one of `wanted`, or the size.
static size_t find(Text text, Text wanted) {
  for (size_t i = 0; i < text.size; ++i) {
    for (size_t j = 0; j < wanted.size; ++j) {
      if (text.at[i] == wanted.at[j]) {
        return i;
      }
    }
  }
  return text.size;
}

// Text that is put together, in the arena: nothing else may allocate there between the first and the last piece.
typedef struct {
  char *at;
  size_t size;
} Builder;

static Builder build(void) { return (Builder){arena_allocate(0, 1), 0}; }

static void add(Builder *builder, Text text) {
  char *to = arena_allocate(text.size, 1);
  __builtin_memcpy(to, text.at, text.size);
  builder->size += text.size;
}

static void add_number(Builder *builder, uint64_t number) {
  char digits[20];
  size_t at = sizeof digits;
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number != 0);
  add(builder, (Text){digits + at, sizeof digits - at});
}

static void add_hex(Builder *builder, Text bytes) {
  static const char kDigits[] = "0123456789abcdef";
  for (size_t i = 0; i < bytes.size; ++i) {
    uint8_t byte = (uint8_t)bytes.at[i];
    char pair[2] = {kDigits[byte >> 4], kDigits[byte & 15]};
    add(builder, (Text){pair, 2});
  }
}

static Text built(const Builder *builder) { return (Text){builder->at, builder->size}; }

// ---- a request ----

typedef struct {
  int32_t request;
  int32_t outparam;
  Text path;   // without the query
  Text query;  // without the question mark
} Exchange;

static uint8_t hex_digit(char c) {
  return (uint8_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
}

// The value of a name in the query, percent-decoded; an empty text when it is not there.
static Text parameter(const Exchange *x, Text name) {
  Text rest = x->query;
  while (rest.size != 0) {
    Text item = {rest.at, find(rest, TEXT("&"))};
    rest = skip(rest, item.size + (item.size < rest.size));
    if (!starts_with(item, name) || item.size == name.size || item.at[name.size] != '=') {
      continue;
    }
    Text raw = skip(item, name.size + 1);
    char *value = arena_allocate(raw.size, 1);
    size_t size = 0;
    for (size_t i = 0; i < raw.size; ++i) {
      bool escaped = raw.at[i] == '%' && i + 2 < raw.size;
      if (escaped) {
        value[size++] = (char)(hex_digit(raw.at[i + 1]) << 4 | hex_digit(raw.at[i + 2]));
        i += 2;
      } else {
        value[size++] = raw.at[i];
      }
    }
    return (Text){value, size};
  }
  return TEXT("");
}

static uint64_t number(const Exchange *x, Text name, uint64_t otherwise) {
  Text digits = parameter(x, name);
  if (digits.size == 0) {
    return otherwise;
  }
  uint64_t value = 0;
  for (size_t i = 0; i < digits.size; ++i) {
    value = value * 10 + (uint64_t)(digits.at[i] - '0');
  }
  return value;
}

// ---- an answer ----

typedef struct {
  int32_t response;
  int32_t body;
  int32_t stream;
} Answer;

static void append(int32_t fields, Text name, Text value) {
  ResultHeader ignored;
  fields_append(fields, name.at, name.size, value.at, value.size, &ignored);
}

static int32_t text_headers(void) {
  int32_t headers = fields_new();
  append(headers, TEXT("content-type"), TEXT("text/plain"));
  return headers;
}

// A response with an open body that is not yet handed to the host.
static Answer prepare(int32_t status, int32_t headers) {
  Answer answer = {.response = response_new(headers)};
  response_set_status(answer.response, status);
  ResultHandle result;
  response_body(answer.response, &result);
  answer.body = result.handle;
  outgoing_body_write(answer.body, &result);
  answer.stream = result.handle;
  return answer;
}

static void send_head(const Exchange *x, const Answer *answer) {
  outparam_set_raw(x->outparam, 0, answer->response, 0, 0, 0, 0, 0, 0);
}

static Answer start(const Exchange *x, int32_t status, int32_t headers) {
  Answer answer = prepare(status, headers);
  send_head(x, &answer);
  return answer;
}

static void drop_error(StreamError error) {
  if (error.tag == kStreamFailed) {
    io_error_drop(error.error);
  }
}

// Writes as much at a time as the host has room for. False when the client is gone or the length is exceeded.
static bool write_all(int32_t stream, Text bytes) {
  while (bytes.size != 0) {
    ResultCount room;
    output_check_write(stream, &room);
    if (room.failed) {
      drop_error(room.error);
      return false;
    }
    if (room.count == 0) {
      int32_t pollable = output_subscribe(stream);
      pollable_block(pollable);
      pollable_drop(pollable);
      continue;
    }
    size_t size = room.count < bytes.size ? (size_t)room.count : bytes.size;
    ResultStream written;
    output_write(stream, bytes.at, size, &written);
    if (written.failed) {
      drop_error(written.error);
      return false;
    }
    bytes = skip(bytes, size);
  }
  return true;
}

// The same, in the way that most guests use: at most 4096 bytes, and wait until they are out.
static bool write_and_flush(int32_t stream, Text bytes) {
  while (bytes.size != 0) {
    size_t size = bytes.size < 4096 ? bytes.size : 4096;
    ResultStream written;
    output_blocking_write_and_flush(stream, bytes.at, size, &written);
    if (written.failed) {
      drop_error(written.error);
      return false;
    }
    bytes = skip(bytes, size);
  }
  return true;
}

static void finish_with(const Answer *answer, bool has_trailers, int32_t trailers) {
  output_drop(answer->stream);
  ResultCode ignored;
  outgoing_body_finish(answer->body, has_trailers, trailers, &ignored);
}

static void finish(const Answer *answer) { finish_with(answer, false, 0); }

// Gives up a body in the middle: the client must be able to see that it was cut.
static void abandon(const Answer *answer) {
  output_drop(answer->stream);
  outgoing_body_drop(answer->body);
}

static void reply(const Exchange *x, int32_t status, Text body) {
  Answer answer = start(x, status, text_headers());
  write_and_flush(answer.stream, body);
  finish(&answer);
}

static void reply_number(const Exchange *x, uint64_t value, Text unit) {
  Builder page = build();
  add_number(&page, value);
  add(&page, unit);
  reply(x, 200, built(&page));
}

// ---- time and work ----

static void sleep_ms(uint64_t ms) {
  int32_t pollable = subscribe_duration(ms * 1000000);
  pollable_block(pollable);
  pollable_drop(pollable);
}

static volatile uint64_t sink;  // what is stored here was computed for nothing, and not optimised away

static void work(uint64_t rounds) {
  uint64_t x = sink | 1;
  for (uint64_t i = 0; i < rounds; ++i) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
  }
  sink = x;
}

// ---- modes: good guests ----

static void mode_hello(const Exchange *x) { reply(x, 200, TEXT("Hello, World!")); }

static void mode_status(const Exchange *x) {
  reply(x, (int32_t)number(x, TEXT("code"), 503), TEXT("as asked\n"));
}

static void mode_sleep(const Exchange *x) {
  sleep_ms(number(x, TEXT("ms"), 100));
  reply(x, 200, TEXT("slept\n"));
}

static void mode_cpu(const Exchange *x) {
  uint64_t end = monotonic_now() + number(x, TEXT("ms"), 100) * 1000000;
  while (monotonic_now() < end) {
    work(100000);
  }
  reply(x, 200, TEXT("computed\n"));
}

static void mode_count(const Exchange *x) {
  static uint64_t requests;
  reply_number(x, ++requests, TEXT("\n"));
}

static void mode_random(const Exchange *x) { reply_number(x, random_u64(), TEXT("\n")); }

static void mode_stream(const Exchange *x) {
  uint64_t count = number(x, TEXT("n"), 10);
  uint64_t pause = number(x, TEXT("ms"), 100);
  Answer answer = start(x, 200, text_headers());
  for (uint64_t i = 0; i < count; ++i) {
    if (i != 0) {
      sleep_ms(pause);
    }
    Builder line = build();
    add(&line, TEXT("chunk "));
    add_number(&line, i);
    add(&line, TEXT("\n"));
    if (!write_and_flush(answer.stream, built(&line))) {
      break;
    }
  }
  finish(&answer);
}

static char block[65536];

static void mode_big(const Exchange *x) {
  uint64_t bytes = number(x, TEXT("mb"), 1) << 20;
  int32_t headers = text_headers();
  if (number(x, TEXT("length"), 0) != 0) {
    Builder length = build();
    add_number(&length, bytes);
    append(headers, TEXT("content-length"), built(&length));
  }
  for (size_t i = 0; i < sizeof block; ++i) {
    block[i] = (char)('a' + i % 26);
  }
  Answer answer = start(x, 200, headers);
  for (uint64_t sent = 0; sent < bytes; sent += sizeof block) {
    if (!write_all(answer.stream, (Text){block, sizeof block})) {
      break;
    }
  }
  finish(&answer);
}

// The request's body, or false when it was taken before.
typedef struct {
  int32_t body;
  int32_t stream;
} Incoming;

static bool open_body(ResultHandle consumed, Incoming *incoming) {
  if (consumed.failed) {
    return false;
  }
  ResultHandle stream;
  incoming_body_stream(consumed.handle, &stream);
  *incoming = (Incoming){consumed.handle, stream.handle};
  return !stream.failed;
}

static bool open_request(const Exchange *x, Incoming *incoming) {
  ResultHandle consumed;
  request_consume(x->request, &consumed);
  return open_body(consumed, incoming);
}

// What came after a body. The trailers are a child of the future: drop it last.
typedef struct {
  bool some;
  int32_t fields;
  int32_t future;
} Trailers;

// Closes the body and waits.
static Trailers take_trailers(const Incoming *incoming) {
  input_drop(incoming->stream);
  int32_t future = incoming_body_finish(incoming->body);
  int32_t pollable = future_trailers_subscribe(future);
  pollable_block(pollable);
  pollable_drop(pollable);
  Future result;
  future_trailers_get(future, &result);
  bool some = result.ready && !result.taken && !result.failed && result.trailers.some;
  return (Trailers){some, some ? result.trailers.handle : 0, future};
}

static void finish_with_trailers(const Answer *answer, const Incoming *incoming) {
  Trailers trailers = take_trailers(incoming);
  finish_with(answer, trailers.some, trailers.fields);
  future_trailers_drop(trailers.future);
}

// Reads to the end and writes what was read. False when one of the two failed before the end.
static bool copy_body(int32_t input, int32_t output) {
  for (;;) {
    char *mark = arena_top;
    ResultBytes read;
    input_blocking_read(input, sizeof block, &read);
    if (read.failed) {
      bool end = read.error.tag == kStreamClosed;
      drop_error(read.error);
      return end;
    }
    bool written = write_all(output, read.bytes);
    arena_top = mark;
    if (!written) {
      return false;
    }
  }
}

static bool splice_body(int32_t input, int32_t output) {
  for (;;) {
    ResultCount moved;
    output_blocking_splice(output, input, sizeof block, &moved);
    if (moved.failed) {
      bool end = moved.error.tag == kStreamClosed;
      drop_error(moved.error);
      return end;
    }
  }
}

static void echo(const Exchange *x, bool (*copy)(int32_t input, int32_t output)) {
  Answer answer = start(x, 200, text_headers());
  Incoming incoming;
  if (!open_request(x, &incoming) || !copy(incoming.stream, answer.stream)) {
    abandon(&answer);
    return;
  }
  finish_with_trailers(&answer, &incoming);
}

static void mode_echo(const Exchange *x) { echo(x, copy_body); }

static void mode_splice(const Exchange *x) { echo(x, splice_body); }

static void mode_trailers(const Exchange *x) {
  int32_t headers = text_headers();
  append(headers, TEXT("trailer"), TEXT("x-checksum"));
  Answer answer = start(x, 200, headers);
  write_and_flush(answer.stream, TEXT("body\n"));
  int32_t trailers = fields_new();
  append(trailers, TEXT("x-checksum"), TEXT("1234"));
  finish_with(&answer, true, trailers);
}

static bool is_ascii(Text text) {
  for (size_t i = 0; i < text.size; ++i) {
    if ((uint8_t)text.at[i] >= 0x80) {
      return false;
    }
  }
  return true;
}

static void mode_headers(const Exchange *x) {
  bool strict = number(x, TEXT("strict"), 0) != 0;
  int32_t headers = request_headers(x->request);
  Pairs pairs;
  fields_entries(headers, &pairs);
  fields_drop(headers);
  Builder page = build();
  for (size_t i = 0; i < pairs.size; ++i) {
    if (strict && !is_ascii(pairs.at[i].value)) {
      __builtin_trap();
    }
    add(&page, pairs.at[i].name);
    add(&page, TEXT(": "));
    add_hex(&page, pairs.at[i].value);
    add(&page, TEXT("\n"));
  }
  reply(x, 200, built(&page));
}

static void mode_cookies(const Exchange *x) {
  int32_t headers = request_headers(x->request);
  Texts values;
  fields_get(headers, "cookie", 6, &values);
  fields_drop(headers);
  Builder page = build();
  for (size_t i = 0; i < values.size; ++i) {
    add(&page, values.at[i]);
    add(&page, TEXT("\n"));
  }
  reply(x, 200, built(&page));
}

static const Text kMethods[] = {
    TEXT("GET"),     TEXT("HEAD"),    TEXT("POST"),  TEXT("PUT"),   TEXT("DELETE"),
    TEXT("CONNECT"), TEXT("OPTIONS"), TEXT("TRACE"), TEXT("PATCH"),
};

enum { kMethodOther = 9, kSchemeHttp = 0, kSchemeHttps = 1, kSchemeOther = 2 };

static void add_option(Builder *page, Text name, bool some, Text value) {
  add(page, name);
  add(page, TEXT(": "));
  add(page, some ? value : TEXT("(none)"));
  add(page, TEXT("\n"));
}

static void mode_request(const Exchange *x) {
  Method method;
  request_method(x->request, &method);
  OptionScheme scheme;
  request_scheme(x->request, &scheme);
  OptionText authority;
  request_authority(x->request, &authority);
  OptionText path;
  request_path(x->request, &path);

  Builder page = build();
  add_option(&page, TEXT("method"), true, method.tag < kMethodOther ? kMethods[method.tag] : method.other);
  add_option(&page, TEXT("scheme"), scheme.some,
             scheme.tag == kSchemeHttp    ? TEXT("http")
             : scheme.tag == kSchemeHttps ? TEXT("https")
                                          : scheme.other);
  add_option(&page, TEXT("authority"), authority.some, authority.value);
  add_option(&page, TEXT("path-with-query"), path.some, path.value);
  reply(x, 200, built(&page));
}

static void mode_env(const Exchange *x) {
  Pairs pairs;
  get_environment(&pairs);
  Texts arguments;
  get_arguments(&arguments);
  Builder page = build();
  for (size_t i = 0; i < pairs.size; ++i) {
    add(&page, pairs.at[i].name);
    add(&page, TEXT("="));
    add(&page, pairs.at[i].value);
    add(&page, TEXT("\n"));
  }
  for (size_t i = 0; i < arguments.size; ++i) {
    add_option(&page, TEXT("argument"), true, arguments.at[i]);
  }
  reply(x, 200, built(&page));
}

static void mode_print(const Exchange *x) {
  Builder line = build();
  add(&line, parameter(x, TEXT("text")));
  add(&line, TEXT("\n"));
  int32_t out = get_stdout();
  write_all(out, TEXT("out: "));
  write_all(out, built(&line));
  output_drop(out);
  int32_t err = get_stderr();
  write_all(err, TEXT("err: "));
  write_all(err, built(&line));
  output_drop(err);
  reply(x, 200, TEXT("printed\n"));
}

// Answers in full, then goes on working before it returns.
static void mode_linger(const Exchange *x) {
  reply(x, 200, TEXT("answered\n"));
  sleep_ms(number(x, TEXT("ms"), 1000));
}

// ---- modes: orders and sizes of writing ----

static void mode_body_first(const Exchange *x) {
  Answer answer = prepare(200, text_headers());
  bool flush = number(x, TEXT("flush"), 0) != 0;
  uint64_t bytes = number(x, TEXT("kb"), 0) << 10;
  (flush ? write_and_flush : write_all)(answer.stream, TEXT("before\n"));
  for (size_t i = 0; i < sizeof block; ++i) {
    block[i] = '.';
  }
  for (uint64_t sent = 0; sent < bytes; sent += 1024) {
    write_all(answer.stream, (Text){block, 1024});
  }
  if (number(x, TEXT("finish"), 0) != 0) {
    finish(&answer);
    send_head(x, &answer);
    return;
  }
  send_head(x, &answer);
  write_and_flush(answer.stream, TEXT("after\n"));
  finish(&answer);
}

// More in one call than the 4096 bytes that wasi:io asks of hosts.
static void mode_big_write(const Exchange *x) {
  size_t size = (size_t)number(x, TEXT("kb"), 64) << 10;
  char *bytes = arena_allocate(size, 1);
  __builtin_memset(bytes, 'x', size);
  Answer answer = start(x, 200, text_headers());
  ResultStream written;
  output_blocking_write_and_flush(answer.stream, bytes, size, &written);
  if (written.failed) {
    drop_error(written.error);
    abandon(&answer);
    return;
  }
  finish(&answer);
}

static void with_length(const Exchange *x, Text length, size_t size) {
  int32_t headers = text_headers();
  append(headers, TEXT("content-length"), length);
  __builtin_memset(block, 'x', sizeof block);
  Answer answer = start(x, 200, headers);
  write_all(answer.stream, (Text){block, size});
  finish(&answer);
}

static void mode_short(const Exchange *x) { with_length(x, TEXT("100"), 10); }

static void mode_long(const Exchange *x) { with_length(x, TEXT("10"), 100); }

static void mode_read_some(const Exchange *x) {
  Incoming incoming;
  uint64_t bytes = 0;
  if (open_request(x, &incoming)) {
    ResultBytes read;
    input_blocking_read(incoming.stream, number(x, TEXT("n"), 1024), &read);
    if (read.failed) {
      drop_error(read.error);
    } else {
      bytes = read.bytes.size;
    }
    input_drop(incoming.stream);
    incoming_body_drop(incoming.body);
  }
  reply_number(x, bytes, TEXT(" bytes read\n"));
}

static void mode_no_read(const Exchange *x) { reply(x, 200, TEXT("not read\n")); }

// ---- modes: broken and hostile guests ----

static void mode_trap(const Exchange *x) {
  (void)x;
  __builtin_trap();
}

static void mode_trap_after_head(const Exchange *x) {
  Answer answer = start(x, 200, text_headers());
  write_and_flush(answer.stream, TEXT("partial"));
  sleep_ms(number(x, TEXT("ms"), 20));
  __builtin_trap();
}

static void mode_spin(const Exchange *x) {
  if (number(x, TEXT("head"), 0) != 0) {
    Answer answer = start(x, 200, text_headers());
    write_and_flush(answer.stream, TEXT("partial"));
  }
  for (;;) {
    work(1000);
  }
}

// Endless too, but in calls of the host.
static void mode_busy(const Exchange *x) {
  (void)x;
  for (;;) {
    sink = monotonic_now();
  }
}

static void mode_hog(const Exchange *x) {
  uint64_t wanted = number(x, TEXT("mb"), 64);
  uint64_t mb = 0;
  while (mb < wanted) {
    size_t page = __builtin_wasm_memory_grow(0, 16);
    if (page == SIZE_MAX) {
      if (number(x, TEXT("soft"), 0) == 0) {
        __builtin_trap();
      }
      break;
    }
    volatile char *bytes = (volatile char *)(page * 65536);
    for (size_t i = 0; i < 1 << 20; i += 4096) {
      bytes[i] = 1;
    }
    ++mb;
  }
  arena_top = (char *)(__builtin_wasm_memory_size(0) * 65536 - 65536);
  reply_number(x, mb, TEXT(" MiB taken\n"));
}

static __externref_t table[0];

static void mode_tables(const Exchange *x) {
  uint64_t wanted = number(x, TEXT("n"), 100000000);
  uint64_t taken = 0;
  while (taken < wanted) {
    if (__builtin_wasm_table_grow(table, __builtin_wasm_ref_null_extern(), 10000) < 0) {
      if (number(x, TEXT("soft"), 0) == 0) {
        __builtin_trap();
      }
      break;
    }
    taken += 10000;
  }
  reply_number(x, taken, TEXT(" elements taken\n"));
}

static void mode_resources(const Exchange *x) {
  uint64_t wanted = number(x, TEXT("n"), 1000000);
  for (uint64_t i = 0; i < wanted; ++i) {
    fields_new();
  }
  reply_number(x, wanted, TEXT(" resources taken\n"));
}

// Sleeps on many timers at once.
static void mode_polls(const Exchange *x) {
  size_t count = (size_t)number(x, TEXT("n"), 1000);
  uint64_t ms = number(x, TEXT("ms"), 100);
  int32_t *pollables = arena_allocate(count * sizeof *pollables, 4);
  for (size_t i = 0; i < count; ++i) {
    pollables[i] = subscribe_duration((ms + i) * 1000000);
  }
  Indexes ready;
  poll_list(pollables, count, &ready);
  for (size_t i = 0; i < count; ++i) {
    pollable_drop(pollables[i]);
  }
  reply_number(x, ready.size, TEXT(" ready\n"));
}

__attribute__((noinline)) static uint64_t descend(uint64_t left) {
  sink = left;
  uint64_t below = left == 0 ? 0 : descend(left - 1);
  return below ^ sink;
}

static void mode_recurse(const Exchange *x) {
  uint64_t depth = number(x, TEXT("n"), UINT64_MAX);
  sink = descend(depth);
  reply_number(x, depth, TEXT(" deep\n"));
}

static void mode_no_response(const Exchange *x) {
  if (number(x, TEXT("drop"), 0) != 0) {
    outparam_drop(x->outparam);
  }
}

enum { kErrorCodeInternal = 38 };

static void mode_error_code(const Exchange *x) {
  int32_t code = (int32_t)number(x, TEXT("code"), kErrorCodeInternal);
  Text message = TEXT("asked for by the request");
  bool has_message = code == kErrorCodeInternal;
  outparam_set_raw(x->outparam, 1, code, has_message, has_message ? (int64_t)(uintptr_t)message.at : 0,
                   has_message ? (int32_t)message.size : 0, 0, 0, 0);
}

static void mode_leak_body(const Exchange *x) {
  Answer answer = start(x, 200, text_headers());
  write_and_flush(answer.stream, TEXT("hi"));
}

static void mode_drop_body(const Exchange *x) {
  Answer answer = start(x, 200, text_headers());
  write_and_flush(answer.stream, TEXT("hi"));
  abandon(&answer);
}

static void mode_flood(const Exchange *x) {
  uint64_t bytes = number(x, TEXT("mb"), 4) << 20;
  __builtin_memset(block, 'f', sizeof block);
  for (size_t i = 99; i < sizeof block / 2; i += 100) {
    block[i] = '\n';  // lines of 100 bytes, then one of half the block
  }
  int32_t streams[2] = {get_stdout(), get_stderr()};
  for (uint64_t sent = 0; sent < bytes; sent += sizeof block) {
    write_all(streams[sent / sizeof block % 2], (Text){block, sizeof block});
  }
  reply(x, 200, TEXT("flooded\n"));
}

static void mode_exit(const Exchange *x) { cli_exit(number(x, TEXT("ok"), 0) == 0); }

// ---- modes: outbound ----

static const Text kErrorCodes[] = {
    TEXT("DNS-timeout"),
    TEXT("DNS-error"),
    TEXT("destination-not-found"),
    TEXT("destination-unavailable"),
    TEXT("destination-IP-prohibited"),
    TEXT("destination-IP-unroutable"),
    TEXT("connection-refused"),
    TEXT("connection-terminated"),
    TEXT("connection-timeout"),
    TEXT("connection-read-timeout"),
    TEXT("connection-write-timeout"),
    TEXT("connection-limit-reached"),
    TEXT("TLS-protocol-error"),
    TEXT("TLS-certificate-error"),
    TEXT("TLS-alert-received"),
    TEXT("HTTP-request-denied"),
    TEXT("HTTP-request-length-required"),
    TEXT("HTTP-request-body-size"),
    TEXT("HTTP-request-method-invalid"),
    TEXT("HTTP-request-URI-invalid"),
    TEXT("HTTP-request-URI-too-long"),
    TEXT("HTTP-request-header-section-size"),
    TEXT("HTTP-request-header-size"),
    TEXT("HTTP-request-trailer-section-size"),
    TEXT("HTTP-request-trailer-size"),
    TEXT("HTTP-response-incomplete"),
    TEXT("HTTP-response-header-section-size"),
    TEXT("HTTP-response-header-size"),
    TEXT("HTTP-response-body-size"),
    TEXT("HTTP-response-trailer-section-size"),
    TEXT("HTTP-response-trailer-size"),
    TEXT("HTTP-response-transfer-coding"),
    TEXT("HTTP-response-content-coding"),
    TEXT("HTTP-response-timeout"),
    TEXT("HTTP-upgrade-failed"),
    TEXT("HTTP-protocol-error"),
    TEXT("loop-detected"),
    TEXT("configuration-error"),
    TEXT("internal-error"),
};

static Text error_name(ErrorCode error) {
  bool known = error.tag < sizeof kErrorCodes / sizeof *kErrorCodes;
  return known ? kErrorCodes[error.tag] : TEXT("unknown");
}

// What was sent, and what may come back.
typedef struct {
  bool refused;  // before anything was sent; `why` says by what
  Text why;
  int32_t future;
} Call;

static int32_t call_options(const Exchange *x) {
  int32_t options = options_new();
  uint64_t connect = number(x, TEXT("connect-ms"), 0);
  uint64_t first = number(x, TEXT("first-byte-ms"), 0);
  uint64_t between = number(x, TEXT("between-bytes-ms"), 0);
  if (connect != 0) {
    options_set_connect(options, 1, connect * 1000000);
  }
  if (first != 0) {
    options_set_first_byte(options, 1, first * 1000000);
  }
  if (between != 0) {
    options_set_between_bytes(options, 1, between * 1000000);
  }
  return options;
}

static bool set_method(int32_t request, Text method) {
  int32_t tag = 0;
  while (tag < kMethodOther && !equal(method, kMethods[tag])) {
    ++tag;
  }
  return outgoing_request_set_method(request, tag, method.at, tag < kMethodOther ? 0 : method.size) == 0;
}

static bool set_scheme(int32_t request, Text scheme) {
  int32_t tag = equal(scheme, TEXT("http")) ? kSchemeHttp : equal(scheme, TEXT("https")) ? kSchemeHttps : kSchemeOther;
  return outgoing_request_set_scheme(request, 1, tag, scheme.at, tag == kSchemeOther ? scheme.size : 0) == 0;
}

static Call refuse(Text why) { return (Call){.refused = true, .why = why}; }

static Call call(const Exchange *x) {
  Text url = parameter(x, TEXT("url"));
  Text method = parameter(x, TEXT("method"));
  uint64_t body_bytes = number(x, TEXT("body"), 0);

  Text scheme = {url.at, find(url, TEXT(":"))};
  if (!starts_with(skip(url, scheme.size), TEXT("://"))) {
    return refuse(TEXT("not a URL"));
  }
  Text rest = skip(url, scheme.size + 3);
  Text authority = {rest.at, find(rest, TEXT("/?"))};
  Text path = skip(rest, authority.size);

  int32_t headers = fields_new();
  Text header = parameter(x, TEXT("header"));  // name:value
  if (header.size != 0) {
    Text name = {header.at, find(header, TEXT(":"))};
    append(headers, name, skip(header, name.size + (name.size < header.size)));
  }
  if (number(x, TEXT("length"), 0) != 0) {
    Builder length = build();
    add_number(&length, body_bytes);
    append(headers, TEXT("content-length"), built(&length));
  }
  int32_t request = outgoing_request_new(headers);
  if (method.size != 0 && !set_method(request, method)) {
    return refuse(TEXT("method refused"));
  }
  if (!set_scheme(request, scheme)) {
    return refuse(TEXT("scheme refused"));
  }
  if (outgoing_request_set_authority(request, 1, authority.at, authority.size) != 0) {
    return refuse(TEXT("authority refused"));
  }
  if (path.size != 0 && outgoing_request_set_path(request, 1, path.at, path.size) != 0) {
    return refuse(TEXT("path refused"));
  }

  ResultHandle body = {0};
  if (body_bytes != 0) {
    outgoing_request_body(request, &body);
  }
  ResultCode sent;
  outgoing_handle(request, 1, call_options(x), &sent);
  if (body_bytes != 0) {
    ResultHandle stream;
    outgoing_body_write(body.handle, &stream);
    __builtin_memset(block, 'b', sizeof block);
    bool written = true;
    while (body_bytes != 0 && written) {
      size_t size = body_bytes < sizeof block ? (size_t)body_bytes : sizeof block;
      written = write_all(stream.handle, (Text){block, size});
      body_bytes -= size;
    }
    Answer upload = {.body = body.handle, .stream = stream.handle};
    finish(&upload);
  }
  return sent.failed ? refuse(error_name(sent.error)) : (Call){.future = sent.handle};
}

static void reply_error(const Exchange *x, Text why) {
  Builder page = build();
  add(&page, why);
  add(&page, TEXT("\n"));
  reply(x, 502, built(&page));
}

static void mode_fetch(const Exchange *x) {
  Call sent = call(x);
  if (sent.refused) {
    reply_error(x, sent.why);
    return;
  }
  int32_t pollable = future_response_subscribe(sent.future);
  pollable_block(pollable);
  pollable_drop(pollable);
  Future result;
  future_response_get(sent.future, &result);
  future_response_drop(sent.future);
  if (!result.ready || result.taken) {
    reply_error(x, TEXT("future not ready"));
    return;
  }
  if (result.failed) {
    reply_error(x, error_name(result.error));
    return;
  }

  ResultHandle consumed;
  incoming_response_consume(result.response, &consumed);
  Incoming incoming;
  int32_t status = incoming_response_status(result.response);
  if (!open_body(consumed, &incoming)) {
    reply_error(x, TEXT("no body"));
    return;
  }
  Answer answer = start(x, status, text_headers());
  if (!copy_body(incoming.stream, answer.stream)) {
    abandon(&answer);
    return;
  }
  finish_with_trailers(&answer, &incoming);
  incoming_response_drop(result.response);
}

// Several calls at once; one line for each, in the order of the calls.
static void mode_fetch_many(const Exchange *x) {
  size_t count = (size_t)number(x, TEXT("n"), 10);
  Call *calls = arena_allocate(count * sizeof *calls, 4);
  for (size_t i = 0; i < count; ++i) {
    calls[i] = call(x);
  }
  Answer answer = start(x, 200, text_headers());
  for (size_t i = 0; i < count; ++i) {
    Text outcome = calls[i].why;
    int32_t status = 0;
    if (!calls[i].refused) {
      int32_t pollable = future_response_subscribe(calls[i].future);
      pollable_block(pollable);
      pollable_drop(pollable);
      Future result;
      future_response_get(calls[i].future, &result);
      future_response_drop(calls[i].future);
      if (result.failed) {
        outcome = error_name(result.error);
      } else {
        status = incoming_response_status(result.response);
        incoming_response_drop(result.response);
      }
    }
    Builder line = build();
    if (status != 0) {
      add_number(&line, (uint64_t)status);
    } else {
      add(&line, outcome);
    }
    add(&line, TEXT("\n"));
    write_and_flush(answer.stream, built(&line));
  }
  finish(&answer);
}

// ---- dispatch ----

static const struct {
  Text path;
  void (*run)(const Exchange *);
} kModes[] = {
    {TEXT("/hello"), mode_hello},
    {TEXT("/status"), mode_status},
    {TEXT("/sleep"), mode_sleep},
    {TEXT("/cpu"), mode_cpu},
    {TEXT("/count"), mode_count},
    {TEXT("/random"), mode_random},
    {TEXT("/stream"), mode_stream},
    {TEXT("/big"), mode_big},
    {TEXT("/echo"), mode_echo},
    {TEXT("/splice"), mode_splice},
    {TEXT("/trailers"), mode_trailers},
    {TEXT("/headers"), mode_headers},
    {TEXT("/cookies"), mode_cookies},
    {TEXT("/request"), mode_request},
    {TEXT("/env"), mode_env},
    {TEXT("/print"), mode_print},
    {TEXT("/linger"), mode_linger},
    {TEXT("/body-first"), mode_body_first},
    {TEXT("/big-write"), mode_big_write},
    {TEXT("/short"), mode_short},
    {TEXT("/long"), mode_long},
    {TEXT("/read-some"), mode_read_some},
    {TEXT("/no-read"), mode_no_read},
    {TEXT("/trap"), mode_trap},
    {TEXT("/trap-after-head"), mode_trap_after_head},
    {TEXT("/spin"), mode_spin},
    {TEXT("/busy"), mode_busy},
    {TEXT("/hog"), mode_hog},
    {TEXT("/tables"), mode_tables},
    {TEXT("/resources"), mode_resources},
    {TEXT("/polls"), mode_polls},
    {TEXT("/recurse"), mode_recurse},
    {TEXT("/no-response"), mode_no_response},
    {TEXT("/error-code"), mode_error_code},
    {TEXT("/leak-body"), mode_leak_body},
    {TEXT("/drop-body"), mode_drop_body},
    {TEXT("/flood"), mode_flood},
    {TEXT("/exit"), mode_exit},
    {TEXT("/fetch"), mode_fetch},
    {TEXT("/fetch-many"), mode_fetch_many},
};

WASI_EXPORT("wasi:http/incoming-handler@" WASI_VERSION "#handle")
void handle(int32_t request, int32_t outparam) {
  char *mark = arena_top;
  OptionText target;
  request_path(request, &target);
  Text text = target.some ? target.value : TEXT("/");
  Exchange x = {request, outparam, {text.at, find(text, TEXT("?"))}, TEXT("")};
  if (x.path.size < text.size) {
    x.query = skip(text, x.path.size + 1);
  }
  void (*run)(const Exchange *) = mode_hello;
  for (size_t i = 0; i < sizeof kModes / sizeof *kModes; ++i) {
    if (equal(x.path, kModes[i].path)) {
      run = kModes[i].run;
    }
  }
  run(&x);
  request_drop(request);
  arena_top = mark;
}
