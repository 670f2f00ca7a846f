#include "guest.h"

volatile uint64_t sink;
char block[65536];

// ---- memory ----

char* arena_top = &__heap_base;

void* arena_allocate(size_t size, size_t alignment) {
  char* start = (char*)(((uintptr_t)arena_top + alignment - 1) & ~(uintptr_t)(alignment - 1));
  size_t end = (size_t)start + size;
  size_t have = __builtin_wasm_memory_size(0) * 65536;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + 65535) / 65536) == SIZE_MAX) {
    __builtin_trap();
  }
  arena_top = (char*)end;
  return start;
}

// The host allocates what it returns with this.
WASI_EXPORT("cabi_realloc")
void* cabi_realloc(void* old, size_t old_size, size_t alignment, size_t size) {
  void* moved = arena_allocate(size, alignment);
  if (old_size != 0) {
    __builtin_memcpy(moved, old, old_size < size ? old_size : size);
  }
  return moved;
}

// ---- text ----

bool equal(Text a, Text b) {
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

bool starts_with(Text text, Text prefix) {
  return text.size >= prefix.size && equal((Text){text.at, prefix.size}, prefix);
}

Text skip(Text text, size_t count) { return (Text){text.at + count, text.size - count}; }

size_t find(Text text, Text wanted) {
  for (size_t i = 0; i < text.size; ++i) {
    for (size_t j = 0; j < wanted.size; ++j) {
      if (text.at[i] == wanted.at[j]) {
        return i;
      }
    }
  }
  return text.size;
}

Builder build(void) { return (Builder){arena_allocate(0, 1), 0}; }

void add(Builder* builder, Text text) {
  char* to = arena_allocate(text.size, 1);
  __builtin_memcpy(to, text.at, text.size);
  builder->size += text.size;
}

void add_number(Builder* builder, uint64_t number) {
  char digits[20];
  size_t at = sizeof digits;
  do {
    digits[--at] = (char)('0' + number % 10);
    number /= 10;
  } while (number != 0);
  add(builder, (Text){digits + at, sizeof digits - at});
}

void add_hex(Builder* builder, Text bytes) {
  static const char kDigits[] = "0123456789abcdef";
  for (size_t i = 0; i < bytes.size; ++i) {
    uint8_t byte = (uint8_t)bytes.at[i];
    char pair[2] = {kDigits[byte >> 4], kDigits[byte & 15]};
    add(builder, (Text){pair, 2});
  }
}

Text built(const Builder* builder) { return (Text){builder->at, builder->size}; }

// ---- a request ----

const Text kMethods[kMethodOther] = {
    TEXT("GET"),     TEXT("HEAD"),    TEXT("POST"),  TEXT("PUT"),   TEXT("DELETE"),
    TEXT("CONNECT"), TEXT("OPTIONS"), TEXT("TRACE"), TEXT("PATCH"),
};

static uint8_t hex_digit(char c) { return (uint8_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10); }

Text parameter(const Exchange* x, Text name) {
  Text rest = x->query;
  while (rest.size != 0) {
    Text item = {rest.at, find(rest, TEXT("&"))};
    rest = skip(rest, item.size + (item.size < rest.size));
    if (!starts_with(item, name) || item.size == name.size || item.at[name.size] != '=') {
      continue;
    }
    Text raw = skip(item, name.size + 1);
    char* value = arena_allocate(raw.size, 1);
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

uint64_t number(const Exchange* x, Text name, uint64_t otherwise) {
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

void append(int32_t fields, Text name, Text value) {
  ResultHeader ignored;
  fields_append(fields, name.at, name.size, value.at, value.size, &ignored);
}

int32_t text_headers(void) {
  int32_t headers = fields_new();
  append(headers, TEXT("content-type"), TEXT("text/plain"));
  return headers;
}

Answer prepare(int32_t status, int32_t headers) {
  Answer answer = {.response = response_new(headers)};
  response_set_status(answer.response, status);
  ResultHandle result;
  response_body(answer.response, &result);
  answer.body = result.handle;
  outgoing_body_write(answer.body, &result);
  answer.stream = result.handle;
  return answer;
}

void send_head(const Exchange* x, const Answer* answer) {
  outparam_set_raw(x->outparam, 0, answer->response, 0, 0, 0, 0, 0, 0);
}

Answer start(const Exchange* x, int32_t status, int32_t headers) {
  Answer answer = prepare(status, headers);
  send_head(x, &answer);
  return answer;
}

void drop_error(StreamError error) {
  if (error.tag == kStreamFailed) {
    io_error_drop(error.error);
  }
}

bool write_all(int32_t stream, Text bytes) {
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

bool write_and_flush(int32_t stream, Text bytes) {
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

void finish_with(const Answer* answer, bool has_trailers, int32_t trailers) {
  output_drop(answer->stream);
  ResultCode ignored;
  outgoing_body_finish(answer->body, has_trailers, trailers, &ignored);
}

void finish(const Answer* answer) { finish_with(answer, false, 0); }

void abandon(const Answer* answer) {
  output_drop(answer->stream);
  outgoing_body_drop(answer->body);
}

void reply(const Exchange* x, int32_t status, Text body) {
  Answer answer = start(x, status, text_headers());
  write_and_flush(answer.stream, body);
  finish(&answer);
}

void reply_number(const Exchange* x, uint64_t value, Text unit) {
  Builder page = build();
  add_number(&page, value);
  add(&page, unit);
  reply(x, 200, built(&page));
}

// ---- time and work ----

void sleep_ms(uint64_t ms) {
  int32_t pollable = subscribe_duration(ms * 1000000);
  pollable_block(pollable);
  pollable_drop(pollable);
}

void work(uint64_t rounds) {
  uint64_t x = sink | 1;
  for (uint64_t i = 0; i < rounds; ++i) {
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
  }
  sink = x;
}

// ---- a body that comes in ----

bool open_body(ResultHandle consumed, Incoming* incoming) {
  if (consumed.failed) {
    return false;
  }
  ResultHandle stream;
  incoming_body_stream(consumed.handle, &stream);
  *incoming = (Incoming){consumed.handle, stream.handle};
  return !stream.failed;
}

bool open_request(const Exchange* x, Incoming* incoming) {
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
static Trailers take_trailers(const Incoming* incoming) {
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

void finish_with_trailers(const Answer* answer, const Incoming* incoming) {
  Trailers trailers = take_trailers(incoming);
  finish_with(answer, trailers.some, trailers.fields);
  future_trailers_drop(trailers.future);
}

bool copy_body(int32_t input, int32_t output) {
  for (;;) {
    char* mark = arena_top;
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

bool splice_body(int32_t input, int32_t output) {
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
