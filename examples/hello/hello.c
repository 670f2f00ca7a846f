// Answers every request with "Hello, World!": the smallest component that is worth running.
// The names come from proxy.h, which wit-bindgen makes from the WIT of wasi:http (see ../build).

#include "proxy.h"

static const char kGreeting[] = "Hello, World!\n";

static wasi_http_types_own_fields_t text_headers(void) {
  wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
  proxy_string_t name = {(uint8_t*)"content-type", 12};
  wasi_http_types_field_value_t value = {(uint8_t*)"text/plain", 10};
  wasi_http_types_header_error_t error;
  wasi_http_types_method_fields_append(wasi_http_types_borrow_fields(headers), &name, &value,
                                       &error);
  return headers;
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t response_out) {
  wasi_http_types_incoming_request_drop_own(request);

  // The status is 200 unless it is set. The head goes out with set(); the body may follow later.
  wasi_http_types_own_outgoing_response_t response =
      wasi_http_types_constructor_outgoing_response(text_headers());
  wasi_http_types_own_outgoing_body_t body;
  if (!wasi_http_types_method_outgoing_response_body(
          wasi_http_types_borrow_outgoing_response(response), &body)) {
    return;
  }
  wasi_http_types_result_own_outgoing_response_error_code_t result = {.val.ok = response};
  wasi_http_types_static_response_outparam_set(response_out, &result);

  wasi_http_types_own_output_stream_t stream;
  if (wasi_http_types_method_outgoing_body_write(wasi_http_types_borrow_outgoing_body(body),
                                                 &stream)) {
    proxy_list_u8_t bytes = {(uint8_t*)kGreeting, sizeof kGreeting - 2};
    wasi_io_streams_stream_error_t error;
    wasi_io_streams_method_output_stream_blocking_write_and_flush(
        wasi_io_streams_borrow_output_stream(stream), &bytes, &error);
    wasi_io_streams_output_stream_drop_own(stream);
  }
  // A body that is not finished counts as broken: the client would see the answer cut.
  wasi_http_types_error_code_t error;
  wasi_http_types_static_outgoing_body_finish(body, NULL, &error);
}
