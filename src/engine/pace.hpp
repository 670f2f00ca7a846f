// When the ticker looks at the guest that has the loop, when it asks that guest for the loop, and
// what it waits for in between. Decides only: ticker.cpp has the clock, the thread and the system
// calls. Confined to the ticker's thread.
//
// What it costs. Waking by a timer is dear (2 us of CPU, 20 us in a virtual machine that leaves for
// each timer that is set), waking because something came to the loop or a run began is not (3 us).
// So runs for which nobody need wait long wake nobody: they are looked at once in kGuard while
// there are any, and a long one among them is found by that. One for which others may wait wakes
// the ticker when it begins, is looked at soon after, and is then given up when the loop has input.
// Timers are bounded to one in kTick on average, kSaved of them saved up: a loop that is never idle
// is looked at once in kTick, one that has a request now and then at each of them. Only a guest
// that was found to compute has more.
//
// Whoever has just had the core is not given it again at once, whatever wakes it (Linux's EEVDF: it
// is not eligible), but at the next tick of the kernel, which may be 4 ms away. So a look is
// followed by kSoon of sleep where another wake would be likely.
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
  enum class Wait : std::uint8_t {
    kTime,
    kInputOrTime,
    kRun,               // until any begins, however long that takes
    kWatchedRunOrTime,  // until a watched one begins
  };
  enum class Woke : std::uint8_t { kTime, kInput, kRun };
  struct Step {
    enum class Tick : std::uint8_t {
      kNone,
      kIdle,     // no guest that runs need mind it: counts against CPU budgets only
      kSlice,    // the guest has had its slice, or none has been looked at for long
      kPreempt,  // the loop has something else to do
    };
    Tick tick = Tick::kNone;
    Wait wait = Wait::kTime;
    base::Duration time{};
  };

  // `woke`: what ended the last wait. Input is that the loop has something to do.
  Step look(base::Time now, Run run, Woke woke) noexcept;

 private:
  bool credit(base::Time now) const noexcept { return paid_until_ <= now; }
  base::Duration pay(base::Time now) noexcept;

  Step decide(base::Time now, Run run, Woke woke) noexcept;

  Run last_;
  base::Time ticked_;
  base::Time paid_until_;
  Run asked_;              // had its slice
  bool computes_ = false;  // a guest was asked for the loop just now: one timer is free
};

}  // namespace mik::engine
