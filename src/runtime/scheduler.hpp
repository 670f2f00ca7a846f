// Which guest runs next. Guests run on the loop thread, one slice at a time, between the loop's
// other work. Confined to the loop thread.
//
// Four kinds of guests, in the order in which a turn serves them:
//   woken    waited for something that has come: run at once, they are about to finish
//   fresh    not started yet: in order of arrival, as long as few started ones still compute and
//   the pool has room young    used up their slice: run to their end in order, one slice a turn.
//   Interleaving them would cost more: each
//            switch throws a heavy guest's memory out of the caches (20 to 40 % with JavaScript)
//   old      have computed for kYoungMax without a rest: round robin, at least one turn in four
// So a guest that computes for ever delays another by a slice and never keeps one from starting,
// and short requests pass long ones.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/time.hpp"
#include "engine/engine.hpp"
#include "net/loop.hpp"

namespace mik::runtime {

// A guest as the scheduler sees it. `id` is set by whoever starts it.
class GuestTask {
 public:
  virtual ~GuestTask();
  GuestTask() = default;
  GuestTask(const GuestTask&) = delete;
  GuestTask& operator=(const GuestTask&) = delete;

  // A slice is over. The task may be removed and destroyed inside, but for a task that yielded,
  // which is queued after it returns unless it was removed.
  virtual void on_run(engine::Events events) = 0;

 private:
  friend class Scheduler;
  friend class TaskQueue;
  engine::RequestId id_ = 0;
  base::Duration computed_{};  // since it was started, as the scheduler saw it
  base::Duration quantum_{};   // since its turn among the old began
  base::Time ran_at_;          // when its last slice ended
  bool has_instance_ = false;
  bool over_ = false;  // DONE was said; bytes may still be queued
  class TaskQueue* queue_ = nullptr;
  GuestTask* next_ = nullptr;
  GuestTask* previous_ = nullptr;
};

// An intrusive FIFO: no allocation, removal from anywhere.
class TaskQueue {
 public:
  bool empty() const noexcept { return head_ == nullptr; }
  std::size_t size() const noexcept { return size_; }
  GuestTask* front() const noexcept { return head_; }
  void push_back(GuestTask& task) noexcept;
  void push_front(GuestTask& task) noexcept;
  void remove(GuestTask& task) noexcept;
  GuestTask* pop_front() noexcept;

 private:
  GuestTask* head_ = nullptr;
  GuestTask* tail_ = nullptr;
  std::size_t size_ = 0;
};

// Told of what happened to outgoing exchanges, after runs.
class OutboundSink {
 public:
  virtual ~OutboundSink() = default;
  virtual void on_outbound(const engine::OutboundEvents& events) = 0;
};

class Scheduler final : public net::TurnHook {
 public:
  // A guest looks at its slice at ticks, one a millisecond: it runs for 0.5 to 1.5 ms.
  static constexpr base::Duration kSlice = std::chrono::microseconds(500);
  static constexpr base::Duration kYoungMax = std::chrono::milliseconds(5);
  // Who has waited so long is young again: a stream that says something now and then.
  static constexpr base::Duration kRest = std::chrono::milliseconds(10);
  static constexpr base::Duration kQuantum = std::chrono::milliseconds(10);
  // Young guests at once; further ones wait unstarted.
  static constexpr std::size_t kStartedMax = 2;
  // After so long the loop looks at its sockets again.
  static constexpr base::Duration kTurnMax = std::chrono::milliseconds(2);

  // `instances_max`: what the engine's pool holds. Guests beyond it wait unstarted.
  Scheduler(engine::Guests& guests, engine::Ticker& ticker, OutboundSink& outbound,
            std::size_t instances_max);
  ~Scheduler() override;

  // A new guest; `id` from Guests::start.
  void add(GuestTask& task, engine::RequestId id);
  // Forgets the task, wherever it is. The caller releases the id.
  void remove(GuestTask& task) noexcept;

  bool on_turn(base::Time now) override;
  base::Time next_deadline() override;

  std::size_t unstarted() const noexcept { return fresh_.size(); }
  std::size_t computing() const noexcept { return young_.size() + old_.size(); }

 private:
  enum class From : std::uint8_t { kWaiting, kComputing };
  void run(GuestTask& task, From from);
  void requeue(GuestTask& task, base::Duration ran, From from);
  GuestTask* next_computing();
  void drop_instance(GuestTask& task) noexcept;
  bool may_start() const noexcept {
    return !fresh_.empty() && young_.size() < kStartedMax && instances_ < instances_max_;
  }
  bool out_of_time() const noexcept { return now_ - turn_start_ >= kTurnMax; }
  void take_woken(base::Time now);
  void enqueue_woken(GuestTask& task);
  void hand_out_outbound();

  engine::Guests& guests_;
  engine::Ticker& ticker_;
  OutboundSink& outbound_;
  const std::size_t instances_max_;
  std::size_t instances_ = 0;
  TaskQueue woken_;
  TaskQueue fresh_;
  TaskQueue young_;
  TaskQueue old_;
  GuestTask* running_ = nullptr;  // null again when it is removed while it runs
  base::Time now_;
  base::Time turn_start_;
  unsigned turns_for_young_ = 0;
  base::Time next_sweep_;
};

}  // namespace mik::runtime
