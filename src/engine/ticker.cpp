#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <latch>
#include <thread>

#include "engine/engine.hpp"
#include "engine/pace.hpp"

namespace mik::engine {

namespace {

timespec to_timespec(base::Duration time) noexcept {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const std::int64_t ns = std::chrono::nanoseconds(time).count();
  return {static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)};
}

// What sched_setattr(2) takes, in its first version. The kernel's header contradicts the C
// library's.
struct SchedulingAttributes {
  std::uint32_t size = sizeof(SchedulingAttributes);
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime_ns = 0;
  std::uint64_t deadline_ns = 0;
  std::uint64_t period_ns = 0;
};
static_assert(sizeof(SchedulingAttributes) == 48);

// The thread shares its core with the loop, and has to have it as soon as it wakes. Best with the
// lowest real-time priority, for which a process needs RLIMIT_RTPRIO or CAP_SYS_NICE: it works for
// microseconds each time. As an ordinary thread that wakes a thousand times a second beside a guest
// that computes it makes Linux 6.18 forget, at each wake, most of what their group (session,
// control group) has had: others on the core waited until the guest was over.
bool run_at_once() noexcept {
  const sched_param lowest{.sched_priority = ::sched_get_priority_min(SCHED_FIFO)};
  return ::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) == 0;
}

// Else: the kernel lets who asks for short slices interrupt who has a long one (6.12; an older one
// ignores or refuses the wish, and ticks are late by as much as it lets the guest go on).
void ask_for_short_slices() noexcept {
  constexpr std::uint64_t kSliceNs = 100'000;  // the least there is
  SchedulingAttributes attributes;
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) == 0) {
    attributes.runtime_ns = kSliceNs;
    ::syscall(SYS_sched_setattr, 0, &attributes, 0);
  }
  ::prctl(PR_SET_TIMERSLACK, 1);  // timers are not rounded up
}

// When a run began, in nanoseconds but for the last bits: that it goes on, that it is watched.
constexpr std::uint64_t kRuns = 1;
constexpr std::uint64_t kWatched = 2;
constexpr std::uint64_t kBits = kRuns | kWatched;

Pace::Run run_of(std::uint64_t word) noexcept {
  return {.began = base::from_ns(word & ~kBits),
          .on = (word & kRuns) != 0,
          .watched = (word & kWatched) != 0};
}

// Which runs wake the ticker when they begin.
enum class Asleep : std::uint32_t { kNo, kUntilWatchedRun, kUntilRun };

}  // namespace

struct Ticker::State {
  State(Engine& e, int loop) : engine(e), loop_fd(loop) {
    thread = std::thread([this] { run(); });
    begun.wait();
  }

  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    pthread_setname_np(pthread_self(), "ticker");
    at_once = run_at_once();
    if (!at_once) {
      ask_for_short_slices();
    }
    begun.count_down();
    Pace pace;
    Pace::Woke woke = Pace::Woke::kTime;
    while (!stopping.load(std::memory_order_acquire)) {
      const std::uint64_t word = started.load(std::memory_order_relaxed);
      const Pace::Step step = pace.look(base::Clock::now(), run_of(word), woke);
      count(looks);
      tick(step.tick, word);
      woke = wait(step, word);
    }
  }

  void tick(Pace::Step::Tick tick, std::uint64_t word) noexcept {
    using Tick = Pace::Step::Tick;
    if (tick == Tick::kNone) {
      return;
    }
    if (tick == Tick::kPreempt) {
      if (started.load(std::memory_order_relaxed) != word) {
        return;  // it has given the loop back meanwhile
      }
      count(preemptions);
    }
    engine.tick();
    count(ticks);
  }

  Pace::Woke wait(const Pace::Step& step, std::uint64_t word) noexcept {
    using Wait = Pace::Wait;
    const timespec time = to_timespec(step.time);
    switch (step.wait) {
      case Wait::kTime:
        ::clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
        return Pace::Woke::kTime;
      case Wait::kInputOrTime: {
        pollfd loop{.fd = loop_fd, .events = POLLIN, .revents = 0};
        return ::ppoll(&loop, 1, &time, nullptr) > 0 ? Pace::Woke::kInput : Pace::Woke::kTime;
      }
      case Wait::kRun:
        return sleep(Asleep::kUntilRun, word, nullptr);
      case Wait::kWatchedRunOrTime:
        return sleep(Asleep::kUntilWatchedRun, word, &time);
    }
    return Pace::Woke::kTime;
  }

  // Until such a run begins after `word`, or the time is over.
  Pace::Woke sleep(Asleep until, std::uint64_t word, const timespec* time) noexcept {
    asleep.store(until, std::memory_order_seq_cst);
    // Who begins a run after this look sees that we are asleep; and who has said by now that we are
    // not to sleep has changed what the kernel compares.
    if (!begun_since(word, until) && !stopping.load(std::memory_order_seq_cst)) {
      futex(FUTEX_WAIT_PRIVATE, static_cast<std::uint32_t>(until), time);
    }
    asleep.store(Asleep::kNo, std::memory_order_relaxed);
    return begun_since(word, until) ? Pace::Woke::kRun : Pace::Woke::kTime;
  }

  bool begun_since(std::uint64_t word, Asleep until) const noexcept {
    const std::uint64_t run = started.load(std::memory_order_seq_cst);
    return (run | kBits) != (word | kBits) && (until == Asleep::kUntilRun || (run & kWatched) != 0);
  }

  void wake() noexcept {
    if (asleep.exchange(Asleep::kNo, std::memory_order_seq_cst) != Asleep::kNo) {
      futex(FUTEX_WAKE_PRIVATE, 1, nullptr);
    }
  }

  void futex(int operation, std::uint32_t value, const timespec* time) noexcept {
    static_assert(sizeof asleep == sizeof(std::uint32_t));
    ::syscall(SYS_futex, &asleep, operation, value, time, nullptr, 0);
  }

  static void count(std::atomic<std::uint64_t>& counter) noexcept {
    counter.fetch_add(1, std::memory_order_relaxed);
  }

  Engine& engine;
  const int loop_fd;
  bool at_once = false;  // set before `begun`
  std::latch begun{1};
  std::atomic<std::uint64_t> started = 0;
  std::atomic<Asleep> asleep = Asleep::kNo;
  std::atomic<bool> stopping = false;
  std::atomic<std::uint64_t> looks = 0;
  std::atomic<std::uint64_t> ticks = 0;
  std::atomic<std::uint64_t> preemptions = 0;
  std::thread thread;
};

Ticker::Ticker(Engine& engine, int loop_fd) : state_(std::make_unique<State>(engine, loop_fd)) {}

Ticker::~Ticker() {
  state_->stopping.store(true, std::memory_order_seq_cst);
  state_->wake();
  state_->thread.join();
}

void Ticker::begin_run(base::Time now, bool watched) noexcept {
  // Ordered before the load: either we see that the ticker sleeps, or it sees that a guest runs.
  const std::uint64_t word = (base::to_ns(now) & ~kBits) | kRuns | (watched ? kWatched : 0);
  state_->started.store(word, std::memory_order_seq_cst);
  const Asleep until = state_->asleep.load(std::memory_order_seq_cst);
  if (until == Asleep::kUntilRun || (until == Asleep::kUntilWatchedRun && watched)) {
    state_->wake();
  }
}

void Ticker::end_run() noexcept {
  std::atomic<std::uint64_t>& started = state_->started;
  started.store(started.load(std::memory_order_relaxed) & ~kRuns, std::memory_order_relaxed);
}

bool Ticker::at_once() const noexcept { return state_->at_once; }

Ticker::Counts Ticker::counts() const noexcept {
  return {.looks = state_->looks.load(std::memory_order_relaxed),
          .ticks = state_->ticks.load(std::memory_order_relaxed),
          .preemptions = state_->preemptions.load(std::memory_order_relaxed)};
}

}  // namespace mik::engine
