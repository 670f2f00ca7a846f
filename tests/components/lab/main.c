// One component with many behaviours, good and hostile, chosen by the path of the request.
// ../README.md has the table. No C library: each step is one call of wasi:http, in the order that
// the mode wants.

#include "modes.h"

static const struct {
  Text path;
  void (*run)(const Exchange*);
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
  char* mark = arena_top;
  OptionText target;
  request_path(request, &target);
  Text text = target.some ? target.value : TEXT("/");
  Exchange x = {request, outparam, {text.at, find(text, TEXT("?"))}, TEXT("")};
  if (x.path.size < text.size) {
    x.query = skip(text, x.path.size + 1);
  }
  void (*run)(const Exchange*) = mode_hello;
  for (size_t i = 0; i < sizeof kModes / sizeof *kModes; ++i) {
    if (equal(x.path, kModes[i].path)) {
      run = kModes[i].run;
    }
  }
  run(&x);
  request_drop(request);
  arena_top = mark;
}
