#include "reliability/breaker.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "shared/breaker_cell.hpp"

namespace mik::reliability {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class Breaker : public ::testing::Test {
 protected:
  shared::Cell cell_{0};
  BreakerLimits limits_;
  base::Time now_ = base::from_ns(1'000'000'000'000);

  BreakerAnswer ask() { return ask_breaker(cell_, now_, limits_); }
  BreakerTicket let_through() {
    BreakerAnswer answer = ask();
    EXPECT_TRUE(answer.ticket.open());
    return std::move(answer.ticket);
  }
  void fail(int times) {
    for (int i = 0; i < times; ++i) {
      let_through().failure(now_, limits_);
    }
  }
  BreakerState state() const { return breaker_state(cell_, now_); }
  void expect_refused(base::Duration retry_after) {
    const BreakerAnswer answer = ask();
    EXPECT_FALSE(answer.ticket.open());
    EXPECT_EQ(answer.retry_after, retry_after);
  }
};

TEST_F(Breaker, FiveFailuresInARowOpenItForThirtySeconds) {
  fail(4);
  EXPECT_EQ(state(), BreakerState::kClosed);
  let_through().success();
  fail(4);
  EXPECT_EQ(state(), BreakerState::kClosed) << "a success in between starts the count again";
  fail(1);
  EXPECT_EQ(state(), BreakerState::kOpen);
  expect_refused(seconds(30));
  now_ += milliseconds(29'999);
  expect_refused(milliseconds(1));
  now_ += milliseconds(1);
  EXPECT_EQ(state(), BreakerState::kHalfOpen);
  EXPECT_TRUE(let_through().probe());
}

TEST_F(Breaker, WhatIsIgnoredNeitherHelpsNorHarms) {
  fail(4);
  let_through().ignored();
  {
    const BreakerTicket dropped = let_through();
  }
  EXPECT_EQ(state(), BreakerState::kClosed);
  fail(1);
  EXPECT_EQ(state(), BreakerState::kOpen);
}

TEST_F(Breaker, ItClosesWhenAllProbesThatWereLetThroughSucceeded) {
  fail(5);
  now_ += seconds(30);
  BreakerTicket first = let_through();
  BreakerTicket second = let_through();
  BreakerTicket third = let_through();
  expect_refused(seconds(1));
  first.success();
  second.success();
  EXPECT_EQ(state(), BreakerState::kHalfOpen);
  expect_refused(seconds(1));
  third.success();
  EXPECT_EQ(state(), BreakerState::kClosed);
  fail(4);
  EXPECT_EQ(state(), BreakerState::kClosed) << "it counts from nothing";
}

TEST_F(Breaker, OneProbeAloneIsEnough) {
  fail(5);
  now_ += seconds(30);
  let_through().success();
  EXPECT_EQ(state(), BreakerState::kClosed);
}

TEST_F(Breaker, TheFirstFailureOpensItAgain) {
  fail(5);
  now_ += seconds(30);
  BreakerTicket first = let_through();
  BreakerTicket second = let_through();
  first.failure(now_, limits_);
  EXPECT_EQ(state(), BreakerState::kOpen);
  second.success();
  expect_refused(seconds(30));
}

// G22: a probe whose client leaves gives its place back.
TEST_F(Breaker, ProbesThatAreGivenBackMakeRoom) {
  fail(5);
  now_ += seconds(30);
  BreakerTicket first = let_through();
  BreakerTicket second = let_through();
  {
    const BreakerTicket third = let_through();
  }
  BreakerTicket fourth = let_through();
  expect_refused(seconds(1));
  first.success();
  second.success();
  EXPECT_EQ(state(), BreakerState::kHalfOpen);
  fourth.ignored();
  EXPECT_EQ(state(), BreakerState::kClosed) << "all that count have succeeded";
  fail(5);
  now_ += seconds(30);
  {
    const BreakerTicket alone = let_through();
  }
  EXPECT_EQ(state(), BreakerState::kHalfOpen) << "nothing is proven";
  let_through().success();
  EXPECT_EQ(state(), BreakerState::kClosed);
}

// A ticket in a process that dies: its destructor never runs.
class Abandoned {
 public:
  explicit Abandoned(BreakerTicket ticket) {
    new (memory_.data()) BreakerTicket(std::move(ticket));
  }

 private:
  alignas(BreakerTicket) std::array<std::byte, sizeof(BreakerTicket)> memory_{};
};

TEST_F(Breaker, ProbesOfDeadWorkersAreForgotten) {
  fail(5);
  now_ += seconds(30);
  BreakerTicket slow = let_through();
  const Abandoned dead(let_through());
  const Abandoned dead_too(let_through());
  now_ += milliseconds(59'999);
  expect_refused(seconds(1));
  now_ += milliseconds(1);
  BreakerTicket fresh = let_through();
  slow.failure(now_, limits_);
  EXPECT_EQ(state(), BreakerState::kHalfOpen) << "it was forgotten too";
  fresh.success();
  EXPECT_EQ(state(), BreakerState::kClosed);
}

TEST_F(Breaker, LateResultsChangeNothing) {
  std::vector<BreakerTicket> late;
  for (int i = 0; i < 20; ++i) {
    late.push_back(let_through());
  }
  fail(5);
  for (int i = 0; i < 5; ++i) {
    late[static_cast<std::size_t>(i)].success();
  }
  EXPECT_EQ(state(), BreakerState::kOpen);
  now_ += seconds(29);
  for (int i = 5; i < 10; ++i) {
    late[static_cast<std::size_t>(i)].failure(now_, limits_);
  }
  expect_refused(seconds(1));
  now_ += seconds(1);
  BreakerTicket probe = let_through();
  late[10].success();
  late[11].failure(now_, limits_);
  EXPECT_EQ(state(), BreakerState::kHalfOpen);
  probe.success();
  for (int i = 12; i < 20; ++i) {
    late[static_cast<std::size_t>(i)].failure(now_, limits_);
  }
  EXPECT_EQ(state(), BreakerState::kClosed);
}

TEST_F(Breaker, AResetClosesItAndTheOldArtefactsResultsDoNotCount) {
  BreakerTicket old = let_through();
  fail(5);
  shared::reset_breaker(cell_);
  EXPECT_EQ(state(), BreakerState::kClosed);
  fail(4);
  shared::reset_breaker(cell_);
  old.failure(now_, limits_);
  fail(4);
  EXPECT_EQ(state(), BreakerState::kClosed);
}

TEST_F(Breaker, LimitsAtTheirEnds) {
  limits_.failures = 0;
  fail(100'000);
  EXPECT_EQ(state(), BreakerState::kClosed) << "0 failures: never opens";
  limits_ = {.failures = 1, .probes = 1};
  fail(1);
  EXPECT_EQ(state(), BreakerState::kOpen);
  now_ += seconds(30);
  BreakerTicket only = let_through();
  expect_refused(seconds(1));
  only.success();
  limits_.failures = 0xffff;
  fail(0xfffe);
  EXPECT_EQ(state(), BreakerState::kClosed);
  fail(1);
  EXPECT_EQ(state(), BreakerState::kOpen);
}

TEST_F(Breaker, ItWorksAcrossTheWrapOfItsClock) {
  now_ = base::from_ns(((1ull << 36) - 10'000) * 1'000'000);
  fail(5);
  now_ += seconds(29);
  expect_refused(seconds(1));
  now_ += seconds(1);
  EXPECT_TRUE(let_through().probe());
}

// --- Random histories against a plain model
// --------------------------------------------------------

struct Request {
  int period = 0;
  bool probe = false;
};

// The rules once more, with sets and numbers.
class Model {
 public:
  explicit Model(const BreakerLimits& limits) : limits_(limits) {}

  bool ask(base::Time now, int id) {
    if (state_ == BreakerState::kOpen && now >= until_) {
      begin(BreakerState::kHalfOpen);
    }
    if (state_ == BreakerState::kHalfOpen && counted_ > 0 && now >= until_) {
      begin(BreakerState::kHalfOpen);  // the others are forgotten
    }
    if (state_ == BreakerState::kOpen ||
        (state_ == BreakerState::kHalfOpen && counted_ == limits_.probes)) {
      return false;
    }
    if (state_ == BreakerState::kHalfOpen) {
      ++counted_;
      until_ = now + limits_.probe_timeout;
    }
    requests_[id] = {period_, state_ == BreakerState::kHalfOpen};
    return true;
  }
  bool probe(int id) const { return requests_.at(id).probe; }

  void success(int id) {
    if (requests_.at(id).period != period_) {
      return;
    }
    if (state_ == BreakerState::kHalfOpen) {
      ++succeeded_;
      close_when_all_succeeded();
    } else {
      failures_ = 0;
    }
  }
  void failure(int id, base::Time now) {
    if (requests_.at(id).period != period_) {
      return;
    }
    if (state_ == BreakerState::kHalfOpen || ++failures_ == limits_.failures) {
      begin(BreakerState::kOpen);
      until_ = now + limits_.open;
    }
  }
  void ignored(int id) {
    if (requests_.at(id).period == period_ && state_ == BreakerState::kHalfOpen) {
      --counted_;
      close_when_all_succeeded();
    }
  }
  void reset() { begin(BreakerState::kClosed); }
  BreakerState state(base::Time now) const {
    return state_ == BreakerState::kOpen && now >= until_ ? BreakerState::kHalfOpen : state_;
  }

 private:
  void begin(BreakerState state) {
    state_ = state;
    ++period_;
    failures_ = counted_ = succeeded_ = 0;
  }
  void close_when_all_succeeded() {
    if (succeeded_ > 0 && succeeded_ == counted_) {
      begin(BreakerState::kClosed);
    }
  }

  BreakerLimits limits_;
  BreakerState state_ = BreakerState::kClosed;
  base::Time until_;
  int period_ = 0;
  std::uint32_t failures_ = 0;
  std::uint32_t counted_ = 0;
  std::uint32_t succeeded_ = 0;
  std::map<int, Request> requests_;
};

class History {
 public:
  explicit History(std::uint64_t seed) : random_(seed) {
    limits_.failures = 1 + pick(6);
    limits_.probes = 1 + pick(4);
    limits_.open = milliseconds(1 + pick(30'000));
    limits_.probe_timeout = milliseconds(1 + pick(60'000));
    model_ = std::make_unique<Model>(limits_);
  }

  void step() {
    now_ += milliseconds(pick(4) == 0 ? pick(40'000) : 0);
    switch (pick(20)) {
      case 0:  // the worker of one dies
        if (!tickets_.empty()) {
          dead_.push_back(std::make_unique<Abandoned>(take().second));
        }
        break;
      case 1:
        if (pick(10) == 0) {
          shared::reset_breaker(cell_);
          model_->reset();
        }
        break;
      case 2:
      case 3:
      case 4:
      case 5:
      case 6:
      case 7:
        resolve();
        break;
      default:
        ask();
    }
    ASSERT_EQ(breaker_state(cell_, now_), model_->state(now_));
  }

 private:
  std::uint32_t pick(std::uint32_t below) {
    return std::uniform_int_distribution<std::uint32_t>(0, below - 1)(random_);
  }
  void ask() {
    const int id = next_++;
    BreakerAnswer answer = ask_breaker(cell_, now_, limits_);
    ASSERT_EQ(answer.ticket.open(), model_->ask(now_, id));
    if (answer.ticket.open()) {
      ASSERT_EQ(answer.ticket.probe(), model_->probe(id));
      tickets_.emplace(id, std::move(answer.ticket));
    } else {
      ASSERT_GT(answer.retry_after.count(), 0);
    }
  }
  void resolve() {
    if (tickets_.empty()) {
      return;
    }
    auto [id, ticket] = take();
    switch (pick(5)) {
      case 0:
        ticket.ignored();
        model_->ignored(id);
        break;
      case 1:
      case 2:
        ticket.failure(now_, limits_);
        model_->failure(id, now_);
        break;
      default:
        ticket.success();
        model_->success(id);
    }
    EXPECT_FALSE(ticket.open());
  }
  std::pair<int, BreakerTicket> take() {
    auto at = tickets_.begin();
    std::advance(at, pick(static_cast<std::uint32_t>(tickets_.size())));
    std::pair<int, BreakerTicket> out(at->first, std::move(at->second));
    tickets_.erase(at);
    return out;
  }

  std::mt19937_64 random_;
  shared::Cell cell_{0};
  BreakerLimits limits_;
  base::Time now_ = base::from_ns(1'000'000'000'000);
  std::unique_ptr<Model> model_;
  std::map<int, BreakerTicket> tickets_;
  std::vector<std::unique_ptr<Abandoned>> dead_;
  int next_ = 0;
};

TEST(BreakerHistories, FollowThePlainModel) {
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    History history(seed);
    for (int i = 0; i < 300; ++i) {
      ASSERT_NO_FATAL_FAILURE(history.step());
    }
  }
}

// Several workers at once: of one round never more probes than allowed are out, and whatever
// happened, the breaker closes once the module is well again.
class Workers {
 public:
  void run(std::uint64_t seed) {
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < 4; ++i) {
      threads.emplace_back([this, seed, i] { work(seed * 4 + i); });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    EXPECT_EQ(wrong_.load(), 0);
    recover();
  }

 private:
  base::Time now() const { return base::from_ns(1'000'000'000'000 + ms_.load() * 1'000'000); }

  void work(std::uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<BreakerTicket> held;
    std::vector<std::unique_ptr<Abandoned>> dead;
    for (int i = 0; i < 200; ++i) {
      ms_.fetch_add(random() % 50);
      BreakerAnswer answer = ask_breaker(cell_, now(), limits_);
      if (answer.ticket.open()) {
        if (answer.ticket.probe() && out_[answer.ticket.epoch()].fetch_add(1) >= 3) {
          ++wrong_;
        }
        held.push_back(std::move(answer.ticket));
      }
      while (!held.empty() && (held.size() > 4 || random() % 3 == 0)) {
        resolve(std::move(held.back()), random(), dead);
        held.pop_back();
      }
    }
    for (BreakerTicket& ticket : held) {
      resolve(std::move(ticket), random(), dead);
    }
  }
  void resolve(BreakerTicket ticket, std::uint64_t dice,
               std::vector<std::unique_ptr<Abandoned>>& dead) {
    if (dice % 50 == 0) {
      dead.push_back(std::make_unique<Abandoned>(std::move(ticket)));
      return;
    }
    if (ticket.probe()) {
      out_[ticket.epoch()].fetch_sub(1);
    }
    if (dice % 5 < 2) {
      ticket.failure(now(), limits_);
    } else if (dice % 5 == 2) {
      ticket.ignored();
    } else {
      ticket.success();
    }
  }
  void recover() {
    for (int i = 0; i < 10 && breaker_state(cell_, now()) != BreakerState::kClosed; ++i) {
      ms_.fetch_add(2000);
      ask_breaker(cell_, now(), limits_).ticket.success();
    }
    EXPECT_EQ(breaker_state(cell_, now()), BreakerState::kClosed);
  }

  shared::Cell cell_{0};
  const BreakerLimits limits_{
      .failures = 3, .probes = 3, .open = milliseconds(100), .probe_timeout = milliseconds(1000)};
  std::atomic<std::uint64_t> ms_{0};
  std::array<std::atomic<int>, 1024> out_{};
  std::atomic<int> wrong_{0};
};

TEST(BreakerHistories, OfSeveralWorkersKeepTheLimitOfProbes) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Workers().run(seed);
  }
}

}  // namespace
}  // namespace mik::reliability
