// The shared-memory segment of a family: counters, gauges, permits and states, without a lock
// (layout.hpp says what lies where). Thread-safe and process-safe; each function says who may call
// it.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "shared/layout.hpp"
#include "shared/modules.hpp"

namespace mik::shared {

// A worker that has not turned its loop for this long is given no connections.
inline constexpr base::Duration kHeartbeatMax = std::chrono::milliseconds(100);

// The place of a latency in Counters::latency.
std::size_t latency_bucket(base::Duration latency) noexcept;

// Sums over all slots, dead workers included.
struct Totals {
  std::uint64_t requests = 0;
  std::uint64_t guest_requests = 0;
  std::uint64_t client_gone = 0;
  std::uint64_t bytes_in = 0;
  std::uint64_t bytes_out = 0;
  std::uint64_t accepted = 0;
  std::uint64_t handed_out = 0;
  std::uint64_t handed_in = 0;
  std::uint64_t refused = 0;
  std::uint64_t accept_errors = 0;
  std::uint64_t tls_failures = 0;
  std::array<std::uint64_t, kStatusClasses> status{};
  std::array<std::uint64_t, kGuestFailures> failures{};
  std::array<std::uint64_t, kLatencyBuckets> latency{};
  std::uint64_t latency_sum_us = 0;
  std::uint64_t log_lines_dropped = 0;

  std::uint64_t connections = 0;
  std::uint64_t active_requests = 0;

  std::uint64_t workers = 0;        // how many there should be
  std::uint64_t workers_ready = 0;  // how many there are
  std::uint64_t restarts = 0;
  std::uint64_t config_reload_ok = 0;  // 0 or 1: SegmentHeader
  std::uint64_t config_reload_unix_s = 0;
  std::uint64_t config_reloads_failed = 0;
};

// A request that stands for a bucket of the latency histogram.
struct Exemplar {
  std::uint64_t trace_high = 0;
  std::uint64_t trace_low = 0;
  std::uint64_t value_us = 0;
  std::uint64_t unix_ms = 0;
};

// Permission to serve one request under the global limit. Gives itself back when destroyed; what a
// dead worker held comes back when the supervisor buries it.
class RequestPermit {
 public:
  RequestPermit() = default;
  RequestPermit(RequestPermit&& other) noexcept : gauge_(std::exchange(other.gauge_, nullptr)) {}
  RequestPermit& operator=(RequestPermit&& other) noexcept {
    if (this != &other) {
      release();
      gauge_ = std::exchange(other.gauge_, nullptr);
    }
    return *this;
  }
  RequestPermit(const RequestPermit&) = delete;
  RequestPermit& operator=(const RequestPermit&) = delete;
  ~RequestPermit() { release(); }

  bool held() const noexcept { return gauge_ != nullptr; }
  void release() noexcept {
    if (gauge_ != nullptr) {
      gauge_->fetch_sub(1);
      gauge_ = nullptr;
    }
  }

 private:
  friend class Segment;
  explicit RequestPermit(Cell& gauge) noexcept : gauge_(&gauge) {}
  Cell* gauge_ = nullptr;
};

// Who has the fewest connections.
struct Load {
  std::size_t slot = 0;
  std::uint64_t connections = 0;
};

// A mapping of the segment. The supervisor creates it, workers attach the descriptor that they were
// given.
class Segment {
 public:
  // A new segment with `slots` rows (1 to kSlotsMax) and a table of so many modules and tenants (at
  // most kModulesLimit), its size sealed. Errors: kSystem.
  static base::Result<Segment> create(std::size_t slots, std::size_t modules_max = 1,
                                      std::size_t tenants_max = 1);
  // Maps a segment that create() made in a process of the same build. The descriptor may be closed
  // afterwards. Errors: kSystem; kBadMessage when it is something else.
  static base::Result<Segment> attach(int fd);

  Segment(Segment&& other) noexcept
      : fd_(std::move(other.fd_)),
        header_(std::exchange(other.header_, nullptr)),
        rows_(std::exchange(other.rows_, nullptr)),
        modules_(std::move(other.modules_)) {}
  Segment& operator=(Segment&&) = delete;
  ~Segment();

  // Of the memfd; -1 in a process that attached.
  int fd() const noexcept { return fd_.get(); }
  std::size_t slots() const noexcept { return header_->slots; }
  SegmentHeader& header() noexcept { return *header_; }
  const SegmentHeader& header() const noexcept { return *header_; }
  ModuleTable& modules() noexcept { return modules_; }
  const ModuleTable& modules() const noexcept { return modules_; }
  WorkerCells& row(std::size_t slot) noexcept;
  const WorkerCells& row(std::size_t slot) const noexcept;

  // Supervisor: a process is about to be started in the slot; its predecessor is buried. Then:
  // which process it is.
  void begin(std::size_t slot, std::uint64_t generation) noexcept;
  void set_pid(std::size_t slot, pid_t pid) noexcept;
  // Supervisor: the process of the slot is dead (waited for). Zeroes its gauges, which gives back
  // what it held; keeps its counters, on which its successor counts.
  void bury(std::size_t slot) noexcept;

  WorkerState state(std::size_t slot) const noexcept;
  // The slot's worker.
  void set_state(std::size_t slot, WorkerState state) noexcept;
  void beat(std::size_t slot, base::Time now) noexcept;
  // The slot's worker, whenever the number of its open connections changed.
  void set_connections(std::size_t slot, std::uint64_t open) noexcept;
  // The slot's worker; the error is cut to kTextBytes. kReady and kCompiling take no error.
  void set_module(std::size_t slot, ModuleState state, std::string_view error = {}) noexcept;
  ModuleState module_state(std::size_t slot) const noexcept;
  // Empty when there is none or it is being written.
  std::string module_error(std::size_t slot) const;

  // The slot's worker: one answer that went out (status 100 to 599), and how long it took from the
  // request's head.
  void count_response(std::size_t slot, int status, base::Duration latency) noexcept;
  void count_failure(std::size_t slot, GuestFailure failure) noexcept;
  // The same: a request that took so long, and its trace id as two numbers. Kept at most once a
  // second for each bucket.
  void keep_exemplar(std::size_t slot, base::Duration latency, std::uint64_t trace_high,
                     std::uint64_t trace_low) noexcept;
  // Nothing when there is none or it is being written.
  std::optional<Exemplar> exemplar(std::size_t slot, std::size_t bucket) const noexcept;

  // The place of a pattern in WorkerMetrics::outbound, for all workers; the last place when it is
  // too long or there are too many.
  std::size_t outbound_pattern(std::string_view pattern) noexcept;
  // Nothing when nobody has asked for the place.
  std::optional<std::string> outbound_pattern_at(std::size_t place) const;

  // A permit of the global limit for the slot's worker; nothing when `limit` are held. The limit is
  // never exceeded. Two workers that ask for the last permit at the same instant may both be
  // refused.
  std::optional<RequestPermit> try_acquire(std::size_t slot, std::uint64_t limit) noexcept;

  // Ready, and its heart beat within kHeartbeatMax.
  bool live(std::size_t slot, base::Time now) const noexcept;

  // The live worker, not `self`, with the fewest connections, if it has fewer than `below`.
  // `extra(slot)` is added to a slot's count: connections on their way to it, which it has not
  // counted yet. Asked only where it can matter.
  template <class Extra>
  std::optional<Load> lightest(std::size_t self, std::uint64_t below, base::Time now,
                               Extra&& extra) const {
    std::optional<Load> best;
    for (std::size_t slot = 0; slot < slots(); ++slot) {
      std::uint64_t count = row(slot).gauges.connections.load(std::memory_order_relaxed);
      if (slot == self || count >= below || !live(slot, now)) {
        continue;
      }
      count += extra(slot);
      if (count < below) {
        best = Load{slot, count};
        below = count;
      }
    }
    return best;
  }
  std::optional<Load> lightest(std::size_t self, std::uint64_t below, base::Time now) const {
    return lightest(self, below, now, [](std::size_t) { return std::uint64_t{0}; });
  }

  // Supervisor: readiness goes, for good.
  void set_draining() noexcept { header_->draining.store(1); }
  bool draining() const noexcept { return header_->draining.load() != 0; }

  // Anybody. Counters of two calls never go backwards.
  Totals totals() const noexcept;
  std::uint64_t connections() const noexcept;

 private:
  Segment(base::Fd fd, void* memory) noexcept;

  base::Fd fd_;
  SegmentHeader* header_;
  WorkerCells* rows_;
  ModuleTable modules_;
};

// For cells that have one writer: no other worker is kept off the cache line for it.
inline void bump(Cell& cell, std::uint64_t n = 1) noexcept {
  cell.store(cell.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
}

// One value more. `bounds` are upper ones, inclusive, in microseconds. The cells have one writer.
template <std::size_t N>
void observe(HistogramCells& cells, const std::array<std::uint64_t, N>& bounds,
             base::Duration value) noexcept {
  static_assert(N + 1 == kLatencyBuckets);
  const std::int64_t ns = std::max<std::int64_t>(0, value.count());
  const auto us = static_cast<std::uint64_t>((ns + 999) / 1000);
  bump(cells.buckets[static_cast<std::size_t>(std::ranges::lower_bound(bounds, us) -
                                              bounds.begin())]);
  bump(cells.sum_ns, static_cast<std::uint64_t>(ns));
}

// The same for one module's requests.
void observe_request(ModuleCells& cells, base::Duration took) noexcept;

// One more, or n more. For counters, where only the number counts.
inline void count(Cell& cell, std::uint64_t n = 1) noexcept {
  cell.fetch_add(n, std::memory_order_relaxed);
}

}  // namespace mik::shared
