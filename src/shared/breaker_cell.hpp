// What the supervisor knows of a module's breaker: how to close it when another artefact serves.
// The rest is reliability/breaker.hpp's. Thread-safe and process-safe.
#pragma once

#include <cstdint>

#include "shared/layout.hpp"

namespace mik::shared {

// The word's epoch lies above; all zero below is a breaker as good as new.
inline constexpr int kBreakerEpochShift = 54;

inline bool breaker_is_new(const Cell& breaker) noexcept {
  return breaker.load() << (64 - kBreakerEpochShift) == 0;
}

// Closed, in an epoch of its own: what requests that run still report of the old artefact does not
// count.
inline void reset_breaker(Cell& breaker) noexcept {
  std::uint64_t seen = breaker.load();
  while (!breaker.compare_exchange_weak(seen, ((seen >> kBreakerEpochShift) + 1)
                                                  << kBreakerEpochShift)) {
  }
}

}  // namespace mik::shared
