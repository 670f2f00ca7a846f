// What wit-bindgen's C asks of a C library, for guests that need no other part of one: without
// wasi-libc a component is a few KB, imports nothing but HTTP, and there is nothing to start.
//
// Memory is only ever handed out: right for an instance that serves one request and is thrown away.
// A guest that allocates in a loop, or whose instance is used again (`mik run --reuse`), links
// wasi-libc instead (see ../build).

#include <stddef.h>
#include <stdint.h>

extern unsigned char __heap_base;  // from the linker: the end of data and stack

static const size_t kAlignment = 16;
static const size_t kPageBytes = 65536;

static size_t heap_top;

void* malloc(size_t size) {
  size_t start = heap_top != 0 ? heap_top : (size_t)&__heap_base;
  start = (start + kAlignment - 1) & ~(kAlignment - 1);
  size_t end = start + size;
  size_t have = __builtin_wasm_memory_size(0) * kPageBytes;
  if (end < start) {
    return NULL;
  }
  if (end > have) {
    size_t pages = (end - have + kPageBytes - 1) / kPageBytes;
    if (__builtin_wasm_memory_grow(0, pages) == SIZE_MAX) {
      return NULL;
    }
  }
  heap_top = end;
  return (void*)start;
}

void free(void* block) { (void)block; }

// The canonical ABI allocates through realloc, and here nothing makes a block larger that has
// content.
void* realloc(void* block, size_t size) {
  if (block != NULL) {
    __builtin_trap();
  }
  return malloc(size);
}

_Noreturn void abort(void) { __builtin_trap(); }
