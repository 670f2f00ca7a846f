// Requests of one worker that wait a short time for a permit: in order within a tenant, the tenants
// in turn, each within its time. Permits that other workers give back are noticed by asking again:
// call turn() every millisecond while anybody waits, and after a permit was given back here.
// Confined to the loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/time.hpp"
#include "reliability/admission.hpp"

namespace mik::reliability {

inline constexpr base::Duration kWaitQueuePoll = std::chrono::milliseconds(1);

namespace detail {

// A doubly linked ring; an element knows its neighbours, so it can leave by itself.
struct Link {
  Link() = default;
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;
  ~Link() { unlink(); }
  bool alone() const noexcept { return next == this; }
  void unlink() noexcept {
    prev->next = next;
    next->prev = prev;
    prev = next = this;
  }
  void insert_before(Link& other) noexcept {
    prev = other.prev;
    next = &other;
    prev->next = this;
    other.prev = this;
  }
  Link* prev = this;
  Link* next = this;
};

struct WaitGroup;

}  // namespace detail

class WaitQueue;

// Who waits. Told once, from inside turn() or enter(); it may destroy itself or other waiters then,
// and enter() others. Leaves the queue when it is destroyed.
class Waiter : private detail::Link {
 public:
  virtual ~Waiter() { leave(); }
  virtual void on_admitted(Permit permit) = 0;
  virtual void on_refused(RefusedBy by) = 0;
  bool waiting() const noexcept { return queue_ != nullptr; }
  // Nobody is told any more.
  void leave() noexcept;

 protected:
  Waiter() = default;

 private:
  friend class WaitQueue;
  WaitQueue* queue_ = nullptr;
  detail::WaitGroup* group_ = nullptr;  // null: settled, to be told
  Target target_;
  base::Time until_;
  RefusedBy by_ = RefusedBy::kNone;  // what keeps it out; once settled: what it is told
  Permit permit_;
};

class WaitQueue {
 public:
  // `capacity` waiters at most; where it is full, the tenant that has most waiting gives up its
  // last one for a tenant that has fewer.
  WaitQueue(Admission& admission, std::size_t capacity);
  ~WaitQueue();
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;

  // What a request may wait for.
  struct Patience {
    base::Duration queue{0};  // how long; 0: not at all
    base::Time deadline = base::kNever;
    base::Duration service{0};  // how long a place is held: ServiceTime::mean
    base::Duration answer{0};   // how long until its response begins, once it has a place
  };
  enum class Entered : std::uint8_t { kAdmitted, kWaiting, kRefused };
  struct Answer {
    Entered entered = Entered::kRefused;
    RefusedBy by = RefusedBy::kNone;  // of kRefused
  };
  // Admitted at once (`permit`), or `waiter` will be told, or refused at once: nothing to wait
  // with, no room, or it could not be served before its deadline. Nobody overtakes those who wait
  // for the same.
  Answer enter(Waiter& waiter, const Target& target, const Patience& patience, base::Time now,
               Permit& permit);

  // Admits whom it can, refuses whose time is over, tells them.
  void turn(base::Time now);

  bool empty() const noexcept { return size_ == 0; }
  std::size_t size() const noexcept { return size_; }
  // Of a module: how many wait here.
  std::size_t waiting_for(const Target& target) const noexcept;

 private:
  friend class Waiter;
  using Group = detail::WaitGroup;
  Group* group_of(std::uint32_t tenant_row) const noexcept;
  const Waiter* first_for(const Target& target, const Waiter* after) const noexcept;
  bool must_wait(const Target& target, RefusedBy& by) const noexcept;
  bool hopeless(const Target& target, const Patience& patience, base::Time now,
                RefusedBy by) const noexcept;
  bool make_room(std::uint32_t tenant_row);
  void settle(Waiter& waiter, RefusedBy by) noexcept;
  void leave_group(Waiter& waiter) noexcept;
  void remove(Waiter& waiter) noexcept;
  void expire(base::Time now) noexcept;
  void admit() noexcept;
  bool admit_one_of(Group& group) noexcept;
  void tell();

  Admission& admission_;
  const std::size_t capacity_;
  std::size_t size_ = 0;
  std::vector<std::unique_ptr<Group>> groups_;  // in the order of their turns
  detail::Link settled_;
  RefusedBy overload_ = RefusedBy::kNone;  // the limit of all that the last turn ran into
  std::uint64_t pass_ = 0;
  std::vector<std::uint64_t> full_in_pass_;  // by row: the pass that found the module full
  bool telling_ = false;
};

}  // namespace mik::reliability
