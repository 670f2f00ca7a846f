#include "reliability/wait_queue.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace mik::reliability {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Entered = WaitQueue::Entered;
using Patience = WaitQueue::Patience;

struct Request : Waiter {
  explicit Request(int number) : id(number) {}
  void on_admitted(Permit given) override {
    permit = std::move(given);
    ++told;
    if (then) {
      then(*this);
    }
  }
  void on_refused(RefusedBy why) override {
    by = why;
    ++told;
    if (then) {
      then(*this);
    }
  }
  int id;
  int told = 0;
  Permit permit;
  RefusedBy by = RefusedBy::kNone;
  std::function<void(Request&)> then;
};

class WaitQueueTest : public ::testing::Test {
 protected:
  shared::Segment segment_ = shared::Segment::create(2, 6, 3).value();
  Admission admission_{segment_, 0, {.global_max = 2}};
  Admission other_{segment_, 1, {.global_max = 2}};
  WaitQueue queue_{admission_, 4};
  base::Time now_ = base::from_ns(1'000'000'000);
  const Target a_{.row = segment_.modules().add("", "a").value()};
  const Target b_{.row = segment_.modules().add("", "b").value()};
  const Target t_ = of_tenant("t", "c");
  const Target u_ = of_tenant("u", "d");
  Patience patience_{.queue = milliseconds(100)};

  Target of_tenant(const std::string& tenant, const std::string& name) {
    const std::uint32_t row = segment_.modules().add(tenant, name).value();
    return {.row = row, .tenant_row = segment_.modules().read(row).tenant_row};
  }
  Request& request(const Target& target) {
    requests_.push_back(std::make_unique<Request>(static_cast<int>(requests_.size())));
    answer_ = queue_.enter(*requests_.back(), target, patience_, now_, requests_.back()->permit);
    return *requests_.back();
  }
  void fill() {
    EXPECT_TRUE(request(a_).permit.held());
    EXPECT_TRUE(request(a_).permit.held());
  }
  WaitQueue::Answer answer_;
  std::vector<std::unique_ptr<Request>> requests_;
};

TEST_F(WaitQueueTest, WithoutPatienceItIsYesOrNo) {
  patience_.queue = {};
  fill();
  EXPECT_EQ(answer_.entered, Entered::kAdmitted);
  Request& refused = request(a_);
  EXPECT_EQ(answer_.entered, Entered::kRefused);
  EXPECT_EQ(answer_.by, RefusedBy::kGlobal);
  EXPECT_FALSE(refused.waiting());
  EXPECT_TRUE(queue_.empty());
}

TEST_F(WaitQueueTest, WhoWaitsIsAdmittedInOrder) {
  fill();
  Request& third = request(a_);
  Request& fourth = request(b_);
  EXPECT_EQ(answer_.entered, Entered::kWaiting);
  EXPECT_EQ(queue_.size(), 2u);
  queue_.turn(now_);
  EXPECT_EQ(third.told + fourth.told, 0);
  requests_[0]->permit.release();
  Request& fifth = request(b_);
  EXPECT_FALSE(fifth.permit.held()) << "nobody overtakes";
  queue_.turn(now_);
  EXPECT_TRUE(third.permit.held());
  EXPECT_EQ(fourth.told, 0);
  requests_[1]->permit.release();
  queue_.turn(now_);
  EXPECT_TRUE(fourth.permit.held());
}

TEST_F(WaitQueueTest, PermitsOfOtherWorkersAreNoticed) {
  Permit theirs[2];
  ASSERT_EQ(other_.try_acquire(a_, theirs[0]), RefusedBy::kNone);
  ASSERT_EQ(other_.try_acquire(a_, theirs[1]), RefusedBy::kNone);
  Request& waits = request(a_);
  theirs[0].release();
  queue_.turn(now_ + kWaitQueuePoll);
  EXPECT_TRUE(waits.permit.held());
}

TEST_F(WaitQueueTest, WhoseTimeIsOverIsRefusedWithTheReason) {
  fill();
  Request& global = request(a_);
  Target module = b_;
  module.module_max = 1;
  queue_.turn(now_ + milliseconds(99));
  EXPECT_EQ(global.told, 0);
  queue_.turn(now_ + milliseconds(100));
  EXPECT_EQ(global.by, RefusedBy::kGlobal);
  requests_[0]->permit.release();
  requests_[1]->permit.release();
  ASSERT_TRUE(request(module).permit.held());
  Request& second = request(module);
  EXPECT_TRUE(second.waiting());
  queue_.turn(now_ + milliseconds(100));
  EXPECT_EQ(second.by, RefusedBy::kModule);
  EXPECT_TRUE(queue_.empty());
}

TEST_F(WaitQueueTest, WhoCouldNotBeServedInTimeIsRefusedAtOnce) {
  fill();
  patience_.deadline = now_ + seconds(1);
  patience_.service = milliseconds(10);
  patience_.answer = milliseconds(10);
  EXPECT_TRUE(request(a_).waiting());
  patience_.deadline = now_ + milliseconds(9);
  request(a_);
  EXPECT_EQ(answer_.entered, Entered::kRefused) << "its deadline comes before its answer";
  patience_.deadline = base::kNever;
  patience_.service = milliseconds(150);
  request(a_);
  EXPECT_EQ(answer_.entered, Entered::kRefused) << "its turn comes after its patience";
  EXPECT_EQ(answer_.by, RefusedBy::kGlobal);
}

// A deadline is for the head of a response; a stream may go on for long after it.
TEST_F(WaitQueueTest, ThatPlacesAreHeldForLongIsNoReasonToMissADeadline) {
  fill();
  patience_.queue = seconds(60);
  patience_.deadline = now_ + seconds(30);
  patience_.service = seconds(70);
  patience_.answer = milliseconds(1);
  request(a_);
  EXPECT_EQ(answer_.entered, Entered::kRefused) << "no place in time";
  patience_.service = seconds(40);
  EXPECT_TRUE(request(a_).waiting());
}

TEST_F(WaitQueueTest, WhatTheLastWhoWaitedRanIntoIsForgottenWithThem) {
  fill();
  Request& gone = request(a_);
  ASSERT_TRUE(gone.waiting());
  queue_.turn(now_);  // runs into the limit of all
  gone.leave();
  requests_.clear();
  Target full = b_;
  full.module_max = 1;
  ASSERT_TRUE(request(full).permit.held());
  ASSERT_TRUE(request(full).waiting());
  EXPECT_TRUE(request(a_).permit.held()) << "there is room";
}

TEST_F(WaitQueueTest, ADeadlineBeforeTheEndOfPatienceCounts) {
  fill();
  patience_.deadline = now_ + milliseconds(60);
  patience_.answer = milliseconds(10);
  Request& waits = request(a_);
  queue_.turn(now_ + milliseconds(49));
  EXPECT_EQ(waits.told, 0);
  queue_.turn(now_ + milliseconds(50));
  EXPECT_EQ(waits.by, RefusedBy::kGlobal);
}

TEST_F(WaitQueueTest, AModuleThatIsFullHoldsUpNobodyElse) {
  Target full = a_;
  full.module_max = 1;
  ASSERT_TRUE(request(full).permit.held());
  Request& waits = request(full);
  EXPECT_TRUE(waits.waiting());
  EXPECT_TRUE(request(b_).permit.held()) << "of the same tenant";
  EXPECT_EQ(queue_.waiting_for(full), 1u);
  EXPECT_EQ(queue_.waiting_for(b_), 0u);
}

TEST_F(WaitQueueTest, TenantsTakeTurns) {
  fill();
  std::vector<Request*> greedy;
  for (int i = 0; i < 2; ++i) {
    greedy.push_back(&request(t_));
  }
  Request& modest = request(u_);
  requests_[0]->permit.release();
  queue_.turn(now_);
  EXPECT_TRUE(greedy[0]->permit.held());
  requests_[1]->permit.release();
  queue_.turn(now_);
  EXPECT_TRUE(modest.permit.held()) << "before the greedy one's second";
  EXPECT_EQ(greedy[1]->told, 0);
}

TEST_F(WaitQueueTest, WhereItIsFullTheGreediestGivesWay) {
  fill();
  std::vector<Request*> greedy;
  for (int i = 0; i < 4; ++i) {
    greedy.push_back(&request(t_));
  }
  request(t_);
  EXPECT_EQ(answer_.entered, Entered::kRefused) << "its own are as many";
  Request& modest = request(u_);
  EXPECT_TRUE(modest.waiting());
  EXPECT_EQ(greedy[3]->told, 1);
  EXPECT_EQ(greedy[3]->by, RefusedBy::kGlobal);
  EXPECT_EQ(queue_.size(), 4u);
}

TEST_F(WaitQueueTest, WhoIsToldMayDoAnything) {
  fill();
  Request& first = request(a_);
  Request& second = request(a_);
  Request& third = request(a_);
  first.then = [&](Request& self) {
    second.leave();
    self.permit.release();
    self.then = nullptr;
    EXPECT_EQ(queue_.enter(self, a_, patience_, now_, self.permit).entered, Entered::kWaiting)
        << "behind the third";
  };
  requests_[0]->permit.release();
  requests_[1]->permit.release();
  queue_.turn(now_);
  EXPECT_EQ(first.told, 1);
  EXPECT_EQ(second.told, 0) << "it left between its permit and its word";
  EXPECT_EQ(admission_.active(), 0u);
  EXPECT_TRUE(third.waiting());
  queue_.turn(now_);
  EXPECT_TRUE(third.permit.held());
  EXPECT_TRUE(first.permit.held());
  requests_.clear();
  EXPECT_EQ(admission_.active(), 0u);
}

TEST_F(WaitQueueTest, WhoIsDestroyedHasLeft) {
  fill();
  request(a_);
  request(t_);
  requests_.erase(requests_.begin() + 2);
  EXPECT_EQ(queue_.size(), 1u);
  requests_.clear();
  EXPECT_TRUE(queue_.empty());
  queue_.turn(now_ + seconds(1));
}

TEST(WaitQueueEnd, AQueueThatGoesLeavesItsWaitersAlone) {
  shared::Segment segment = shared::Segment::create(1, 1, 1).value();
  const Target target{.row = segment.modules().add("", "a").value()};
  Admission admission(segment, 0, {.global_max = 1});
  Request first(0);
  Request second(1);
  {
    WaitQueue queue(admission, 4);
    queue.enter(first, target, {}, base::Time(), first.permit);
    queue.enter(second, target, {.queue = seconds(1)}, base::Time(), second.permit);
    EXPECT_TRUE(second.waiting());
  }
  EXPECT_FALSE(second.waiting());
  EXPECT_EQ(second.told, 0);
}

// --- Random histories --------------------------------------------------------------------------

// Requests of four modules (two of platform, two of one tenant) at one worker, while another takes
// and gives back permits. What must hold after each step is said in check().
class History {
 public:
  explicit History(std::uint64_t seed) : random_(seed) {
    ours_ = std::make_unique<Admission>(segment_, 0, Admission::Limits{.global_max = global_max_});
    theirs_ = std::make_unique<Admission>(segment_, 1, ours_->limits());
    queue_ = std::make_unique<WaitQueue>(*ours_, kCapacity);
    for (std::size_t i = 0; i < 4; ++i) {
      const std::uint32_t row =
          segment_.modules().add(i < 2 ? "" : "t", "m" + std::to_string(i)).value();
      targets_.push_back({.row = row,
                          .tenant_row = segment_.modules().read(row).tenant_row,
                          .module_max = static_cast<std::uint32_t>(pick(4)),
                          .tenant_max = i < 2 ? 0 : tenant_max_});
    }
  }

  void step() {
    switch (pick(8)) {
      case 0:
      case 1:
      case 2:
        arrive();
        break;
      case 3:
        if (!live_.empty()) {  // ends, or its client leaves while it waits
          const auto at = live_.begin() + static_cast<std::ptrdiff_t>(pick(live_.size()));
          forget(**at);
          live_.erase(at);
        }
        break;
      case 4:
        if (Permit permit; theirs_->try_acquire(targets_[pick(4)], permit) == RefusedBy::kNone) {
          others_.push_back(std::move(permit));
        }
        break;
      case 5:
        if (!others_.empty()) {
          others_.pop_back();
        }
        break;
      default:
        now_ += milliseconds(pick(5));
        queue_->turn(now_);
        settled();
        check();
    }
    ASSERT_LE(queue_->size(), kCapacity);
    ASSERT_EQ(queue_->size(), waiting_.size());
  }

 private:
  static constexpr std::size_t kCapacity = 6;
  struct Known {
    Target target;
    base::Time until;
  };

  std::size_t pick(std::size_t below) { return random_() % below; }

  void arrive() {
    auto request = std::make_unique<Request>(next_++);
    const Target target = targets_[pick(4)];
    const base::Duration patience = milliseconds(pick(20));
    const auto answer = queue_->enter(*request, target, {.queue = patience}, now_, request->permit);
    ASSERT_EQ(answer.entered == Entered::kAdmitted, request->permit.held());
    ASSERT_EQ(answer.entered == Entered::kWaiting, request->waiting());
    if (answer.entered == Entered::kRefused) {
      ASSERT_NE(answer.by, RefusedBy::kNone);
      return;
    }
    if (answer.entered == Entered::kWaiting) {
      waiting_[request->id] = {target, now_ + patience};
    }
    live_.push_back(std::move(request));
    settled();  // one may have given way
  }
  void forget(Request& request) { waiting_.erase(request.id); }

  // Those that were told: once, in order within their module, and late only by a turn.
  void settled() {
    std::map<std::uint32_t, int> admitted_last;
    for (const auto& request : live_) {
      const auto known = waiting_.find(request->id);
      if (known == waiting_.end() || request->waiting()) {
        continue;
      }
      ASSERT_EQ(request->told, 1);
      ASSERT_EQ(request->permit.held(), request->by == RefusedBy::kNone);
      const Known said = known->second;
      waiting_.erase(known);
      if (request->permit.held()) {
        ASSERT_LT(now_, said.until);
        for (const auto& [id, other] : waiting_) {
          const bool before = id < request->id && other.target.row == said.target.row;
          ASSERT_FALSE(before) << id << " waited longer than " << request->id;
        }
      }
    }
    std::erase_if(
        live_, [](const auto& request) { return request->told == 1 && !request->permit.held(); });
  }
  // After a turn: nobody's time is over, and nobody waits whom a permit could be had for.
  void check() {
    for (const auto& [id, known] : waiting_) {
      ASSERT_GT(known.until, now_);
      Permit permit;
      ASSERT_NE(ours_->try_acquire(known.target, permit), RefusedBy::kNone) << id;
    }
  }

  std::mt19937_64 random_;
  const std::uint32_t global_max_ = static_cast<std::uint32_t>(1 + pick(6));
  const std::uint32_t tenant_max_ = static_cast<std::uint32_t>(pick(4));
  shared::Segment segment_ = shared::Segment::create(2, 4, 1).value();
  std::unique_ptr<Admission> ours_;
  std::unique_ptr<Admission> theirs_;
  std::unique_ptr<WaitQueue> queue_;
  std::vector<Target> targets_;
  std::vector<std::unique_ptr<Request>> live_;
  std::map<int, Known> waiting_;
  std::vector<Permit> others_;
  base::Time now_ = base::from_ns(1'000'000'000);
  int next_ = 0;
};

TEST(WaitQueueHistories, KeepTheirPromises) {
  for (std::uint64_t seed = 1; seed <= 1000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    History history(seed);
    for (int i = 0; i < 300; ++i) {
      ASSERT_NO_FATAL_FAILURE(history.step());
      if (::testing::Test::HasFailure()) {
        return;
      }
    }
  }
}

}  // namespace
}  // namespace mik::reliability
