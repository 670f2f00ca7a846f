#include "net/offload.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdlib>
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

// Exits with 0 when a pool that cannot start a thread says so.
[[noreturn]] void submit_without_memory() {
  auto loop = Loop::create().value();
  Offload offload(*loop, 2, 8);
  const rlimit none{.rlim_cur = 1, .rlim_max = 1};
  ::setrlimit(RLIMIT_AS, &none);
  std::_Exit(offload.submit([] {}, [] {}) ? 1 : 0);
}

// A limit on processes or memory is a reason to refuse work, not to end the worker.
TEST(Offload, RefusesWhenNoThreadCanBeStarted) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a sanitizer needs address space without limit";
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  GTEST_SKIP() << "a sanitizer needs address space without limit";
#endif
#endif
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // else glibc has stacks of earlier threads left
  EXPECT_EXIT(submit_without_memory(), ::testing::ExitedWithCode(0), "");
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
