#include "net/loop.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <gtest/gtest.h>

#include <array>
#include <thread>

namespace mik::net {
namespace {

struct Pair {
  base::Fd a, b;
  Pair() {
    std::array<int, 2> fds{};
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds.data()) == 0) {
      a.reset(fds[0]);
      b.reset(fds[1]);
    }
  }
};

struct Recorder : IoHandler {
  std::uint32_t events = 0;
  int calls = 0;
  void on_io(std::uint32_t e) override {
    events |= e;
    ++calls;
  }
};

TEST(Loop, TellsOnceOfBytesAndOfTheEnd) {
  auto loop = Loop::create().value();
  Pair pair;
  Recorder recorder;
  ASSERT_TRUE(loop->watch(pair.a.get(), EPOLLIN | EPOLLRDHUP, recorder).has_value());
  ASSERT_EQ(::write(pair.b.get(), "x", 1), 1);
  loop->run_once(std::chrono::seconds(5));
  EXPECT_EQ(recorder.calls, 1);
  loop->run_once(base::Duration::zero());
  EXPECT_EQ(recorder.calls, 1);  // edge-triggered
  pair.b.reset();
  loop->run_once(std::chrono::seconds(5));
  EXPECT_TRUE(recorder.events & EPOLLRDHUP);
  loop->unwatch(pair.a.get());
}

TEST(Loop, RunsPostedWorkOnItsThread) {
  auto loop = Loop::create().value();
  std::thread::id where;
  std::thread other([&] {
    loop->post_from_any_thread([&] {
      where = std::this_thread::get_id();
      loop->stop();
    });
  });
  loop->run();
  other.join();
  EXPECT_EQ(where, std::this_thread::get_id());
}

TEST(Loop, WorkThatPostsWorkDoesNotStarveIo) {
  auto loop = Loop::create().value();
  int runs = 0;
  Loop::Task again = [&] {
    ++runs;
    loop->post(again);
  };
  loop->post(again);
  loop->run_once(base::Duration::zero());
  EXPECT_EQ(runs, 1);
  loop->run_once(base::Duration::zero());
  EXPECT_EQ(runs, 2);
}

struct Hook : TurnHook {
  int turns = 0;
  int busy_turns = 0;
  base::Time deadline = base::kNever;
  bool on_turn(base::Time) override { return ++turns < busy_turns; }
  base::Time next_deadline() override { return deadline; }
};

TEST(Loop, DoesNotSleepWhileTheHookHasWork) {
  auto loop = Loop::create().value();
  Hook hook;
  hook.busy_turns = 5;
  loop->set_hook(&hook);
  loop->post([] {});
  for (int i = 0; i < 5; ++i) {
    loop->run_once(std::chrono::hours(1));  // would hang if it slept
  }
  EXPECT_EQ(hook.turns, 5);
}

TEST(Loop, WakesForTheHooksDeadline) {
  auto loop = Loop::create().value();
  Hook hook;
  loop->set_hook(&hook);
  hook.deadline = base::Clock::now() + std::chrono::milliseconds(5);
  loop->run_once(std::chrono::hours(1));
  EXPECT_GE(loop->now(), hook.deadline);
}

struct Mortal : IoHandler {
  int* deaths;
  explicit Mortal(int* d) : deaths(d) {}
  ~Mortal() override { ++*deaths; }
  void on_io(std::uint32_t) override {}
};

TEST(Loop, DestroysTheRetiredAtTheEndOfTheTurn) {
  auto loop = Loop::create().value();
  int deaths = 0;
  loop->post([&] {
    loop->retire(std::make_unique<Mortal>(&deaths));
    EXPECT_EQ(deaths, 0);
  });
  loop->run_once(base::Duration::zero());
  EXPECT_EQ(deaths, 1);
}

struct Stopper {
  Loop* loop;
  void on_timeout() { loop->stop(); }
};

TEST(Loop, SleepsNoLongerThanItsTimers) {
  auto loop = Loop::create().value();
  Stopper stopper{loop.get()};
  Timer timer = Timer::of<&Stopper::on_timeout>(&stopper);
  loop->wheel().arm(timer, loop->now() + std::chrono::milliseconds(10));
  loop->run();
  EXPECT_FALSE(timer.armed());
}

}  // namespace
}  // namespace mik::net
