// The clock of a test: what guests of the fake engine (/work, /burst) take moves it, and nothing
// else does but the test.
#pragma once

#include <cstdint>

#include "base/time.hpp"

namespace mik::engine::fake {

inline thread_local std::uint64_t clock_ns = 1'000'000'000;

inline base::Time clock_now() noexcept { return base::from_ns(clock_ns); }

}  // namespace mik::engine::fake
