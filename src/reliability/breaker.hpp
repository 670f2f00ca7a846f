// The circuit breaker of one module: a state machine in one 64-bit cell of the shared segment, one
// compare-and-swap a transition, so all workers have one state and none that dies leaves it locked.
// Thread-safe and process-safe; no I/O, no clock of its own.
//
//   closed:    requests pass. `failures` failures in a row open it.
//   open:      requests are refused for `open`.
//   half-open: up to `probes` requests pass. The first failure opens it again; it closes when all
//              that were let through have succeeded, one at least. Probes that were given back
//              (their client left) do not count. Probes that are silent for `probe_timeout` (their
//              worker died) are forgotten, and others are let through in their place.
//
// The state has an epoch, which moves with every transition; so does shared::reset_breaker. What a
// request of another epoch reports changes nothing.
#pragma once

#include <cstdint>
#include <utility>

#include "base/time.hpp"
#include "shared/layout.hpp"

namespace mik::reliability {

enum class BreakerState : std::uint8_t { kClosed = 0, kOpen = 1, kHalfOpen = 2 };

struct BreakerLimits {
  std::uint32_t failures = 5;  // up to 65,535; 0: never opens
  std::uint32_t probes = 3;    // 1 to 255
  base::Duration open = std::chrono::seconds(30);
  // Longer than any request takes: later its result is not waited for.
  base::Duration probe_timeout = std::chrono::seconds(60);
};

// That a request was let through, and what became of it. Resolves once: by success(), failure() or
// ignored(); destroyed unresolved it is ignored, so that a probe always resolves while its worker
// lives. The cell must outlive it.
class BreakerTicket {
 public:
  BreakerTicket() = default;
  BreakerTicket(BreakerTicket&& other) noexcept
      : cell_(std::exchange(other.cell_, nullptr)), epoch_(other.epoch_), probe_(other.probe_) {}
  BreakerTicket& operator=(BreakerTicket&& other) noexcept {
    if (this != &other) {
      ignored();
      cell_ = std::exchange(other.cell_, nullptr);
      epoch_ = other.epoch_;
      probe_ = other.probe_;
    }
    return *this;
  }
  BreakerTicket(const BreakerTicket&) = delete;
  BreakerTicket& operator=(const BreakerTicket&) = delete;
  ~BreakerTicket() { ignored(); }

  // False: refused, or resolved already.
  bool open() const noexcept { return cell_ != nullptr; }
  bool probe() const noexcept { return probe_; }
  // Tickets of one half-open round share it.
  std::uint16_t epoch() const noexcept { return epoch_; }

  void success() noexcept;
  void failure(base::Time now, const BreakerLimits& limits) noexcept;
  // The module was not to blame and is not proven well: the client left, 413, 429, a shutdown.
  void ignored() noexcept;

 private:
  friend struct BreakerAnswer ask_breaker(shared::Cell& cell, base::Time now,
                                          const BreakerLimits& limits) noexcept;
  BreakerTicket(shared::Cell& cell, std::uint64_t epoch, bool probe) noexcept
      : cell_(&cell), epoch_(static_cast<std::uint16_t>(epoch)), probe_(probe) {}

  shared::Cell* cell_ = nullptr;
  std::uint16_t epoch_ = 0;
  bool probe_ = false;
};

struct BreakerAnswer {
  BreakerTicket ticket;           // not open(): refused
  base::Duration retry_after{0};  // of a refusal: until it may be otherwise
};

// Whether a request may pass. One load while the breaker is closed.
BreakerAnswer ask_breaker(shared::Cell& cell, base::Time now, const BreakerLimits& limits) noexcept;

// For metrics. An open breaker whose time is over is half-open: the next request is a probe.
BreakerState breaker_state(const shared::Cell& cell, base::Time now) noexcept;

}  // namespace mik::reliability
