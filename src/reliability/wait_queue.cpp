#include "reliability/wait_queue.hpp"

#include <algorithm>
#include <utility>

namespace mik::reliability {

namespace detail {

// The waiters of one tenant; platform modules are a tenant, too.
struct WaitGroup {
  explicit WaitGroup(std::uint32_t row) : tenant_row(row) {}
  std::uint32_t tenant_row;
  Link waiters;
  std::size_t size = 0;
  RefusedBy full = RefusedBy::kNone;  // a limit of the tenant that the last turn ran into
};

}  // namespace detail

void Waiter::leave() noexcept {
  if (queue_ != nullptr) {
    queue_->remove(*this);
  }
  permit_.release();
}

WaitQueue::WaitQueue(Admission& admission, std::size_t capacity)
    : admission_(admission), capacity_(capacity) {}

WaitQueue::~WaitQueue() {
  for (const auto& group : groups_) {
    while (!group->waiters.alone()) {
      auto& waiter = static_cast<Waiter&>(*group->waiters.next);
      waiter.unlink();
      waiter.queue_ = nullptr;
      waiter.group_ = nullptr;
    }
  }
}

WaitQueue::Group* WaitQueue::group_of(std::uint32_t tenant_row) const noexcept {
  for (const auto& group : groups_) {
    if (group->tenant_row == tenant_row) {
      return group.get();
    }
  }
  return nullptr;
}

std::size_t WaitQueue::waiting_for(const Target& target) const noexcept {
  std::size_t count = 0;
  for (const Waiter* at = first_for(target, nullptr); at != nullptr; at = first_for(target, at)) {
    ++count;
  }
  return count;
}

// The first waiter for the target's module behind `after`, or of all.
const Waiter* WaitQueue::first_for(const Target& target, const Waiter* after) const noexcept {
  const Group* group = group_of(target.tenant_row);
  if (group == nullptr) {
    return nullptr;
  }
  const detail::Link* at = after == nullptr ? group->waiters.next : after->next;
  for (; at != &group->waiters; at = at->next) {
    if (const auto& waiter = static_cast<const Waiter&>(*at); waiter.target_.row == target.row) {
      return &waiter;
    }
  }
  return nullptr;
}

// Whether others wait for the same; `by`: what they wait for.
bool WaitQueue::must_wait(const Target& target, RefusedBy& by) const noexcept {
  if (size_ == 0) {
    return false;
  }
  by = overload_;
  const Group* group = group_of(target.tenant_row);
  if (by == RefusedBy::kNone && group != nullptr && group->size > 0) {
    by = group->full;
  }
  if (by == RefusedBy::kNone) {
    const Waiter* before = first_for(target, nullptr);
    by = before == nullptr ? RefusedBy::kNone : before->by_;
  }
  return by != RefusedBy::kNone;
}

// Whether it would wait in vain, as far as can be told.
bool WaitQueue::hopeless(const Target& target, const Patience& patience, base::Time now,
                         RefusedBy by) const noexcept {
  std::uint64_t ahead = size_;
  std::uint64_t limit = admission_.limits().global_max;
  if (by == RefusedBy::kModule) {
    ahead = waiting_for(target);
    limit = target.module_max;
  } else if (by == RefusedBy::kTenant) {
    const Group* group = group_of(target.tenant_row);
    ahead = group == nullptr ? 0 : group->size;
    limit = target.tenant_max;
  }
  const double wait = static_cast<double>(patience.service.count()) *
                      static_cast<double>(ahead + 1) /
                      static_cast<double>(std::max<std::uint64_t>(limit, 1));
  if (wait > static_cast<double>(patience.queue.count())) {
    return true;
  }
  const base::Time begins = now + base::Duration(static_cast<base::Duration::rep>(wait));
  return base::saturating_add(begins, patience.answer) > patience.deadline;
}

bool WaitQueue::make_room(std::uint32_t tenant_row) {
  if (size_ < capacity_) {
    return true;
  }
  const auto largest =
      std::max_element(groups_.begin(), groups_.end(),
                       [](const auto& a, const auto& b) { return a->size < b->size; });
  const Group* own = group_of(tenant_row);
  if (largest == groups_.end() || (*largest)->size <= (own == nullptr ? 0 : own->size) + 1) {
    return false;
  }
  auto& last = static_cast<Waiter&>(*(*largest)->waiters.prev);
  settle(last, last.by_);
  return true;
}

WaitQueue::Answer WaitQueue::enter(Waiter& waiter, const Target& target, const Patience& patience,
                                   base::Time now, Permit& permit) {
  RefusedBy by = RefusedBy::kNone;
  if (!must_wait(target, by)) {
    by = admission_.try_acquire(target, permit);
    if (by == RefusedBy::kNone) {
      return {Entered::kAdmitted, by};
    }
  }
  if (patience.queue <= base::Duration::zero() || hopeless(target, patience, now, by) ||
      !make_room(target.tenant_row)) {
    return {Entered::kRefused, by};
  }
  Group* group = group_of(target.tenant_row);
  if (group == nullptr) {
    groups_.push_back(std::make_unique<Group>(target.tenant_row));
    group = groups_.back().get();
  }
  waiter.queue_ = this;
  waiter.group_ = group;
  waiter.target_ = target;
  waiter.by_ = by;
  waiter.until_ = base::saturating_add(now, patience.queue);
  if (patience.deadline != base::kNever) {
    waiter.until_ = std::min(waiter.until_, patience.deadline - patience.answer);
  }
  waiter.insert_before(group->waiters);
  ++group->size;
  ++size_;
  tell();  // whom it took the place of
  return {Entered::kWaiting, by};
}

// Out of its group, into the list of those to be told.
void WaitQueue::settle(Waiter& waiter, RefusedBy by) noexcept {
  waiter.unlink();
  leave_group(waiter);
  waiter.by_ = by;
  waiter.insert_before(settled_);
}

void WaitQueue::remove(Waiter& waiter) noexcept {
  waiter.unlink();
  if (waiter.group_ != nullptr) {
    leave_group(waiter);
  }
  waiter.queue_ = nullptr;
}

void WaitQueue::leave_group(Waiter& waiter) noexcept {
  Group& group = *std::exchange(waiter.group_, nullptr);
  // What the last turn ran into concerns those who waited then.
  if (--group.size == 0) {
    group.full = RefusedBy::kNone;
  }
  if (--size_ == 0) {
    overload_ = RefusedBy::kNone;
  }
}

void WaitQueue::turn(base::Time now) {
  if (size_ == 0) {
    return;
  }
  expire(now);
  admit();
  std::erase_if(groups_, [](const auto& group) { return group->size == 0; });
  tell();
}

void WaitQueue::expire(base::Time now) noexcept {
  for (const auto& group : groups_) {
    for (detail::Link* at = group->waiters.next; at != &group->waiters;) {
      auto& waiter = static_cast<Waiter&>(*at);
      at = at->next;
      if (waiter.until_ <= now) {
        settle(waiter, waiter.by_);
      }
    }
  }
}

// The tenants in turn, one request each, until a round admits nobody.
void WaitQueue::admit() noexcept {
  ++pass_;
  overload_ = RefusedBy::kNone;
  for (const auto& group : groups_) {
    group->full = RefusedBy::kNone;
  }
  for (bool any = true; any && overload_ == RefusedBy::kNone;) {
    any = false;
    for (std::size_t i = 0; i < groups_.size() && overload_ == RefusedBy::kNone; ++i) {
      if (admit_one_of(*groups_[i])) {
        any = true;
        continue;
      }
      if (overload_ != RefusedBy::kNone) {
        // The next turn begins with the tenant that would have been next in this one.
        std::rotate(groups_.begin(), groups_.begin() + static_cast<std::ptrdiff_t>(i),
                    groups_.end());
      }
    }
  }
}

// The first whom a limit of its module does not keep out.
bool WaitQueue::admit_one_of(Group& group) noexcept {
  if (group.full != RefusedBy::kNone) {
    return false;
  }
  for (detail::Link* at = group.waiters.next; at != &group.waiters; at = at->next) {
    auto& waiter = static_cast<Waiter&>(*at);
    const std::uint32_t row = waiter.target_.row;
    if (row < full_in_pass_.size() && full_in_pass_[row] == pass_) {
      continue;
    }
    waiter.by_ = admission_.try_acquire(waiter.target_, waiter.permit_);
    switch (waiter.by_) {
      case RefusedBy::kNone:
        settle(waiter, RefusedBy::kNone);
        return true;
      case RefusedBy::kModule:
        full_in_pass_.resize(std::max<std::size_t>(full_in_pass_.size(), row + 1));
        full_in_pass_[row] = pass_;
        break;
      case RefusedBy::kTenant:
      case RefusedBy::kTenantMemory:
        group.full = waiter.by_;
        return false;
      case RefusedBy::kGlobal:
      case RefusedBy::kMemory:
        overload_ = waiter.by_;
        return false;
    }
  }
  return false;
}

void WaitQueue::tell() {
  if (telling_) {
    return;  // the outer call goes on with those that were added
  }
  telling_ = true;
  while (!settled_.alone()) {
    auto& waiter = static_cast<Waiter&>(*settled_.next);
    remove(waiter);
    if (waiter.by_ == RefusedBy::kNone) {
      waiter.on_admitted(std::move(waiter.permit_));
    } else {
      waiter.on_refused(waiter.by_);
    }
  }
  telling_ = false;
}

}  // namespace mik::reliability
