// When the ticker looks at the guest that has the loop, and when it asks that guest for the loop.
// Decides only: ticker.cpp has the clock and the timer. Confined to the loop's thread.
//
// What it costs. A look is a timer and a signal, 2 us of CPU (more in a virtual machine that leaves
// for each timer that is set). So runs for which nobody need wait long set no timer: they are
// looked at once in kGuard while there are any, and a long one among them is found by that. One for
// which others may wait is looked at soon after it begins, from time to time from then on, and is
// given up when the loop has input at one of these looks. First looks are bounded to one in kTick
// on average, kSaved of them saved up: a loop that is never idle is looked at once in kTick, one
// that has a request now and then at each of them. Only a guest that was found to compute has more.
#pragma once

#include <cstdint>

#include "base/time.hpp"

namespace mik::engine {

class Pace {
 public:
  // How long a guest has the loop when nothing else is there to do.
  static constexpr base::Duration kSlice = std::chrono::milliseconds(1);
  // How long it has it in any case.
  static constexpr base::Duration kRunMin = std::chrono::microseconds(100);
  // After what says that a guest may be computing.
  static constexpr base::Duration kSoon = std::chrono::microseconds(200);
  // And if it is, and the loop had no input.
  static constexpr base::Duration kAgain = std::chrono::microseconds(300);
  static constexpr base::Duration kTick = std::chrono::milliseconds(1);
  static constexpr base::Duration kSaved = 20 * kTick;
  // At what distance runs are looked at that are not watched.
  static constexpr base::Duration kGuard = 4 * kTick;

  // The guest that runs, or the last one that did.
  struct Run {
    base::Time began;
    bool on = false;
    bool watched = true;
    bool operator==(const Run&) const = default;
  };
  struct Step {
    enum class Tick : std::uint8_t {
      kNone,
      kIdle,     // no guest that runs need mind it: counts against CPU budgets only
      kSlice,    // the guest has had its slice, or none has been looked at for long
      kPreempt,  // the loop has something else to do
    };
    // Which runs are looked at sooner when they begin.
    enum class Sooner : std::uint8_t { kNone, kWatched };

    Tick tick = Tick::kNone;
    base::Duration time{};  // until the next look; 0: none until a run begins
    Sooner sooner = Sooner::kNone;
  };

  // How long until the first look at a run that begins, there being none or a later one.
  base::Duration begin(base::Time now, bool watched) noexcept;
  // Whether it matters what the loop has to do.
  static bool heeds_input(base::Time now, Run run) noexcept {
    return run.on && run.watched && now - run.began >= kRunMin && now - run.began < kSlice;
  }
  // `input`: the loop has something to do.
  Step look(base::Time now, Run run, bool input) noexcept;

 private:
  bool credit(base::Time now) const noexcept { return paid_until_ <= now; }
  base::Duration pay(base::Time now) noexcept;

  Step decide(base::Time now, Run run, bool input) noexcept;

  Run last_;
  base::Time ticked_;
  base::Time paid_until_;
  bool computes_ = false;  // a guest was asked for the loop just now: one timer is free
};

}  // namespace mik::engine
