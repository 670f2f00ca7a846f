#include "modes.h"

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

static int32_t call_options(const Exchange* x) {
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
  return outgoing_request_set_method(request, tag, method.at,
                                     tag < kMethodOther ? 0 : method.size) == 0;
}

static bool set_scheme(int32_t request, Text scheme) {
  int32_t tag = equal(scheme, TEXT("http"))    ? kSchemeHttp
                : equal(scheme, TEXT("https")) ? kSchemeHttps
                                               : kSchemeOther;
  return outgoing_request_set_scheme(request, 1, tag, scheme.at,
                                     tag == kSchemeOther ? scheme.size : 0) == 0;
}

static Call refuse(Text why) { return (Call){.refused = true, .why = why}; }

static Call call(const Exchange* x) {
  Text url = parameter(x, TEXT("url"));
  Text method = parameter(x, TEXT("method"));
  uint64_t body_bytes = number(x, TEXT("body"), 0);
  bool has_body = body_bytes != 0 || number(x, TEXT("open"), 0) != 0;

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
  if (has_body) {
    outgoing_request_body(request, &body);
  }
  ResultCode sent;
  outgoing_handle(request, 1, call_options(x), &sent);
  if (has_body) {
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

static void reply_error(const Exchange* x, Text why) {
  Builder page = build();
  add(&page, why);
  add(&page, TEXT("\n"));
  reply(x, 502, built(&page));
}

void mode_fetch(const Exchange* x) {
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
void mode_fetch_many(const Exchange* x) {
  size_t count = (size_t)number(x, TEXT("n"), 10);
  Call* calls = arena_allocate(count * sizeof *calls, 4);
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
