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

Pace::Run since(base::Time began) { return {.began = began, .on = true, .watched = true}; }
Pace::Run over(base::Time began) { return {.began = began, .on = false, .watched = true}; }
Pace::Run short_since(base::Time began) { return {.began = began, .on = true, .watched = false}; }
Pace::Run short_over(base::Time began) { return {.began = began, .on = false, .watched = false}; }

// A loop that is never idle, with guests of so long one after the other. Looks at it as the ticker
// does, for a second.
struct Busy {
  explicit Busy(base::Duration run, bool watched = true) {
    const base::Time end = kStart + std::chrono::seconds(1);
    base::Time now = kStart;
    base::Time began = kStart;
    Woke woke = Woke::kTime;
    while (now < end) {
      while (began + run <= now) {
        began += run;
      }
      const Pace::Run runs{.began = began, .on = true, .watched = watched};
      const Pace::Step step = pace.look(now, runs, woke);
      ++looks;
      if (step.tick == Tick::kPreempt || step.tick == Tick::kSlice) {
        ++asked;
        began = now;  // it yields, and the next one begins
      }
      if (step.wait == Wait::kInputOrTime) {
        woke = Woke::kInput;
      } else if (step.wait == Wait::kWatchedRunOrTime && watched) {
        woke = Woke::kRun;
        began += run;
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
  for (const bool watched : {true, false}) {
    now += std::chrono::minutes(1);
    Pace::Run run{.began = now, .on = true, .watched = watched};
    const Pace::Step first = pace.look(now, run, Woke::kRun);
    EXPECT_EQ(first.wait, watched ? Wait::kTime : Wait::kWatchedRunOrTime);
    EXPECT_EQ(first.time, watched ? Pace::kSoon : Pace::kGuard);
    run.on = false;
    now += first.time;
    const Pace::Step guards = pace.look(now, run, Woke::kTime);
    EXPECT_EQ(guards.wait, Wait::kWatchedRunOrTime);
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

// As such ones are looked at: nothing that comes to the loop makes a difference.
TEST(Pace, RunsThatAreNotWatchedAreAskedByTheGuardAlone) {
  Pace pace;
  base::Time now = kStart;
  pace.look(now, short_since(now), Woke::kRun);
  for (int i = 0; i < 100; ++i) {
    now += Pace::kGuard;
    const Pace::Step step = pace.look(now, short_since(now - microseconds(400)), Woke::kTime);
    ASSERT_EQ(step.tick, Tick::kSlice) << "for its budget";
    ASSERT_EQ(step.wait, Wait::kWatchedRunOrTime);
    ASSERT_EQ(step.time, Pace::kGuard);
  }
}

TEST(Pace, AGuestIsPreemptedAsSoonAsTheLoopHasInput) {
  Pace pace;
  const base::Time began = kStart + microseconds(20);
  pace.look(kStart, {}, Woke::kTime);
  base::Time now = began + microseconds(5);
  EXPECT_EQ(pace.look(now, since(began), Woke::kRun).time, Pace::kSoon);
  now += Pace::kSoon;
  const Pace::Step waits = pace.look(now, since(began), Woke::kTime);
  EXPECT_EQ(waits.tick, Tick::kNone);
  EXPECT_EQ(waits.wait, Wait::kInputOrTime);
  EXPECT_EQ(waits.time, Pace::kSlice - (now - began));
  const Pace::Step asks = pace.look(now + microseconds(50), since(began), Woke::kInput);
  EXPECT_EQ(asks.tick, Tick::kPreempt);
  EXPECT_EQ(asks.wait, Wait::kTime) << "a wake by the next run would come too soon";
  EXPECT_EQ(asks.time, Pace::kSoon);
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
  EXPECT_EQ(waits.wait, Wait::kTime);
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

// One that computes for ever beside short ones on one connection: each of these comes when the
// other has gone on, and has the loop soon.
TEST(Pace, ShortGuestsBesideOneThatComputesWaitForSoonAtMost) {
  Pace pace;
  base::Time now = kStart;
  pace.look(now, since(now), Woke::kRun);
  now += Pace::kSlice;
  pace.look(now, since(kStart), Woke::kTime);
  base::Time goes_on = now;
  Woke woke = Woke::kInput;
  for (int i = 0; i < 2000; ++i) {
    Pace::Step step = pace.look(now, since(goes_on), woke);
    while (step.tick != Tick::kPreempt) {
      ASSERT_LE(now - goes_on, Pace::kRunMin + Pace::kSoon) << i;
      woke = step.wait == Wait::kTime ? Woke::kTime : Woke::kInput;
      now += step.wait == Wait::kTime ? step.time : base::Duration{};
      step = pace.look(now, since(goes_on), woke);
    }
    // The short one comes and goes, and the other goes on, until the ticker looks again.
    goes_on = now + microseconds(i % 199);
    ASSERT_EQ(step.wait, Wait::kTime);
    now += step.time;
    woke = Woke::kTime;
  }
}

TEST(Pace, EachOfFewRequestsIsWatched) {
  Pace pace;
  base::Time now = kStart;
  for (int i = 0; i < 1000; ++i) {
    now += microseconds(1500);
    EXPECT_EQ(pace.look(now, since(now), Woke::kRun).time, Pace::kSoon) << i;
    EXPECT_EQ(pace.look(now + Pace::kSoon, since(now), Woke::kTime).wait, Wait::kInputOrTime) << i;
    EXPECT_EQ(pace.look(now + Pace::kSlice, over(now), Woke::kTime).wait, Wait::kWatchedRunOrTime)
        << i;
  }
}

}  // namespace
}  // namespace mik::engine
