// Time is made up here: what is counted are timers, ticks and preemptions.
#include "engine/pace.hpp"

#include <gtest/gtest.h>

namespace mik::engine {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using Tick = Pace::Step::Tick;
using Wait = Pace::Wait;
using Woke = Pace::Woke;

constexpr base::Time kStart{std::chrono::hours(1)};

Pace::Run since(base::Time began) { return {.began = began, .on = true, .may_be_long = true}; }
Pace::Run over(base::Time began) { return {.began = began, .on = false, .may_be_long = true}; }
Pace::Run short_since(base::Time began) {
  return {.began = began, .on = true, .may_be_long = false};
}
Pace::Run short_over(base::Time began) {
  return {.began = began, .on = false, .may_be_long = false};
}

// A loop that is never idle, with guests of so long one after the other. Looks at it as the ticker
// does, for a second.
struct Busy {
  explicit Busy(base::Duration run, bool may_be_long = true) {
    const base::Time end = kStart + std::chrono::seconds(1);
    base::Time now = kStart;
    base::Time began = kStart;
    Woke woke = Woke::kTime;
    while (now < end) {
      while (began + run <= now) {
        began += run;
      }
      const Pace::Run runs{.began = began, .on = true, .may_be_long = may_be_long};
      const Pace::Step step = pace.look(now, runs, woke);
      ++looks;
      if (step.tick == Tick::kPreempt || step.tick == Tick::kSlice) {
        ++asked;
        began = now;  // it yields, and the next one begins
      }
      if (step.wait == Wait::kInputOrTime) {
        woke = Woke::kInput;
      } else if (step.wait == Wait::kLongRunOrTime && may_be_long) {
        woke = Woke::kRun;
        began = step.tick == Tick::kPreempt ? began : began + run;
        now = began;
      } else {
        EXPECT_NE(step.wait, Wait::kRun);
        woke = Woke::kTime;
        now += step.time;
        ++timers;
      }
    }
  }
  Pace pace;
  int looks = 0;
  int timers = 0;
  int asked = 0;
};

TEST(Pace, ABusyLoopOfShortGuestsIsLookedAtByTheGuardAlone) {
  const Busy busy{microseconds(15), false};
  EXPECT_EQ(busy.timers, std::chrono::seconds(1) / Pace::kGuard);
  EXPECT_EQ(busy.looks, busy.timers);
  EXPECT_EQ(busy.asked, 0);
}

TEST(Pace, ABusyLoopOfGuestsThatMayBeLongAndAreNotHasATimerAMillisecond) {
  const Busy busy{microseconds(15)};
  EXPECT_LE(busy.timers, 1001 + Pace::kSaved / Pace::kTick);
  EXPECT_GE(busy.timers, 990) << "and no fewer: budgets are held by them";
  EXPECT_EQ(busy.asked, 0);
}

TEST(Pace, ABusyLoopOfGuestsThatComputeHasATimerForEachPreemption) {
  const Busy busy{std::chrono::seconds(1)};
  EXPECT_GE(busy.asked, 1000);
  EXPECT_LE(busy.asked, std::chrono::seconds(1) / Pace::kRunMin);
  EXPECT_LE(busy.timers, busy.asked + 2);
}

TEST(Pace, AnIdleLoopHasNoTimers) {
  Pace pace;
  EXPECT_EQ(pace.look(kStart, {}, Woke::kTime).wait, Wait::kRun);
  // One request, and that is all: whether or not it was expected to be short.
  base::Time now = kStart;
  for (const bool may_be_long : {true, false}) {
    now += std::chrono::minutes(1);
    Pace::Run run{.began = now, .on = true, .may_be_long = may_be_long};
    const Pace::Step watches = pace.look(now, run, Woke::kRun);
    EXPECT_EQ(watches.wait, may_be_long ? Wait::kInputOrTime : Wait::kLongRunOrTime);
    run.on = false;
    now += watches.time;
    const Pace::Step guards = pace.look(now, run, Woke::kTime);
    EXPECT_EQ(guards.wait, Wait::kLongRunOrTime);
    EXPECT_EQ(guards.time, Pace::kGuard);
    now += guards.time;
    EXPECT_EQ(pace.look(now, run, Woke::kTime).wait, Wait::kRun);
  }
}

TEST(Pace, ALoopThatFallsIdleHasNoTimersEvenWithoutCredit) {
  Pace pace;
  base::Time now = kStart;
  for (int i = 0; i < 100; ++i) {
    now += pace.look(now, since(now), Woke::kTime).time;
  }
  const Pace::Run run = over(now);
  const Pace::Step first = pace.look(now, run, Woke::kTime);
  EXPECT_EQ(first.wait, Wait::kTime);
  EXPECT_EQ(pace.look(now + first.time, run, Woke::kTime).wait, Wait::kRun);
}

// It is found by the guard, asked at once, and watched from then on.
TEST(Pace, ALongRunThatWasExpectedToBeShortIsFound) {
  Pace pace;
  base::Time now = kStart;
  EXPECT_EQ(pace.look(now, short_over(now), Woke::kRun).time, Pace::kGuard);
  const base::Time began = now + microseconds(10);
  now += Pace::kGuard;
  const Pace::Step asks = pace.look(now, short_since(began), Woke::kTime);
  EXPECT_EQ(asks.tick, Tick::kSlice);
  EXPECT_EQ(asks.wait, Wait::kInputOrTime);
}

TEST(Pace, AGuestIsPreemptedAsSoonAsTheLoopHasInput) {
  Pace pace;
  const base::Time began = kStart + microseconds(20);
  pace.look(kStart, {}, Woke::kTime);
  const Pace::Step waits = pace.look(began + microseconds(5), since(began), Woke::kRun);
  EXPECT_EQ(waits.tick, Tick::kNone);
  EXPECT_EQ(waits.wait, Wait::kInputOrTime);
  EXPECT_EQ(waits.time, Pace::kSlice - microseconds(5));
  const Pace::Step asks = pace.look(began + microseconds(230), since(began), Woke::kInput);
  EXPECT_EQ(asks.tick, Tick::kPreempt);
  EXPECT_EQ(asks.wait, Wait::kLongRunOrTime) << "no short one that comes between wakes";
  // The next one that may be long is watched without credit, too.
  const base::Time next = began + microseconds(300);
  EXPECT_EQ(pace.look(next, since(next), Woke::kRun).wait, Wait::kInputOrTime);
}

TEST(Pace, WithoutInputAGuestHasItsSlice) {
  Pace pace;
  pace.look(kStart, since(kStart), Woke::kTime);
  const Pace::Step waits = pace.look(kStart + Pace::kSoon, since(kStart), Woke::kTime);
  EXPECT_EQ(waits.tick, Tick::kNone);
  const Pace::Step asks = pace.look(kStart + Pace::kSlice, since(kStart), Woke::kTime);
  EXPECT_EQ(asks.tick, Tick::kSlice);
  EXPECT_EQ(asks.wait, Wait::kInputOrTime);
  EXPECT_GE(asks.time, Pace::kSlice);
}

// Or a guest whose runs are all of this length would never be held to its CPU budget.
TEST(Pace, RunsThatEndBeforeTheirSliceIsOverGetTicks) {
  for (const auto run :
       {microseconds(90), microseconds(350), microseconds(600), microseconds(999)}) {
    Pace pace;
    base::Time now = kStart;
    base::Time ticked = now;
    while (now < kStart + milliseconds(100)) {
      const base::Time began = now - (now - kStart) % run;
      const Pace::Step step = pace.look(now, since(began), Woke::kTime);
      ticked = step.tick == Tick::kNone ? ticked : now;
      ASSERT_LE(now - ticked, milliseconds(3)) << run.count();
      ASSERT_GT(step.time, base::Duration{});
      now += step.time;
    }
  }
}

TEST(Pace, WhoWasAskedIsLeftAloneUntilItCanAnswer) {
  Pace pace;
  pace.look(kStart, since(kStart), Woke::kTime);
  base::Time now = kStart + Pace::kSlice;
  EXPECT_EQ(pace.look(now, since(kStart), Woke::kTime).tick, Tick::kSlice);
  // The loop has input and is not there to take it.
  now += microseconds(3);
  const Pace::Step waits = pace.look(now, since(kStart), Woke::kInput);
  EXPECT_EQ(waits.tick, Tick::kNone);
  EXPECT_EQ(waits.wait, Wait::kLongRunOrTime);
  EXPECT_EQ(pace.look(now + waits.time, since(kStart), Woke::kTime).tick, Tick::kSlice)
      << "in vain";
}

TEST(Pace, ARunThatHasOnlyBegunIsNotPreempted) {
  Pace pace;
  pace.look(kStart, since(kStart), Woke::kRun);
  const Pace::Step step = pace.look(kStart + Pace::kSoon,
                                    since(kStart + Pace::kSoon - Pace::kRunMin / 2), Woke::kInput);
  EXPECT_EQ(step.tick, Tick::kIdle);
  EXPECT_EQ(step.wait, Wait::kTime);
  EXPECT_GT(step.time, base::Duration{});
}

// What comes so soon after a run began waits for that run's right, and no longer: with no credit
// left it waited for a millisecond.
TEST(Pace, InputWhileARunHasOnlyBegunIsNotForgotten) {
  Pace pace;
  base::Time began = kStart;
  for (int i = 0; i < 2000; ++i) {
    began += microseconds(1100);
    ASSERT_EQ(pace.look(began, since(began), Woke::kRun).wait, Wait::kInputOrTime) << i;
    base::Time now = began + microseconds(40);
    const Pace::Step waits = pace.look(now, since(began), Woke::kInput);
    ASSERT_EQ(waits.wait, Wait::kTime) << i;
    ASSERT_EQ(waits.time, Pace::kRunMin - microseconds(40)) << i;
    now += waits.time;
    ASSERT_EQ(pace.look(now, since(began), Woke::kTime).wait, Wait::kInputOrTime) << i;
    ASSERT_EQ(pace.look(now, since(began), Woke::kInput).tick, Tick::kPreempt) << i;
  }
}

// One that computes for ever beside short ones on one connection: each of these comes when the
// other has gone on, and has the loop soon.
TEST(Pace, ShortGuestsBesideOneThatComputesWaitForSoonAtMost) {
  Pace pace;
  base::Time now = kStart;
  pace.look(now, since(now), Woke::kRun);
  now += Pace::kSlice;
  pace.look(now, since(kStart), Woke::kTime);
  for (int i = 0; i < 2000; ++i) {
    const base::Time goes_on = now;
    now += microseconds(50);
    Pace::Step step = pace.look(now, since(goes_on), Woke::kInput);
    while (step.tick != Tick::kPreempt) {
      ASSERT_LE(now - goes_on, Pace::kRunMin + Pace::kSoon) << i;
      const bool waits = step.wait == Wait::kTime;
      now += waits ? step.time : base::Duration{};
      step = pace.look(now, since(goes_on), waits ? Woke::kTime : Woke::kInput);
    }
    now += microseconds(10);
    if (i % 2 == 0) {  // the short one may be long, too, and wakes
      ASSERT_EQ(pace.look(now, since(now), Woke::kRun).wait, Wait::kInputOrTime);
      now += microseconds(20);
    } else {  // the one that goes on wakes
      now += microseconds(20);
      ASSERT_EQ(pace.look(now, since(now), Woke::kRun).wait, Wait::kInputOrTime);
    }
  }
}

TEST(Pace, EachOfFewRequestsIsWatched) {
  Pace pace;
  base::Time now = kStart;
  for (int i = 0; i < 1000; ++i) {
    now += microseconds(1500);
    EXPECT_EQ(pace.look(now, since(now), Woke::kRun).wait, Wait::kInputOrTime) << i;
    EXPECT_EQ(pace.look(now + Pace::kSlice, over(now), Woke::kTime).wait, Wait::kLongRunOrTime)
        << i;
  }
}

}  // namespace
}  // namespace mik::engine
