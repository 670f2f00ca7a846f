#include "runtime/memory_share.hpp"

#include <algorithm>

namespace mik::runtime {

namespace {

constexpr base::Duration kLook = std::chrono::milliseconds(1);

}  // namespace

MemoryShare::MemoryShare(shared::Segment& segment, std::size_t slot, engine::Guests& guests,
                         std::uint64_t budget_bytes) noexcept
    : segment_(segment),
      slot_(slot),
      guests_(guests),
      budget_bytes_(budget_bytes - budget_bytes / 8) {}

void MemoryShare::before_turn(base::Time now) noexcept {
  if (budget_bytes_ == 0 || now < next_look_) {
    return;
  }
  next_look_ = now + kLook;
  std::uint64_t others = segment_.header().compile_bytes.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < segment_.slots(); ++i) {
    if (i != slot_) {
      others += segment_.row(i).gauges.memory_bytes.load(std::memory_order_relaxed);
    }
  }
  guests_.set_memory_room(budget_bytes_ - std::min(budget_bytes_, others));
}

void MemoryShare::after_turn() noexcept {
  const std::uint64_t held = guests_.memory_bytes();
  if (held != told_) {
    told_ = held;
    segment_.row(slot_).gauges.memory_bytes.store(held, std::memory_order_relaxed);
  }
}

}  // namespace mik::runtime
