#include "engine/engine.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>

#include "base/fd.hpp"
#include "engine/pace.hpp"

namespace mik::engine {
namespace {

struct Recorder : Guests::Observer {
  std::atomic<int> wakes = 0;
  std::string output;
  void on_wake() noexcept override { ++wakes; }
  void on_output(std::uint64_t, int stream, std::string_view line) noexcept override {
    output += std::to_string(stream) + ":" + std::string(line) + "\n";
  }
};

class GuestsTest : public ::testing::Test {
 protected:
  RequestId start(std::string_view path, bool has_body = false) {
    block_ = "GET " + std::string(path) + " host";
    Head head;
    head.bytes = block_;
    head.method = head.bytes.substr(0, 3);
    head.path_query = head.bytes.substr(4, path.size());
    head.authority = "elsewhere";  // not in the block: it is added
    head.has_body = has_body;
    head.user = 42;
    return guests_->start(*component_, head, std::span<const Field>{}).value();
  }
  std::string body(RequestId id) {
    std::array<iovec, 8> pieces;
    const std::size_t count = guests_->peek(id, std::span<iovec>(pieces));
    std::string text;
    for (std::size_t i = 0; i < count; ++i) {
      text.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
    }
    guests_->consume(id, text.size());
    return text;
  }
  Events run(RequestId id) {
    return guests_->run(id, base::Clock::now(), std::chrono::milliseconds(1));
  }

  Recorder observer_;
  Engine engine_ = Engine::create({}).value();
  std::optional<Component> component_ = Component::load(engine_, 0, {}).value();
  std::unique_ptr<Guests> guests_ = Guests::create(engine_, observer_).value();
  std::string block_;
};

TEST_F(GuestsTest, AnswersThroughTheSeam) {
  const RequestId id = start("/hello");
  const Events events = run(id);
  EXPECT_TRUE(events.head() && events.body() && events.end() && events.done());
  const Response response = guests_->response_head(id);
  EXPECT_EQ(response.status, 200);
  ASSERT_EQ(response.fields.size(), 1u);
  EXPECT_EQ(response.fields[0].name, "content-type");
  EXPECT_EQ(body(id), "Hello, World!");
  guests_->release(id);
  EXPECT_EQ(run(id).bits, 0u);
}

TEST_F(GuestsTest, BodiesAndTrailersGoThrough) {
  const RequestId id = start("/echo", true);
  run(id);
  EXPECT_EQ(guests_->push_body(id, "abc"), Push::kGoOn);
  const std::array<Field, 1> trailers = {{{"x-sum", "3"}}};
  guests_->end_body(id, std::span<const Field>(trailers));
  std::array<Guests::Woken, 4> woken;
  ASSERT_EQ(guests_->take_woken(base::Clock::now(), woken), 1u);
  EXPECT_EQ(woken[0].id, id);
  EXPECT_EQ(woken[0].user, 42u);
  EXPECT_TRUE(run(id).end());
  EXPECT_EQ(body(id), "abc");
  ASSERT_EQ(guests_->trailers(id).size(), 1u);
  EXPECT_EQ(guests_->trailers(id)[0].value, "3");
  guests_->release(id);
  EXPECT_EQ(guests_->push_body(id, "late"), Push::kUnwanted);
}

TEST_F(GuestsTest, FailuresHaveKindAndText) {
  const RequestId id = start("/memory");
  EXPECT_TRUE(run(id).failed());
  EXPECT_EQ(guests_->failure(id).failure, Failure::kMemory);
  EXPECT_EQ(guests_->failure(id).text, "memory limit");
  guests_->release(id);
}

TEST_F(GuestsTest, AWakeFromAnotherThreadArrives) {
  const RequestId id = start("/wake");
  run(id);
  while (observer_.wakes == 0) {
    std::this_thread::yield();
  }
  std::array<Guests::Woken, 4> woken;
  ASSERT_EQ(guests_->take_woken(base::Clock::now(), woken), 1u);
  EXPECT_TRUE(run(id).end());
  guests_->release(id);
}

TEST_F(GuestsTest, AHeadThatIsNoRequestIsTheClientsFault) {
  Head head;
  head.bytes = "x";
  const auto id = guests_->start(*component_, head, std::span<const Field>{});
  ASSERT_FALSE(id.has_value());
  EXPECT_EQ(id.error().code(), base::ErrorCode::kBadMessage);
}

TEST_F(GuestsTest, OutputIsHandedOver) {
  const RequestId id = start("/output");
  run(id);
  EXPECT_EQ(observer_.output, "1:to stdout\n2:to stderr\n");
  guests_->release(id);
}

// The tests of the ticker wait for what it is to do, however long that takes.
class TickerTest : public ::testing::Test {
 protected:
  void wait_for(std::uint64_t Ticker::Counts::* counter, std::uint64_t more) const {
    const std::uint64_t enough = ticker_.counts().*counter + more;
    while (ticker_.counts().*counter < enough) {
      std::this_thread::yield();
    }
  }
  // Until the timer is not set any more: there are no looks for longer than it is ever set for.
  // False after 2 s.
  bool sleeps() const {
    std::uint64_t before = ticker_.counts().looks;
    for (int i = 0; i < 200; ++i) {
      const base::Time until = base::Clock::now() + 10 * Pace::kTick;
      while (base::Clock::now() < until) {
        pollfd none{.fd = loop_.get(), .events = POLLIN, .revents = 0};
        EXPECT_LE(::poll(&none, 1, 10), 0) << "nothing but an interruption ends it sooner";
      }
      const std::uint64_t looks = ticker_.counts().looks;
      if (looks == before) {
        return true;
      }
      before = looks;
    }
    return false;
  }
  void come() {
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(loop_.get(), &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }

  base::Fd loop_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  Engine engine_ = Engine::create({}).value();
  Ticker ticker_ = Ticker::create(engine_, loop_.get()).value();
};

TEST_F(TickerTest, PreemptsARunWhenTheLoopHasInput) {
  come();
  while (ticker_.counts().preemptions == 0) {
    ticker_.begin_run(base::Clock::now());
    wait_for(&Ticker::Counts::ticks, 1);
    ticker_.end_run();
  }
}

TEST_F(TickerTest, PreemptsNoRunWithoutInput) {
  for (int i = 0; i < 5; ++i) {
    ticker_.begin_run(base::Clock::now());
    wait_for(&Ticker::Counts::ticks, 3);
    ticker_.end_run();
  }
  EXPECT_EQ(ticker_.counts().preemptions, 0u);
}

TEST_F(TickerTest, IsSetByEachRunThatBeginsWithoutInput) {
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(sleeps());
    ticker_.begin_run(base::Clock::now());
    wait_for(&Ticker::Counts::looks, 1);
    ticker_.end_run();
  }
}

TEST_F(TickerTest, ShortRunsAreLookedAtTogether) {
  ASSERT_TRUE(sleeps());
  ticker_.begin_run(base::Clock::now(), false);
  wait_for(&Ticker::Counts::looks, 1);  // the first sets it
  ticker_.end_run();
  const std::uint64_t before = ticker_.counts().looks;
  std::uint64_t runs = 0;
  for (; runs < 100'000 || ticker_.counts().looks == before; ++runs) {
    ticker_.begin_run(base::Clock::now(), false);
    ticker_.end_run();
  }
  EXPECT_LT((ticker_.counts().looks - before) * 100, runs);
}

TEST_F(TickerTest, ALongRunThatWasExpectedToBeShortGetsATick) {
  ASSERT_TRUE(sleeps());
  ticker_.begin_run(base::Clock::now(), false);
  wait_for(&Ticker::Counts::ticks, 2);
  ticker_.end_run();
}

// Its own thread, for one that wakes beside a guest has to be preferred to it: Linux 6.18 kept
// everybody else from the core for up to 5 s (soaks lost answers), unless it had real-time
// priority, which not everybody may have.
TEST_F(TickerTest, InterruptsTheThreadThatMadeIt) {
  sigset_t urgent;
  sigemptyset(&urgent);
  sigaddset(&urgent, SIGURG);
  sigset_t before;
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &urgent, &before), 0);  // the thread inherits it
  std::jthread([] {
    Engine engine = Engine::create({}).value();
    Ticker ticker = Ticker::create(engine).value();
    ticker.begin_run(base::Clock::now());
    const base::Time limit = base::Clock::now() + std::chrono::seconds(30);
    while (ticker.counts().ticks < 3 && base::Clock::now() < limit) {
    }
    EXPECT_GE(ticker.counts().ticks, 3u);
    // Whom the kernel is to signal; where it does not say so, that it did has to do.
    std::ifstream file("/proc/self/timers");
    const std::string timers{std::istreambuf_iterator<char>(file), {}};
    if (!timers.empty()) {
      EXPECT_NE(timers.find("signal/tid." + std::to_string(::gettid()) + "\n"), std::string::npos)
          << timers;
    }
  }).join();
  ASSERT_EQ(::pthread_sigmask(SIG_SETMASK, &before, nullptr), 0);
}

TEST_F(TickerTest, SaysWhereThereAreNoTimers) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_SIGPENDING, &before), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &none), 0);
  const auto ticker = Ticker::create(engine_);
  ASSERT_EQ(::setrlimit(RLIMIT_SIGPENDING, &before), 0);
  ASSERT_FALSE(ticker.has_value());
  EXPECT_NE(ticker.error().to_string().find("timer_create"), std::string::npos);
  EXPECT_NE(ticker.error().help().find("RLIMIT_SIGPENDING"), std::string::npos);
}

}  // namespace
}  // namespace mik::engine
