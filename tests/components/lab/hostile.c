#include "modes.h"

void mode_trap(const Exchange* x) {
  (void)x;
  __builtin_trap();
}

void mode_trap_after_head(const Exchange* x) {
  Answer answer = start(x, 200, text_headers());
  write_and_flush(answer.stream, TEXT("partial"));
  sleep_ms(number(x, TEXT("ms"), 20));
  __builtin_trap();
}

void mode_spin(const Exchange* x) {
  if (number(x, TEXT("head"), 0) != 0) {
    Answer answer = start(x, 200, text_headers());
    write_and_flush(answer.stream, TEXT("partial"));
  }
  for (;;) {
    work(1000);
  }
}

// Endless too, but in calls of the host.
void mode_busy(const Exchange* x) {
  (void)x;
  for (;;) {
    sink = monotonic_now();
  }
}

void mode_hog(const Exchange* x) {
  uint64_t wanted = number(x, TEXT("mb"), 64);
  bool soft = number(x, TEXT("soft"), 0) != 0;
  uint64_t mb = 0;
  while (mb < wanted) {
    size_t page = __builtin_wasm_memory_grow(0, 16);
    if (page == SIZE_MAX && !soft) {
      __builtin_trap();
    }
    if (page == SIZE_MAX) {
      break;
    }
    volatile char* bytes = (volatile char*)(page * 65536);
    for (size_t i = 0; i < 1 << 20; i += 4096) {
      bytes[i] = 1;
    }
    ++mb;
  }
  arena_top = (char*)(__builtin_wasm_memory_size(0) * 65536 - 65536);
  reply_number(x, mb, TEXT(" MiB taken\n"));
}

// Grows the module's only table, which the linker makes for function pointers; -1 when it is
// refused.
static int32_t grow_table(int32_t elements) {
  int32_t before;
  __asm__ volatile(
      ".tabletype __indirect_function_table, funcref\n"
      "ref.null_func\n"
      "local.get %1\n"
      "table.grow __indirect_function_table\n"
      "local.set %0"
      : "=r"(before)
      : "r"(elements));
  return before;
}

void mode_tables(const Exchange* x) {
  uint64_t wanted = number(x, TEXT("n"), 100000000);
  uint64_t taken = 0;
  while (taken < wanted) {
    if (grow_table(10000) < 0) {
      if (number(x, TEXT("soft"), 0) == 0) {
        __builtin_trap();
      }
      break;
    }
    taken += 10000;
  }
  reply_number(x, taken, TEXT(" elements taken\n"));
}

void mode_resources(const Exchange* x) {
  uint64_t wanted = number(x, TEXT("n"), 1000000);
  for (uint64_t i = 0; i < wanted; ++i) {
    fields_new();
  }
  reply_number(x, wanted, TEXT(" resources taken\n"));
}

// Sleeps on many timers at once.
void mode_polls(const Exchange* x) {
  size_t count = (size_t)number(x, TEXT("n"), 1000);
  uint64_t ms = number(x, TEXT("ms"), 100);
  int32_t* pollables = arena_allocate(count * sizeof *pollables, 4);
  for (size_t i = 0; i < count; ++i) {
    pollables[i] = subscribe_duration((ms + i) * 1000000);
  }
  Indexes ready;
  poll_list(pollables, count, &ready);
  for (size_t i = 0; i < count; ++i) {
    pollable_drop(pollables[i]);
  }
  reply_number(x, ready.size, TEXT(" ready\n"));
}

__attribute__((noinline)) static uint64_t descend(uint64_t left) {
  sink = left;
  uint64_t below = left == 0 ? 0 : descend(left - 1);
  return below ^ sink;
}

void mode_recurse(const Exchange* x) {
  uint64_t depth = number(x, TEXT("n"), UINT64_MAX);
  sink = descend(depth);
  reply_number(x, depth, TEXT(" deep\n"));
}

void mode_no_response(const Exchange* x) {
  if (number(x, TEXT("drop"), 0) != 0) {
    outparam_drop(x->outparam);
  }
}

enum { kErrorCodeInternal = 38 };

void mode_error_code(const Exchange* x) {
  int32_t code = (int32_t)number(x, TEXT("code"), kErrorCodeInternal);
  Text message = TEXT("asked for by the request");
  bool has_message = code == kErrorCodeInternal;
  outparam_set_raw(x->outparam, 1, code, has_message,
                   has_message ? (int64_t)(uintptr_t)message.at : 0,
                   has_message ? (int32_t)message.size : 0, 0, 0, 0);
}

void mode_leak_body(const Exchange* x) {
  Answer answer = start(x, 200, text_headers());
  write_and_flush(answer.stream, TEXT("hi"));
}

void mode_drop_body(const Exchange* x) {
  Answer answer = start(x, 200, text_headers());
  write_and_flush(answer.stream, TEXT("hi"));
  abandon(&answer);
}

void mode_flood(const Exchange* x) {
  uint64_t bytes = number(x, TEXT("mb"), 4) << 20;
  __builtin_memset(block, 'f', sizeof block);
  for (size_t i = 99; i < sizeof block / 2; i += 100) {
    block[i] = '\n';  // lines of 100 bytes, then one of half the block
  }
  int32_t streams[2] = {get_stdout(), get_stderr()};
  for (uint64_t sent = 0; sent < bytes; sent += sizeof block) {
    write_all(streams[sent / sizeof block % 2], (Text){block, sizeof block});
  }
  reply(x, 200, TEXT("flooded\n"));
}

void mode_exit(const Exchange* x) { cli_exit(number(x, TEXT("ok"), 0) == 0); }
