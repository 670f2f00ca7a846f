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

Pace::Run since(base::Time began) { return {.began = began, .on = true}; }
Pace::Run over(base::Time began) { return {.began = began, .on = false}; }

// A loop that is never idle, with guests of so long one after the other. Looks at it as the ticker
// does, for a second.
struct Busy {
  explicit Busy(base::Duration run) {
    const base::Time end = kStart + std::chrono::seconds(1);
    base::Time now = kStart;
    base::Time began = kStart;
    Woke woke = Woke::kTime;
    while (now < end) {
      while (began + run <= now) {
        began += run;
      }
      const Pace::Step step = pace.look(now, since(began), woke);
      if (step.tick == Tick::kPreempt || step.tick == Tick::kSlice) {
        ++asked;
        began = now;  // it yields, and the next one begins
      }
      woke = step.wait == Wait::kTime        ? Woke::kTime
             : step.wait == Wait::kRunOrTime ? Woke::kRun
                                             : Woke::kInput;
      timers += step.wait == Wait::kTime ? 1 : 0;
      now += step.wait == Wait::kTime ? step.time : base::Duration{};
    }
  }
  Pace pace;
  int timers = 0;
  int asked = 0;
};

TEST(Pace, ABusyLoopOfShortGuestsHasATimerAMillisecond) {
  const Busy busy{microseconds(15)};
  EXPECT_LE(busy.timers, 1001 + Pace::kSaved / Pace::kTick);
  EXPECT_GE(busy.timers, 990) << "and no fewer: budgets are held by them";
  EXPECT_EQ(busy.asked, 0);
}

TEST(Pace, ABusyLoopOfGuestsThatComputeHasATimerForEachPreemption) {
  const Busy busy{std::chrono::seconds(1)};
  EXPECT_GE(busy.asked, 1000);
  EXPECT_LE(busy.asked, std::chrono::seconds(1) / Pace::kSoon);
  EXPECT_LE(busy.timers, busy.asked + 2);
}

TEST(Pace, AnIdleLoopHasNoTimers) {
  Pace pace;
  EXPECT_EQ(pace.look(kStart, {}, Woke::kTime).wait, Wait::kInputOrRun);
  // One request, and that is all.
  base::Time now = kStart + std::chrono::minutes(1);
  EXPECT_EQ(pace.look(now, {}, Woke::kInput).wait, Wait::kTime);
  const Pace::Run run = over(now + microseconds(20));
  now += Pace::kSoon;
  EXPECT_EQ(pace.look(now, run, Woke::kTime).wait, Wait::kInputOrRun);
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
  EXPECT_EQ(pace.look(now + first.time, run, Woke::kTime).wait, Wait::kInputOrRun);
}

TEST(Pace, AGuestIsPreemptedAsSoonAsTheLoopHasInput) {
  Pace pace;
  pace.look(kStart, {}, Woke::kInput);
  const base::Time now = kStart + Pace::kSoon;
  const Pace::Step waits = pace.look(now, since(kStart + microseconds(20)), Woke::kTime);
  EXPECT_EQ(waits.tick, Tick::kNone);
  EXPECT_EQ(waits.wait, Wait::kInputOrTime);
  EXPECT_EQ(waits.time, Pace::kSlice - microseconds(180));
  const Pace::Step asks =
      pace.look(now + microseconds(50), since(kStart + microseconds(20)), Woke::kInput);
  EXPECT_EQ(asks.tick, Tick::kPreempt);
  EXPECT_EQ(asks.wait, Wait::kRunOrTime);
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
  EXPECT_EQ(waits.wait, Wait::kRunOrTime);
  EXPECT_EQ(pace.look(now + waits.time, since(kStart), Woke::kTime).tick, Tick::kSlice)
      << "in vain";
}

TEST(Pace, ARunThatBeginsWithoutInputIsWatchedFromItsBeginning) {
  Pace pace;
  pace.look(kStart, {}, Woke::kTime);
  const base::Time now = kStart + std::chrono::minutes(1);
  const Pace::Step watches = pace.look(now, since(now), Woke::kRun);
  EXPECT_EQ(watches.wait, Wait::kInputOrTime);
  EXPECT_EQ(watches.time, Pace::kSlice);
}

TEST(Pace, ARunThatHasOnlyBegunIsNotPreempted) {
  Pace pace;
  pace.look(kStart, {}, Woke::kInput);
  const Pace::Step step = pace.look(kStart + Pace::kSoon,
                                    since(kStart + Pace::kSoon - Pace::kRunMin / 2), Woke::kInput);
  EXPECT_EQ(step.tick, Tick::kIdle);
  EXPECT_EQ(step.time, Pace::kSoon);
}

TEST(Pace, EachOfFewRequestsIsLookedAtSoon) {
  Pace pace;
  base::Time now = kStart;
  for (int i = 0; i < 1000; ++i) {
    now += microseconds(1500);
    EXPECT_EQ(pace.look(now, over(now - milliseconds(1)), Woke::kInput).time, Pace::kSoon) << i;
    now += Pace::kSoon;
    EXPECT_EQ(pace.look(now, over(now - microseconds(100)), Woke::kTime).wait, Wait::kInputOrRun)
        << i;
  }
}

}  // namespace
}  // namespace mik::engine
