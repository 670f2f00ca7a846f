// One component with many behaviours, good and hostile, chosen by the path of the request.
// ../README.md has the table. No C library: each step is one call of wasi:http, in the order that
// the mode wants.

#include "modes.h"

// Direct calls, since a table of function pointers would be a second one beside that of /tables,
// and pools of instances commonly have room for one.
#define MODE(name, mode)            \
  if (equal(x->path, TEXT(name))) { \
    mode(x);                        \
    return;                         \
  }

static void run(const Exchange* x) {
  MODE("/hello", mode_hello)
  MODE("/status", mode_status)
  MODE("/sleep", mode_sleep)
  MODE("/cpu", mode_cpu)
  MODE("/count", mode_count)
  MODE("/random", mode_random)
  MODE("/stream", mode_stream)
  MODE("/big", mode_big)
  MODE("/echo", mode_echo)
  MODE("/splice", mode_splice)
  MODE("/trailers", mode_trailers)
  MODE("/headers", mode_headers)
  MODE("/cookies", mode_cookies)
  MODE("/request", mode_request)
  MODE("/env", mode_env)
  MODE("/print", mode_print)
  MODE("/linger", mode_linger)
  MODE("/body-first", mode_body_first)
  MODE("/big-write", mode_big_write)
  MODE("/short", mode_short)
  MODE("/long", mode_long)
  MODE("/read-some", mode_read_some)
  MODE("/no-read", mode_no_read)
  MODE("/trap", mode_trap)
  MODE("/trap-after-head", mode_trap_after_head)
  MODE("/spin", mode_spin)
  MODE("/busy", mode_busy)
  MODE("/hog", mode_hog)
  MODE("/tables", mode_tables)
  MODE("/resources", mode_resources)
  MODE("/polls", mode_polls)
  MODE("/recurse", mode_recurse)
  MODE("/no-response", mode_no_response)
  MODE("/error-code", mode_error_code)
  MODE("/leak-body", mode_leak_body)
  MODE("/drop-body", mode_drop_body)
  MODE("/flood", mode_flood)
  MODE("/exit", mode_exit)
  MODE("/fetch", mode_fetch)
  MODE("/fetch-many", mode_fetch_many)
  mode_hello(x);
}

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
  run(&x);
  request_drop(request);
  arena_top = mark;
}
