// The behaviours, by file; ../README.md has the table.

#pragma once

#include "guest.h"

// good.c: good guests
void mode_hello(const Exchange* x);
void mode_status(const Exchange* x);
void mode_sleep(const Exchange* x);
void mode_cpu(const Exchange* x);
void mode_count(const Exchange* x);
void mode_random(const Exchange* x);
void mode_stream(const Exchange* x);
void mode_big(const Exchange* x);
void mode_echo(const Exchange* x);
void mode_splice(const Exchange* x);
void mode_trailers(const Exchange* x);
void mode_headers(const Exchange* x);
void mode_cookies(const Exchange* x);
void mode_request(const Exchange* x);
void mode_env(const Exchange* x);
void mode_print(const Exchange* x);
void mode_linger(const Exchange* x);

// bodies.c: orders and sizes of writing
void mode_body_first(const Exchange* x);
void mode_big_write(const Exchange* x);
void mode_short(const Exchange* x);
void mode_long(const Exchange* x);
void mode_read_some(const Exchange* x);
void mode_no_read(const Exchange* x);

// hostile.c: broken and hostile guests
void mode_trap(const Exchange* x);
void mode_trap_after_head(const Exchange* x);
void mode_spin(const Exchange* x);
void mode_busy(const Exchange* x);
void mode_hog(const Exchange* x);
void mode_tables(const Exchange* x);
void mode_resources(const Exchange* x);
void mode_polls(const Exchange* x);
void mode_recurse(const Exchange* x);
void mode_no_response(const Exchange* x);
void mode_error_code(const Exchange* x);
void mode_leak_body(const Exchange* x);
void mode_drop_body(const Exchange* x);
void mode_flood(const Exchange* x);
void mode_exit(const Exchange* x);

// outbound.c: calls to elsewhere
void mode_fetch(const Exchange* x);
void mode_fetch_many(const Exchange* x);
