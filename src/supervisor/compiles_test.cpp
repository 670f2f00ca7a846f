#include "supervisor/compiles.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <csignal>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "shared/boot.hpp"
#include "supervisor/backoff.hpp"
#include "supervisor/spawn.hpp"
#include "supervisor/test_family.hpp"

namespace mik::supervisor {
namespace {

using namespace std::chrono_literals;

// Children are this test binary again (fake_worker.hpp).
class CompilesTest : public testing::Test {
 protected:
  std::unique_ptr<net::Loop> loop_ = net::Loop::create().value();
  base::Fd settings_ = shared::write_block(config::serialize({})).value();
  struct Answer {
    CompileJob job;
    shared::Message message;
  };
  std::vector<Answer> answers_;
  std::vector<pid_t> children_;

  shared::Segment segment_ = shared::Segment::create(1, 1, 1).value();

  void make(CompileLimits limits = {}, std::uint64_t memory_budget_bytes = 0) {
    limits.data_floor = kDataFloor;
    compiles_ =
        std::make_unique<Compiles>(*loop_, &segment_, "/proc/self/exe", limits,
                                   [this](const CompileJob& job, const shared::Message& message) {
                                     answers_.push_back({job, message});
                                   });
    compiles_->set_settings(settings_.get(), memory_budget_bytes);
  }
  void request(const std::string& module, bool urgent = false) {
    compiles_->request({.row = static_cast<std::uint32_t>(module[0]),
                        .incarnation = 1,
                        .module = module,
                        .path = "",
                        .polite = false,
                        .urgent = urgent});
  }
  // Until no child is left.
  void run() {
    const base::Time until = base::Clock::now() + 20s;
    while (compiles_->pid() > 0 && base::Clock::now() < until) {
      if (children_.empty() || children_.back() != compiles_->pid()) {
        children_.push_back(compiles_->pid());
      }
      loop_->run_once(1ms);
      int status = 0;
      if (::waitpid(compiles_->pid(), &status, WNOHANG) == compiles_->pid()) {
        compiles_->on_exit(status);
      }
    }
    EXPECT_EQ(compiles_->pid(), 0);
  }
  std::unique_ptr<Compiles> compiles_;
};

TEST_F(CompilesTest, OneChildAndOneAnswerHoweverManyAsk) {
  make();
  for (int i = 0; i < 5; ++i) {
    request("compile:ok");
  }
  run();
  EXPECT_EQ(children_.size(), 1u);
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(answers_[0].job.module, "compile:ok");
  EXPECT_EQ(std::get<shared::Compiled>(answers_[0].message), (shared::Compiled{{}, 7}));
}

// Guests and compilations have one memory budget.
TEST_F(CompilesTest, WaitsUntilGuestsLeaveMemoryAndKeepsThemFromTakingMore) {
  make({}, 64 << 20);
  segment_.row(0).gauges.memory_bytes.store(60 << 20);
  request("a:ok");
  for (int i = 0; i < 5; ++i) {
    loop_->run_once(30ms);
  }
  EXPECT_FALSE(compiles_->running());
  EXPECT_EQ(segment_.header().compile_bytes.load(), 32u << 20);
  segment_.row(0).gauges.memory_bytes.store(30 << 20);
  while (!compiles_->running() && answers_.empty()) {
    loop_->run_once(30ms);
  }
  run();
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_TRUE(std::holds_alternative<shared::Compiled>(answers_[0].message));
  EXPECT_EQ(segment_.header().compile_bytes.load(), 0u);
}

TEST_F(CompilesTest, WhoWaitsForMemoryTooLongIsAnswered) {
  CompileLimits limits;
  limits.memory_wait = 10ms;
  make(limits, 64 << 20);
  segment_.row(0).gauges.memory_bytes.store(64 << 20);
  request("a:ok");
  request("b:ok");
  const base::Time until = base::Clock::now() + 20s;
  while (answers_.size() < 2 && base::Clock::now() < until) {
    loop_->run_once(30ms);
  }
  ASSERT_EQ(answers_.size(), 2u);
  EXPECT_EQ(std::get<shared::CompileFailed>(answers_[1].message).code, base::ErrorCode::kOverload);
  EXPECT_EQ(segment_.header().compile_bytes.load(), 0u);
}

TEST_F(CompilesTest, AChildThatNeedsMoreThanTheBudgetIsStopped) {
  make({}, 1 << 20);  // less than any process has
  request("a:wall");
  run();
  ASSERT_EQ(answers_.size(), 1u);
  const auto& failed = std::get<shared::CompileFailed>(answers_[0].message);
  EXPECT_EQ(failed.code, base::ErrorCode::kOverload);
  EXPECT_NE(failed.text.find("memory_budget_mb"), std::string::npos) << failed.text;
  EXPECT_EQ(segment_.header().compile_bytes.load(), 0u);
}

TEST_F(CompilesTest, OthersWaitTheirTurn) {
  make();
  request("a:ok");
  request("b:refuse");
  request("c:ok");
  run();
  EXPECT_EQ(children_.size(), 3u);
  ASSERT_EQ(answers_.size(), 3u);
  EXPECT_EQ(answers_[0].job.module, "a:ok");
  EXPECT_EQ(answers_[1].job.module, "b:refuse");
  EXPECT_TRUE(std::holds_alternative<shared::CompileFailed>(answers_[1].message));
  EXPECT_EQ(answers_[2].job.module, "c:ok");
}

TEST_F(CompilesTest, WhatRequestsWaitForComesFirst) {
  make();
  request("a:ok");
  request("b:ok");
  request("c:ok");
  request("d:ok", true);
  request("c:ok", true);  // has become urgent
  request("b:ok");
  run();
  std::string order;
  for (const Answer& answer : answers_) {
    order += answer.job.module[0];
  }
  EXPECT_EQ(order, "adcb") << "what is at work is not interrupted";
}

TEST_F(CompilesTest, AskedAgainAfterTheAnswerItCompilesAgain) {
  make();
  request("compile:refuse");
  run();
  request("compile:refuse");
  run();
  EXPECT_EQ(children_.size(), 2u);
  EXPECT_EQ(answers_.size(), 2u);
}

TEST_F(CompilesTest, WhoAsksWhileAnAnsweredChildIsStillThereIsAnsweredToo) {
  make();
  request("a:linger");
  const pid_t first = compiles_->pid();
  const base::Time until = base::Clock::now() + 20s;
  while (answers_.empty() && base::Clock::now() < until) {
    loop_->run_once(1s);
  }
  ASSERT_EQ(answers_.size(), 1u);
  request("a:linger");
  ::kill(first, SIGKILL);
  int status = 0;
  ASSERT_EQ(::waitpid(first, &status, 0), first);
  compiles_->on_exit(status);
  while (answers_.size() < 2 && base::Clock::now() < until) {
    loop_->run_once(1s);
  }
  EXPECT_EQ(answers_.size(), 2u);
  compiles_->stop();
  run();
}

TEST_F(CompilesTest, TheQueueIsBounded) {
  make({.queue_max = 2});
  request("a:ok");
  request("b:ok");
  request("c:ok");
  ASSERT_EQ(answers_.size(), 1u);
  EXPECT_EQ(std::get<shared::CompileFailed>(answers_[0].message).code, base::ErrorCode::kOverload);
  run();
  EXPECT_EQ(answers_.size(), 3u);
}

TEST_F(CompilesTest, StopKillsTheChildAndAnswersNobody) {
  make();
  request("a:wall");
  request("b:ok");
  compiles_->stop();
  run();
  EXPECT_EQ(children_.size(), 1u);
  EXPECT_TRUE(answers_.empty());
}

TEST(Spawn, SaysHowAProcessEnded) {
  EXPECT_EQ(describe_exit(W_EXITCODE(3, 0)), "exited with code 3");
  EXPECT_EQ(describe_exit(W_EXITCODE(0, SIGKILL)), "was killed by signal 9 (Killed)");
}

TEST(Backoff, StartsAtOnceThenDoublesToFiveSeconds) {
  Backoff backoff;
  const std::vector<base::Duration> expected = {0ms,    100ms,  200ms, 400ms, 800ms,
                                                1600ms, 3200ms, 5s,    5s};
  for (const base::Duration wait : expected) {
    EXPECT_EQ(backoff.next(29s), wait);
  }
}

TEST(Backoff, AHealthyStretchForgivesAll) {
  Backoff backoff;
  for (int i = 0; i < 10; ++i) {
    backoff.next(0s);
  }
  EXPECT_EQ(backoff.next(30s), 0ms);
  EXPECT_EQ(backoff.next(0s), 100ms);
}

}  // namespace
}  // namespace mik::supervisor
