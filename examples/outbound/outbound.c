// Calls the URL in `?url=` and streams the answer back: GET
// /?url=https%3A%2F%2Fapi.example.com%2Fv1 The host decides where guests may call (`mik run
// --allow-host`); a refusal and any other failure come back as 502 with the name that wasi:http
// gives the error.

#include "http.h"

static const uint64_t kSecond = 1000000000;

static void fail(wasi_http_types_own_response_outparam_t outparam, uint16_t status,
                 const char* why) {
  http_answer_text(outparam, status, "text/plain", why, strlen(why));
}

// Splits scheme://authority/path?query into a request. False: it is not such a URL.
static bool request_for(const char* url, wasi_http_types_own_outgoing_request_t* request) {
  wasi_http_types_scheme_t scheme = {0};
  if (strncmp(url, "https://", 8) == 0) {
    scheme.tag = WASI_HTTP_TYPES_SCHEME_HTTPS;
    url += 8;
  } else if (strncmp(url, "http://", 7) == 0) {
    scheme.tag = WASI_HTTP_TYPES_SCHEME_HTTP;
    url += 7;
  } else {
    return false;
  }
  size_t authority_size = strcspn(url, "/?#");
  proxy_string_t authority = {(uint8_t*)url, authority_size};
  proxy_string_t path = http_string(url + authority_size);
  path.len = strcspn((const char*)path.ptr, "#");
  if (path.len == 0 || path.ptr[0] != '/') {
    path = http_string("/");  // and a query without a path is left out
  }

  wasi_http_types_own_fields_t headers = wasi_http_types_constructor_fields();
  http_add_field(headers, "user-agent", "mik-example");
  *request = wasi_http_types_constructor_outgoing_request(headers);
  wasi_http_types_borrow_outgoing_request_t borrowed =
      wasi_http_types_borrow_outgoing_request(*request);
  return wasi_http_types_method_outgoing_request_set_scheme(borrowed, &scheme) &&
         wasi_http_types_method_outgoing_request_set_authority(borrowed, &authority) &&
         wasi_http_types_method_outgoing_request_set_path_with_query(borrowed, &path);
}

static wasi_http_types_own_request_options_t patience(void) {
  wasi_http_types_own_request_options_t options = wasi_http_types_constructor_request_options();
  wasi_http_types_borrow_request_options_t borrowed =
      wasi_http_types_borrow_request_options(options);
  uint64_t connect = 5 * kSecond;
  uint64_t first_byte = 10 * kSecond;
  wasi_http_types_method_request_options_set_connect_timeout(borrowed, &connect);
  wasi_http_types_method_request_options_set_first_byte_timeout(borrowed, &first_byte);
  return options;
}

// Waits for the head of the answer. False: `error` says why there is none; the caller frees it.
static bool await_response(wasi_http_types_own_future_incoming_response_t future,
                           wasi_http_types_own_incoming_response_t* response,
                           wasi_http_types_error_code_t* error) {
  wasi_http_types_borrow_future_incoming_response_t borrowed =
      wasi_http_types_borrow_future_incoming_response(future);
  http_wait(wasi_http_types_method_future_incoming_response_subscribe(borrowed));
  wasi_http_types_result_result_own_incoming_response_error_code_void_t result;
  bool ready = wasi_http_types_method_future_incoming_response_get(borrowed, &result);
  wasi_http_types_future_incoming_response_drop_own(future);
  if (!ready || result.is_err) {
    *error = (wasi_http_types_error_code_t){.tag = WASI_HTTP_TYPES_ERROR_CODE_INTERNAL_ERROR};
    return false;
  }
  if (result.val.ok.is_err) {
    *error = result.val.ok.val.err;
    return false;
  }
  *response = result.val.ok.val.ok;
  return true;
}

static void pass_on(wasi_http_types_own_incoming_response_t response,
                    wasi_http_types_own_response_outparam_t outparam) {
  wasi_http_types_borrow_incoming_response_t borrowed =
      wasi_http_types_borrow_incoming_response(response);
  uint16_t status = wasi_http_types_method_incoming_response_status(borrowed);

  wasi_http_types_own_fields_t theirs = wasi_http_types_method_incoming_response_headers(borrowed);
  wasi_http_types_own_fields_t ours = wasi_http_types_constructor_fields();
  proxy_string_t name = http_string("content-type");
  wasi_http_types_list_field_value_t types;
  wasi_http_types_method_fields_get(wasi_http_types_borrow_fields(theirs), &name, &types);
  if (types.len != 0) {
    wasi_http_types_header_error_t error;
    wasi_http_types_method_fields_append(wasi_http_types_borrow_fields(ours), &name, &types.ptr[0],
                                         &error);
  }
  wasi_http_types_list_field_value_free(&types);
  wasi_http_types_fields_drop_own(theirs);

  HttpReader reader;
  HttpWriter writer;
  if (http_open_response(response, &reader) && http_respond(outparam, status, ours, &writer)) {
    if (http_copy(&reader, &writer)) {
      http_finish_with_trailers(&reader, &writer);
    } else {
      http_close(&reader);
      http_abandon(&writer);
    }
  }
  wasi_http_types_incoming_response_drop_own(response);
}

static void call(const char* url, wasi_http_types_own_response_outparam_t outparam) {
  wasi_http_types_own_outgoing_request_t request;
  if (!request_for(url, &request)) {
    fail(outparam, 400, "url must be http://... or https://...\n");
    return;
  }
  wasi_http_types_own_request_options_t options = patience();
  wasi_http_types_own_future_incoming_response_t future;
  wasi_http_types_own_incoming_response_t response;
  wasi_http_types_error_code_t error;
  if (!wasi_http_outgoing_handler_handle(request, &options, &future, &error) ||
      !await_response(future, &response, &error)) {
    fail(outparam, 502, http_error_name(&error));
    wasi_http_types_error_code_free(&error);
    return;
  }
  pass_on(response, outparam);
}

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request,
    exports_wasi_http_incoming_handler_own_response_outparam_t outparam) {
  proxy_string_t target;
  char url[2048];
  bool found = false;
  if (wasi_http_types_method_incoming_request_path_with_query(
          wasi_http_types_borrow_incoming_request(request), &target)) {
    found = http_query(&target, "url", url, sizeof url);
    proxy_string_free(&target);
  }
  if (found) {
    call(url, outparam);
  } else {
    fail(outparam, 400, "which? /?url=http%3A%2F%2Flocalhost%3A8080%2F\n");
  }
  wasi_http_types_incoming_request_drop_own(request);
}
