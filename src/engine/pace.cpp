#include "engine/pace.hpp"

#include <algorithm>
#include <utility>

namespace mik::engine {

namespace {

// From a tick until the next run has begun, about: waiting for so long more makes one timer a
// slice.
constexpr base::Duration kYield = std::chrono::microseconds(50);
// CPU budgets are looked at by ticks: they come to guests, too, that wait before each slice is
// over.
constexpr base::Duration kTicksApartMax = 2 * Pace::kTick;

}  // namespace

// How long to wait, a timer that counts.
base::Duration Pace::pay(base::Time now) noexcept {
  const base::Duration wait = credit(now) ? kSoon : kTick;
  paid_until_ = std::max(paid_until_, now - kSaved) + kTick;
  return wait;
}

Pace::Step Pace::look(base::Time now, Run run, Woke woke) noexcept {
  const Step step = decide(now, run, woke);
  if (step.tick != Step::Tick::kNone) {
    ticked_ = now;
  }
  return step;
}

Pace::Step Pace::decide(base::Time now, Run run, Woke woke) noexcept {
  using Tick = Step::Tick;
  const bool quiet = std::exchange(last_, run) == run;
  if (!run.on) {
    if (quiet) {
      return {Tick::kNone, Wait::kRun, {}};
    }
    if (run.watched && !credit(now)) {
      return {Tick::kIdle, Wait::kTime, pay(now)};
    }
    return {Tick::kIdle, Wait::kWatchedRunOrTime, kGuard};
  }
  const base::Duration age = now - run.began;
  if (!run.watched && age < kSlice) {
    return {age >= kRunMin ? Tick::kSlice : Tick::kIdle, Wait::kWatchedRunOrTime, kGuard};
  }
  if (age >= kSlice) {
    computes_ = true;
    if (std::exchange(asked_, run) == run && woke == Woke::kInput) {
      // Asked already, and it cannot answer while we have the core.
      return {Tick::kNone, Wait::kTime, kSoon};
    }
    return {Tick::kSlice, Wait::kInputOrTime, kSlice + kYield};
  }
  if (age >= kRunMin) {
    if (woke == Woke::kInput) {
      computes_ = true;
      return {Tick::kPreempt, Wait::kTime, kSoon};
    }
    if (now - ticked_ >= kTicksApartMax) {
      return {Tick::kSlice, Wait::kInputOrTime, kSlice + kYield};
    }
    return {Tick::kNone, Wait::kInputOrTime, kSlice - age};
  }
  // A tick so early asks nobody for the loop. Guests all of whose runs are short have no others.
  if (std::exchange(computes_, false)) {
    return {Tick::kIdle, Wait::kTime, kSoon};
  }
  return {Tick::kIdle, Wait::kTime, pay(now)};
}

}  // namespace mik::engine
