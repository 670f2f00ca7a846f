// Time as mik counts it: steady (CLOCK_MONOTONIC), in nanoseconds. Durations are std::chrono types.
// Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>

namespace mik::base {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using Duration = Clock::duration;

// "No deadline": later than every other time.
inline constexpr Time kNever = Time::max();

inline std::uint64_t to_ns(Time time) noexcept {
  return static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count());
}

inline Time from_ns(std::uint64_t ns) noexcept {
  constexpr auto kMax = static_cast<std::uint64_t>(INT64_MAX);
  return ns >= kMax ? kNever : Time(std::chrono::nanoseconds(static_cast<std::int64_t>(ns)));
}

// `time` + `delta`, kNever where that would overflow.
inline Time saturating_add(Time time, Duration delta) noexcept {
  return time > kNever - delta ? kNever : time + delta;
}

}  // namespace mik::base
