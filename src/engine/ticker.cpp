#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <thread>

#include "engine/engine.hpp"

namespace mik::engine {

namespace {

constexpr long kTickNs = 1'000'000;
// Ticks without a sign of life before the ticker sleeps. Each costs a switch of threads, waking it
// again a futex call: so a busy loop never pays for waking it, and one that serves a burst now and
// then does not pay for ticks in between.
constexpr int kIdleTicksMax = 3;

void futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value) noexcept {
  static_assert(sizeof word == sizeof(std::uint32_t));
  ::syscall(SYS_futex, &word, operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

}  // namespace

struct Ticker::State {
  explicit State(Engine& e) : engine(e), thread([this] { run(); }) {}

  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    int idle = 0;
    while (!stopping.load(std::memory_order_acquire)) {
      if (active.exchange(false, std::memory_order_relaxed)) {
        idle = 0;
      } else if (++idle > kIdleTicksMax) {
        sleep();
        idle = 0;
        continue;
      }
      const timespec tick{0, kTickNs};
      ::clock_nanosleep(CLOCK_MONOTONIC, 0, &tick, nullptr);
      engine.tick();
    }
  }

  void sleep() {
    asleep.store(1, std::memory_order_seq_cst);
    // A sign of life between the last look and the store above has seen asleep == 0 and wakes
    // nobody.
    if (!active.load(std::memory_order_seq_cst) && !stopping.load(std::memory_order_seq_cst)) {
      futex(asleep, FUTEX_WAIT, 1);
    }
    asleep.store(0, std::memory_order_seq_cst);
  }

  void wake() noexcept {
    asleep.store(0, std::memory_order_seq_cst);
    futex(asleep, FUTEX_WAKE, 1);
  }

  Engine& engine;
  std::atomic<bool> active = false;
  std::atomic<bool> stopping = false;
  std::atomic<std::uint32_t> asleep = 0;
  std::thread thread;  // last: it uses all of the above
};

Ticker::Ticker(Engine& engine) : state_(std::make_unique<State>(engine)) {}

Ticker::~Ticker() {
  state_->stopping.store(true, std::memory_order_seq_cst);
  state_->wake();
  state_->thread.join();
}

void Ticker::keep_awake() noexcept {
  if (!state_->active.load(std::memory_order_relaxed)) {
    state_->active.store(true, std::memory_order_seq_cst);
  }
  if (state_->asleep.load(std::memory_order_seq_cst) != 0) {
    state_->wake();
  }
}

}  // namespace mik::engine
