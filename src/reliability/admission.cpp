#include "reliability/admission.hpp"

#include <algorithm>
#include <chrono>

namespace mik::reliability {

namespace {

// Counts one more in the own cell and keeps it if the sum over all slots is within the limit. Of
// any set of permits held at one moment, the one that was counted last has seen all the others: had
// there been more than the limit it would have stepped back. Needs the single total order of
// sequential consistency.
template <class CellOf>
bool take(CellOf&& cell_of, std::size_t slot, std::size_t slots, std::uint64_t limit) noexcept {
  shared::Cell& own = cell_of(slot);
  own.fetch_add(1);
  if (limit == 0) {
    return true;
  }
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < slots; ++i) {
    sum += cell_of(i).load();
  }
  if (sum > limit) {
    own.fetch_sub(1);
    return false;
  }
  return true;
}

}  // namespace

RefusedBy Admission::memory_refusal(const Target& target) const noexcept {
  const std::size_t slots = segment_.slots();
  if (target.tenant_memory_max != 0 && target.tenant_row != shared::kNoRow) {
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < slots; ++i) {
      bytes += segment_.modules()
                   .tenant_cells(target.tenant_row, i)
                   .memory_bytes.load(std::memory_order_relaxed);
    }
    if (bytes >= target.tenant_memory_max) {
      return RefusedBy::kTenantMemory;
    }
  }
  if (limits_.memory_max != 0) {
    std::uint64_t bytes = segment_.header().compile_bytes.load(std::memory_order_relaxed);
    for (std::size_t i = 0; i < slots; ++i) {
      bytes += segment_.row(i).gauges.memory_bytes.load(std::memory_order_relaxed);
    }
    if (bytes >= limits_.memory_max) {
      return RefusedBy::kMemory;
    }
  }
  return RefusedBy::kNone;
}

RefusedBy Admission::try_acquire(const Target& target, Permit& permit) noexcept {
  if (const RefusedBy by = memory_refusal(target); by != RefusedBy::kNone) {
    return by;
  }
  const std::size_t slots = segment_.slots();
  shared::ModuleTable& modules = segment_.modules();
  const auto module_gauge = [&](std::size_t slot) -> shared::Cell& {
    return modules.cells(target.row, slot).active;
  };
  const auto tenant_gauge = [&](std::size_t slot) -> shared::Cell& {
    return modules.tenant_cells(target.tenant_row, slot).active;
  };
  const auto global_gauge = [&](std::size_t slot) -> shared::Cell& {
    return segment_.row(slot).gauges.active_requests;
  };

  Permit::Gauges held{};
  if (!take(module_gauge, slot_, slots, target.module_max)) {
    return RefusedBy::kModule;
  }
  held[1] = &module_gauge(slot_);
  if (target.tenant_row != shared::kNoRow) {
    if (!take(tenant_gauge, slot_, slots, target.tenant_max)) {
      held[1]->fetch_sub(1);
      return RefusedBy::kTenant;
    }
    held[2] = &tenant_gauge(slot_);
  }
  const bool worker_full = worker_max_ != 0 && active() >= worker_max_;
  if (worker_full || !take(global_gauge, slot_, slots, limits_.global_max)) {
    held[1]->fetch_sub(1);
    if (held[2] != nullptr) {
      held[2]->fetch_sub(1);
    }
    return RefusedBy::kGlobal;
  }
  held[0] = &global_gauge(slot_);
  permit = Permit(held);
  return RefusedBy::kNone;
}

std::uint64_t Admission::active() const noexcept {
  return segment_.row(slot_).gauges.active_requests.load(std::memory_order_relaxed);
}

void ServiceTime::record(base::Duration took) noexcept {
  mean_ = any_ ? mean_ + (took - mean_) / 8 : took;
  any_ = true;
}

std::uint32_t retry_after_secs(const ServiceTime& service, std::uint64_t ahead,
                               std::uint64_t limit) noexcept {
  constexpr double kMost = 30;
  const double mean = std::chrono::duration<double>(service.mean()).count();
  const double wait = mean * (static_cast<double>(ahead) + 1) /
                      static_cast<double>(std::max<std::uint64_t>(limit, 1));
  return retry_after_secs(std::chrono::duration_cast<base::Duration>(
      std::chrono::duration<double>(std::min(wait, kMost))));
}

std::uint32_t retry_after_secs(base::Duration left) noexcept {
  const auto secs = std::chrono::ceil<std::chrono::seconds>(left).count();
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(secs, 1, UINT32_MAX));
}

}  // namespace mik::reliability
