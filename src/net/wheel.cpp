#include "net/wheel.hpp"

#include <algorithm>
#include <bit>

namespace mik::net {

void Timer::unlink() noexcept {
  if (link_ == nullptr) {
    return;
  }
  *link_ = next_;
  if (next_ != nullptr) {
    next_->link_ = link_;
  }
  next_ = nullptr;
  link_ = nullptr;
}

Wheel::Wheel(base::Time now) : now_tick_(tick_of(now)), slots_(kSlots, nullptr) {}

Wheel::~Wheel() {
  for (Timer*& slot : slots_) {
    while (slot != nullptr) {
      slot->unlink();
    }
  }
}

std::uint64_t Wheel::tick_of(base::Time time) noexcept {
  return base::to_ns(time) / static_cast<std::uint64_t>(kResolution.count());
}

void Wheel::link(Timer& timer, std::uint64_t tick) noexcept {
  timer.tick_ = tick;
  const std::size_t index = tick % kSlots;
  Timer*& slot = slots_[index];
  timer.next_ = slot;
  timer.link_ = &slot;
  if (slot != nullptr) {
    slot->link_ = &timer.next_;
  }
  slot = &timer;
  occupied_[index / 64] |= std::uint64_t{1} << (index % 64);
}

void Wheel::arm(Timer& timer, base::Time deadline) noexcept {
  timer.deadline_ = deadline;
  if (deadline == base::kNever) {
    return;
  }
  // Rounded up, and never into a slot that has already been passed; beyond the horizon it goes
  // round again.
  const std::uint64_t tick =
      std::clamp(tick_of(deadline) + 1, now_tick_ + 1, now_tick_ + kSlots - 1);
  if (timer.link_ != nullptr) {
    if (timer.tick_ <= tick) {
      return;  // found early, it is linked again then
    }
    timer.unlink();
  }
  link(timer, tick);
}

void Wheel::advance(base::Time now) {
  const std::uint64_t target = tick_of(now);
  if (target <= now_tick_) {
    return;
  }
  // After a long pause one round visits every slot.
  now_tick_ = std::max(now_tick_, target > kSlots ? target - kSlots : 0);
  while (now_tick_ < target) {
    ++now_tick_;
    const std::size_t index = now_tick_ % kSlots;
    occupied_[index / 64] &= ~(std::uint64_t{1} << (index % 64));
    // The chain is taken off first: callbacks may link into this very slot.
    Timer* due = slots_[index];
    slots_[index] = nullptr;
    if (due != nullptr) {
      due->link_ = &due;
    }
    while (due != nullptr) {
      Timer& timer = *due;
      timer.unlink();
      if (timer.deadline_ == base::kNever) {
        continue;
      }
      if (timer.deadline_ > now) {
        arm(timer, timer.deadline_);
        continue;
      }
      timer.deadline_ = base::kNever;
      timer.callback_(timer.context_);
    }
  }
}

base::Time Wheel::next_deadline() const noexcept {
  for (std::uint64_t distance = 1; distance <= kSlots;) {
    const std::size_t index = (now_tick_ + distance) % kSlots;
    const std::uint64_t word = occupied_[index / 64] >> (index % 64);
    if (word == 0) {
      distance += 64 - (index % 64);
      continue;
    }
    const auto skip = static_cast<std::uint64_t>(std::countr_zero(word));
    const std::size_t found = index + skip;
    if (slots_[found] != nullptr) {
      return base::from_ns((now_tick_ + distance + skip) *
                           static_cast<std::uint64_t>(kResolution.count()));
    }
    occupied_[found / 64] &= ~(std::uint64_t{1} << (found % 64));
  }
  return base::kNever;
}

}  // namespace mik::net
