// Streams the body of the request back, with its content type and its trailers. It never holds more
// than one chunk: reading waits for the client, writing waits for the client, and gigabytes go
// through 64 KiB.

#include "http.h"

// The content type of the request, or that of bytes that nobody named.
static wasi_http_types_own_fields_t answer_headers(wasi_http_types_own_incoming_request_t request) {
  wasi_http_types_own_fields_t sent = wasi_http_types_method_incoming_request_headers(
      wasi_http_types_borrow_incoming_request(request));
  wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
  proxy_string_t name = http_string("content-type");
  wasi_http_types_list_field_value_t values;
  wasi_http_types_method_fields_get(wasi_http_types_borrow_fields(sent), &name, &values);
  if (values.len != 0) {
    wasi_http_types_header_error_t error;
    wasi_http_types_method_fields_append(wasi_http_types_borrow_fields(headers), &name,
                                         &values.ptr[0], &error);
  } else {
    http_add_field(headers, "content-type", "application/octet-stream");
  }
  wasi_http_types_list_field_value_free(&values);
  wasi_http_types_fields_drop_own(sent);
  return headers;
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t outparam) {
  HttpReader reader;
  HttpWriter writer;
  bool open = http_open_request(request, &reader) &&
              http_respond(outparam, 200, answer_headers(request), &writer);
  if (!open) {
    return;
  }
  if (http_copy(&reader, &writer)) {
    http_finish_with_trailers(&reader, &writer);
  } else {
    http_close(&reader);
    http_abandon(&writer);
  }
  wasi_http_types_incoming_request_drop_own(request);
}
