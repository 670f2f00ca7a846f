#include "supervisor/supervisor.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <ctime>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "net/loop.hpp"
#include "shared/segment.hpp"
#include "supervisor/catalogue.hpp"
#include "supervisor/cpus.hpp"
#include "supervisor/generation.hpp"
#include "supervisor/inboxes.hpp"
#include "supervisor/listeners.hpp"
#include "supervisor/notify.hpp"
#include "supervisor/signals.hpp"

namespace mik::supervisor {

namespace {

// How long the workers of a new configuration may take to be ready: more than a compile child may.
constexpr base::Duration kReloadMax = std::chrono::seconds(300);
// A drain that was not ordered by anybody, of workers that never served.
constexpr base::Duration kGiveUpDrain = std::chrono::seconds(5);

shared::Drain drain_by(base::Time deadline, bool generation_only) {
  return {.deadline_ns = base::to_ns(deadline), .generation_only = generation_only};
}

// Two generations must have room beside each other.
std::size_t slots_for(const config::Settings& settings) {
  const std::size_t one = std::max<std::size_t>(settings.workers, usable_cpus().size());
  return std::min(2 * one, shared::kSlotsMax);
}

base::Error too_many_workers(std::uint32_t workers, std::size_t most, std::string_view help) {
  return base::Error(base::ErrorCode::kConfig, "workers: " + std::to_string(workers) +
                                                   " is not from 1 to " + std::to_string(most))
      .with_help(std::string(help));
}

// `bind` and, as the last, `admin` (runtime/admin_sockets.hpp).
std::vector<std::string> all_binds(const config::Settings& settings) {
  std::vector<std::string> binds = settings.binds;
  if (!settings.admin.empty()) {
    binds.push_back(settings.admin);
  }
  return binds;
}

// Lowers the number of connections to what descriptors there are for, and says so.
void fit_descriptors(config::Settings& settings, std::size_t slots, Observer& observer) {
  const std::uint64_t descriptors = raise_descriptor_limit();
  const std::uint64_t most =
      connections_within(descriptors, settings.workers, slots + all_binds(settings).size());
  if (settings.max_connections > most) {
    observer.on_event(Severity::kWarning,
                      "max_connections is " + std::to_string(most) + " in place of " +
                          std::to_string(settings.max_connections) + ": a process may have " +
                          std::to_string(descriptors) + " descriptors (ulimit -n, LimitNOFILE=)");
    settings.max_connections = static_cast<std::uint32_t>(most);
  }
}

class Supervisor final : public GenerationEvents, public CatalogueHost {
 public:
  Supervisor(net::Loop& loop, shared::Segment segment, const Options& options, Observer& observer)
      : loop_(loop),
        segment_(std::move(segment)),
        options_(options),
        observer_(observer),
        notifier_(loop, observer) {}

  // Opens what the family needs and starts it.
  base::Result<void> start(config::Settings settings);
  // What the run came to.
  base::Result<void> outcome() &&;

  void on_established(Generation& generation) override;
  void on_hopeless(Generation& generation, base::Error error) override;
  void on_worker_message(std::uint32_t slot, shared::Message message) override;

  void tell_workers(const shared::Message& message) override;
  void on_module_event(Severity severity, const std::string& text) override { say(severity, text); }
  bool serving() const override { return serving_ != nullptr && serving_->established(); }

 private:
  enum class Phase : std::uint8_t { kServing, kDraining, kEnding };

  void on_signal(int signal);
  void reap();
  void forget_gone();

  base::Result<Generation*> make_generation(config::Settings settings, std::uint32_t ready_min);
  std::vector<std::uint32_t> free_slots() const;

  void reload();
  base::Result<void> try_reload();
  void reload_failed(const base::Error& error);
  void switch_over();
  void give_up_incoming();
  void on_reload_limit();
  void try_waiting_reload();

  void drain();
  void end_now();
  void stop_if_alone();
  void fail(base::Error error);
  void say(Severity severity, const std::string& text) { observer_.on_event(severity, text); }

  net::Loop& loop_;
  shared::Segment segment_;
  const Options& options_;
  Observer& observer_;
  Notifier notifier_;
  Listeners listeners_;
  std::unique_ptr<Inboxes> inboxes_;
  std::unique_ptr<Family> family_;
  std::unique_ptr<Signals> signals_;
  std::unique_ptr<Catalogue> catalogue_;
  std::vector<std::unique_ptr<Generation>> generations_;
  Generation* serving_ = nullptr;   // the first from its start on, then whichever was switched to
  Generation* incoming_ = nullptr;  // the one of a reload, until it serves or is given up
  std::uint64_t last_number_ = 0;
  bool reload_wanted_ = false;  // once what stands in its way is over
  Phase phase_ = Phase::kServing;
  std::optional<base::Error> error_;
  net::Timer reload_timer_ = net::Timer::of<&Supervisor::on_reload_limit>(this);
};

base::Result<void> Supervisor::start(config::Settings settings) {
  fit_descriptors(settings, segment_.slots(), observer_);
  MIK_TRY(listeners_.open(all_binds(settings)));
  MIK_TRY_ASSIGN(inboxes_, Inboxes::create(loop_, segment_));
  family_ = std::make_unique<Family>(Family{
      .loop = loop_, .segment = segment_, .inboxes = *inboxes_, .executable = options_.executable});
  // Before the first child: an exit must find the handler in place.
  MIK_TRY_ASSIGN(signals_, Signals::create(loop_, [this](int signal) { on_signal(signal); }));
  MIK_TRY_ASSIGN(serving_, make_generation(std::move(settings), 1));
  catalogue_ =
      std::make_unique<Catalogue>(loop_, segment_, *this, options_.executable, options_.compile);
  MIK_TRY(catalogue_->start(serving_->settings(), serving_->settings_block()));
  std::vector<std::string> addresses;
  for (const Listener* listener : serving_->listeners()) {
    addresses.push_back(listener->address());
  }
  observer_.on_listening(addresses);
  shared::SegmentHeader& header = segment_.header();
  header.generation.store(serving_->number());
  header.workers.store(serving_->settings().workers);
  serving_->start();
  return {};
}

base::Result<Generation*> Supervisor::make_generation(config::Settings settings,
                                                      std::uint32_t ready_min) {
  MIK_TRY_ASSIGN(std::vector<Listener*> listeners, listeners_.open(all_binds(settings)));
  Generation::Plan plan{.number = last_number_ + 1, .slots = free_slots(), .ready_min = ready_min};
  plan.slots.resize(settings.workers);
  MIK_TRY_ASSIGN(auto generation, Generation::create(*family_, plan, std::move(settings),
                                                     std::move(listeners), observer_, *this));
  last_number_ = plan.number;
  generations_.push_back(std::move(generation));
  return generations_.back().get();
}

std::vector<std::uint32_t> Supervisor::free_slots() const {
  std::vector<bool> taken(segment_.slots());
  for (const auto& generation : generations_) {
    for (const auto& worker : generation->workers()) {
      taken[worker->slot()] = taken[worker->slot()] || worker->running() || !generation->retired();
    }
  }
  std::vector<std::uint32_t> slots;
  for (std::uint32_t slot = 0; slot < segment_.slots(); ++slot) {
    if (!taken[slot]) {
      slots.push_back(slot);
    }
  }
  return slots;
}

base::Result<void> Supervisor::outcome() && {
  if (error_) {
    return *std::move(error_);
  }
  return {};
}

void Supervisor::on_established(Generation& generation) {
  if (&generation == incoming_) {
    switch_over();
  } else {
    observer_.on_ready();
    notifier_.ready("Serving");
  }
  if (reload_wanted_) {
    reload();
  }
}

void Supervisor::on_hopeless(Generation& generation, base::Error error) {
  if (&generation == incoming_) {
    give_up_incoming();
    reload_failed(error);
    try_waiting_reload();
  } else {
    fail(std::move(error));
  }
}

void Supervisor::on_worker_message(std::uint32_t slot, shared::Message message) {
  if (phase_ == Phase::kServing) {
    catalogue_->on_worker_message(slot, message);
  }
}

void Supervisor::tell_workers(const shared::Message& message) {
  for (const auto& generation : generations_) {
    generation->send(message);
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
    case SIGUSR1:
      observer_.on_reopen_logs();
      tell_workers(shared::ReopenLogs{});
      say(Severity::kInfo, "Received SIGUSR1: log files are opened again");
      break;
    case SIGHUP:
      if (options_.reload && phase_ == Phase::kServing) {
        say(Severity::kInfo, "Received SIGHUP: reading the configuration again");
        reload();
        break;
      }
      [[fallthrough]];
    default:
      say(Severity::kInfo, std::string("Received ") + ::sigdescr_np(signal) + ": nothing to do");
      break;
  }
}

void Supervisor::reap() {
  // By index: a death may start a reload that waited, which adds a generation.
  for (std::size_t i = 0; i < generations_.size(); ++i) {
    generations_[i]->reap();
  }
  // Later: events of this turn may be for its channels.
  loop_.post([this] { forget_gone(); });
  catalogue_->reap();
  try_waiting_reload();
  stop_if_alone();
}

void Supervisor::forget_gone() {
  std::erase_if(generations_, [](const std::unique_ptr<Generation>& generation) {
    return generation->retired() && generation->gone();
  });
}

// --- Reload -----------------------------------------------------------------------------------

void Supervisor::reload() {
  notifier_.reloading();
  if (!serving_->established() || incoming_ != nullptr) {
    reload_wanted_ = true;  // what is being started serves first
    return;
  }
  reload_wanted_ = false;
  if (auto begun = try_reload(); !begun) {
    reload_failed(begun.error());
  }
}

base::Result<void> Supervisor::try_reload() {
  MIK_TRY_ASSIGN(config::Settings settings, options_.reload());
  MIK_TRY(catalogue_->accepts(settings));
  const std::size_t most = segment_.slots() / 2;
  if (settings.workers < 1 || settings.workers > most) {
    return too_many_workers(settings.workers, most,
                            "more workers than this run has room for need a restart");
  }
  if (free_slots().size() < settings.workers) {
    if (!std::exchange(reload_wanted_, true)) {
      say(Severity::kInfo, "The reload waits for workers of an earlier configuration to end");
    }
    return {};
  }
  fit_descriptors(settings, segment_.slots(), observer_);
  const std::uint32_t workers = settings.workers;
  MIK_TRY_ASSIGN(incoming_, make_generation(std::move(settings), workers));
  loop_.wheel().arm(reload_timer_, base::Clock::now() + kReloadMax);
  incoming_->start();
  return {};
}

void Supervisor::switch_over() {
  Generation& before = *std::exchange(serving_, std::exchange(incoming_, nullptr));
  reload_timer_.disarm();
  shared::SegmentHeader& header = segment_.header();
  header.generation.store(serving_->number());
  header.workers.store(serving_->settings().workers);
  header.config_reload_ok.store(1);
  header.config_reload_unix_s.store(static_cast<std::uint64_t>(std::time(nullptr)));
  catalogue_->reconfigure(serving_->settings(), serving_->settings_block());
  // What only the old one listens on is closed to new connections before it takes the last ones.
  listeners_.keep_only(serving_->listeners());
  before.retire(drain_by(
      base::saturating_add(base::Clock::now(), serving_->settings().shutdown_timeout), true));
  say(Severity::kInfo, "The new configuration serves, with " +
                           std::to_string(serving_->settings().workers) + " workers");
  observer_.on_reloaded(serving_->settings());
  notifier_.ready("Serving");
}

void Supervisor::reload_failed(const base::Error& error) {
  shared::SegmentHeader& header = segment_.header();
  header.config_reload_ok.store(0);
  shared::count(header.config_reloads_failed);
  // A file may have many faults: a line each.
  std::string text = error.to_string();
  for (std::size_t end = 0; !text.empty(); text.erase(0, end)) {
    end = std::min(text.find('\n'), text.size());
    if (end > 0) {
      say(Severity::kError, "Reload: " + text.substr(0, end));
    }
    end = std::min(end + 1, text.size());
  }
  say(Severity::kError, "The configuration was not changed: the one before serves on" +
                            (error.help().empty() ? "" : "; " + error.help()));
  notifier_.ready("Serving the configuration from before a reload that failed");
}

// It may have taken connections already, so it is not killed.
void Supervisor::give_up_incoming() {
  Generation& hopeless = *std::exchange(incoming_, nullptr);
  reload_timer_.disarm();
  listeners_.keep_only(serving_->listeners());
  hopeless.retire(drain_by(base::Clock::now() + kGiveUpDrain, true));
}

void Supervisor::on_reload_limit() {
  if (incoming_ != nullptr) {
    on_hopeless(*incoming_,
                base::Error(base::ErrorCode::kTimeout,
                            "the new workers were not ready within " +
                                std::to_string(kReloadMax / std::chrono::seconds(1)) + " s"));
  }
}

void Supervisor::try_waiting_reload() {
  if (reload_wanted_ && phase_ == Phase::kServing && incoming_ == nullptr) {
    reload();
  }
}

// --- The end ----------------------------------------------------------------------------------

void Supervisor::drain() {
  phase_ = Phase::kDraining;
  notifier_.stopping(serving_->settings().shutdown_timeout);
  // Readiness first: every worker's /health says so from here on.
  segment_.set_draining();
  const base::Time deadline =
      base::saturating_add(base::Clock::now(), serving_->settings().shutdown_timeout);
  // The port is free as soon as the workers have taken what is queued and closed their copies.
  listeners_.keep_only({});
  for (const auto& generation : generations_) {
    generation->retire(drain_by(deadline, false));
  }
  catalogue_->stop();
  stop_if_alone();
}

void Supervisor::end_now() {
  phase_ = Phase::kEnding;
  notifier_.stopping({});
  segment_.set_draining();
  listeners_.keep_only({});
  catalogue_->stop();
  for (const auto& generation : generations_) {
    generation->kill();
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
  const bool alone =
      std::ranges::all_of(generations_, [](const auto& generation) { return generation->gone(); });
  if (phase_ != Phase::kServing && alone && !catalogue_->compiling()) {
    // Posted: the loop may not be running yet.
    loop_.post([&loop = loop_] { loop.stop(); });
  }
}

}  // namespace

base::Result<void> run(const config::Settings& settings, Observer& observer,
                       const Options& options) {
  if (settings.workers < 1 || settings.workers > shared::kSlotsMax / 2) {
    return too_many_workers(settings.workers, shared::kSlotsMax / 2, "one for each CPU is best");
  }
  MIK_TRY_ASSIGN(const std::unique_ptr<net::Loop> loop, net::Loop::create());
  MIK_TRY_ASSIGN(shared::Segment segment,
                 shared::Segment::create(slots_for(settings), kModulesMax, kTenantsMax));
  Supervisor supervisor(*loop, std::move(segment), options, observer);
  MIK_TRY(supervisor.start(settings));
  loop->run();
  return std::move(supervisor).outcome();
}

}  // namespace mik::supervisor
