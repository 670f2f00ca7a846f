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
  // Where others have most of it, what they have given back since counts: a client that was
  // answered there may be here at once.
  const bool short_of_it = room_bytes_ < budget_bytes_ / 2;
  if (budget_bytes_ == 0 || (now < next_look_ && !short_of_it)) {
    return;
  }
  next_look_ = now + kLook;
  std::uint64_t others = segment_.header().compile_bytes.load(std::memory_order_relaxed);
  for (std::size_t i = 0; i < segment_.slots(); ++i) {
    if (i != slot_) {
      others += segment_.row(i).gauges.memory_bytes.load(std::memory_order_relaxed);
    }
  }
  room_bytes_ = budget_bytes_ - std::min(budget_bytes_, others);
  guests_.set_memory_room(room_bytes_);
}

void MemoryShare::after_turn() noexcept { tell_memory(segment_, slot_, guests_); }

void tell_memory(shared::Segment& segment, std::size_t slot,
                 const engine::Guests& guests) noexcept {
  const std::uint64_t held = guests.memory_bytes();
  shared::Cell& said = segment.row(slot).gauges.memory_bytes;
  if (held != said.load(std::memory_order_relaxed)) {  // its line is others', too
    said.store(held, std::memory_order_relaxed);
  }
}

}  // namespace mik::runtime
