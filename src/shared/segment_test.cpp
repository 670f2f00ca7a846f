#include "shared/segment.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

namespace mik::shared {
namespace {

using namespace std::chrono_literals;

TEST(Segment, IsSeenByWhoAttaches) {
  auto made = Segment::create(3).value();
  auto attached = Segment::attach(made.fd()).value();
  ASSERT_EQ(attached.slots(), 3u);
  count(attached.row(2).counters.requests, 5);
  attached.set_state(1, WorkerState::kReady);
  EXPECT_EQ(made.totals().requests, 5u);
  EXPECT_EQ(made.state(1), WorkerState::kReady);
  EXPECT_EQ(made.totals().workers, 3u);
  EXPECT_EQ(made.totals().workers_ready, 1u);
}

TEST(Segment, CannotBeCutUnderAMapping) {
  auto segment = Segment::create(1).value();
  EXPECT_NE(::ftruncate(segment.fd(), 0), 0);
  EXPECT_NE(::ftruncate(segment.fd(), 1 << 20), 0);
}

TEST(Segment, RefusesWhatIsNone) {
  const base::Fd unsealed(::memfd_create("x", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(unsealed.get(), sizeof(SegmentHeader) + sizeof(WorkerCells)), 0);
  EXPECT_EQ(Segment::attach(unsealed.get()).error().code(), base::ErrorCode::kBadMessage);
  EXPECT_FALSE(Segment::attach(-1).has_value());
  auto segment = Segment::create(2).value();
  segment.header().version = kSegmentVersion + 1;
  EXPECT_EQ(Segment::attach(segment.fd()).error().code(), base::ErrorCode::kBadMessage);
  segment.header().version = kSegmentVersion;
  segment.header().slots = 3;
  EXPECT_EQ(Segment::attach(segment.fd()).error().code(), base::ErrorCode::kBadMessage);
  segment.header().slots = 2;
  EXPECT_TRUE(Segment::attach(segment.fd()).has_value());
}

TEST(Segment, BucketsAreInclusiveUpperBounds) {
  EXPECT_EQ(latency_bucket(-1ns), 0u);
  EXPECT_EQ(latency_bucket(0ns), 0u);
  EXPECT_EQ(latency_bucket(50us), 0u);
  EXPECT_EQ(latency_bucket(50us + 1ns), 1u);
  EXPECT_EQ(latency_bucket(100us), 1u);
  EXPECT_EQ(latency_bucket(60s), kLatencyBoundsUs.size() - 1);
  EXPECT_EQ(latency_bucket(60s + 1ns), kLatencyBuckets - 1);
  EXPECT_EQ(latency_bucket(1h), kLatencyBuckets - 1);
}

TEST(Segment, AResponseCountsOnceInEachFamily) {
  auto segment = Segment::create(1).value();
  segment.count_response(0, 200, 70us);
  segment.count_response(0, 503, 2s);
  segment.count_response(0, 99, 0s);  // no such status: the nearest class, never another cell
  segment.count_response(0, 700, 0s);
  segment.count_failure(0, GuestFailure::kTrap);
  segment.count_failure(0, GuestFailure::kOther);
  const Totals totals = segment.totals();
  EXPECT_EQ(totals.status, (std::array<std::uint64_t, kStatusClasses>{1, 1, 0, 0, 2}));
  EXPECT_EQ(totals.latency[1], 1u);
  EXPECT_EQ(totals.latency[latency_bucket(2s)], 1u);
  EXPECT_EQ(totals.latency_sum_us, 2'000'070u);
  EXPECT_EQ(totals.failures.front(), 1u);
  EXPECT_EQ(totals.failures.back(), 1u);
}

TEST(Segment, AnErrorOfAModuleTravelsWhole) {
  auto segment = Segment::create(1).value();
  segment.set_module(0, ModuleState::kFailed, "no HTTP handler");
  EXPECT_EQ(segment.module_error(0), "no HTTP handler");
  EXPECT_EQ(segment.module_state(0), ModuleState::kFailed);
  const std::string long_text(kTextBytes + 100, 'x');
  segment.set_module(0, ModuleState::kFailed, long_text);
  EXPECT_EQ(segment.module_error(0), long_text.substr(0, kTextBytes));
  segment.set_module(0, ModuleState::kReady);
  EXPECT_EQ(segment.module_error(0), "");
}

TEST(Segment, ATextWhoseWriterDiedIsEmptyUntilItIsWrittenAgain) {
  auto segment = Segment::create(1).value();
  segment.set_module(0, ModuleState::kFailed, "before");
  segment.row(0).module_error.sequence.fetch_add(1);  // died while it wrote
  EXPECT_EQ(segment.module_error(0), "");
  segment.bury(0);
  segment.set_module(0, ModuleState::kFailed, "after");
  EXPECT_EQ(segment.module_error(0), "after");
}

TEST(Segment, PermitsComeBackWhenDestroyedMovedFromOrBuried) {
  auto segment = Segment::create(2).value();
  {
    auto first = segment.try_acquire(0, 2);
    auto second = segment.try_acquire(1, 2);
    ASSERT_TRUE(first && second);
    EXPECT_FALSE(segment.try_acquire(0, 2));
    EXPECT_EQ(segment.totals().active_requests, 2u);
    RequestPermit moved = *std::move(first);
    EXPECT_TRUE(moved.held());
    EXPECT_FALSE(first->held());  // NOLINT(bugprone-use-after-move): what is tested
    moved.release();
    moved.release();
    EXPECT_EQ(segment.totals().active_requests, 1u);
  }
  EXPECT_EQ(segment.totals().active_requests, 0u);
  segment.row(1).gauges.active_requests.store(2);  // what a dead worker held
  EXPECT_FALSE(segment.try_acquire(0, 2));
  segment.bury(1);
  EXPECT_TRUE(segment.try_acquire(0, 2));
  EXPECT_FALSE(segment.try_acquire(0, 0));
}

TEST(Segment, LivesWhoIsReadyAndTurns) {
  auto segment = Segment::create(1).value();
  const base::Time now = base::Clock::now();
  segment.beat(0, now);
  EXPECT_FALSE(segment.live(0, now));
  segment.set_state(0, WorkerState::kReady);
  EXPECT_TRUE(segment.live(0, now));
  EXPECT_TRUE(segment.live(0, now - 5ms)) << "the asker's clock may be a turn old";
  EXPECT_TRUE(segment.live(0, now + kHeartbeatMax - 1ns));
  EXPECT_FALSE(segment.live(0, now + kHeartbeatMax));
  segment.set_state(0, WorkerState::kDraining);
  EXPECT_FALSE(segment.live(0, now));
}

TEST(Segment, TheLightestIsLiveAnotherAndBelowTheBound) {
  auto segment = Segment::create(4).value();
  const base::Time now = base::Clock::now();
  for (std::size_t slot = 0; slot < 4; ++slot) {
    segment.set_state(slot, WorkerState::kReady);
    segment.beat(slot, now);
    segment.set_connections(slot, 4 - slot);  // 4, 3, 2, 1
  }
  EXPECT_EQ(segment.lightest(0, 4, now)->slot, 3u);
  EXPECT_EQ(segment.lightest(3, 4, now)->slot, 2u);
  EXPECT_FALSE(segment.lightest(3, 2, now));
  // Two are on their way to slot 3.
  const auto extra = [](std::size_t slot) { return slot == 3 ? 2u : 0u; };
  EXPECT_EQ(segment.lightest(0, 4, now, extra)->slot, 2u);
  segment.bury(2);
  EXPECT_EQ(segment.lightest(0, 4, now, extra)->slot, 1u) << "the first of the equal ones";
}

// A plain model of a family, against the segment, over random histories in which workers die at any
// step of any operation.
class History {
 public:
  static constexpr std::size_t kWorkers = 4;
  static constexpr std::uint64_t kLimit = 6;

  explicit History(std::uint64_t seed)
      : random_(seed), segment_(Segment::create(kWorkers).value()) {}

  void step() {
    const std::size_t slot = pick(kWorkers);
    switch (pick(8)) {
      case 0:
      case 1:
      case 2:
        acquire(slot);
        break;
      case 3:
      case 4:
        release(slot);
        break;
      case 5:
        serve(slot);
        break;
      case 6:
        open_or_close(slot);
        break;
      default:
        die(slot);
        break;
    }
    check();
  }

 private:
  struct Worker {
    std::vector<RequestPermit> permits;
    std::uint64_t connections = 0;
  };

  std::size_t pick(std::size_t n) { return static_cast<std::size_t>(random_() % n); }
  std::uint64_t held() const {
    std::uint64_t sum = 0;
    for (const Worker& worker : workers_) {
      sum += worker.permits.size();
    }
    return sum;
  }

  void acquire(std::size_t slot) {
    if (pick(10) == 0) {
      // Dies after the increment, before it knows whether it may.
      segment_.row(slot).gauges.active_requests.fetch_add(1);
      die(slot);
      return;
    }
    auto permit = segment_.try_acquire(slot, kLimit);
    EXPECT_EQ(permit.has_value(), held() < kLimit);
    if (permit) {
      workers_[slot].permits.push_back(*std::move(permit));
    }
  }

  void release(std::size_t slot) {
    if (!workers_[slot].permits.empty()) {
      workers_[slot].permits.pop_back();
    }
  }

  void serve(std::size_t slot) {
    const int status = 200 + static_cast<int>(pick(400));
    count(segment_.row(slot).counters.requests);
    ++requests_;
    if (pick(10) == 0) {
      die(slot);  // a request that was begun and never answered
      return;
    }
    segment_.count_response(slot, status, std::chrono::microseconds(pick(1'000'000)));
    ++answered_;
  }

  void open_or_close(std::size_t slot) {
    Worker& worker = workers_[slot];
    worker.connections =
        pick(2) == 0 || worker.connections == 0 ? worker.connections + 1 : worker.connections - 1;
    segment_.set_connections(slot, worker.connections);
  }

  void die(std::size_t slot) {
    // kill -9: no destructor runs; the supervisor sees it.
    for (RequestPermit& permit : workers_[slot].permits) {
      new (&permit) RequestPermit();
    }
    workers_[slot] = Worker{};
    segment_.bury(slot);
    segment_.begin(slot, 1);
  }

  void check() {
    const Totals totals = segment_.totals();
    EXPECT_EQ(totals.active_requests, held());
    EXPECT_LE(held(), kLimit);
    EXPECT_EQ(totals.requests, requests_);
    std::uint64_t by_status = 0;
    std::uint64_t by_latency = 0;
    for (const std::uint64_t n : totals.status) {
      by_status += n;
    }
    for (const std::uint64_t n : totals.latency) {
      by_latency += n;
    }
    EXPECT_EQ(by_status, answered_);
    EXPECT_EQ(by_latency, answered_);
    std::uint64_t connections = 0;
    for (const Worker& worker : workers_) {
      connections += worker.connections;
    }
    EXPECT_EQ(totals.connections, connections);
    EXPECT_EQ(segment_.connections(), connections);
  }

  std::mt19937_64 random_;
  Segment segment_;
  std::array<Worker, kWorkers> workers_;
  std::uint64_t requests_ = 0;
  std::uint64_t answered_ = 0;
};

TEST(SegmentModel, RandomHistoriesWithDeathsAtAnyStep) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    History history(seed);
    for (int step = 0; step < 400; ++step) {
      history.step();
      if (testing::Test::HasFailure()) {
        return;
      }
    }
  }
}

// Threads stand for processes: each has a mapping of its own.
TEST(SegmentThreads, TheLimitIsNeverExceededAndCountersNeverGoBack) {
  constexpr std::size_t kWorkers = 4;
  constexpr std::uint64_t kLimit = 3;
  constexpr int kRounds = 20'000;
  auto segment = Segment::create(kWorkers).value();
  std::atomic<std::int64_t> inside{0};
  std::atomic<std::int64_t> most{0};
  std::atomic<std::uint64_t> granted{0};
  std::atomic<std::size_t> running{kWorkers};
  std::vector<std::thread> threads;
  for (std::size_t slot = 0; slot < kWorkers; ++slot) {
    threads.emplace_back([&, slot] {
      auto own = Segment::attach(segment.fd()).value();
      for (int i = 0; i < kRounds; ++i) {
        const auto permit = own.try_acquire(slot, kLimit);
        count(own.row(slot).counters.requests);
        own.beat(slot, base::Clock::now());
        own.set_connections(slot, static_cast<std::uint64_t>(i % 7));
        if (i % 64 == 0) {
          own.set_module(slot, ModuleState::kFailed,
                         i % 128 == 0 ? "aaaaaaaaaaaaaaaaaaaa" : "bbbbbbbbbb");
        }
        if (permit) {
          const std::int64_t now = inside.fetch_add(1) + 1;
          std::int64_t seen = most.load();
          while (now > seen && !most.compare_exchange_weak(seen, now)) {
          }
          granted.fetch_add(1);
          inside.fetch_sub(1);
        }
      }
      running.fetch_sub(1);
    });
  }
  std::uint64_t last = 0;
  while (running.load() > 0) {
    const std::uint64_t requests = segment.totals().requests;
    EXPECT_GE(requests, last);
    last = requests;
    const std::string text = segment.module_error(0);
    EXPECT_TRUE(text.empty() || text == "aaaaaaaaaaaaaaaaaaaa" || text == "bbbbbbbbbb") << text;
    static_cast<void>(segment.lightest(0, 10, base::Clock::now()));
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_LE(most.load(), static_cast<std::int64_t>(kLimit));
  EXPECT_GT(granted.load(), 0u);
  EXPECT_EQ(segment.totals().active_requests, 0u);
  EXPECT_EQ(segment.totals().requests, kWorkers * kRounds);
}

}  // namespace
}  // namespace mik::shared
