// The workers that serve with one and the same configuration: a run begins with one generation, and
// a reload starts the next beside it. Confined to the supervisor's loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "config/settings.hpp"
#include "net/loop.hpp"
#include "shared/control.hpp"
#include "supervisor/listeners.hpp"
#include "supervisor/observer.hpp"
#include "supervisor/worker_process.hpp"

namespace mik::supervisor {

class Generation;

// What a generation tells the supervisor. It is not to be destroyed from within.
class GenerationEvents {
 public:
  virtual ~GenerationEvents() = default;
  // As many workers as it takes were ready, for the first time: it can serve.
  virtual void on_established(Generation& generation) = 0;
  // Before that: it will not.
  virtual void on_hopeless(Generation& generation, base::Error error) = 0;
  virtual void on_worker_message(std::uint32_t slot, shared::Message message) = 0;
};

class Generation final : public WorkerEvents {
 public:
  struct Plan {
    std::uint64_t number = 1;
    std::vector<std::uint32_t> slots;  // one for each worker
    std::uint32_t ready_min = 1;       // so many ready workers establish it
  };
  // What is referred to outlives it, the listeners until retire(). Errors: kSystem.
  static base::Result<std::unique_ptr<Generation>> create(Family& family, const Plan& plan,
                                                          config::Settings settings,
                                                          std::vector<Listener*> listeners,
                                                          Observer& observer,
                                                          GenerationEvents& events);

  std::uint64_t number() const noexcept { return equipment_.generation; }
  const config::Settings& settings() const noexcept { return settings_; }
  int settings_block() const noexcept { return equipment_.settings.get(); }
  const std::vector<Listener*>& listeners() const noexcept { return listeners_; }
  const std::vector<std::unique_ptr<WorkerProcess>>& workers() const noexcept { return workers_; }

  // Whether it ever could serve.
  bool established() const noexcept { return established_; }
  bool retired() const noexcept { return retired_; }
  // No process is left.
  bool gone() const noexcept;

  void start();
  // To all its workers that live.
  void send(const shared::Message& message);
  // Starts no more workers, and tells those that live to drain; what is left past the deadline is
  // killed. May be called again, for the end of the family.
  void retire(const shared::Drain& order);
  // The same, now.
  void kill() noexcept;
  // A child has ended, perhaps one of ours.
  void reap();

  void on_worker_ready(std::uint32_t slot, pid_t pid) override;
  void on_worker_fatal(std::uint32_t slot, base::Error error) override;
  void on_worker_trouble(std::uint32_t slot, base::Error error) override;
  void on_worker_message(std::uint32_t slot, shared::Message message) override;

 private:
  Generation(Family& family, const Plan& plan, config::Settings settings,
             std::vector<Listener*> listeners, Observer& observer, GenerationEvents& events);
  void on_exit(WorkerProcess& worker, int wait_status);
  void on_drain_limit();
  void give_up(base::Error error);
  void start_again(WorkerProcess& worker);
  WorkerProcess& worker_of(std::uint32_t slot);
  std::string name_of(std::uint32_t slot) const;
  void say(Severity severity, const std::string& text) { observer_.on_event(severity, text); }

  Family& family_;
  const config::Settings settings_;
  std::vector<Listener*> listeners_;
  Observer& observer_;
  GenerationEvents& events_;
  Equipment equipment_;
  const std::uint32_t ready_min_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;
  bool established_ = false;
  bool retired_ = false;
  int early_deaths_ = 0;
  base::Time drain_limit_ = base::kNever;
  net::Timer drain_timer_ = net::Timer::of<&Generation::on_drain_limit>(this);
};

}  // namespace mik::supervisor
