// When a worker that died is started again. A value type.
#pragma once

#include <algorithm>

#include "base/time.hpp"

namespace mik::supervisor {

// The first time at once, then after 100 ms, doubling to 5 s. A worker that was ready for 30 s
// starts from the beginning.
class Backoff {
 public:
  static constexpr base::Duration kFirst = std::chrono::milliseconds(100);
  static constexpr base::Duration kMax = std::chrono::seconds(5);
  static constexpr base::Duration kHealthy = std::chrono::seconds(30);

  // How long to wait; `ready_for`: how long the dead worker was ready.
  base::Duration next(base::Duration ready_for) noexcept {
    if (ready_for >= kHealthy) {
      next_ = base::Duration::zero();
    }
    const base::Duration wait = next_;
    next_ = wait == base::Duration::zero() ? kFirst : std::min(wait * 2, kMax);
    return wait;
  }

 private:
  base::Duration next_ = base::Duration::zero();
};

}  // namespace mik::supervisor
