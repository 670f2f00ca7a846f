// How much one source may write into the log: lines and bytes a second, and what was dropped above
// that. A value type, confined to one thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/time.hpp"

namespace mik::telemetry {

class LogBudget {
 public:
  struct Limits {
    std::uint32_t lines = 5000;
    std::uint64_t bytes = 1 << 20;
  };
  struct Dropped {
    std::uint64_t lines = 0;
    std::uint64_t bytes = 0;
  };

  // The line may be written. Each window begins with the first line after the last one.
  bool take(base::Time now, std::size_t bytes, Limits limits) noexcept {
    if (now - begin_ >= kWindow) {
      begin_ = now;
      lines_ = 0;
      bytes_ = 0;
    }
    if (lines_ >= limits.lines || bytes_ + bytes > limits.bytes) {
      ++dropped_.lines;
      dropped_.bytes += bytes;
      return false;
    }
    ++lines_;
    bytes_ += bytes;
    return true;
  }

  // What was dropped in a window that is over, once; lines 0: nothing.
  Dropped over(base::Time now) noexcept {
    if (dropped_.lines == 0 || now - begin_ < kWindow) {
      return {};
    }
    const Dropped all = dropped_;
    dropped_ = {};
    return all;
  }

 private:
  static constexpr base::Duration kWindow = std::chrono::seconds(1);

  base::Time begin_{};
  std::uint32_t lines_ = 0;
  std::uint64_t bytes_ = 0;
  Dropped dropped_;
};

}  // namespace mik::telemetry
