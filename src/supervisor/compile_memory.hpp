// What a compile child takes of the memory budget (config.md, memory_budget_mb): told to the
// workers through the segment, so that guests and compilations share it. Confined to the
// supervisor's loop.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "shared/segment.hpp"

namespace mik::supervisor {

class CompileMemory {
 public:
  // `segment` must outlive it; null: no bound.
  explicit CompileMemory(shared::Segment* segment) noexcept : segment_(segment) {}
  ~CompileMemory() { release(); }
  CompileMemory(const CompileMemory&) = delete;
  CompileMemory& operator=(const CompileMemory&) = delete;

  // 0: no bound.
  void set_budget(std::uint64_t bytes) noexcept { budget_bytes_ = segment_ == nullptr ? 0 : bytes; }
  bool bounded() const noexcept { return budget_bytes_ != 0; }
  std::uint64_t budget_bytes() const noexcept { return budget_bytes_; }

  // Takes what a component of `wasm_bytes` is likely to need, half of the budget at most, so that
  // guests grow no further into it. False: those that live still hold it; ask again.
  bool reserve(std::uint64_t wasm_bytes) noexcept;
  // What the child has become. False: more than the budget has, beside the smallest of servers.
  bool look(pid_t pid);
  void release() noexcept { take(0); }

 private:
  void take(std::uint64_t bytes) noexcept;

  shared::Segment* segment_;
  std::uint64_t budget_bytes_ = 0;
  std::uint64_t taken_ = 0;
};

}  // namespace mik::supervisor
