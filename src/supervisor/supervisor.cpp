#include "supervisor/supervisor.hpp"

#include <sys/wait.h>

#include <csignal>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>

#include "net/loop.hpp"
#include "shared/boot.hpp"
#include "shared/segment.hpp"
#include "supervisor/cpus.hpp"
#include "supervisor/listeners.hpp"
#include "supervisor/signals.hpp"
#include "supervisor/spawn.hpp"
#include "supervisor/worker_process.hpp"

namespace mik::supervisor {

namespace {

// Deaths before any worker was ready, after which a run is given up.
constexpr int kEarlyDeathsMax = 5;
// Beyond the drain's deadline, at which workers cancel what is left and exit by themselves.
constexpr base::Duration kKillGrace = std::chrono::milliseconds(500);

class Supervisor final : public WorkerEvents {
 public:
  Supervisor(net::Loop& loop, shared::Segment segment, const config::Settings& settings,
             Observer& observer)
      : loop_(loop), segment_(std::move(segment)), settings_(settings), observer_(observer) {}

  // Opens what the family needs and starts it.
  base::Result<void> start(const Options& options);
  // What the run came to.
  base::Result<void> outcome() &&;

  void on_worker_ready(std::uint32_t slot, pid_t pid) override;
  void on_worker_module(std::uint32_t slot, const shared::Message& message) override;
  void on_worker_fatal(std::uint32_t slot, base::Error error) override;
  void on_worker_trouble(std::uint32_t slot, base::Error error) override;

 private:
  enum class Phase : std::uint8_t { kServing, kDraining, kEnding };

  base::Result<void> make_family(const Options& options);
  void on_signal(int signal);
  void reap();
  void on_worker_exit(WorkerProcess& worker, int wait_status);
  void on_compiled(const CompileJob& job, const shared::Message& message);
  void drain();
  void end_now();
  void on_drain_limit();
  void stop_if_alone();
  void fail(base::Error error);
  void say(Severity severity, const std::string& text) { observer_.on_event(severity, text); }

  net::Loop& loop_;
  shared::Segment segment_;
  const config::Settings& settings_;
  Observer& observer_;
  std::vector<Listener> listeners_;
  base::Fd settings_block_;
  std::unique_ptr<Family> family_;
  std::unique_ptr<Signals> signals_;
  std::unique_ptr<Compiles> compiles_;
  std::vector<std::unique_ptr<WorkerProcess>> workers_;
  Phase phase_ = Phase::kServing;
  bool served_ = false;  // a worker was ready once
  int early_deaths_ = 0;
  std::optional<base::Error> error_;
  net::Timer drain_timer_ = net::Timer::of<&Supervisor::on_drain_limit>(this);
};

base::Result<void> Supervisor::make_family(const Options& options) {
  if (!segment_.modules().add("", settings_.component_name)) {
    return base::Error(base::ErrorCode::kConfig, "the name of the component is too long");
  }
  MIK_TRY_ASSIGN(listeners_, open_listeners(settings_.binds));
  MIK_TRY_ASSIGN(settings_block_, shared::write_block(config::serialize(settings_)));
  family_ = std::make_unique<Family>(Family{.loop = loop_,
                                            .segment = segment_,
                                            .executable = options.executable,
                                            .generation = 1,
                                            .settings = settings_block_.get(),
                                            .listeners = {},
                                            .inboxes = {},
                                            .pins = {}});
  segment_.header().generation.store(family_->generation);
  for (const Listener& listener : listeners_) {
    family_->listeners.push_back(listener.fd.get());
  }
  for (std::size_t slot = 0; slot < segment_.slots(); ++slot) {
    MIK_TRY_ASSIGN(shared::InboxPair inbox, shared::make_inbox());
    family_->inboxes.push_back(std::move(inbox));
  }
  if (settings_.pin_workers) {
    family_->pins = cpu_budget().cpus;
  }
  return {};
}

base::Result<void> Supervisor::start(const Options& options) {
  MIK_TRY(make_family(options));
  // Before the first child: an exit must find the handler in place.
  MIK_TRY_ASSIGN(signals_, Signals::create(loop_, [this](int signal) { on_signal(signal); }));
  compiles_ = std::make_unique<Compiles>(
      loop_, options.executable, settings_block_.get(), options.compile,
      [this](const CompileJob& job, const shared::Message& message) { on_compiled(job, message); });
  std::vector<std::string> addresses;
  for (const Listener& listener : listeners_) {
    addresses.push_back(listener.address);
  }
  observer_.on_listening(addresses);
  for (std::uint32_t slot = 0; slot < segment_.slots(); ++slot) {
    workers_.push_back(std::make_unique<WorkerProcess>(*family_, slot, *this));
  }
  for (const auto& worker : workers_) {
    if (phase_ == Phase::kServing) {
      worker->start();
    }
  }
  return {};
}

base::Result<void> Supervisor::outcome() && {
  if (error_) {
    return *std::move(error_);
  }
  return {};
}

void Supervisor::on_worker_ready(std::uint32_t slot, pid_t pid) {
  say(Severity::kInfo,
      "worker " + std::to_string(slot) + " (pid " + std::to_string(pid) + ") is ready");
  if (!served_) {
    served_ = true;
    observer_.on_ready();
  }
}

void Supervisor::on_worker_module(std::uint32_t slot, const shared::Message& message) {
  const auto* need = std::get_if<shared::NeedArtefact>(&message);
  if (phase_ != Phase::kServing || need == nullptr || need->row >= segment_.modules().rows()) {
    return;
  }
  const shared::ModuleRow row = segment_.modules().read(need->row);
  say(Severity::kInfo, "worker " + std::to_string(slot) + " needs " + row.name + " compiled");
  compiles_->request({.row = need->row,
                      .incarnation = row.incarnation,
                      .module = row.name,
                      .path = settings_.component_path,
                      .polite = served_});
}

void Supervisor::on_compiled(const CompileJob& job, const shared::Message& message) {
  shared::Message told;
  if (const auto* failed = std::get_if<shared::CompileFailed>(&message)) {
    say(Severity::kError, job.module + ": " + failed->text);
    segment_.modules().set_state(job.row, shared::RowState::kBroken, failed->text);
    told =
        shared::ArtefactFailed{job.row, job.incarnation, failed->code, failed->text, failed->help};
  } else if (const auto* compiled = std::get_if<shared::Compiled>(&message)) {
    segment_.modules().publish(job.row, compiled->digest, compiled->artefact_bytes);
    told =
        shared::ArtefactReady{job.row, job.incarnation, compiled->digest, compiled->artefact_bytes};
  }
  for (const auto& worker : workers_) {
    worker->send(told);
  }
}

void Supervisor::on_worker_fatal(std::uint32_t slot, base::Error error) {
  if (served_ || phase_ != Phase::kServing) {
    // The others serve on; this one is tried again, ever more rarely.
    say(Severity::kError, "worker " + std::to_string(slot) + " cannot start: " + error.to_string());
    return;
  }
  fail(std::move(error));
}

void Supervisor::on_worker_trouble(std::uint32_t slot, base::Error error) {
  if (!served_) {
    fail(std::move(error));
  }
  if (phase_ == Phase::kServing) {
    say(Severity::kError,
        "worker " + std::to_string(slot) + " cannot be started: " + error.to_string());
    workers_[slot]->start_later();
  }
}

void Supervisor::on_signal(int signal) {
  switch (signal) {
    case SIGCHLD:
      reap();
      break;
    case SIGTERM:
    case SIGINT: {
      const std::string name = signal == SIGTERM ? "SIGTERM" : "SIGINT";
      if (phase_ == Phase::kServing) {
        say(Severity::kInfo, "Received " + name + ": draining");
        drain();
      } else {
        say(Severity::kWarning, "Received " + name + " again: ending now");
        end_now();
      }
      break;
    }
    default:
      // SIGHUP and SIGUSR1 are reserved for reload and for reopening logs: neither has anything to
      // do yet.
      say(Severity::kInfo, std::string("Received ") + ::sigdescr_np(signal) + ": nothing to do");
      break;
  }
}

void Supervisor::reap() {
  // By pid and not any child: a library may have children of its own.
  int status = 0;
  for (const auto& worker : workers_) {
    if (worker->running() && ::waitpid(worker->pid(), &status, WNOHANG) == worker->pid()) {
      on_worker_exit(*worker, status);
    }
  }
  if (compiles_->pid() > 0 && ::waitpid(compiles_->pid(), &status, WNOHANG) == compiles_->pid()) {
    compiles_->on_exit(status);
  }
  stop_if_alone();
}

void Supervisor::on_worker_exit(WorkerProcess& worker, int wait_status) {
  const std::string who =
      "worker (pid " + std::to_string(worker.pid()) + ") " + describe_exit(wait_status);
  worker.on_exit();  // may end the run
  if (phase_ != Phase::kServing) {
    return;
  }
  say(Severity::kError, who);
  if (!served_ && ++early_deaths_ >= kEarlyDeathsMax) {
    fail(base::Error(base::ErrorCode::kInternal, "the workers keep dying before they are ready"));
    return;
  }
  shared::count(segment_.header().restarts);
  worker.start_later();
}

void Supervisor::drain() {
  phase_ = Phase::kDraining;
  // Readiness first: every worker's /health says so from here on.
  segment_.set_draining();
  const base::Time deadline = base::saturating_add(base::Clock::now(), settings_.shutdown_timeout);
  for (const auto& worker : workers_) {
    worker->stop_starting();
    worker->drain(deadline);
  }
  // The port is free as soon as the workers have taken what is queued and closed their copies.
  listeners_.clear();
  compiles_->stop();
  loop_.wheel().arm(drain_timer_, base::saturating_add(deadline, kKillGrace));
  stop_if_alone();
}

void Supervisor::on_drain_limit() {
  say(Severity::kWarning, "the drain ran out of time");
  end_now();
}

void Supervisor::end_now() {
  phase_ = Phase::kEnding;
  segment_.set_draining();
  listeners_.clear();
  compiles_->stop();
  for (const auto& worker : workers_) {
    worker->stop_starting();
    worker->kill();
  }
  stop_if_alone();
}

void Supervisor::fail(base::Error error) {
  if (!error_) {
    error_ = std::move(error);
  }
  end_now();
}

void Supervisor::stop_if_alone() {
  if (phase_ == Phase::kServing || compiles_->pid() > 0) {
    return;
  }
  for (const auto& worker : workers_) {
    if (worker->running()) {
      return;
    }
  }
  // Posted: the loop may not be running yet.
  loop_.post([&loop = loop_] { loop.stop(); });
}

}  // namespace

base::Result<void> run(const config::Settings& settings, Observer& observer,
                       const Options& options) {
  if (settings.workers < 1 || settings.workers > shared::kSlotsMax) {
    return base::Error(base::ErrorCode::kConfig, "the number of workers must be from 1 to " +
                                                     std::to_string(shared::kSlotsMax));
  }
  raise_descriptor_limit();
  MIK_TRY_ASSIGN(const std::unique_ptr<net::Loop> loop, net::Loop::create());
  MIK_TRY_ASSIGN(shared::Segment segment, shared::Segment::create(settings.workers));
  Supervisor supervisor(*loop, std::move(segment), settings, observer);
  MIK_TRY(supervisor.start(options));
  loop->run();
  return std::move(supervisor).outcome();
}

}  // namespace mik::supervisor
