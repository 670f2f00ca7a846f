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

namespace mik::supervisor {

struct CompileLimits {
  std::uint64_t cpu_seconds = 120;
  base::Duration wall = std::chrono::seconds(180);
  // RLIMIT_DATA: so many bytes for each byte of the component, and at least the floor.
  // Code takes about 85, most components are half data.
  std::uint64_t data_per_byte = 96;
  std::uint64_t data_floor = 1ull << 30;
  std::size_t queue_max = 8192;  // a module waits once
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

inline constexpr std::uint64_t kRoomMin = 128u << 20;

class Compiles final : public net::IoHandler {
 public:
  // Is given one Compiled or CompileFailed for each module that was asked for.
  using Answer = std::function<void(const CompileJob& job, const shared::Message& message)>;
  Compiles(net::Loop& loop, std::string executable, int settings, CompileLimits limits,
           Answer answer);
  ~Compiles() override;
  Compiles(const Compiles&) = delete;
  Compiles& operator=(const Compiles&) = delete;

  // Once for each module; asked again, it may become urgent.
  void request(CompileJob job);
  bool running() const noexcept { return pid_ > 0; }
  // For children from now on; borrowed.
  void set_settings(int settings) noexcept { settings_ = settings; }
  // What the memory budget leaves for a child that starts now; without one there is no bound. A
  // child that would get less than kRoomMin waits, up to a minute.
  void set_room(std::function<std::uint64_t()> room) { room_ = std::move(room); }
  // What the child takes now.
  std::uint64_t memory_bytes() const;
  pid_t pid() const noexcept { return pid_; }
  void on_exit(int wait_status);
  // Kills the child and forgets the queue: a drain. Nobody is answered.
  void stop() noexcept;

  void on_io(std::uint32_t events) override;

 private:
  void start_next();
  bool wait_for_room();
  base::Result<void> start(const CompileJob& job);
  bool take_answer();
  void finish_job(const shared::Message& message);
  void on_wall_limit();
  shared::CompileFailed explain(int wait_status) const;
  void close_channel() noexcept;

  net::Loop& loop_;
  std::string executable_;
  int settings_;
  CompileLimits limits_;
  Answer answer_;
  std::deque<CompileJob> jobs_;  // the first is being compiled when pid_ is set
  pid_t pid_ = 0;
  bool answered_ = false;
  bool out_of_time_ = false;
  std::uint64_t data_limit_ = 0;
  shared::Channel channel_;
  std::function<std::uint64_t()> room_;
  base::Time waits_since_ = base::kNever;
  net::Timer room_timer_ = net::Timer::of<&Compiles::start_next>(this);
  net::Timer wall_timer_ = net::Timer::of<&Compiles::on_wall_limit>(this);
};

}  // namespace mik::supervisor
