#include "modes.h"

void mode_body_first(const Exchange* x) {
  Answer answer = prepare(200, text_headers());
  bool flush = number(x, TEXT("flush"), 0) != 0;
  uint64_t bytes = number(x, TEXT("kb"), 0) << 10;
  if (flush) {
    write_and_flush(answer.stream, TEXT("before\n"));
  } else {
    write_all(answer.stream, TEXT("before\n"));
  }
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
void mode_big_write(const Exchange* x) {
  size_t size = (size_t)number(x, TEXT("kb"), 64) << 10;
  char* bytes = arena_allocate(size, 1);
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

static void with_length(const Exchange* x, Text length, size_t size) {
  int32_t headers = text_headers();
  append(headers, TEXT("content-length"), length);
  __builtin_memset(block, 'x', sizeof block);
  Answer answer = start(x, 200, headers);
  write_all(answer.stream, (Text){block, size});
  finish(&answer);
}

void mode_short(const Exchange* x) { with_length(x, TEXT("100"), 10); }

void mode_long(const Exchange* x) { with_length(x, TEXT("10"), 100); }

void mode_read_some(const Exchange* x) {
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

void mode_no_read(const Exchange* x) { reply(x, 200, TEXT("not read\n")); }
