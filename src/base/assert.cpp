#include "base/assert.hpp"

#include <cstdio>
#include <cstdlib>

namespace mik::base {

void assert_failed(const char* expression, const char* file, int line) noexcept {
  std::fprintf(stderr, "mik: bug: %s does not hold at %s:%d\n", expression, file, line);
  std::abort();
}

}  // namespace mik::base
