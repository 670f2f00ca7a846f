// Permits: how many requests may be served at once, of a module, of a tenant and in all, counted
// over all workers in the shared segment. No limit is ever exceeded; what a dead worker held comes
// back when the supervisor buries it. Each Admission is confined to the loop of its worker; they
// meet in the segment only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/time.hpp"
#include "shared/segment.hpp"

namespace mik::reliability {

// Which limit keeps a request out.
enum class RefusedBy : std::uint8_t {
  kNone,          // admitted
  kModule,        // 429
  kTenant,        // 429
  kTenantMemory,  // 429
  kGlobal,        // 503
  kMemory,        // 503
};
inline constexpr bool is_overload(RefusedBy by) noexcept { return by >= RefusedBy::kGlobal; }

// Whom a request is for and what it may use. Of the limits 0 means none.
struct Target {
  std::uint32_t row = 0;  // of the ModuleTable
  std::uint32_t tenant_row = shared::kNoRow;
  std::uint32_t module_max = 0;
  std::uint32_t tenant_max = 0;
  std::uint64_t tenant_memory_max = 0;  // bytes that the tenant's living guests have
};

// Permission to serve one request. Gives all that it holds back when destroyed.
class Permit {
 public:
  Permit() = default;
  Permit(Permit&& other) noexcept : gauges_(std::exchange(other.gauges_, {})) {}
  Permit& operator=(Permit&& other) noexcept {
    if (this != &other) {
      release();
      gauges_ = std::exchange(other.gauges_, {});
    }
    return *this;
  }
  Permit(const Permit&) = delete;
  Permit& operator=(const Permit&) = delete;
  ~Permit() { release(); }

  bool held() const noexcept { return gauges_[0] != nullptr; }
  void release() noexcept {
    for (shared::Cell*& gauge : gauges_) {
      if (gauge != nullptr) {
        gauge->fetch_sub(1);
        gauge = nullptr;
      }
    }
  }

 private:
  friend class Admission;
  using Gauges = std::array<shared::Cell*, 3>;  // global, module, tenant
  explicit Permit(const Gauges& gauges) noexcept : gauges_(gauges) {}
  Gauges gauges_{};
};

class Admission {
 public:
  struct Limits {
    std::uint32_t global_max = 0;  // requests at once in all workers
    std::uint64_t memory_max = 0;  // bytes that all living guests have; 0: none
  };
  Admission(shared::Segment& segment, std::size_t slot, const Limits& limits) noexcept
      : segment_(segment), slot_(slot), limits_(limits) {}

  // All three permits or none. The narrowest limit is asked first, so that the flood of one module
  // does not touch what others need. kNone: `permit` holds them. Two workers that ask for the last
  // permit at the same instant may both be refused.
  RefusedBy try_acquire(const Target& target, Permit& permit) noexcept;

  // An adaptive limit on what this worker serves at once; 0: none.
  void set_worker_max(std::uint32_t max) noexcept { worker_max_ = max; }
  // Permits that this worker holds.
  std::uint64_t active() const noexcept;
  const Limits& limits() const noexcept { return limits_; }

 private:
  RefusedBy memory_refusal(const Target& target) const noexcept;

  shared::Segment& segment_;
  std::size_t slot_;
  Limits limits_;
  std::uint32_t worker_max_ = 0;
};

// How long requests of a module take, lately: a mean in which the last eight count most.
class ServiceTime {
 public:
  void record(base::Duration took) noexcept;
  base::Duration mean() const noexcept { return mean_; }

 private:
  base::Duration mean_{0};
  bool any_ = false;
};

// When a place should be free for one that has `ahead` others before it, of `limit` places: what
// Retry-After says. 1 to 30 seconds.
std::uint32_t retry_after_secs(const ServiceTime& service, std::uint64_t ahead,
                               std::uint64_t limit) noexcept;
// The same of a time that is known, rounded up; at least 1.
std::uint32_t retry_after_secs(base::Duration left) noexcept;

}  // namespace mik::reliability
