#include "modes.h"

void mode_hello(const Exchange* x) { reply(x, 200, TEXT("Hello, World!")); }

void mode_status(const Exchange* x) {
  reply(x, (int32_t)number(x, TEXT("code"), 503), TEXT("as asked\n"));
}

void mode_sleep(const Exchange* x) {
  sleep_ms(number(x, TEXT("ms"), 100));
  reply(x, 200, TEXT("slept\n"));
}

void mode_cpu(const Exchange* x) {
  uint64_t end = monotonic_now() + number(x, TEXT("ms"), 100) * 1000000;
  while (monotonic_now() < end) {
    work(100000);
  }
  reply(x, 200, TEXT("computed\n"));
}

void mode_count(const Exchange* x) {
  static uint64_t requests;
  reply_number(x, ++requests, TEXT("\n"));
}

void mode_random(const Exchange* x) { reply_number(x, random_u64(), TEXT("\n")); }

void mode_stream(const Exchange* x) {
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

void mode_big(const Exchange* x) {
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

void mode_echo(const Exchange* x) {
  Answer answer = start(x, 200, text_headers());
  Incoming incoming;
  if (!open_request(x, &incoming) || !copy_body(incoming.stream, answer.stream)) {
    abandon(&answer);
    return;
  }
  finish_with_trailers(&answer, &incoming);
}

void mode_splice(const Exchange* x) {
  Answer answer = start(x, 200, text_headers());
  Incoming incoming;
  if (!open_request(x, &incoming) || !splice_body(incoming.stream, answer.stream)) {
    abandon(&answer);
    return;
  }
  finish_with_trailers(&answer, &incoming);
}

void mode_trailers(const Exchange* x) {
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

void mode_headers(const Exchange* x) {
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

void mode_cookies(const Exchange* x) {
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

static void add_option(Builder* page, Text name, bool some, Text value) {
  add(page, name);
  add(page, TEXT(": "));
  add(page, some ? value : TEXT("(none)"));
  add(page, TEXT("\n"));
}

void mode_request(const Exchange* x) {
  Method method;
  request_method(x->request, &method);
  OptionScheme scheme;
  request_scheme(x->request, &scheme);
  OptionText authority;
  request_authority(x->request, &authority);
  OptionText path;
  request_path(x->request, &path);

  Builder page = build();
  add_option(&page, TEXT("method"), true,
             method.tag < kMethodOther ? kMethods[method.tag] : method.other);
  add_option(&page, TEXT("scheme"), scheme.some,
             scheme.tag == kSchemeHttp    ? TEXT("http")
             : scheme.tag == kSchemeHttps ? TEXT("https")
                                          : scheme.other);
  add_option(&page, TEXT("authority"), authority.some, authority.value);
  add_option(&page, TEXT("path-with-query"), path.some, path.value);
  reply(x, 200, built(&page));
}

void mode_env(const Exchange* x) {
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

void mode_print(const Exchange* x) {
  Text text = parameter(x, TEXT("text"));  // first: a builder takes all that is allocated after it
  Builder line = build();
  add(&line, text);
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
void mode_linger(const Exchange* x) {
  reply(x, 200, TEXT("answered\n"));
  sleep_ms(number(x, TEXT("ms"), 1000));
}
