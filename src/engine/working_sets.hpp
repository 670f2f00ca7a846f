// Which memories have collected pages that their guests no longer touch. A page that was written
// once stays so until it is given back: a reset finds, copies and keeps what all guests since then
// have touched, not what the last one did. So each memory is given back whole now and then, and
// what is kept is again what guests need today.
#pragma once

#include <cstdint>
#include <unordered_map>

namespace mik::engine {

class WorkingSets {
 public:
  // A memory is given back after so many resets of all memories (and tables) together: one that is
  // used all the time after hundreds of its own (a fault for each page, in one of hundreds of
  // requests), one that is used now and then each time.
  static constexpr std::uint32_t kResets = 16384;
  // A set that is not worth it.
  static constexpr std::uint64_t kSmallPages = 32;

  // A reset of the memory at `start` found `pages`: shall all of them be given back?
  bool is_old(std::uint64_t start, std::uint64_t pages) noexcept {
    ++resets_;
    if (pages <= kSmallPages) {
      return false;
    }
    const auto [entry, is_new] = since_.try_emplace(start, resets_);
    if (is_new || resets_ - entry->second < kResets) {
      return false;
    }
    entry->second = resets_;
    return true;
  }

 private:
  // How many resets there had been when the memory began to collect; they wrap. Of each memory that
  // ever was large: no more than a pool has.
  std::unordered_map<std::uint64_t, std::uint32_t> since_;
  std::uint32_t resets_ = 0;
};

}  // namespace mik::engine
