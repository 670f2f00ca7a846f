// W3C Trace Context (level 1): the traceparent field, and ids for requests. Value types;
// thread-safe but for Random, which belongs to one thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

namespace mik::telemetry {

// xoshiro256**, seeded from getrandom(2): ids, not secrets. After Blackman and Vigna.
class Random {
 public:
  Random();
  explicit Random(std::uint64_t seed) noexcept;
  std::uint64_t next() noexcept;

 private:
  std::array<std::uint64_t, 4> state_;
};

struct TraceContext {
  std::uint64_t trace_high = 0;
  std::uint64_t trace_low = 0;
  std::uint64_t span = 0;
  bool sampled = true;
};

// Version 00 only, exact form, ids not zero; anything else is none (section 3.2.2).
std::optional<TraceContext> parse_traceparent(std::string_view text) noexcept;
// The caller's trace with a span id of our own, or a new trace.
TraceContext child_of(const std::optional<TraceContext>& parent, Random& random) noexcept;
// "00-<32 hex>-<16 hex>-01": 55 characters.
std::array<char, 55> format_traceparent(const TraceContext& context) noexcept;

// RFC 9562 version 4, lower case, hyphenated: 36 characters.
std::array<char, 36> make_uuid(Random& random) noexcept;

template <std::size_t N>
std::string_view view(const std::array<char, N>& text) noexcept {
  return {text.data(), N};
}

}  // namespace mik::telemetry
