#include "net/offload.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace mik::net {
namespace {

TEST(Offload, WorksElsewhereAndIsDoneHere) {
  auto loop = Loop::create().value();
  Offload offload(*loop, 2, 8);
  std::thread::id worked;
  std::thread::id done;
  ASSERT_TRUE(offload.submit([&] { worked = std::this_thread::get_id(); },
                             [&] {
                               done = std::this_thread::get_id();
                               loop->stop();
                             }));
  loop->run();
  EXPECT_NE(worked, std::this_thread::get_id());
  EXPECT_EQ(done, std::this_thread::get_id());
}

TEST(Offload, RefusesWhenFull) {
  auto loop = Loop::create().value();
  std::promise<void> release;
  std::promise<void> started;
  auto gate = release.get_future().share();
  Offload offload(*loop, 1, 2);
  ASSERT_TRUE(offload.submit(
      [&started, gate] {
        started.set_value();
        gate.wait();
      },
      [] {}));
  started.get_future().wait();
  EXPECT_TRUE(offload.submit([] {}, [] {}));
  EXPECT_TRUE(offload.submit([] {}, [] {}));
  EXPECT_FALSE(offload.submit([] {}, [] {}));
  release.set_value();
}

TEST(Offload, DestructionWaitsForRunningWork) {
  auto loop = Loop::create().value();
  std::atomic<bool> finished = false;
  std::promise<void> started;
  {
    Offload offload(*loop, 1, 2);
    ASSERT_TRUE(offload.submit(
        [&] {
          started.set_value();
          finished = true;
        },
        [] {}));
    started.get_future().wait();
  }
  EXPECT_TRUE(finished);
}

}  // namespace
}  // namespace mik::net
