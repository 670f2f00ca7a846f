#include "runtime/scheduler.hpp"

#include <utility>

#include "base/assert.hpp"

namespace mik::runtime {

namespace {

constexpr std::size_t kBatch = 64;
// Kept (reuse) instances that idle are looked for this often.
constexpr base::Duration kSweep = std::chrono::seconds(1);

}  // namespace

GuestTask::~GuestTask() { MIK_ASSERT(queue_ == nullptr); }

void TaskQueue::push_back(GuestTask& task) noexcept {
  MIK_ASSERT(task.queue_ == nullptr);
  task.queue_ = this;
  task.previous_ = tail_;
  task.next_ = nullptr;
  (tail_ == nullptr ? head_ : tail_->next_) = &task;
  tail_ = &task;
  ++size_;
}

void TaskQueue::push_front(GuestTask& task) noexcept {
  MIK_ASSERT(task.queue_ == nullptr);
  task.queue_ = this;
  task.next_ = head_;
  task.previous_ = nullptr;
  (head_ == nullptr ? tail_ : head_->previous_) = &task;
  head_ = &task;
  ++size_;
}

void TaskQueue::remove(GuestTask& task) noexcept {
  MIK_ASSERT(task.queue_ == this);
  (task.previous_ == nullptr ? head_ : task.previous_->next_) = task.next_;
  (task.next_ == nullptr ? tail_ : task.next_->previous_) = task.previous_;
  task.queue_ = nullptr;
  task.next_ = nullptr;
  task.previous_ = nullptr;
  --size_;
}

GuestTask* TaskQueue::pop_front() noexcept {
  GuestTask* task = head_;
  if (task != nullptr) {
    remove(*task);
  }
  return task;
}

Scheduler::Scheduler(engine::Guests& guests, engine::Ticker& ticker, OutboundSink& outbound,
                     std::size_t instances_max)
    : guests_(guests), ticker_(ticker), outbound_(outbound), instances_max_(instances_max) {}

Scheduler::~Scheduler() { MIK_ASSERT(fresh_.empty() && woken_.empty() && computing() == 0); }

void Scheduler::add(GuestTask& task, engine::RequestId id) {
  task.id_ = id;
  task.computed_ = {};
  task.quantum_ = {};
  task.over_ = false;
  fresh_.push_back(task);
}

void Scheduler::remove(GuestTask& task) noexcept {
  if (task.queue_ != nullptr) {
    task.queue_->remove(task);
  }
  if (running_ == &task) {
    running_ = nullptr;
  }
  drop_instance(task);
}

void Scheduler::drop_instance(GuestTask& task) noexcept {
  if (std::exchange(task.has_instance_, false)) {
    --instances_;
  }
}

void Scheduler::run(GuestTask& task, From from) {
  ticker_.keep_awake();
  running_ = &task;
  if (!std::exchange(task.has_instance_, true)) {
    ++instances_;
  }
  const base::Time start = now_;
  const engine::Events events = guests_.run(task.id_, now_, kSlice);
  now_ = base::Clock::now();
  task.computed_ += now_ - start;
  task.ran_at_ = now_;
  const base::Duration ran = now_ - start;
  if (events.done()) {
    task.over_ = true;
    drop_instance(task);
  }
  task.on_run(events);
  if (events.yielded() && running_ == &task) {
    requeue(task, ran, from);
  }
  running_ = nullptr;
}

void Scheduler::requeue(GuestTask& task, base::Duration ran, From from) {
  if (task.computed_ < kYoungMax) {
    // Who was at the head stays there; who comes waits behind.
    if (from == From::kComputing) {
      young_.push_front(task);
    } else {
      young_.push_back(task);
    }
    return;
  }
  task.quantum_ += ran;
  if (task.quantum_ >= kQuantum) {
    task.quantum_ = {};
    old_.push_back(task);
  } else {
    old_.push_front(task);
  }
}

void Scheduler::take_woken(base::Time now) {
  std::array<engine::Guests::Woken, kBatch> woken;
  std::size_t count = 0;
  do {  // all: a turn that leaves some behind might be followed by a sleep
    count = guests_.take_woken(now, woken);
    for (std::size_t i = 0; i < count; ++i) {
      auto& task = *reinterpret_cast<GuestTask*>(woken[i].user);
      // In a queue it is about to run in any case; over, it has nothing to say.
      if (task.queue_ == nullptr && !task.over_) {
        enqueue_woken(task);
      }
    }
  } while (count == woken.size());
}

void Scheduler::enqueue_woken(GuestTask& task) {
  if (now_ - task.ran_at_ >= kRest) {
    task.computed_ = {};
  }
  // Who waits only to be woken at once computes as well as one that yields.
  (task.computed_ < kYoungMax ? woken_ : old_).push_back(task);
}

GuestTask* Scheduler::next_computing() {
  const bool old_turn = young_.empty() || (!old_.empty() && turns_for_young_ >= 3);
  turns_for_young_ = old_turn ? 0 : turns_for_young_ + 1;
  return old_turn ? old_.pop_front() : young_.pop_front();
}

void Scheduler::hand_out_outbound() {
  std::array<engine::OutboundEvents, kBatch> events;
  std::size_t count = 0;
  do {
    count = guests_.take_outbound_events(events);
    for (std::size_t i = 0; i < count; ++i) {
      outbound_.on_outbound(events[i]);
    }
  } while (count == events.size());
}

bool Scheduler::on_turn(base::Time now) {
  now_ = now;
  turn_start_ = now;
  take_woken(now);
  // At most what is there now: those that wake meanwhile have their turn in the next round.
  for (std::size_t left = woken_.size(); left > 0 && !out_of_time(); --left) {
    if (GuestTask* task = woken_.pop_front(); task != nullptr) {
      run(*task, From::kWaiting);
    }
  }
  // One in any case: guests that wait just before their slice is over would keep all others from
  // starting.
  for (bool first = true; may_start() && (first || !out_of_time()); first = false) {
    run(*fresh_.pop_front(), From::kWaiting);
  }
  // One slice: of one guest that computes, or of many that only pass data on.
  const base::Time computing_start = now_;
  for (std::size_t left = computing(); left > 0 && now_ - computing_start < kSlice; --left) {
    if (GuestTask* task = next_computing(); task != nullptr) {
      run(*task, From::kComputing);
    }
  }
  hand_out_outbound();
  take_woken(now_);
  if (now_ >= next_sweep_) {
    guests_.drop_idle(now_);
    next_sweep_ = now_ + kSweep;
  }
  return !woken_.empty() || may_start() || computing() != 0;
}

base::Time Scheduler::next_deadline() { return guests_.next_timer(); }

}  // namespace mik::runtime
