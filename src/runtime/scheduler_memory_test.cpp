// What giving back the memory of guests takes, and who pays for it: src/engine/memory_return.hpp.
#include <gtest/gtest.h>

#include "engine/memory_return.hpp"
#include "runtime/test_scheduler.hpp"

namespace mik::runtime {
namespace {

using std::chrono::microseconds;

constexpr std::size_t kBytes = 16 << 20;
// What they cost at least; the fake's guests themselves take no time.
constexpr base::Duration kCost = microseconds(100);

class GivesBack : public TestScheduler {
 protected:
  GivesBack() { engine::return_in_pieces(8 * kBytes); }
  ~GivesBack() override { engine::return_in_pieces(0); }

  void SetUp() override {
    drop_memory(kBytes);
    if (engine::take_bytes_moved() == 0) {
      GTEST_SKIP() << "this kernel has no MREMAP_DONTUNMAP";
    }
    while (turn()) {
    }
  }
  void TearDown() override { all_.clear(); }  // before the accounts
  bool turn() { return scheduler_->on_turn(engine::fake::clock_now()); }

  Account account_;
  Account other_;
};

// The pieces are given back in turns that follow at once, not one each time something happens.
TEST_F(GivesBack, ALoopWithMemoryToGiveBackDoesNotSleep) {
  ASSERT_FALSE(turn());
  drop_memory(kBytes);
  ASSERT_EQ(engine::bytes_to_return(), kBytes);
  int turns = 0;
  while (turn()) {
    ASSERT_LT(++turns, 1000);
  }
  EXPECT_GE(turns, 10);
  EXPECT_EQ(engine::bytes_to_return(), 0u);
}

TEST_F(GivesBack, WhatARunDropsIsPaidWithTheRun) {
  start(&account_, "/spin?0").drops_bytes = kBytes;
  start(&other_, "/spin?0");
  while (ran_.size() < 2) {
    turn();
  }
  EXPECT_GE(account_.cpu() - other_.cpu(), kCost);
}

TEST_F(GivesBack, NobodyPaysForWhatWasDroppedBetweenRuns) {
  drop_memory(kBytes);
  start(&account_, "/work?1");
  turn();
  ASSERT_EQ(ran_.size(), 1u);
  EXPECT_LT(account_.cpu(), kCost);
}

// Its client has gone, its time is over.
TEST_F(GivesBack, AGuestThatIsReleasedPaysForItsMemoryAndTheNextDoesNot) {
  Guest& guest = start(&account_, "/spin?0");
  turn();
  const base::Duration before = account_.cpu();
  drop_memory(kBytes);  // what its release does in the engine
  guest.close();
  EXPECT_GE(account_.cpu() - before, kCost);
  start(&other_, "/work?1");
  turn();
  EXPECT_LT(other_.cpu(), kCost);
}

}  // namespace
}  // namespace mik::runtime
