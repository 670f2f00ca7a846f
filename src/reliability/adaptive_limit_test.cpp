#include "reliability/adaptive_limit.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

namespace mik::reliability {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// A server of `places` that work at once, each request taking `takes`; who comes beyond waits his
// turn. Always as many are on their way as the limit lets in, up to `offered`.
class Simulation {
 public:
  Simulation(std::uint64_t seed, const AdaptiveLimit::Bounds& bounds)
      : random_(seed), limit_(bounds) {}

  double places = 8;
  base::Duration takes = milliseconds(50);
  std::uint64_t offered = 100'000;

  void run(base::Duration time) {
    const base::Time end = now_ + time;
    highest = 0;
    while (now_ < end) {
      const auto active = std::min<std::uint64_t>(limit_.limit(), offered);
      const double crowd = std::max(1.0, static_cast<double>(active) / places);
      const double noise = std::uniform_real_distribution<double>(0.7, 1.3)(random_);
      const double latency = static_cast<double>(takes.count()) * crowd * noise;
      // So many end in a second that `active` of them are on their way at once.
      now_ += in_ns(latency / static_cast<double>(active));
      limit_.record(in_ns(latency), active, now_);
      highest = std::max(highest, limit_.limit());
    }
  }
  std::uint32_t limit() const { return limit_.limit(); }
  std::uint32_t highest = 0;  // of the last run

 private:
  static base::Duration in_ns(double ns) {
    return base::Duration(static_cast<base::Duration::rep>(ns));
  }

  std::mt19937_64 random_;
  AdaptiveLimit limit_;
  base::Time now_ = base::from_ns(1'000'000'000);
};

TEST(AdaptiveLimit, StaysWithinItsBounds) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    AdaptiveLimit limit({.least = 3, .most = 40});
    base::Time now = base::from_ns(1);
    for (int i = 0; i < 20'000; ++i) {
      now += milliseconds(random() % 20);
      limit.record(milliseconds(random() % 1000), random() % 60, now);
      ASSERT_GE(limit.limit(), 3u);
      ASSERT_LE(limit.limit(), 40u);
    }
  }
}

TEST(AdaptiveLimit, FindsHowManyTheServerHasPlacesForAndStaysThere) {
  for (const double places : {4.0, 8.0, 30.0}) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
      SCOPED_TRACE("places " + std::to_string(places) + ", seed " + std::to_string(seed));
      Simulation simulation(seed, {.least = 4, .most = 500});
      simulation.places = places;
      simulation.run(seconds(30));
      for (int minute = 0; minute < 5; ++minute) {
        simulation.run(seconds(60));
        EXPECT_LE(simulation.highest, 2.5 * places + 10);
      }
      simulation.run(seconds(5));
      EXPECT_GE(simulation.highest, places) << "nobody waits while a place is free";
    }
  }
}

TEST(AdaptiveLimit, GrowsWhileLatencyDoesNot) {
  Simulation simulation(1, {.least = 4, .most = 100});
  simulation.places = 1e9;
  simulation.run(seconds(60));
  EXPECT_EQ(simulation.highest, 100u);
}

TEST(AdaptiveLimit, DoesNotGrowWhenNobodyNeedsIt) {
  Simulation simulation(1, {.least = 4, .most = 500});
  simulation.places = 1e9;
  simulation.offered = 5;
  simulation.run(seconds(60));
  EXPECT_EQ(simulation.highest, 20u);
}

TEST(AdaptiveLimit, FollowsAServerThatLosesAndRegainsItsPlaces) {
  Simulation simulation(1, {.least = 4, .most = 500});
  simulation.places = 40;
  simulation.run(seconds(60));
  EXPECT_GE(simulation.highest, 40u);
  simulation.places = 5;
  simulation.run(seconds(20));
  simulation.run(seconds(60));
  EXPECT_LE(simulation.highest, 25u);
  simulation.places = 40;
  simulation.run(seconds(90));
  EXPECT_GE(simulation.highest, 40u);
}

// Long polls cannot be measured in a second: nothing is limited by what is not known.
TEST(AdaptiveLimit, RequestsThatTakeLongAreNotHeldBackForLong) {
  Simulation simulation(1, {.least = 4, .most = 500});
  simulation.places = 1e9;
  simulation.takes = seconds(20);
  simulation.run(seconds(600));
  EXPECT_EQ(simulation.highest, 20u);
}

TEST(AdaptiveLimit, BoundsThatMeetFixIt) {
  AdaptiveLimit limit({.least = 10, .most = 10});
  for (int i = 0; i < 1000; ++i) {
    limit.record(milliseconds(i), 10, base::from_ns(static_cast<std::uint64_t>(i) * 100'000'000));
  }
  EXPECT_EQ(limit.limit(), 10u);
}

}  // namespace
}  // namespace mik::reliability
