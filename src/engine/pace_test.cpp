// Time is made up here: what is counted are timers, ticks and preemptions.
#include "engine/pace.hpp"

#include <gtest/gtest.h>

namespace mik::engine {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using Tick = Pace::Step::Tick;
using Sooner = Pace::Step::Sooner;

constexpr base::Time kStart{std::chrono::hours(1)};
constexpr base::Duration kNone{};

Pace::Run since(base::Time began) { return {.began = began, .on = true, .watched = true}; }
Pace::Run over(base::Time began) { return {.began = began, .on = false, .watched = true}; }
Pace::Run short_since(base::Time began) { return {.began = began, .on = true, .watched = false}; }

// A loop that is never idle, with guests of so long one after the other and input all the time.
// Looks at it as the ticker does, for a second.
struct Busy {
  explicit Busy(base::Duration run, bool watched = true) {
    const base::Time end = kStart + std::chrono::seconds(1);
    base::Time began = kStart;
    base::Time now = kStart + pace.begin(kStart, watched);
    while (now < end) {
      while (began + run <= now) {
        began += run;
      }
      const Pace::Step step =
          pace.look(now, {.began = began, .on = true, .watched = watched}, true);
      ++looks;
      if (step.tick == Tick::kPreempt || step.tick == Tick::kSlice) {
        ++asked;
        began = now;  // it yields, and the next one begins
      }
      EXPECT_GT(step.time, kNone);
      if (step.sooner == Sooner::kWatched && watched) {
        began += run;
        now = began + pace.begin(began, true);
      } else {
        now += step.time;
      }
    }
  }
  Pace pace;
  int looks = 0;
  int asked = 0;
};

TEST(Pace, ABusyLoopOfShortGuestsIsLookedAtByTheGuardAlone) {
  const Busy busy{microseconds(15), false};
  EXPECT_EQ(busy.looks, std::chrono::seconds(1) / Pace::kGuard - 1);
  EXPECT_EQ(busy.asked, 0);
}

TEST(Pace, ABusyLoopOfGuestsThatMayBeLongAndAreNotHasATimerAMillisecond) {
  const Busy busy{microseconds(15)};
  EXPECT_LE(busy.looks, 1001 + Pace::kSaved / Pace::kTick);
  EXPECT_GE(busy.looks, 990) << "and no fewer: budgets are held by them";
  EXPECT_EQ(busy.asked, 0);
}

TEST(Pace, ABusyLoopOfGuestsThatComputeHasATimerForEachPreemption) {
  const Busy busy{std::chrono::seconds(1)};
  EXPECT_GE(busy.asked, 1000);
  EXPECT_LE(busy.asked, std::chrono::seconds(1) / Pace::kSoon);
  EXPECT_LE(busy.looks, busy.asked + 2);
}

// Nobody waits for it: four timers a slice.
TEST(Pace, AGuestThatComputesAloneIsLookedAtAFewTimesASlice) {
  Pace pace;
  base::Time began = kStart;
  base::Time now = kStart + pace.begin(kStart, true);
  int looks = 0;
  for (; now < kStart + milliseconds(100); ++looks) {
    const Pace::Step step = pace.look(now, since(began), false);
    ASSERT_NE(step.tick, Tick::kPreempt);
    began = step.tick == Tick::kSlice ? now : began;
    now += step.time;
  }
  EXPECT_GE(looks, 100);
  EXPECT_LE(looks, 401);
}

TEST(Pace, AnIdleLoopHasNoTimers) {
  Pace pace;
  // One request, and that is all: whether or not it was expected to be short.
  base::Time now = kStart;
  for (const bool watched : {true, false}) {
    now += std::chrono::minutes(1);
    const base::Duration first = pace.begin(now, watched);
    EXPECT_EQ(first, watched ? Pace::kSoon : Pace::kGuard);
    const Pace::Run run{.began = now, .on = false, .watched = watched};
    now += first;
    const Pace::Step guards = pace.look(now, run, false);
    EXPECT_EQ(guards.time, Pace::kGuard);
    EXPECT_EQ(guards.sooner, Sooner::kWatched);
    now += guards.time;
    EXPECT_EQ(pace.look(now, run, false).time, kNone);
  }
}

TEST(Pace, ALoopThatFallsIdleHasNoTimersEvenWithoutCredit) {
  Pace pace;
  base::Time now = kStart;
  for (int i = 0; i < 100; ++i) {
    now += pace.look(now, since(now), false).time;
  }
  const Pace::Run run = over(now);
  const Pace::Step first = pace.look(now, run, false);
  EXPECT_EQ(first.sooner, Sooner::kNone);
  EXPECT_EQ(pace.look(now + first.time, run, false).time, kNone);
}

// It is found by the guard and asked at once; the next ones are watched, and set the timer.
TEST(Pace, ALongRunThatWasExpectedToBeShortIsFound) {
  Pace pace;
  base::Time now = kStart;
  EXPECT_EQ(pace.begin(now, false), Pace::kGuard);
  const base::Time began = now + microseconds(10);
  now += Pace::kGuard;
  const Pace::Step asks = pace.look(now, short_since(began), false);
  EXPECT_EQ(asks.tick, Tick::kSlice);
  EXPECT_EQ(asks.sooner, Sooner::kWatched);
}

// Those of a module that is interrupted in vain: each look that finds one costs a switch, and after
// the guard's there was another, 0.2 ms later.
TEST(Pace, OneThatComputesAndIsNotWatchedIsAskedByTheGuardAlone) {
  const Busy busy{std::chrono::seconds(1), false};
  EXPECT_EQ(busy.asked, std::chrono::seconds(1) / Pace::kGuard - 1);
  EXPECT_EQ(busy.looks, busy.asked);
}

// As such ones are looked at: nothing that comes to the loop makes a difference.
TEST(Pace, RunsThatAreNotWatchedAreAskedByTheGuardAlone) {
  Pace pace;
  base::Time now = kStart;
  pace.begin(now, false);
  for (int i = 0; i < 100; ++i) {
    now += Pace::kGuard;
    const Pace::Step step = pace.look(now, short_since(now - microseconds(400)), false);
    ASSERT_EQ(step.tick, Tick::kSlice) << "for its budget";
    ASSERT_EQ(step.time, Pace::kGuard);
    ASSERT_EQ(step.sooner, Sooner::kWatched);
  }
}

TEST(Pace, AGuestIsPreemptedWhenTheLoopHasInput) {
  Pace pace;
  const base::Time began = kStart;
  base::Time now = began + pace.begin(began, true);
  EXPECT_EQ(now - began, Pace::kSoon);
  const Pace::Step waits = pace.look(now, since(began), false);
  EXPECT_EQ(waits.tick, Tick::kNone);
  EXPECT_EQ(waits.time, Pace::kAgain);
  now += waits.time;
  const Pace::Step asks = pace.look(now, since(began), true);
  EXPECT_EQ(asks.tick, Tick::kPreempt);
  EXPECT_EQ(asks.time, Pace::kSoon);
}

TEST(Pace, WithoutInputAGuestHasItsSlice) {
  Pace pace;
  base::Time now = kStart + pace.begin(kStart, true);
  for (Pace::Step step; now < kStart + Pace::kSlice; now += step.time) {
    step = pace.look(now, since(kStart), false);
    ASSERT_EQ(step.tick, Tick::kNone);
  }
  EXPECT_EQ(now, kStart + Pace::kSlice) << "and not more";
  EXPECT_EQ(pace.look(now, since(kStart), false).tick, Tick::kSlice);
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
      const Pace::Step step = pace.look(now, since(began), false);
      ticked = step.tick == Tick::kNone ? ticked : now;
      ASSERT_LE(now - ticked, milliseconds(3)) << run.count();
      ASSERT_GT(step.time, kNone);
      now += step.time;
    }
  }
}

// It is in a call of the host, where no tick finds it.
TEST(Pace, WhoWasAskedInVainIsAskedAgain) {
  Pace pace;
  base::Time now = kStart + Pace::kSlice;
  for (int i = 0; i < 10; ++i) {
    const Pace::Step step = pace.look(now, since(kStart), i % 2 == 0);
    EXPECT_EQ(step.tick, Tick::kSlice);
    EXPECT_EQ(step.time, now - kStart < 2 * Pace::kSlice ? Pace::kSoon : Pace::kTick);
    now += step.time;
  }
}

TEST(Pace, WhatTheLoopHasToDoMattersToARunThatMayBeGivenUp) {
  const auto heeds = [](Pace::Run run, base::Duration age) {
    return Pace::heeds_input(kStart + age, run);
  };
  EXPECT_FALSE(heeds(since(kStart), Pace::kRunMin - microseconds(1)));
  EXPECT_TRUE(heeds(since(kStart), Pace::kRunMin));
  EXPECT_TRUE(heeds(since(kStart), Pace::kSlice - microseconds(1)));
  EXPECT_FALSE(heeds(since(kStart), Pace::kSlice)) << "it is in any case";
  EXPECT_FALSE(heeds(over(kStart), Pace::kRunMin));
  EXPECT_FALSE(heeds(short_since(kStart), Pace::kRunMin));
}

TEST(Pace, ARunThatHasOnlyBegunIsNotPreempted) {
  Pace pace;
  const base::Time now = kStart + pace.begin(kStart, true);
  const Pace::Step step = pace.look(now, since(now - Pace::kRunMin / 2), true);
  EXPECT_EQ(step.tick, Tick::kIdle);
  EXPECT_GT(step.time, kNone);
}

// One that computes for ever beside short ones on one connection: each of these comes when the
// other has gone on, and has the loop soon.
TEST(Pace, ShortGuestsBesideOneThatComputesWaitForSoonAtMost) {
  Pace pace;
  base::Time now = kStart + Pace::kSlice;
  pace.look(now, since(kStart), true);
  base::Time goes_on = now;
  for (int i = 0; i < 2000; ++i) {
    Pace::Step step = pace.look(now, since(goes_on), true);
    while (step.tick != Tick::kPreempt) {
      ASSERT_LE(now - goes_on, Pace::kRunMin + Pace::kSoon) << i;
      now += step.time;
      step = pace.look(now, since(goes_on), true);
    }
    // The short one comes and goes, and the other goes on, until the next look.
    goes_on = now + microseconds(i % 199);
    now += step.time;
  }
}

TEST(Pace, EachOfFewRequestsIsWatched) {
  Pace pace;
  base::Time now = kStart;
  for (int i = 0; i < 1000; ++i) {
    now += microseconds(1500);
    ASSERT_EQ(pace.begin(now, true), Pace::kSoon) << i;
    ASSERT_EQ(pace.look(now + Pace::kSoon, since(now), false).time, Pace::kAgain) << i;
    const Pace::Step step = pace.look(now + Pace::kSlice, over(now), false);
    ASSERT_EQ(step.time, Pace::kGuard) << i;
    ASSERT_EQ(step.sooner, Sooner::kWatched) << i;
  }
}

}  // namespace
}  // namespace mik::engine
