// One slot of the family: its worker process, the control channel to it, and when to start the next
// one. Confined to the supervisor's loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/time.hpp"
#include "net/loop.hpp"
#include "shared/control.hpp"
#include "shared/segment.hpp"
#include "supervisor/backoff.hpp"
#include "supervisor/inboxes.hpp"

namespace mik::supervisor {

// What all workers of a run have in common. Owned by the supervisor.
struct Family {
  net::Loop& loop;
  shared::Segment& segment;
  Inboxes& inboxes;
  std::string executable;
};

// What the workers of one generation have in common.
struct Equipment {
  std::uint64_t generation = 1;
  base::Fd settings;           // shared::write_block
  std::vector<int> listeners;  // borrowed
};

// What a worker tells its generation. Calls come from the loop, or from within start(),
// start_later() and on_exit().
class WorkerEvents {
 public:
  virtual ~WorkerEvents() = default;
  virtual void on_worker_ready(std::uint32_t slot, pid_t pid) = 0;
  virtual void on_worker_fatal(std::uint32_t slot, base::Error error) = 0;
  // The process could not be started; there is no other try unless start_later is called.
  virtual void on_worker_trouble(std::uint32_t slot, base::Error error) = 0;
  // All else that it says: about modules.
  virtual void on_worker_message(std::uint32_t slot, shared::Message message) = 0;
};

class WorkerProcess final : public net::IoHandler {
 public:
  // `cpu`: to pin it to; negative: none.
  WorkerProcess(Family& family, const Equipment& equipment, std::uint32_t slot, int cpu,
                WorkerEvents& events);
  ~WorkerProcess() override;
  WorkerProcess(const WorkerProcess&) = delete;
  WorkerProcess& operator=(const WorkerProcess&) = delete;

  std::uint32_t slot() const noexcept { return slot_; }
  pid_t pid() const noexcept { return pid_; }
  bool running() const noexcept { return pid_ > 0; }
  bool ready() const noexcept { return ready_at_ != base::kNever; }

  // Starts a process, or says on_worker_trouble.
  void start();
  // Starts one when the back-off allows.
  void start_later();
  // No more starts.
  void stop_starting() noexcept { start_timer_.disarm(); }
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
  const Equipment& equipment_;
  const std::uint32_t slot_;
  const int cpu_;
  WorkerEvents& events_;
  pid_t pid_ = 0;
  shared::Channel channel_;
  Backoff backoff_;
  base::Time ready_at_ = base::kNever;
  base::Duration ready_for_ = base::Duration::zero();  // of the last process
  net::Timer start_timer_ = net::Timer::of<&WorkerProcess::start>(this);
};

}  // namespace mik::supervisor
