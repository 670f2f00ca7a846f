#include "reliability/breaker.hpp"

#include <algorithm>
#include <chrono>

#include "shared/breaker_cell.hpp"

namespace mik::reliability {

namespace {

// The word, from the top: epoch, state (2 bits), time in ms (36 bits: two years of uptime), then 16
// bits that are the failures in a row (closed), or probes let through and probes that succeeded
// (half-open, a byte each). All zero below the epoch: closed, as good as new; reset_breaker relies
// on it.
constexpr int kStateShift = 52;
constexpr int kTimeShift = 16;
constexpr std::uint64_t kTimeMask = (1ull << 36) - 1;
constexpr std::uint64_t kEpochMask = (1ull << (64 - shared::kBreakerEpochShift)) - 1;
static_assert(shared::kBreakerEpochShift == kStateShift + 2);

struct Word {
  BreakerState state = BreakerState::kClosed;
  std::uint64_t epoch = 0;
  std::uint64_t time = 0;  // open: until when; half-open: when the probes are forgotten
  std::uint32_t failures = 0;
  std::uint32_t let_through = 0;
  std::uint32_t succeeded = 0;
};

Word unpack(std::uint64_t word) noexcept {
  Word out;
  out.epoch = word >> shared::kBreakerEpochShift;
  out.state = static_cast<BreakerState>((word >> kStateShift) & 3);
  out.time = (word >> kTimeShift) & kTimeMask;
  if (out.state == BreakerState::kHalfOpen) {
    out.let_through = static_cast<std::uint32_t>((word >> 8) & 0xff);
    out.succeeded = static_cast<std::uint32_t>(word & 0xff);
  } else {
    out.failures = static_cast<std::uint32_t>(word & 0xffff);
  }
  return out;
}

std::uint64_t pack(const Word& word) noexcept {
  const std::uint64_t low = word.state == BreakerState::kHalfOpen
                                ? (std::uint64_t{word.let_through} << 8) | word.succeeded
                                : word.failures;
  return ((word.epoch & kEpochMask) << shared::kBreakerEpochShift) |
         (static_cast<std::uint64_t>(word.state) << kStateShift) | (word.time << kTimeShift) | low;
}

std::uint64_t in_ms(base::Time time) noexcept {
  return (base::to_ns(time) / 1'000'000) & kTimeMask;
}

std::uint64_t ms_after(base::Time now, base::Duration delta) noexcept {
  return (in_ms(now) + static_cast<std::uint64_t>(
                           std::chrono::duration_cast<std::chrono::milliseconds>(delta).count())) &
         kTimeMask;
}

// Milliseconds from `now` to `time`; 0 when it has passed. Times wrap; half of their range lies
// ahead.
std::uint64_t ms_until(std::uint64_t time, base::Time now) noexcept {
  const std::uint64_t left = (time - in_ms(now)) & kTimeMask;
  return left > kTimeMask / 2 ? 0 : left;
}

Word next(const Word& word, BreakerState state) noexcept {
  Word out;
  out.state = state;
  out.epoch = (word.epoch + 1) & kEpochMask;
  return out;
}

Word opened(const Word& word, base::Time now, const BreakerLimits& limits) noexcept {
  Word out = next(word, BreakerState::kOpen);
  out.time = ms_after(now, limits.open);
  return out;
}

Word with_probe(Word word, base::Time now, const BreakerLimits& limits) noexcept {
  ++word.let_through;
  word.time = ms_after(now, limits.probe_timeout);
  return word;
}

// Closed once all that were let through have succeeded.
Word settled(const Word& word) noexcept {
  const bool all = word.succeeded > 0 && word.succeeded >= word.let_through;
  return all ? next(word, BreakerState::kClosed) : word;
}

// Replaces the word by change(word) in one step; change() may be called again. The word stays when
// it changes nothing, without a write.
template <class Change>
void update(shared::Cell& cell, std::uint64_t epoch, Change&& change) noexcept {
  std::uint64_t seen = cell.load(std::memory_order_acquire);
  while (true) {
    const Word word = unpack(seen);
    if (word.epoch != epoch) {
      return;
    }
    const std::uint64_t wanted = pack(change(word));
    if (wanted == seen || cell.compare_exchange_weak(seen, wanted, std::memory_order_acq_rel,
                                                     std::memory_order_acquire)) {
      return;
    }
  }
}

}  // namespace

BreakerAnswer ask_breaker(shared::Cell& cell, base::Time now,
                          const BreakerLimits& limits) noexcept {
  const std::uint32_t probes = std::clamp<std::uint32_t>(limits.probes, 1, 255);
  std::uint64_t seen = cell.load(std::memory_order_acquire);
  while (true) {
    const Word word = unpack(seen);
    if (word.state == BreakerState::kClosed) {
      return {BreakerTicket(cell, word.epoch, false)};
    }
    const bool over = ms_until(word.time, now) == 0;
    Word wanted;
    if (word.state == BreakerState::kOpen || (over && word.let_through > 0)) {
      if (!over) {
        return {{}, std::chrono::milliseconds(ms_until(word.time, now))};
      }
      wanted = with_probe(next(word, BreakerState::kHalfOpen), now, limits);
    } else if (word.let_through < probes) {
      wanted = with_probe(word, now, limits);
    } else {
      return {{}, std::chrono::seconds(1)};  // the probes end when they end; soon, by and large
    }
    if (cell.compare_exchange_weak(seen, pack(wanted), std::memory_order_acq_rel,
                                   std::memory_order_acquire)) {
      return {BreakerTicket(cell, wanted.epoch, true)};
    }
  }
}

void BreakerTicket::success() noexcept {
  if (shared::Cell* cell = std::exchange(cell_, nullptr); cell != nullptr) {
    update(*cell, epoch_, [](Word word) {
      if (word.state == BreakerState::kHalfOpen) {
        ++word.succeeded;
        return settled(word);
      }
      word.failures = 0;
      return word;
    });
  }
}

void BreakerTicket::failure(base::Time now, const BreakerLimits& limits) noexcept {
  if (shared::Cell* cell = std::exchange(cell_, nullptr); cell != nullptr) {
    update(*cell, epoch_, [&](Word word) {
      if (word.state == BreakerState::kHalfOpen) {
        return opened(word, now, limits);
      }
      word.failures = std::min<std::uint32_t>(word.failures + 1, 0xffff);
      const bool opens = limits.failures > 0 && word.failures >= std::min(limits.failures, 0xffffu);
      return opens ? opened(word, now, limits) : word;
    });
  }
}

void BreakerTicket::ignored() noexcept {
  if (shared::Cell* cell = std::exchange(cell_, nullptr); cell != nullptr && probe_) {
    update(*cell, epoch_, [](Word word) {
      if (word.state == BreakerState::kHalfOpen) {
        --word.let_through;
      }
      return settled(word);
    });
  }
}

BreakerState breaker_state(const shared::Cell& cell, base::Time now) noexcept {
  const Word word = unpack(cell.load(std::memory_order_acquire));
  const bool over = word.state == BreakerState::kOpen && ms_until(word.time, now) == 0;
  return over ? BreakerState::kHalfOpen : word.state;
}

}  // namespace mik::reliability
