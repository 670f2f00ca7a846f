#include "engine/pace.hpp"

#include <algorithm>
#include <utility>

namespace mik::engine {

namespace {

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

base::Duration Pace::begin(base::Time now, bool watched) noexcept {
  ticked_ = now;  // there was nobody to mind any
  return watched ? pay(now) : kGuard;
}

Pace::Step Pace::look(base::Time now, Run run, bool input) noexcept {
  const Step step = decide(now, run, input);
  if (step.tick != Step::Tick::kNone) {
    ticked_ = now;
  }
  return step;
}

Pace::Step Pace::decide(base::Time now, Run run, bool input) noexcept {
  using Tick = Step::Tick;
  constexpr Step::Sooner kWatched = Step::Sooner::kWatched;
  const bool quiet = std::exchange(last_, run) == run;
  if (!run.on) {
    if (quiet) {
      return {};
    }
    return run.watched && !credit(now) ? Step{Tick::kIdle, pay(now)}
                                       : Step{Tick::kIdle, kGuard, kWatched};
  }
  const base::Duration age = now - run.began;
  if (!run.watched) {
    return {age >= kRunMin ? Tick::kSlice : Tick::kIdle, kGuard, kWatched};
  }
  if (age < kRunMin) {
    // A tick so early asks nobody for the loop. Guests all of whose runs are short have no others.
    return {Tick::kIdle, std::exchange(computes_, false) ? kSoon : pay(now)};
  }
  if (age >= kSlice) {
    computes_ = true;
    // One that was asked and is in a call of the host for long can answer no sooner.
    return {Tick::kSlice, age < 2 * kSlice ? kSoon : kTick};
  }
  if (input) {
    computes_ = true;
    return {Tick::kPreempt, kSoon};
  }
  return {now - ticked_ >= kTicksApartMax ? Tick::kSlice : Tick::kNone,
          std::min(kAgain, kSlice - age)};
}

}  // namespace mik::engine
