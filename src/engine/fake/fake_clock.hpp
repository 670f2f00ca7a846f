// The clock of a test: what guests of the fake engine (/work, /burst) take moves it, and nothing
// else does but the test.
#pragma once

#include <cstdint>

#include "base/time.hpp"

namespace mik::engine::fake {

inline thread_local std::uint64_t clock_ns = 1'000'000'000;

// How long /work runs before a tick asks it for the loop.
inline constexpr std::uint64_t kSliceNs = 1'000'000;
inline thread_local std::uint64_t tick_ns = kSliceNs;

inline base::Time clock_now() noexcept { return base::from_ns(clock_ns); }

}  // namespace mik::engine::fake
