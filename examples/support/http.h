// A thin layer over the bindings that wit-bindgen makes of wasi:http, for guests in C and C++: what
// the examples would otherwise each repeat. Include it once; link wasi-libc, which the bindings
// allocate with.

#pragma once

#include <string.h>

#include "proxy.h"

static inline proxy_string_t http_string(const char* text) {
  proxy_string_t string;
  string.ptr = (uint8_t*)text;
  string.len = strlen(text);
  return string;
}

static inline void http_add_field(wasi_http_types_own_fields_t fields, const char* name,
                                  const char* value) {
  proxy_string_t field_name = http_string(name);
  proxy_string_t text = http_string(value);
  wasi_http_types_field_value_t field_value;
  field_value.ptr = text.ptr;
  field_value.len = text.len;
  wasi_http_types_header_error_t error;
  wasi_http_types_method_fields_append(wasi_http_types_borrow_fields(fields), &field_name,
                                       &field_value, &error);
}

static inline void http_wait(wasi_io_poll_own_pollable_t pollable) {
  wasi_io_poll_method_pollable_block(wasi_io_poll_borrow_pollable(pollable));
  wasi_io_poll_pollable_drop_own(pollable);
}

// ---- writing a body ----

typedef struct {
  wasi_http_types_own_outgoing_body_t body;
  wasi_io_streams_own_output_stream_t stream;
} HttpWriter;

// Sends the head; takes the headers. False: nothing can be written.
static inline bool http_respond(wasi_http_types_own_response_outparam_t outparam, uint16_t status,
                                wasi_http_types_own_fields_t headers, HttpWriter* writer) {
  wasi_http_types_own_outgoing_response_t response =
      wasi_http_types_constructor_outgoing_response(headers);
  wasi_http_types_borrow_outgoing_response_t borrowed =
      wasi_http_types_borrow_outgoing_response(response);
  wasi_http_types_method_outgoing_response_set_status_code(borrowed, status);
  bool open = wasi_http_types_method_outgoing_response_body(borrowed, &writer->body) &&
              wasi_http_types_method_outgoing_body_write(
                  wasi_http_types_borrow_outgoing_body(writer->body), &writer->stream);
  wasi_http_types_result_own_outgoing_response_error_code_t result;
  result.is_err = false;
  result.val.ok = response;
  wasi_http_types_static_response_outparam_set(outparam, &result);
  return open;
}

// Writes all, waiting whenever the host has no room: a slow client slows the guest. False: the
// client is gone.
static inline bool http_write(const HttpWriter* writer, const uint8_t* bytes, size_t size) {
  wasi_io_streams_borrow_output_stream_t stream =
      wasi_io_streams_borrow_output_stream(writer->stream);
  wasi_io_streams_stream_error_t error;
  while (size != 0) {
    uint64_t room;
    if (!wasi_io_streams_method_output_stream_check_write(stream, &room, &error)) {
      wasi_io_streams_stream_error_free(&error);
      return false;
    }
    if (room == 0) {
      http_wait(wasi_io_streams_method_output_stream_subscribe(stream));
      continue;
    }
    proxy_list_u8_t part;
    part.ptr = (uint8_t*)bytes;
    part.len = room < size ? (size_t)room : size;
    if (!wasi_io_streams_method_output_stream_write(stream, &part, &error)) {
      wasi_io_streams_stream_error_free(&error);
      return false;
    }
    bytes += part.len;
    size -= part.len;
  }
  return true;
}

// The end of a good answer. `trailers` may be NULL; those that are given are taken.
static inline void http_finish(HttpWriter* writer, wasi_http_types_own_trailers_t* trailers) {
  wasi_io_streams_output_stream_drop_own(writer->stream);
  wasi_http_types_error_code_t error;
  if (!wasi_http_types_static_outgoing_body_finish(writer->body, trailers, &error)) {
    wasi_http_types_error_code_free(&error);
  }
}

// The end of an answer that went wrong in the middle: the client sees that it was cut.
static inline void http_abandon(HttpWriter* writer) {
  wasi_io_streams_output_stream_drop_own(writer->stream);
  wasi_http_types_outgoing_body_drop_own(writer->body);
}

// A whole answer with a text.
static inline void http_answer_text(wasi_http_types_own_response_outparam_t outparam,
                                    uint16_t status, const char* type, const char* text,
                                    size_t size) {
  wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
  http_add_field(headers, "content-type", type);
  HttpWriter writer;
  if (http_respond(outparam, status, headers, &writer)) {
    http_write(&writer, (const uint8_t*)text, size);
    http_finish(&writer, NULL);
  }
}

// ---- reading a body ----

typedef struct {
  wasi_http_types_own_incoming_body_t body;
  wasi_io_streams_own_input_stream_t stream;
} HttpReader;

static inline bool http_open_request(wasi_http_types_own_incoming_request_t request,
                                     HttpReader* reader) {
  return wasi_http_types_method_incoming_request_consume(
             wasi_http_types_borrow_incoming_request(request), &reader->body) &&
         wasi_http_types_method_incoming_body_stream(
             wasi_http_types_borrow_incoming_body(reader->body), &reader->stream);
}

static inline bool http_open_response(wasi_http_types_own_incoming_response_t response,
                                      HttpReader* reader) {
  return wasi_http_types_method_incoming_response_consume(
             wasi_http_types_borrow_incoming_response(response), &reader->body) &&
         wasi_http_types_method_incoming_body_stream(
             wasi_http_types_borrow_incoming_body(reader->body), &reader->stream);
}

typedef enum { kHttpBytes, kHttpEnd, kHttpBroken } HttpRead;

// Waits for some bytes, at most `size_max`. With kHttpBytes the caller frees the chunk:
// proxy_list_u8_free().
static inline HttpRead http_read(const HttpReader* reader, size_t size_max,
                                 proxy_list_u8_t* chunk) {
  wasi_io_streams_stream_error_t error;
  if (wasi_io_streams_method_input_stream_blocking_read(
          wasi_io_streams_borrow_input_stream(reader->stream), size_max, chunk, &error)) {
    return kHttpBytes;
  }
  bool end = error.tag == WASI_IO_STREAMS_STREAM_ERROR_CLOSED;
  wasi_io_streams_stream_error_free(&error);
  return end ? kHttpEnd : kHttpBroken;
}

// Passes a body on, a chunk at a time, so that any size goes through constant memory. False: one
// side broke off.
static inline bool http_copy(const HttpReader* reader, const HttpWriter* writer) {
  for (;;) {
    proxy_list_u8_t chunk;
    HttpRead outcome = http_read(reader, 65536, &chunk);
    if (outcome != kHttpBytes) {
      return outcome == kHttpEnd;
    }
    bool written = http_write(writer, chunk.ptr, chunk.len);
    proxy_list_u8_free(&chunk);
    if (!written) {
      return false;
    }
  }
}

static inline void http_close(HttpReader* reader) {
  wasi_io_streams_input_stream_drop_own(reader->stream);
  wasi_http_types_incoming_body_drop_own(reader->body);
}

// Ends both bodies and passes the trailers on, if any came.
static inline void http_finish_with_trailers(HttpReader* reader, HttpWriter* writer) {
  wasi_io_streams_input_stream_drop_own(reader->stream);
  wasi_http_types_own_future_trailers_t future =
      wasi_http_types_static_incoming_body_finish(reader->body);
  wasi_http_types_borrow_future_trailers_t borrowed =
      wasi_http_types_borrow_future_trailers(future);
  http_wait(wasi_http_types_method_future_trailers_subscribe(borrowed));
  wasi_http_types_result_result_option_own_trailers_error_code_void_t result;
  bool some = wasi_http_types_method_future_trailers_get(borrowed, &result) && !result.is_err &&
              !result.val.ok.is_err && result.val.ok.val.ok.is_some;
  http_finish(writer, some ? &result.val.ok.val.ok.val : NULL);
  wasi_http_types_future_trailers_drop_own(future);
}

// ---- targets and errors ----

// The value of `name` in the query, percent-decoded, in `value` of `size` bytes. False: not there,
// or too long.
static inline bool http_query(const proxy_string_t* target, const char* name, char* value,
                              size_t size) {
  const char* at = (const char*)target->ptr;
  const char* end = at + target->len;
  size_t name_size = strlen(name);
  at = (const char*)memchr(at, '?', target->len);
  while (at != NULL && at < end) {
    ++at;  // past the question mark or the ampersand
    const char* item_end = (const char*)memchr(at, '&', (size_t)(end - at));
    if (item_end == NULL) {
      item_end = end;
    }
    if ((size_t)(item_end - at) > name_size && memcmp(at, name, name_size) == 0 &&
        at[name_size] == '=') {
      size_t used = 0;
      for (const char* from = at + name_size + 1; from < item_end; ++from) {
        if (used + 1 >= size) {
          return false;
        }
        if (*from == '%' && from + 2 < item_end) {
          char digits[3] = {from[1], from[2], 0};
          uint8_t byte = 0;
          for (const char* digit = digits; *digit != 0; ++digit) {
            byte = (uint8_t)(byte * 16 + (*digit <= '9' ? *digit - '0' : (*digit | 32) - 'a' + 10));
          }
          value[used++] = (char)byte;
          from += 2;
        } else {
          value[used++] = *from;
        }
      }
      value[used] = 0;
      return true;
    }
    at = item_end;
  }
  return false;
}

// The name that wasi:http gives an error code.
static inline const char* http_error_name(const wasi_http_types_error_code_t* error) {
  static const char* const kNames[] = {
      "DNS-timeout",
      "DNS-error",
      "destination-not-found",
      "destination-unavailable",
      "destination-IP-prohibited",
      "destination-IP-unroutable",
      "connection-refused",
      "connection-terminated",
      "connection-timeout",
      "connection-read-timeout",
      "connection-write-timeout",
      "connection-limit-reached",
      "TLS-protocol-error",
      "TLS-certificate-error",
      "TLS-alert-received",
      "HTTP-request-denied",
      "HTTP-request-length-required",
      "HTTP-request-body-size",
      "HTTP-request-method-invalid",
      "HTTP-request-URI-invalid",
      "HTTP-request-URI-too-long",
      "HTTP-request-header-section-size",
      "HTTP-request-header-size",
      "HTTP-request-trailer-section-size",
      "HTTP-request-trailer-size",
      "HTTP-response-incomplete",
      "HTTP-response-header-section-size",
      "HTTP-response-header-size",
      "HTTP-response-body-size",
      "HTTP-response-trailer-section-size",
      "HTTP-response-trailer-size",
      "HTTP-response-transfer-coding",
      "HTTP-response-content-coding",
      "HTTP-response-timeout",
      "HTTP-upgrade-failed",
      "HTTP-protocol-error",
      "loop-detected",
      "configuration-error",
      "internal-error",
  };
  return error->tag < sizeof kNames / sizeof *kNames ? kNames[error->tag] : "unknown";
}
