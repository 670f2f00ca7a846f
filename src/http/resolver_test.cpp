#include "http/resolver.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <optional>

namespace mik::http {
namespace {

struct Waiter final : ResolveWaiter {
  void on_resolved(const Resolved& resolved) override {
    ++calls;
    answer = resolved;
    if (then) {
      then();
    }
  }
  int calls = 0;
  std::optional<Resolved> answer;
  std::function<void()> then;
};

class ResolverTest : public ::testing::Test {
 protected:
  ResolverTest() {
    loop_ = std::move(*net::Loop::create());
    offload_ = std::make_unique<net::Offload>(*loop_, 2, 4);
    options_.lookup_blocking = [this](const std::string& host) {
      std::unique_lock lock(mutex_);
      opened_.wait(lock, [this] { return open_; });
      ++lookups_;
      if (host.starts_with("bad")) {
        return Resolved{.addresses = {}, .problem = "no such host"};
      }
      return Resolved{.addresses = {address_literal("192.0.2.1")}, .problem = {}};
    };
  }
  ~ResolverTest() override {
    set_open(true);
    offload_.reset();
  }
  void set_open(bool open) {
    const std::scoped_lock lock(mutex_);
    open_ = open;
    opened_.notify_all();
  }
  Resolver& resolver() {
    if (!resolver_) {
      resolver_.emplace(*loop_, *offload_, options_);
    }
    return *resolver_;
  }
  bool turn_until(const std::function<bool()>& done) {
    for (int i = 0; i < 1000 && !done(); ++i) {
      loop_->run_once(std::chrono::milliseconds(10));
    }
    return done();
  }

  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = true;
  std::atomic<int> lookups_ = 0;
  ResolverOptions options_;
  std::unique_ptr<net::Loop> loop_;
  std::unique_ptr<net::Offload> offload_;
  std::optional<Resolver> resolver_;
};

TEST(AddressLiteral, KnowsLiteralsFromNames) {
  EXPECT_EQ(address_literal("127.0.0.1").host(), "127.0.0.1");
  EXPECT_EQ(address_literal("::1").host(), "::1");
  EXPECT_EQ(address_literal("localhost").length, 0U);
  EXPECT_EQ(address_literal("[::1]").length, 0U);
}

TEST_F(ResolverTest, KeepsAnAnswer) {
  Waiter waiter;
  EXPECT_EQ(resolver().resolve("a.test", waiter), nullptr);
  ASSERT_TRUE(turn_until([&] { return waiter.calls == 1; }));
  const Resolved* kept = resolver().resolve("a.test", waiter);
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(kept->addresses.size(), 1U);
  EXPECT_EQ(lookups_, 1);
  EXPECT_EQ(waiter.calls, 1);
}

TEST_F(ResolverTest, AsksOnceForAllWhoWait) {
  set_open(false);
  Waiter first;
  Waiter second;
  Waiter left;
  resolver().resolve("a.test", first);
  resolver().resolve("a.test", left);
  resolver().resolve("a.test", second);
  resolver().leave("a.test", left);
  set_open(true);
  ASSERT_TRUE(turn_until([&] { return first.calls == 1 && second.calls == 1; }));
  EXPECT_EQ(lookups_, 1);
  EXPECT_EQ(left.calls, 0);
}

TEST_F(ResolverTest, AWaiterMayMakeAnotherLeave) {
  set_open(false);
  Waiter first;
  Waiter second;
  first.then = [&] { resolver().leave("a.test", second); };
  resolver().resolve("a.test", first);
  resolver().resolve("a.test", second);
  set_open(true);
  ASSERT_TRUE(turn_until([&] { return first.calls == 1; }));
  EXPECT_EQ(second.calls, 0);
}

TEST_F(ResolverTest, KeepsFailuresForTheirOwnTime) {
  options_.keep_failure = base::Duration::zero();
  Waiter waiter;
  for (int i = 1; i <= 3; ++i) {
    EXPECT_EQ(resolver().resolve("bad.test", waiter), nullptr);
    ASSERT_TRUE(turn_until([&] { return waiter.calls == i; }));
    EXPECT_TRUE(waiter.answer->addresses.empty());
    EXPECT_EQ(waiter.answer->problem, "no such host");
  }
  EXPECT_EQ(lookups_, 3);
  // Answers are not touched by that.
  resolver().resolve("good.test", waiter);
  ASSERT_TRUE(turn_until([&] { return waiter.calls == 4; }));
  EXPECT_NE(resolver().resolve("good.test", waiter), nullptr);
}

TEST_F(ResolverTest, AFullPoolIsAFailureThatIsNotKept) {
  set_open(false);
  std::array<Waiter, 32> waiters;
  const Resolved* refused = nullptr;
  std::size_t taken = 0;
  for (; taken < waiters.size() && refused == nullptr; ++taken) {
    refused = resolver().resolve("host" + std::to_string(taken), waiters[taken]);
  }
  ASSERT_NE(refused, nullptr);
  EXPECT_TRUE(refused->addresses.empty());
  EXPECT_FALSE(refused->problem.empty());
  set_open(true);
  ASSERT_TRUE(turn_until([&] { return waiters[taken - 2].calls == 1; }));
  EXPECT_EQ(resolver().resolve("host" + std::to_string(taken - 1), waiters[taken - 1]), nullptr);
  ASSERT_TRUE(turn_until([&] { return waiters[taken - 1].calls == 1; }));
}

TEST_F(ResolverTest, HoldsABoundedNumberOfNames) {
  options_.names_max = 4;
  Waiter waiter;
  for (int i = 0; i < 20; ++i) {
    resolver().resolve("n" + std::to_string(i), waiter);
    ASSERT_TRUE(turn_until([&] { return waiter.calls == i + 1; }));
  }
  int kept = 0;
  Waiter probe;
  for (int i = 0; i < 20; ++i) {
    const std::string name = "n" + std::to_string(i);
    const int before = probe.calls;
    if (resolver().resolve(name, probe) != nullptr) {
      ++kept;
    } else {
      ASSERT_TRUE(turn_until([&] { return probe.calls == before + 1; }));
    }
  }
  EXPECT_LE(kept, 4);
}

TEST_F(ResolverTest, AnAnswerThatComesAfterItsEndIsDropped) {
  set_open(false);
  Waiter waiter;
  resolver().resolve("a.test", waiter);
  resolver_.reset();
  set_open(true);
  ASSERT_TRUE(turn_until([&] { return lookups_ == 1; }));
  for (int i = 0; i < 5; ++i) {
    loop_->run_once(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(waiter.calls, 0);
}

TEST_F(ResolverTest, TheSystemKnowsLocalhost) {
  options_.lookup_blocking = nullptr;
  Waiter waiter;
  EXPECT_EQ(resolver().resolve("localhost", waiter), nullptr);
  ASSERT_TRUE(turn_until([&] { return waiter.calls == 1; }));
  EXPECT_FALSE(waiter.answer->addresses.empty()) << waiter.answer->problem;
}

}  // namespace
}  // namespace mik::http
