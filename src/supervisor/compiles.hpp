// Compile children: one at a time, one for each module however many ask, bounded in CPU, memory and
// time. Confined to the supervisor's loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <string>

#include "base/result.hpp"
#include "base/time.hpp"
#include "net/loop.hpp"
#include "shared/control.hpp"
#include "shared/segment.hpp"
#include "supervisor/compile_memory.hpp"

namespace mik::supervisor {

struct CompileLimits {
  std::uint64_t cpu_seconds = 120;
  base::Duration wall = std::chrono::seconds(180);
  // RLIMIT_DATA: so many bytes for each byte of the component, and at least the floor.
  // Code takes about 85.
  std::uint64_t data_per_byte = 96;
  std::uint64_t data_floor = 1ull << 30;
  std::size_t queue_max = 8192;  // a module waits once
  // How long a compilation waits for guests to give memory back.
  base::Duration memory_wait = std::chrono::seconds(30);
};

// A module's compilation.
struct CompileJob {
  std::uint32_t row = 0;
  std::uint64_t incarnation = 0;
  std::string module;   // "name" or "tenant/name": shared::CompileBoot
  std::string path;     // of its file
  bool polite = true;   // something is being served, so compile at nice 19
  bool urgent = false;  // requests wait for it: before those for which none do

  bool same(const CompileJob& other) const noexcept {
    return row == other.row && incarnation == other.incarnation;
  }
};

class Compiles final : public net::IoHandler {
 public:
  // Is given one Compiled or CompileFailed for each module that was asked for.
  using Answer = std::function<void(const CompileJob& job, const shared::Message& message)>;
  // `segment`: where what they take of the memory budget is told; null: nowhere.
  Compiles(net::Loop& loop, shared::Segment* segment, std::string executable, CompileLimits limits,
           Answer answer);
  ~Compiles() override;
  Compiles(const Compiles&) = delete;
  Compiles& operator=(const Compiles&) = delete;

  // Once for each module; asked again, it may become urgent.
  void request(CompileJob job);
  bool running() const noexcept { return pid_ > 0; }
  // For children from now on: their settings, borrowed, and the budget that they share with guests
  // (0: none).
  void set_settings(int settings, std::uint64_t memory_budget_bytes) noexcept {
    settings_ = settings;
    memory_.set_budget(memory_budget_bytes);
  }
  pid_t pid() const noexcept { return pid_; }
  void on_exit(int wait_status);
  // Kills the child and forgets the queue: a drain. Nobody is answered.
  void stop() noexcept;

  void on_io(std::uint32_t events) override;

 private:
  void start_next();
  base::Result<void> start(const CompileJob& job);
  bool take_answer();
  void finish_job(const shared::Message& message);
  void count(const shared::Message& message) noexcept;
  void on_wall_limit();
  bool memory_is_there();
  void on_memory();
  shared::CompileFailed explain(int wait_status) const;
  void close_channel() noexcept;

  net::Loop& loop_;
  std::string executable_;
  int settings_ = -1;
  CompileLimits limits_;
  Answer answer_;
  std::deque<CompileJob> jobs_;  // the first is being compiled when pid_ is set
  pid_t pid_ = 0;
  bool answered_ = false;
  bool out_of_time_ = false;
  bool out_of_memory_ = false;
  std::uint64_t data_limit_ = 0;
  shared::Segment* const segment_;
  base::Time started_;
  CompileMemory memory_;
  base::Time waits_until_ = base::kNever;  // for memory
  shared::Channel channel_;
  net::Timer memory_timer_ = net::Timer::of<&Compiles::on_memory>(this);
  net::Timer wall_timer_ = net::Timer::of<&Compiles::on_wall_limit>(this);
};

}  // namespace mik::supervisor
