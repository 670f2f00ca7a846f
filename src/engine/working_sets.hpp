// Which memories have collected pages that their guests no longer touch. A page that was written
// once stays so until it is given back: a reset finds, copies and keeps what all guests since then
// have touched, not what the last one did. So each memory is given back whole now and then, and
// what is kept is again what guests need today.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace mik::engine {

class WorkingSets {
 public:
  // A memory is given back after so many resets of all memories together: one that is used all the
  // time after hundreds of its own (a fault for each page, in one of hundreds of requests), one
  // that is used now and then each time.
  static constexpr std::uint32_t kResets = 16384;
  // A set that is not worth it.
  static constexpr std::uint64_t kSmallPages = 32;

  // A reset of the memory at `start` found `pages`: shall all of them be given back?
  bool is_old(std::uint64_t start, std::uint64_t pages) noexcept {
    ++resets_;
    Since& entry = table_[(start * 0x9E3779B97F4A7C15) >> (64 - kBits)];
    if (entry.start != start) {
      entry = {start, resets_};
      return false;
    }
    if (pages <= kSmallPages || resets_ - entry.resets < kResets) {
      return false;
    }
    entry.resets = resets_;
    return true;
  }

 private:
  static constexpr unsigned kBits = 12;
  // Since when the memory collects. Two that share an entry are given back seldom or never.
  struct Since {
    std::uint64_t start = 0;
    std::uint32_t resets = 0;  // wraps
  };
  std::array<Since, std::size_t{1} << kBits> table_{};
  std::uint32_t resets_ = 0;
};

}  // namespace mik::engine
