#include "supervisor/compiles.hpp"

#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <utility>

#include "shared/boot.hpp"
#include "supervisor/spawn.hpp"

namespace mik::supervisor {

namespace {

std::uint64_t file_size(const std::string& path) {
  struct stat status{};
  return ::stat(path.c_str(), &status) == 0 && status.st_size > 0
             ? static_cast<std::uint64_t>(status.st_size)
             : 0;
}

// How often a child's memory is looked at, and whether there is room for the next.
constexpr base::Duration kMemoryLook = std::chrono::milliseconds(20);

ResourceLimit limit_of(int resource, std::uint64_t soft, std::uint64_t hard) {
  ResourceLimit limit;
  limit.resource = resource;
  limit.limit.rlim_cur = soft;
  limit.limit.rlim_max = hard;
  return limit;
}

}  // namespace

Compiles::Compiles(net::Loop& loop, shared::Segment* segment, std::string executable,
                   CompileLimits limits, Answer answer)
    : loop_(loop),
      executable_(std::move(executable)),
      limits_(limits),
      answer_(std::move(answer)),
      segment_(segment),
      memory_(segment) {}

Compiles::~Compiles() { close_channel(); }

void Compiles::request(CompileJob job) {
  // The first is at work; when it has answered and is not gone yet it answers nobody else.
  const auto waiting = jobs_.begin() + (pid_ > 0 && !jobs_.empty() ? 1 : 0);
  if (waiting != jobs_.begin() && !answered_ && jobs_.front().same(job)) {
    return;
  }
  const auto known =
      std::find_if(waiting, jobs_.end(), [&](const CompileJob& each) { return each.same(job); });
  if (known != jobs_.end()) {
    if (known->urgent || !job.urgent) {
      return;
    }
    jobs_.erase(known);
  } else if (jobs_.size() >= limits_.queue_max) {
    answer_(job, shared::CompileFailed{
                     base::ErrorCode::kOverload, "too many modules wait to be compiled", {}});
    return;
  }
  const auto first = jobs_.begin() + (pid_ > 0 && !jobs_.empty() ? 1 : 0);
  const auto place = job.urgent ? std::find_if(first, jobs_.end(),
                                               [](const CompileJob& each) { return !each.urgent; })
                                : jobs_.end();
  jobs_.insert(place, std::move(job));
  start_next();
}

void Compiles::start_next() {
  while (pid_ == 0 && !jobs_.empty()) {
    if (!memory_is_there()) {
      return;
    }
    answered_ = false;
    auto started = start(jobs_.front());
    if (!started) {
      close_channel();
      finish_job(shared::to_compile_failed(started.error()));
      jobs_.pop_front();
    }
  }
}

// False: the first job waits for memory. One that has waited too long is answered.
bool Compiles::memory_is_there() {
  if (memory_.reserve(file_size(jobs_.front().path))) {
    waits_until_ = base::kNever;
    return true;
  }
  const base::Time now = base::Clock::now();
  if (waits_until_ == base::kNever) {
    waits_until_ = now + limits_.memory_wait;
  }
  if (now < waits_until_) {
    loop_.wheel().arm(memory_timer_, now + kMemoryLook);
    return false;
  }
  waits_until_ = base::kNever;
  answered_ = false;
  finish_job(
      shared::CompileFailed{base::ErrorCode::kOverload,
                            "no memory to compile in: guests hold the budget (memory_budget_mb)",
                            {}});
  jobs_.pop_front();
  memory_.release();
  return !jobs_.empty() && memory_is_there();
}

void Compiles::on_memory() {
  if (pid_ == 0) {
    start_next();
    return;
  }
  if (!memory_.look(pid_)) {
    out_of_memory_ = true;
    ::kill(pid_, SIGKILL);
    return;
  }
  loop_.wheel().arm(memory_timer_, base::Clock::now() + kMemoryLook);
}

base::Result<void> Compiles::start(const CompileJob& job) {
  MIK_TRY_ASSIGN(auto channels, shared::Channel::pair());
  shared::ChildPlan child = shared::plan_compile(job.module, channels.second.fd(), settings_);
  data_limit_ = std::max(limits_.data_floor, limits_.data_per_byte * file_size(job.path));
  const SpawnPlan plan{
      .executable = executable_,
      .arguments = std::move(child.arguments),
      .descriptors = std::move(child.descriptors),
      .cpus = {},
      .nice = job.polite ? 19 : 0,
      // The hard limit is later than the soft one, so that the signal is SIGXCPU and says what it
      // was.
      .limits = {limit_of(RLIMIT_CPU, limits_.cpu_seconds, limits_.cpu_seconds + 5),
                 limit_of(RLIMIT_DATA, data_limit_, data_limit_), limit_of(RLIMIT_CORE, 0, 0)},
      .dies_with_parent = true};
  channel_ = std::move(channels.first);
  out_of_time_ = false;
  out_of_memory_ = false;
  started_ = base::Clock::now();
  MIK_TRY(loop_.watch_level(channel_.fd(), EPOLLIN, *this));
  MIK_TRY_ASSIGN(pid_, spawn(plan));
  loop_.wheel().arm(wall_timer_, base::Clock::now() + limits_.wall);
  if (memory_.bounded()) {
    loop_.wheel().arm(memory_timer_, base::Clock::now() + kMemoryLook);
  }
  return {};
}

void Compiles::on_io(std::uint32_t /*events*/) {
  if (channel_.open() && !take_answer()) {
    close_channel();
  }
}

// False: there will be no more on the channel.
bool Compiles::take_answer() {
  auto received = channel_.receive();
  if (!received) {
    return true;
  }
  if (const auto* message = std::get_if<shared::Message>(&*received)) {
    if (std::holds_alternative<shared::Compiled>(*message) ||
        std::holds_alternative<shared::CompileFailed>(*message)) {
      finish_job(*message);
    }
    return true;
  }
  return std::holds_alternative<shared::NothingYet>(*received);
}

void Compiles::finish_job(const shared::Message& message) {
  if (!answered_) {
    answered_ = true;
    count(message);
    answer_(jobs_.front(), message);
  }
}

// A file that changes while it is read has not been compiled, and is no failure.
void Compiles::count(const shared::Message& message) noexcept {
  const auto* failed = std::get_if<shared::CompileFailed>(&message);
  if (segment_ == nullptr || (failed != nullptr && failed->code == base::ErrorCode::kCancelled)) {
    return;
  }
  shared::SegmentHeader& header = segment_->header();
  shared::count(header.compiles);
  shared::count(header.compile_failures, failed != nullptr ? 1 : 0);
  if (pid_ > 0 || out_of_time_ || out_of_memory_) {
    shared::count(header.compile_ns,
                  static_cast<std::uint64_t>((base::Clock::now() - started_).count()));
  }
}

void Compiles::on_exit(int wait_status) {
  pid_ = 0;
  wall_timer_.disarm();
  memory_timer_.disarm();
  memory_.release();
  if (jobs_.empty()) {
    return;  // stopped
  }
  if (channel_.open()) {
    take_answer();
  }
  close_channel();
  finish_job(explain(wait_status));
  jobs_.pop_front();
  start_next();
}

shared::CompileFailed Compiles::explain(int wait_status) const {
  const int signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
  const std::string mib = std::to_string(data_limit_ >> 20);
  const auto failed = [](base::ErrorCode code, std::string text) {
    return shared::CompileFailed{code, std::move(text), {}};
  };
  if (out_of_time_) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(limits_.wall).count();
    return failed(base::ErrorCode::kTimeout, "the compilation took longer than " +
                                                 std::to_string(seconds) + " s and was stopped");
  }
  if (out_of_memory_) {
    return failed(base::ErrorCode::kOverload, "the compilation needed more than the " +
                                                  std::to_string(memory_.budget_bytes() >> 20) +
                                                  " MiB of memory_budget_mb and was stopped");
  }
  if (signal == SIGXCPU) {
    return failed(base::ErrorCode::kTimeout, "the compilation used more than " +
                                                 std::to_string(limits_.cpu_seconds) +
                                                 " s of CPU time and was stopped");
  }
  if (signal == SIGABRT) {
    return failed(
        base::ErrorCode::kOverload,
        "the compilation was aborted, most likely by its limit of " + mib + " MiB of memory");
  }
  if (signal == SIGKILL) {
    return failed(base::ErrorCode::kOverload,
                  "the compilation was killed, most likely because this machine or container is "
                  "out of memory");
  }
  return failed(base::ErrorCode::kCompile, "the compiling process " + describe_exit(wait_status) +
                                               " without a result (its memory limit was " + mib +
                                               " MiB)");
}

void Compiles::on_wall_limit() {
  if (pid_ > 0) {
    out_of_time_ = true;
    ::kill(pid_, SIGKILL);
  }
}

void Compiles::stop() noexcept {
  jobs_.clear();
  memory_timer_.disarm();
  answered_ = true;
  close_channel();
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
  }
}

void Compiles::close_channel() noexcept {
  if (channel_.open()) {
    loop_.unwatch(channel_.fd());
    channel_.close();
  }
}

}  // namespace mik::supervisor
