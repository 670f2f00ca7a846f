#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <utility>

#include "engine/engine.hpp"
#include "engine/pace.hpp"

namespace mik::engine {

namespace {

// What nobody else sends to a thread, debuggers pass on and processes ignore: what Go interrupts
// its threads with.
constexpr int kSignal = SIGURG;

timespec to_timespec(base::Duration time) noexcept {
  constexpr std::int64_t kSecond = 1'000'000'000;
  const std::int64_t ns = std::chrono::nanoseconds(time).count();
  return {static_cast<time_t>(ns / kSecond), static_cast<long>(ns % kSecond)};
}

// When a run began, in nanoseconds but for the last bits: that it goes on, that it is watched. One
// word, so that whoever interrupts sees all of it or nothing.
constexpr std::uint64_t kRuns = 1;
constexpr std::uint64_t kWatched = 2;
constexpr std::uint64_t kBits = kRuns | kWatched;

Pace::Run run_of(std::uint64_t word) noexcept {
  return {.began = base::from_ns(word & ~kBits),
          .on = (word & kRuns) != 0,
          .watched = (word & kWatched) != 0};
}

// Which runs set the timer when they begin.
enum class Sets : std::uint8_t { kAny, kIfWatched, kNone };

// No other thread touches them; the handler does. Nothing but loads and stores is made of this.
template <class T>
using Cell = std::atomic<T>;

template <class T>
T get(const Cell<T>& cell) noexcept {
  return cell.load(std::memory_order_relaxed);
}
template <class T>
void set(Cell<T>& cell, T value) noexcept {
  cell.store(value, std::memory_order_relaxed);
}
void count(Cell<std::uint64_t>& cell) noexcept { set(cell, get(cell) + 1); }

}  // namespace

struct Ticker::State {
  State(Engine& e, int loop) noexcept : engine(e), loop_fd(loop) {}

  // The handler is the process's, and stays.
  base::Result<void> open() {
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    // On the stack that the engine's own handlers have: a guest's is not touched for it.
    action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
    if (::sigaction(kSignal, &action, nullptr) != 0) {
      return base::Error::from_errno("sigaction", errno);
    }
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, kSignal);
    if (const int error = ::pthread_sigmask(SIG_UNBLOCK, &one, nullptr); error != 0) {
      return base::Error::from_errno("pthread_sigmask", error);
    }
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = kSignal;
    event.sigev_value.sival_ptr = this;
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) {
      const bool none = errno == EAGAIN;
      base::Error error = base::Error::from_errno("timer_create", errno);
      return none ? std::move(error).with_help("a worker needs one: RLIMIT_SIGPENDING, ulimit -i")
                  : std::move(error);
    }
    made = true;
    return {};
  }

  ~State() {
    if (made) {
      // What it has sent by now comes as this call returns, or, with TSan, as an atomic is loaded.
      set(begins, true);
      ::timer_delete(timer);
      static_cast<void>(get(begins));
    }
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  static void on_signal(int, siginfo_t* info, void*) noexcept {
    if (info->si_code == SI_TIMER) {
      const int error = errno;
      static_cast<State*>(info->si_value.sival_ptr)->look();
      errno = error;
    }
  }

  // On the loop's thread, inside the guest, if one runs: async-signal-safe, all of it.
  void look() noexcept {
    if (get(begins)) {
      return;  // which sets the timer
    }
    const Pace::Run run = run_of(get(started));
    const base::Time now = base::Clock::now();
    const Pace::Step step = pace.look(now, run, Pace::heeds_input(now, run) && input());
    count(looks);
    if (step.tick != Pace::Step::Tick::kNone) {
      engine.tick();
      count(ticks);
    }
    if (step.tick == Pace::Step::Tick::kPreempt) {
      count(preemptions);
    }
    if (step.time == base::Duration::zero()) {
      set(sets, Sets::kAny);
      return;
    }
    set(sets, step.sooner == Pace::Step::Sooner::kWatched ? Sets::kIfWatched : Sets::kNone);
    wait(step.time);
  }

  bool input() const noexcept {
    pollfd loop{.fd = loop_fd, .events = POLLIN, .revents = 0};
    return ::poll(&loop, 1, 0) > 0;
  }

  void begin(base::Time now, bool watched) noexcept {
    set(begins, true);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    const base::Duration time = pace.begin(now, watched);
    set(sets, watched ? Sets::kNone : Sets::kIfWatched);
    std::atomic_signal_fence(std::memory_order_seq_cst);
    set(begins, false);  // before the timer is set: what it sends may be there at once
    wait(time);
  }

  void wait(base::Duration time) noexcept {
    const itimerspec once{.it_interval = {}, .it_value = to_timespec(time)};
    ::timer_settime(timer, 0, &once, nullptr);
  }

  Engine& engine;
  const int loop_fd;
  timer_t timer{};
  bool made = false;
  Pace pace;
  Cell<std::uint64_t> started = 0;
  Cell<Sets> sets = Sets::kAny;
  Cell<bool> begins =
      false;  // a look would be of no use: the pace is being changed, or all is over
  Cell<std::uint64_t> looks = 0;
  Cell<std::uint64_t> ticks = 0;
  Cell<std::uint64_t> preemptions = 0;
};

base::Result<Ticker> Ticker::create(Engine& engine, int loop_fd) {
  auto state = std::make_unique<State>(engine, loop_fd);
  MIK_TRY(state->open());
  return Ticker(std::move(state));
}

Ticker::Ticker(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
Ticker::~Ticker() = default;
Ticker::Ticker(Ticker&&) noexcept = default;
Ticker& Ticker::operator=(Ticker&&) noexcept = default;

void Ticker::begin_run(base::Time now, bool watched) noexcept {
  set(state_->started, (base::to_ns(now) & ~kBits) | kRuns | (watched ? kWatched : 0));
  std::atomic_signal_fence(std::memory_order_seq_cst);
  // A look from here on finds a run that has begun.
  const Sets sets = get(state_->sets);
  if (sets == Sets::kAny || (sets == Sets::kIfWatched && watched)) {
    state_->begin(now, watched);
  }
}

void Ticker::end_run() noexcept { set(state_->started, get(state_->started) & ~kRuns); }

Ticker::Counts Ticker::counts() const noexcept {
  return {.looks = get(state_->looks),
          .ticks = get(state_->ticks),
          .preemptions = get(state_->preemptions)};
}

}  // namespace mik::engine
