#include "runtime/scheduler.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "runtime/test_worker.hpp"

namespace mik::runtime {
namespace {

using SchedulerTest = TestWorker;

TEST_F(SchedulerTest, ShortGuestsPassOneThatComputesForEver) {
  TestExchange endless("/spin?0");
  begin(endless);
  turn(30);
  for (int i = 0; i < 20; ++i) {
    TestExchange quick("/hello");
    begin(quick);
    turn();
    EXPECT_TRUE(quick.complete()) << i;
  }
  endless.close(http::Outcome::kClientGone);
}

// risks.md 4: the limit on started guests counts young ones only, or eight endless guests would
// stop the worker.
TEST_F(SchedulerTest, EightEndlessGuestsDoNotKeepOthersFromStarting) {
  std::vector<std::unique_ptr<TestExchange>> endless;
  for (int i = 0; i < 8; ++i) {
    endless.push_back(std::make_unique<TestExchange>("/spin?0"));
    begin(*endless.back());
  }
  TestExchange quick("/hello");
  begin(quick);
  // The fake's slices take no time, so age must be given: turns until all have been young, bounded.
  const base::Time give_up = base::Clock::now() + std::chrono::seconds(5);
  while (!quick.closed && base::Clock::now() < give_up) {
    turn();
  }
  EXPECT_TRUE(quick.complete());
  for (auto& exchange : endless) {
    exchange->close(http::Outcome::kClientGone);
  }
}

// Each computes for most of a slice and then waits for a moment, so that it is never among those
// that compute.
TEST_F(SchedulerTest, GuestsThatAreWokenAllTheTimeDoNotKeepOthersFromStarting) {
  std::vector<std::unique_ptr<TestExchange>> busy;
  for (int i = 0; i < 6; ++i) {
    busy.push_back(std::make_unique<TestExchange>("/burn"));
    begin(*busy.back());
  }
  turn(20);
  TestExchange quick("/hello");
  begin(quick);
  turn(5);
  EXPECT_TRUE(quick.complete());
  for (auto& exchange : busy) {
    exchange->close(http::Outcome::kClientGone);
  }
  quick.close(http::Outcome::kClientGone);
}

TEST_F(SchedulerTest, FewGuestsAreStartedWhileOthersCompute) {
  std::vector<std::unique_ptr<TestExchange>> heavy;
  for (int i = 0; i < 6; ++i) {
    heavy.push_back(std::make_unique<TestExchange>("/spin?3"));
    begin(*heavy.back());
  }
  turn();
  EXPECT_LE(scheduler_.computing(), Scheduler::kStartedMax);
  EXPECT_GE(scheduler_.unstarted(), 4u);
  turn(100);
  for (const auto& exchange : heavy) {
    EXPECT_TRUE(exchange->complete());
  }
}

TEST_F(SchedulerTest, YoungGuestsRunToTheirEndInOrder) {
  TestExchange first("/spin?4");
  TestExchange second("/spin?4");
  begin(first);
  begin(second);
  while (!second.closed) {
    turn();
    if (second.closed) {
      EXPECT_TRUE(first.closed);
    }
  }
}

TEST_F(SchedulerTest, RemovalFromEveryQueueIsClean) {
  TestExchange fresh("/hello");
  TestExchange young("/spin?0");
  TestExchange waiting("/sleep?100000");
  begin(young);
  begin(waiting);
  turn();
  begin(fresh);
  fresh.close(http::Outcome::kClientGone);
  young.close(http::Outcome::kClientGone);
  waiting.close(http::Outcome::kClientGone);
  turn(2);
  EXPECT_EQ(scheduler_.unstarted() + scheduler_.computing(), 0u);
}

TEST_F(SchedulerTest, GuestsBeyondThePoolWaitForAPlace) {
  std::vector<std::unique_ptr<TestExchange>> sleepers;
  for (std::size_t i = 0; i < kInstances + 3; ++i) {
    sleepers.push_back(std::make_unique<TestExchange>("/sleep?100000"));
    begin(*sleepers.back());
  }
  turn(3);
  EXPECT_EQ(scheduler_.unstarted(), 3u);
  sleepers[0]->close(http::Outcome::kClientGone);
  turn();
  EXPECT_EQ(scheduler_.unstarted(), 2u);
  for (auto& sleeper : sleepers) {
    sleeper->close(http::Outcome::kClientGone);
  }
  TestExchange quick("/hello");
  begin(quick);
  turn();
  EXPECT_TRUE(quick.complete());
}

TEST_F(SchedulerTest, SaysWhenTheNextGuestWakes) {
  TestExchange sleeper("/sleep?20");
  begin(sleeper);
  turn();
  EXPECT_NE(scheduler_.next_deadline(), base::kNever);
  ASSERT_TRUE(wait(sleeper));
  EXPECT_EQ(sleeper.status, 200);
}

}  // namespace
}  // namespace mik::runtime
