// Who pays for guests' time in a worker: a module and, above it, its tenant; and the queues in
// which their guests stand. The scheduler's data: see scheduler.hpp. Confined to the loop thread.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "base/time.hpp"
#include "engine/engine.hpp"
#include "engine/pace.hpp"
#include "shared/layout.hpp"

namespace mik::runtime {

class Account;
class TaskQueue;

// A guest as the scheduler sees it. `id` is set by whoever starts it.
class GuestTask {
 public:
  virtual ~GuestTask();
  GuestTask() = default;
  GuestTask(const GuestTask&) = delete;
  GuestTask& operator=(const GuestTask&) = delete;

  // A slice is over. The task may be removed and destroyed inside, but for a task that yielded,
  // which is queued after it returns unless it was removed. Accounts must not be destroyed inside.
  virtual void on_run(engine::Events events) = 0;
  // After Scheduler::write_soon. The task may be removed and destroyed inside, no account.
  virtual void on_write() {}

 private:
  friend class Scheduler;
  friend class TaskQueue;
  engine::RequestId id_ = 0;
  Account* account_ = nullptr;  // null when it is not the scheduler's
  base::Duration computed_{};   // since it was started, as the scheduler saw it
  base::Duration quantum_{};    // since its turn among the old began
  base::Time ran_at_;           // when its last slice ended
  std::uint64_t memory_ = 0;    // counted in its account
  bool has_instance_ = false;
  bool over_ = false;    // DONE was said; bytes may still be queued
  bool writes_ = false;  // in Scheduler::writing_
  TaskQueue* queue_ = nullptr;
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

 private:
  GuestTask* head_ = nullptr;
  GuestTask* tail_ = nullptr;
  std::size_t size_ = 0;
};

// The same for accounts.
class AccountList {
 public:
  bool empty() const noexcept { return head_ == nullptr; }
  Account* front() const noexcept { return head_; }
  void push_back(Account& account) noexcept;
  void remove(Account& account) noexcept;

 private:
  Account* head_ = nullptr;
  Account* tail_ = nullptr;
};

class Account {
 public:
  static constexpr std::uint32_t kWeight = 100;  // cpu_share when nothing is said
  static constexpr std::uint32_t kWeightMax = 1000;
  static constexpr base::Duration kShort = std::chrono::microseconds(250);
  static constexpr unsigned kUnsure = 64;
  static constexpr unsigned kVain = 64;  // a neighbour's few requests are among so many
  // What an account of weight 100 may use in a round.
  static constexpr base::Duration kQuantum = std::chrono::milliseconds(1);

  // `parent`: the tenant, which has no guests of its own and outlives its modules. Without one the
  // account stands beside the tenants.
  explicit Account(std::uint32_t weight = kWeight, Account* parent = nullptr) noexcept;
  // It has no guests and, as a parent, no modules.
  ~Account();
  Account(const Account&) = delete;
  Account& operator=(const Account&) = delete;

  void set_weight(std::uint32_t weight) noexcept;
  // Where memory_bytes() is shown, too.
  void set_gauge(shared::Cell& gauge) noexcept { gauge_ = &gauge; }

  // Of its guests (a parent: of its modules'): time used since it was made, guests that live, of
  // those the ones that were started, and what their memories and tables hold now.
  base::Duration cpu() const noexcept { return cpu_; }
  std::size_t guests() const noexcept { return guests_; }
  std::size_t instances() const noexcept { return instances_; }
  std::uint64_t memory_bytes() const noexcept { return memory_bytes_; }

  // Whether its next run may be a long one: one of the last kUnsure was, or it has had fewer.
  bool may_be_long() const noexcept { return unsure_ > 0; }
  // Where guests are alike, interrupting one helps nobody and costs all of them.
  bool yields_in_vain() const noexcept { return vain_ == kVain; }
  // A run of one of its guests was over after so long.
  void note_run(base::Duration ran) noexcept {
    unsure_ = ran >= engine::Pace::kRunMin ? kUnsure : unsure_ - (unsure_ > 0 ? 1 : 0);
  }

 private:
  friend class Scheduler;
  friend class AccountList;
  enum Kind : std::uint8_t { kWoken, kFresh, kBegun, kYoung, kOld, kKinds };
  // The accounts that share something, as far as they have guests to run (scheduler.hpp, "Shares").
  struct Lists {
    AccountList sparse;
    AccountList round;
  };

  TaskQueue& queue(Kind kind) noexcept { return queues_[kind]; }
  // One of its guests was over after so long, or is not, having had a slice.
  void note_guest(base::Duration computed) noexcept {
    median_ += computed > median_ ? median_ / 8 + std::chrono::microseconds(1) : -median_ / 8;
  }
  // Half of its guests take less, about: a step up or down for each.
  base::Duration median() const noexcept { return median_; }
  // Far from long: on a core that others use, too, a guest takes a few times its own time.
  bool mostly_short() const noexcept { return median_ < kShort; }
  bool computes() const noexcept { return !queues_[kYoung].empty() || !queues_[kOld].empty(); }
  // One of its guests was interrupted before its slice was over. `vain`: nobody else got the loop.
  void note_yield(bool vain) noexcept { vain_ = vain ? std::min(vain_ + 1, kVain) : 0; }
  // Some of its guests were interrupted.
  bool has_started() const noexcept { return !queues_[kBegun].empty() || computes(); }

  Account* const parent_;
  base::Duration quantum_{};
  base::Duration cpu_{};
  base::Duration median_ = engine::Pace::kSlice;  // unknown is long
  std::size_t guests_ = 0;
  std::size_t instances_ = 0;
  std::size_t modules_ = 0;
  std::size_t young_ = 0;  // guests in kBegun and kYoung, those of modules included
  std::uint64_t memory_bytes_ = 0;
  shared::Cell* gauge_ = nullptr;

  // Its place among those it shares with.
  base::Duration deficit_{};  // what it may still use; below zero it owes
  bool visited_ = false;      // its turn in the round has begun
  bool served_ = false;       // since its last turn in the round
  AccountList* list_ = nullptr;
  Account* next_ = nullptr;
  Account* previous_ = nullptr;
  Lists below_;  // its modules

  std::array<TaskQueue, kKinds> queues_;
  base::Duration woken_for_{};  // woken guests ran, since one was started
  base::Duration passed_{};     // others ran while one that was interrupted waited
  unsigned turns_for_young_ = 0;
  bool begun_had_turn_ = false;  // the last that was passed for long enough
  // What a run of its guests may take: the longest of late, fading.
  base::Duration run_ = engine::Pace::kSlice;
  unsigned unsure_ = kUnsure;
  unsigned vain_ = 0;             // so many of its last yields were
  std::uint64_t yielded_at_ = 0;  // Scheduler::runs_ then; 0: it has gone on since
};

}  // namespace mik::runtime
