#include "supervisor/worker_process.hpp"

#include <sys/epoll.h>

#include <csignal>
#include <utility>

#include "shared/boot.hpp"
#include "supervisor/spawn.hpp"

namespace mik::supervisor {

namespace {

// A request allocates and frees some hundred small pieces, dozens of a size: more than the 7 that
// malloc keeps at hand for a thread, so that most went the long way (3 % of the CPU of a small
// request). Read at the start of a process, so it is for who starts it to say.
constexpr const char* kTunables = "GLIBC_TUNABLES";
constexpr const char* kTunablesOfWorkers = "glibc.malloc.tcache_count=127";

}  // namespace

WorkerProcess::WorkerProcess(Family& family, const Equipment& equipment, std::uint32_t slot,
                             int cpu, WorkerEvents& events)
    : family_(family), equipment_(equipment), slot_(slot), cpu_(cpu), events_(events) {}

WorkerProcess::~WorkerProcess() { close_channel(); }

void WorkerProcess::start() {
  auto started = try_start();
  if (!started) {
    family_.segment.bury(slot_);
    family_.inboxes.forward(slot_);
    close_channel();
    events_.on_worker_trouble(slot_, std::move(started).error());
  }
}

void WorkerProcess::start_later() {
  const base::Duration wait = backoff_.next(ready_for_);
  ready_for_ = base::Duration::zero();
  if (wait == base::Duration::zero()) {
    start();
    return;
  }
  family_.loop.wheel().arm(start_timer_, base::Clock::now() + wait);
}

base::Result<void> WorkerProcess::try_start() {
  MIK_TRY_ASSIGN(auto channels, shared::Channel::pair());
  shared::WorkerPlan plan{.slot = slot_,
                          .slots = static_cast<std::uint32_t>(family_.inboxes.size()),
                          .generation = equipment_.generation,
                          .control = channels.second.fd(),
                          .segment = family_.segment.fd(),
                          .settings = equipment_.settings.get(),
                          .inbox = family_.inboxes.receiving(slot_),
                          .peers = {},
                          .listeners = equipment_.listeners};
  for (std::size_t slot = 0; slot < family_.inboxes.size(); ++slot) {
    plan.peers.push_back(family_.inboxes.sending(slot));
  }
  shared::ChildPlan child = shared::plan_worker(plan);
  SpawnPlan spawn_plan{.executable = family_.executable,
                       .arguments = std::move(child.arguments),
                       .descriptors = std::move(child.descriptors),
                       .cpus = {},
                       .nice = 0,
                       .limits = {},
                       .environment = {{kTunables, kTunablesOfWorkers}},
                       .dies_with_parent = false};
  if (cpu_ >= 0) {
    spawn_plan.cpus = {cpu_};
  }
  channel_ = std::move(channels.first);
  MIK_TRY(family_.loop.watch_level(channel_.fd(), EPOLLIN, *this));
  family_.inboxes.leave(slot_);
  family_.segment.begin(slot_, equipment_.generation);
  MIK_TRY_ASSIGN(pid_, spawn(spawn_plan));
  family_.segment.set_pid(slot_, pid_);
  return {};
}

void WorkerProcess::kill() noexcept {
  if (running()) {
    ::kill(pid_, SIGKILL);
  }
}

void WorkerProcess::send(const shared::Message& message) {
  if (channel_.open()) {
    // A worker that cannot be told is dead, or so far gone that it will be killed at the deadline.
    static_cast<void>(channel_.send(message));
  }
}

void WorkerProcess::on_exit() {
  pid_ = 0;
  ready_for_ = ready() ? base::Clock::now() - ready_at_ : base::Duration::zero();
  ready_at_ = base::kNever;
  family_.segment.bury(slot_);
  family_.inboxes.forward(slot_);
  // A worker that says why it cannot start is dead before that is read.
  read_messages();
  close_channel();
}

void WorkerProcess::on_io(std::uint32_t /*events*/) { read_messages(); }

void WorkerProcess::read_messages() {
  constexpr int kMessagesMax = 16;  // a turn
  for (int i = 0; i < kMessagesMax && channel_.open(); ++i) {
    auto received = channel_.receive();
    if (!received) {
      continue;  // kBadMessage: skipped
    }
    if (auto* message = std::get_if<shared::Message>(&*received)) {
      handle(std::move(*message));
      continue;
    }
    if (std::holds_alternative<shared::EndOfFile>(*received)) {
      close_channel();
    }
    return;
  }
}

void WorkerProcess::handle(shared::Message message) {
  if (std::holds_alternative<shared::Ready>(message)) {
    if (running() && !ready()) {
      ready_at_ = base::Clock::now();
      events_.on_worker_ready(slot_, pid_);
    }
  } else if (auto* fatal = std::get_if<shared::Fatal>(&message)) {
    events_.on_worker_fatal(slot_, shared::to_error(*fatal));
  } else if (running()) {
    events_.on_worker_message(slot_, std::move(message));
  }
}

void WorkerProcess::close_channel() noexcept {
  if (channel_.open()) {
    family_.loop.unwatch(channel_.fd());
    channel_.close();
  }
}

}  // namespace mik::supervisor
