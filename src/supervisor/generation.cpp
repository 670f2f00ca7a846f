#include "supervisor/generation.hpp"

#include <sys/random.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <string>
#include <utility>

#include "base/assert.hpp"
#include "shared/boot.hpp"
#include "supervisor/cpus.hpp"
#include "supervisor/spawn.hpp"

namespace mik::supervisor {

namespace {

// Deaths before it could serve, after which it is given up.
constexpr int kEarlyDeathsMax = 5;
// Beyond the drain's deadline, at which workers cancel what is left and exit by themselves.
constexpr base::Duration kKillGrace = std::chrono::milliseconds(500);
constexpr std::size_t kTicketKeyBytes = 80;  // http::ServerTls::load

}  // namespace

base::Result<std::unique_ptr<Generation>> Generation::create(Family& family, const Plan& plan,
                                                             config::Settings settings,
                                                             std::vector<Listener*> listeners,
                                                             Observer& observer,
                                                             GenerationEvents& events) {
  if (!settings.tls_cert.empty()) {
    settings.tls_ticket_key.resize(kTicketKeyBytes);
    if (::getrandom(settings.tls_ticket_key.data(), kTicketKeyBytes, 0) !=
        static_cast<ssize_t>(kTicketKeyBytes)) {
      return base::Error::from_errno("getrandom", errno);
    }
  }
  MIK_TRY_ASSIGN(base::Fd block, shared::write_block(config::serialize(settings)));
  std::unique_ptr<Generation> generation(
      new Generation(family, plan, std::move(settings), std::move(listeners), observer, events));
  generation->equipment_.settings = std::move(block);
  return generation;
}

Generation::Generation(Family& family, const Plan& plan, config::Settings settings,
                       std::vector<Listener*> listeners, Observer& observer,
                       GenerationEvents& events)
    : family_(family),
      settings_(std::move(settings)),
      listeners_(std::move(listeners)),
      observer_(observer),
      events_(events),
      ready_min_(plan.ready_min) {
  equipment_.generation = plan.number;
  for (const Listener* listener : listeners_) {
    equipment_.listeners.push_back(listener->fd());
  }
  const std::vector<int> pins = settings_.pin_workers ? usable_cpus() : std::vector<int>();
  for (const std::uint32_t slot : plan.slots) {
    // By number and not by slot: each worker of a generation has a CPU of its own.
    const int cpu = pins.empty() ? -1 : pins[workers_.size() % pins.size()];
    workers_.push_back(std::make_unique<WorkerProcess>(family_, equipment_, slot, cpu, *this));
  }
}

bool Generation::gone() const noexcept {
  return std::ranges::none_of(workers_, [](const auto& worker) { return worker->running(); });
}

void Generation::start() {
  for (const auto& worker : workers_) {
    if (!retired_) {  // the one before may have ended it all
      worker->start();
    }
  }
}

void Generation::send(const shared::Message& message) {
  for (const auto& worker : workers_) {
    worker->send(message);
  }
}

void Generation::retire(const shared::Drain& order) {
  retired_ = true;
  for (const auto& worker : workers_) {
    worker->stop_starting();
  }
  send(order);
  drain_limit_ =
      std::min(drain_limit_, base::saturating_add(base::from_ns(order.deadline_ns), kKillGrace));
  family_.loop.wheel().arm(drain_timer_, drain_limit_);
}

void Generation::on_drain_limit() {
  if (!gone()) {
    say(Severity::kWarning, "the drain ran out of time");
    kill();
  }
}

void Generation::kill() noexcept {
  retired_ = true;
  for (const auto& worker : workers_) {
    worker->stop_starting();
    worker->kill();
  }
}

void Generation::reap() {
  // By pid and not any child: a library may have children of its own.
  int status = 0;
  for (const auto& worker : workers_) {
    if (worker->running() && ::waitpid(worker->pid(), &status, WNOHANG) == worker->pid()) {
      on_exit(*worker, status);
    }
  }
}

void Generation::on_exit(WorkerProcess& worker, int wait_status) {
  const std::string who =
      "worker (pid " + std::to_string(worker.pid()) + ") " + describe_exit(wait_status);
  worker.on_exit();  // may end the generation
  if (retired_) {
    return;
  }
  say(Severity::kError, who);
  if (!established_ && ++early_deaths_ >= kEarlyDeathsMax) {
    give_up(
        base::Error(base::ErrorCode::kInternal, "the workers keep dying before they are ready"));
    return;
  }
  start_again(worker);
}

void Generation::start_again(WorkerProcess& worker) {
  shared::count(family_.segment.header().restarts);
  worker.start_later();
}

void Generation::on_worker_ready(std::uint32_t slot, pid_t pid) {
  say(Severity::kInfo, name_of(slot) + " (pid " + std::to_string(pid) + ") is ready");
  const auto ready = std::ranges::count_if(
      workers_, [](const auto& worker) { return worker->running() && worker->ready(); });
  if (!established_ && !retired_ && ready >= static_cast<std::ptrdiff_t>(ready_min_)) {
    established_ = true;
    events_.on_established(*this);
  }
}

void Generation::on_worker_fatal(std::uint32_t slot, base::Error error) {
  if (established_ || retired_) {
    // The others serve on; this one is tried again, ever more rarely.
    say(Severity::kError, name_of(slot) + " cannot start: " + error.to_string());
    return;
  }
  give_up(std::move(error));
}

void Generation::on_worker_trouble(std::uint32_t slot, base::Error error) {
  if (retired_) {
    return;
  }
  if (!established_) {
    give_up(std::move(error));
    return;
  }
  say(Severity::kError, name_of(slot) + " cannot be started: " + error.to_string());
  worker_of(slot).start_later();
}

void Generation::on_worker_message(std::uint32_t slot, shared::Message message) {
  events_.on_worker_message(slot, std::move(message));
}

void Generation::give_up(base::Error error) { events_.on_hopeless(*this, std::move(error)); }

WorkerProcess& Generation::worker_of(std::uint32_t slot) {
  const auto worker =
      std::ranges::find_if(workers_, [slot](const auto& each) { return each->slot() == slot; });
  MIK_ASSERT(worker != workers_.end());
  return **worker;
}

std::string Generation::name_of(std::uint32_t slot) const {
  return "worker " + std::to_string(slot);
}

}  // namespace mik::supervisor
