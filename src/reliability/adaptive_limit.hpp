// How many requests a worker should serve at once, found from how long they take: while they take
// about as long as when few are served the limit grows by a little; where they take longer a queue
// has formed somewhere, and it shrinks in proportion (the gradient of Netflix's concurrency-limits
// and of Envoy's controller). What "as long as" means is measured again each minute, for a second
// at most, with the limit at its least: a mean of the long run in its place creeps up with the
// queue, and the limit with it to its most (tried). Confined to the loop thread.
#pragma once

#include <cstdint>

#include "base/time.hpp"

namespace mik::reliability {

class AdaptiveLimit {
 public:
  struct Bounds {
    std::uint32_t least = 4;
    std::uint32_t most = 1000;
  };
  explicit AdaptiveLimit(const Bounds& bounds) noexcept;

  // A request ended well after `took`, while `active` were being served, itself included.
  void record(base::Duration took, std::uint64_t active, base::Time now) noexcept;
  std::uint32_t limit() const noexcept {
    return measuring_ ? bounds_.least : static_cast<std::uint32_t>(limit_);
  }

 private:
  // Means of latencies, in seconds.
  struct Window {
    base::Time since;
    double sum = 0;
    std::uint32_t samples = 0;
    std::uint64_t active_most = 0;
    double mean() const noexcept { return sum / samples; }
  };
  void measure(double took, base::Time began, base::Time now) noexcept;
  void update(const Window& window, base::Time now) noexcept;

  Bounds bounds_;
  double limit_;
  double unloaded_ = 0;  // seconds; 0: not known
  base::Time measured_;
  bool measuring_ = false;
  Window window_;
};

}  // namespace mik::reliability
