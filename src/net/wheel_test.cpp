#include "net/wheel.hpp"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <vector>

namespace mik::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct Counter {
  int fired = 0;
  void on_timeout() { ++fired; }
};

TEST(Wheel, FiresOnceAtOrJustAfterTheDeadline) {
  base::Time now = base::from_ns(1'000'000'000'000);
  Wheel wheel(now);
  Counter counter;
  Timer timer = Timer::of<&Counter::on_timeout>(&counter);
  wheel.arm(timer, now + milliseconds(500));
  wheel.advance(now + milliseconds(499));
  EXPECT_EQ(counter.fired, 0);
  EXPECT_LE(wheel.next_deadline(), now + milliseconds(500) + Wheel::kResolution);
  wheel.advance(now + milliseconds(500) + Wheel::kResolution);
  EXPECT_EQ(counter.fired, 1);
  EXPECT_FALSE(timer.armed());
  wheel.advance(now + seconds(500));
  EXPECT_EQ(counter.fired, 1);
}

TEST(Wheel, LaterDeadlineIsKept) {
  base::Time now = base::from_ns(0);
  Wheel wheel(now);
  Counter counter;
  Timer timer = Timer::of<&Counter::on_timeout>(&counter);
  wheel.arm(timer, now + seconds(1));
  wheel.arm(timer, now + seconds(10));
  wheel.advance(now + seconds(9));
  EXPECT_EQ(counter.fired, 0);
  wheel.arm(timer, now + seconds(9) + milliseconds(100));
  wheel.advance(now + seconds(9) + milliseconds(200));
  EXPECT_EQ(counter.fired, 1);
}

TEST(Wheel, DisarmedAndDestroyedTimersDoNotFire) {
  base::Time now = base::from_ns(0);
  Wheel wheel(now);
  Counter counter;
  Timer kept = Timer::of<&Counter::on_timeout>(&counter);
  {
    Timer gone = Timer::of<&Counter::on_timeout>(&counter);
    wheel.arm(gone, now + seconds(1));
  }
  wheel.arm(kept, now + seconds(1));
  kept.disarm();
  wheel.advance(now + seconds(5));
  EXPECT_EQ(counter.fired, 0);
  EXPECT_EQ(wheel.next_deadline(), base::kNever);
}

struct Killer {
  std::unique_ptr<Timer> victim;
  void on_timeout() { victim.reset(); }
};

TEST(Wheel, ACallbackMayDestroyTheNextTimerOfItsSlot) {
  base::Time now = base::from_ns(0);
  Wheel wheel(now);
  Counter counter;
  Killer killer;
  killer.victim =
      std::make_unique<Timer>(&counter, [](void* c) { static_cast<Counter*>(c)->on_timeout(); });
  Timer timer = Timer::of<&Killer::on_timeout>(&killer);
  wheel.arm(*killer.victim, now + seconds(1));
  wheel.arm(timer, now + seconds(1));  // linked in front: fires first
  wheel.advance(now + seconds(2));
  EXPECT_EQ(counter.fired, 0);
}

struct Again {
  Wheel* wheel;
  Timer timer = Timer::of<&Again::on_timeout>(this);
  base::Time next;
  int fired = 0;
  void on_timeout() {
    ++fired;
    next += seconds(1);
    wheel->arm(timer, next);
  }
};

TEST(Wheel, ATimerMayArmItselfAgain) {
  base::Time now = base::from_ns(0);
  Wheel wheel(now);
  Again again;
  again.wheel = &wheel;
  again.next = now + seconds(1);
  wheel.arm(again.timer, again.next);
  for (int i = 0; i < 400; ++i) {
    now += milliseconds(25);
    wheel.advance(now);
  }
  EXPECT_GE(again.fired, 9);
  EXPECT_LE(again.fired, 10);
}

// Seeded random histories against a plain map.
TEST(Wheel, AgreesWithAModel) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    base::Time now = base::from_ns(77);
    Wheel wheel(now);
    struct Entry {
      base::Time deadline = base::kNever;
      base::Time fired_at = base::kNever;
      base::Time* clock = nullptr;
      void on_timeout() { fired_at = *clock; }
    };
    std::vector<std::unique_ptr<Entry>> entries;
    std::vector<std::unique_ptr<Timer>> timers;
    for (int i = 0; i < 50; ++i) {
      entries.push_back(std::make_unique<Entry>());
      entries.back()->clock = &now;
      timers.push_back(std::make_unique<Timer>(
          entries.back().get(), [](void* e) { static_cast<Entry*>(e)->on_timeout(); }));
    }
    for (int step = 0; step < 3000; ++step) {
      const auto i = static_cast<std::size_t>(random() % entries.size());
      switch (random() % 4) {
        case 0:
        case 1:
          entries[i]->deadline = now + milliseconds(random() % 400'000);
          entries[i]->fired_at = base::kNever;
          wheel.arm(*timers[i], entries[i]->deadline);
          break;
        case 2:
          entries[i]->deadline = base::kNever;
          timers[i]->disarm();
          break;
        default:
          now += milliseconds(random() % (step % 100 == 0 ? 300'000 : 300));
          wheel.advance(now);
          for (std::size_t k = 0; k < entries.size(); ++k) {
            Entry& entry = *entries[k];
            if (entry.fired_at != base::kNever) {
              ASSERT_LE(entry.deadline, now) << "seed " << seed;
              entry.deadline = base::kNever;
              entry.fired_at = base::kNever;
            }
            ASSERT_TRUE(entry.deadline == base::kNever ||
                        entry.deadline + 2 * Wheel::kResolution > now)
                << "late, seed " << seed;
            if (entry.deadline != base::kNever) {
              ASSERT_LE(wheel.next_deadline(), entry.deadline + 2 * Wheel::kResolution);
            }
          }
      }
    }
  }
}

}  // namespace
}  // namespace mik::net
