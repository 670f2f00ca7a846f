#include "runtime/account.hpp"

#include <algorithm>

#include "base/assert.hpp"

namespace mik::runtime {

GuestTask::~GuestTask() { MIK_ASSERT(account_ == nullptr && queue_ == nullptr); }

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

void AccountList::push_back(Account& account) noexcept {
  MIK_ASSERT(account.list_ == nullptr);
  account.list_ = this;
  account.previous_ = tail_;
  account.next_ = nullptr;
  (tail_ == nullptr ? head_ : tail_->next_) = &account;
  tail_ = &account;
}

void AccountList::remove(Account& account) noexcept {
  MIK_ASSERT(account.list_ == this);
  (account.previous_ == nullptr ? head_ : account.previous_->next_) = account.next_;
  (account.next_ == nullptr ? tail_ : account.next_->previous_) = account.previous_;
  account.list_ = nullptr;
  account.next_ = nullptr;
  account.previous_ = nullptr;
}

Account::Account(std::uint32_t weight, Account* parent) noexcept : parent_(parent) {
  set_weight(weight);
  if (parent_ != nullptr) {
    MIK_ASSERT(parent_->parent_ == nullptr);
    ++parent_->modules_;
  }
}

Account::~Account() {
  MIK_ASSERT(guests_ == 0 && modules_ == 0);
  if (list_ != nullptr) {
    list_->remove(*this);
  }
  if (parent_ != nullptr) {
    --parent_->modules_;
  }
}

void Account::set_weight(std::uint32_t weight) noexcept {
  quantum_ = kQuantum * std::clamp(weight, 1u, kWeightMax) / kWeight;
}

}  // namespace mik::runtime
