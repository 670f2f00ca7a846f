// Checks for our own bugs. Never for input: input gets a base::Error.
// Thread-safe.
#pragma once

namespace mik::base {

// Prints the place and the expression to stderr and aborts.
[[noreturn]] void assert_failed(const char* expression, const char* file, int line) noexcept;

}  // namespace mik::base

// Always on, in release too.
#define MIK_ASSERT(expression)                                     \
  do {                                                             \
    if (!(expression)) [[unlikely]] {                              \
      ::mik::base::assert_failed(#expression, __FILE__, __LINE__); \
    }                                                              \
  } while (false)
