// When answers are written: scheduler.hpp, "Answers".
#include <gtest/gtest.h>

#include <vector>

#include "runtime/test_scheduler.hpp"

namespace mik::runtime {
namespace {

using std::chrono::microseconds;

class Writes : public TestScheduler {
 protected:
  Writes() { writes_late_ = true; }
  void turn() { scheduler_->on_turn(engine::fake::clock_now()); }
  // What is not known may be long.
  void know_short(Account* account) {
    for (int i = 0; i < 40; ++i) {
      start(account, "/work?20");
      turn();
    }
    ran_.clear();
  }
};

TEST_F(Writes, AnswersOfShortRunsGoOutTogether) {
  know_short(nullptr);
  std::vector<Guest*> guests;
  for (int i = 0; i < 4; ++i) {
    guests.push_back(&start(nullptr, "/work?20"));
  }
  turn();
  for (const Guest* guest : guests) {
    EXPECT_TRUE(guest->written);
    EXPECT_EQ(guest->written_after, 4u);
  }
}

TEST_F(Writes, NoneWaitsForManyOthers) {
  know_short(nullptr);
  std::vector<Guest*> guests;
  for (int i = 0; i < 50; ++i) {
    guests.push_back(&start(nullptr, "/work?20"));
  }
  turn();
  for (const Guest* guest : guests) {
    ASSERT_TRUE(guest->written);
    EXPECT_LE(guest->written_at - guest->done_at, Scheduler::kWriteWait + microseconds(20));
  }
}

TEST_F(Writes, NoneWaitsForARunThatMayBeLong) {
  Account quick;
  Account slow;  // and unknown
  know_short(&quick);
  Guest& first = start(&quick, "/work?20");
  Guest& second = start(&slow, "/work?400");
  turn();
  EXPECT_EQ(first.written_at, first.done_at);
  EXPECT_TRUE(second.written);
}

// One long run among short ones of the same module is remembered for a while.
TEST_F(Writes, ALongRunIsForgottenInTime) {
  Account account;
  start(&account, "/work?400");
  turn();
  const auto waited = [&] {
    Guest& first = start(&account, "/work?20");
    start(&account, "/work?20");
    turn();
    return first.written_at - first.done_at;
  };
  EXPECT_EQ(waited(), base::Duration::zero());
  for (int i = 0; i < 20; ++i) {
    waited();
  }
  EXPECT_EQ(waited(), microseconds(20));
}

TEST_F(Writes, WhoIsRemovedIsNotWritten) {
  Guest& first = start(nullptr, "/work?20");
  Guest& second = start(nullptr, "/work?20");
  scheduler_->write_soon(first);
  scheduler_->write_soon(first);
  scheduler_->write_soon(second);
  first.close();
  turn();
  EXPECT_FALSE(first.written);
  EXPECT_TRUE(second.written);
}

// Whoever writes pays for it.
TEST_F(Writes, WritingIsCharged) {
  Account account;
  start(&account, "/work?20").writing_takes = microseconds(30);
  turn();
  EXPECT_EQ(account.cpu(), microseconds(50));
}

}  // namespace
}  // namespace mik::runtime
