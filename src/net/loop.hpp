// The event loop of a process: epoll, timers, and one hook that is given every turn
// (docs/adr/0005). Confined to the thread that calls run(), but for wake() and
// post_from_any_thread().
//
// A turn: wait for I/O (not longer than the next timer, and not at all when the hook has work),
// hand out events, fire timers, run posted work, give the hook its turn, then destroy what was
// retired.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "net/wheel.hpp"

namespace mik::net {

// Who is told of events on a descriptor. May be told of events that were already fetched after
// unwatch(), until the end of the turn: so an object that is finished is given to Loop::retire(),
// and ignores events from then on.
class IoHandler {
 public:
  virtual ~IoHandler() = default;
  // `events` are EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR. Must not throw.
  virtual void on_io(std::uint32_t events) = 0;
};

// Work that wants a piece of every turn: the guests' scheduler.
class TurnHook {
 public:
  virtual ~TurnHook() = default;
  // Does a bounded piece of work. True: there is more that can be done at once.
  virtual bool on_turn(base::Time now) = 0;
  // When on_turn must be called next even if nothing happens. Exact to 1 ms.
  virtual base::Time next_deadline() = 0;
};

class Loop {
 public:
  using Task = std::function<void()>;

  static base::Result<std::unique_ptr<Loop>> create();
  ~Loop();
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;

  // Watches a descriptor, edge-triggered: the handler reads and writes until EAGAIN (or remembers
  // that it stopped). The loop does not own `fd`. One watch per descriptor; the handler outlives it
  // (see IoHandler).
  base::Result<void> watch(int fd, std::uint32_t events, IoHandler& handler);
  // The same, level-triggered.
  base::Result<void> watch_level(int fd, std::uint32_t events, IoHandler& handler);
  base::Result<void> rewatch_level(int fd, std::uint32_t events, IoHandler& handler);
  void unwatch(int fd) noexcept;

  // Destroys the object at the end of this turn.
  void retire(std::unique_ptr<IoHandler> object);
  // Runs the task later in this turn or in the next. Loop thread only.
  void post(Task task);
  // Runs the task on the loop thread soon. Any thread.
  void post_from_any_thread(Task task);
  // Makes the loop take a turn soon. Any thread; async-signal-safe.
  void wake() noexcept;

  void set_hook(TurnHook* hook) noexcept { hook_ = hook; }

  // Readable while there are events that a turn would hand out: for a thread that watches whether
  // the loop is kept from them. Timers and posted work do not show.
  int descriptor() const noexcept { return epoll_.get(); }

  // The time at the start of this turn (or of the last refresh): cheap, and at most a turn old.
  base::Time now() const noexcept { return now_; }
  base::Time refresh_now() noexcept { return now_ = base::Clock::now(); }
  Wheel& wheel() noexcept { return wheel_; }

  // Turns until stop(). run_once() takes one turn, waiting at most max_wait: for tests.
  void run();
  void run_once(base::Duration max_wait);
  void stop() noexcept { stopped_ = true; }

 private:
  Loop(base::Fd epoll, base::Fd event);
  int wait_timeout_ms(base::Duration max_wait);
  void take_remote();
  void run_posted();

  base::Fd epoll_;
  base::Fd event_;
  base::Time now_;
  Wheel wheel_;
  TurnHook* hook_ = nullptr;
  bool hook_busy_ = false;
  bool stopped_ = false;
  std::vector<std::unique_ptr<IoHandler>> retired_;
  std::vector<Task> posted_;
  std::mutex remote_mutex_;
  std::vector<Task> remote_;  // guarded by remote_mutex_
};

}  // namespace mik::net
