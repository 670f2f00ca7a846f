#include "runtime/test_allocations.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::size_t> count{0};

}  // namespace

// TSan's own cannot be replaced beside some of their kin that it brings.
#if !defined(__has_feature)
#define __has_feature(feature) 0
#endif
#if !__has_feature(thread_sanitizer)
// NOLINTBEGIN(misc-definitions-in-headers,cppcoreguidelines-no-malloc): counting is the purpose.
void* operator new(std::size_t bytes) {
  count.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) {
    return memory;
  }
  std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
// NOLINTEND(misc-definitions-in-headers,cppcoreguidelines-no-malloc)
#endif

namespace mik::runtime {

std::size_t test_allocations() noexcept { return count.load(std::memory_order_relaxed); }

}  // namespace mik::runtime
