// What the guests of this worker hold of the memory budget (config.md, memory_budget_mb): told to
// the others through the segment, and bounded by what they leave. Confined to the loop thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/time.hpp"
#include "engine/engine.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {

// Tells the others what this worker's guests hold now.
void tell_memory(shared::Segment& segment, std::size_t slot, const engine::Guests& guests) noexcept;

class MemoryShare {
 public:
  // `budget_bytes`: of all workers and compile children; 0: no bound. An eighth of it is what
  // instances that have ended leave in the pools (compile_child.cpp), the rest is for those that
  // live.
  MemoryShare(shared::Segment& segment, std::size_t slot, engine::Guests& guests,
              std::uint64_t budget_bytes) noexcept;

  // Before guests run: looks at the others, at most once a millisecond unless they have most of it.
  // After: tells them. What a failed guest gave back is told before its answer, too
  // (GuestExchange).
  void before_turn(base::Time now) noexcept;
  void after_turn() noexcept;

 private:
  shared::Segment& segment_;
  const std::size_t slot_;
  engine::Guests& guests_;
  const std::uint64_t budget_bytes_;
  std::uint64_t room_bytes_ = 0;  // when it was last looked at
  base::Time next_look_;
};

}  // namespace mik::runtime
