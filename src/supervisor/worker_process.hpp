// One slot of the family: its worker process, the control channel to it, and when to start the next
// one. Confined to the supervisor's loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/time.hpp"
#include "net/loop.hpp"
#include "shared/control.hpp"
#include "shared/handover.hpp"
#include "shared/segment.hpp"
#include "supervisor/backoff.hpp"

namespace mik::supervisor {

// What all workers of a run have in common. Owned by the supervisor.
struct Family {
  net::Loop& loop;
  shared::Segment& segment;
  std::string executable;
  std::uint64_t generation = 1;
  int settings = -1;
  std::vector<int> listeners;
  std::vector<shared::InboxPair> inboxes;  // by slot
  std::vector<int> pins;                   // CPUs to pin to, by slot; empty: no pinning
};

// What a slot tells the supervisor. Calls come from the loop, or from within start(), start_later()
// and on_exit().
class WorkerEvents {
 public:
  virtual ~WorkerEvents() = default;
  virtual void on_worker_ready(std::uint32_t slot, pid_t pid) = 0;
  // NeedArtefact, Resolved or Prepared.
  virtual void on_worker_module(std::uint32_t slot, const shared::Message& message) = 0;
  virtual void on_worker_fatal(std::uint32_t slot, base::Error error) = 0;
  // The process could not be started; there is no other try unless start_later is called.
  virtual void on_worker_trouble(std::uint32_t slot, base::Error error) = 0;
};

class WorkerProcess final : public net::IoHandler {
 public:
  WorkerProcess(Family& family, std::uint32_t slot, WorkerEvents& events);
  ~WorkerProcess() override;
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  pid_t pid() const noexcept { return pid_; }
  bool running() const noexcept { return pid_ > 0; }
  bool ready() const noexcept { return ready_at_ != base::kNever; }

  // Starts a process, or says on_worker_trouble.
  void start();
  // Starts one when the back-off allows.
  void start_later();
  // No more starts.
  void stop_starting() noexcept { start_timer_.disarm(); }
  void drain(base::Time deadline);
  void kill() noexcept;
  void send(const shared::Message& message);
  // The process has been waited for: its gauges go, what it last said is heard.
  void on_exit();

  void on_io(std::uint32_t events) override;

 private:
  base::Result<void> try_start();
  void read_messages();
  void handle(shared::Message message);
  void close_channel() noexcept;

  Family& family_;
  std::uint32_t slot_;
  WorkerEvents& events_;
  pid_t pid_ = 0;
  shared::Channel channel_;
  Backoff backoff_;
  base::Time ready_at_ = base::kNever;
  base::Duration ready_for_ = base::Duration::zero();  // of the last process
  net::Timer start_timer_ = net::Timer::of<&WorkerProcess::start>(this);
};

}  // namespace mik::supervisor
