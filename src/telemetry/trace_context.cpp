#include "telemetry/trace_context.hpp"

#include <sys/random.h>

#include <bit>

namespace mik::telemetry {

namespace {

constexpr std::string_view kHex = "0123456789abcdef";

void put_hex(char* out, std::uint64_t value, int digits) noexcept {
  for (int i = digits - 1; i >= 0; --i) {
    out[i] = kHex[value & 15];
    value >>= 4;
  }
}

// Lower-case hex only (section 3.2.2.2).
bool get_hex(std::string_view text, std::uint64_t& value) noexcept {
  value = 0;
  for (const char c : text) {
    const std::size_t digit = kHex.find(c);
    if (digit == std::string_view::npos) {
      return false;
    }
    value = value << 4 | digit;
  }
  return true;
}

std::uint64_t split_mix(std::uint64_t& x) noexcept {
  std::uint64_t z = (x += 0x9e3779b97f4a7c15);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

Random::Random() : state_{} {
  if (::getrandom(state_.data(), sizeof state_, 0) != static_cast<ssize_t>(sizeof state_)) {
    std::uint64_t x = reinterpret_cast<std::uintptr_t>(this);
    for (std::uint64_t& word : state_) {
      word = split_mix(x);
    }
  }
}

Random::Random(std::uint64_t seed) noexcept : state_{} {
  for (std::uint64_t& word : state_) {
    word = split_mix(seed);
  }
}

std::uint64_t Random::next() noexcept {
  const std::uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const std::uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

std::optional<TraceContext> parse_traceparent(std::string_view text) noexcept {
  if (text.size() != 55 || !text.starts_with("00-") || text[35] != '-' || text[52] != '-') {
    return std::nullopt;
  }
  TraceContext context;
  std::uint64_t flags = 0;
  if (!get_hex(text.substr(3, 16), context.trace_high) ||
      !get_hex(text.substr(19, 16), context.trace_low) ||
      !get_hex(text.substr(36, 16), context.span) || !get_hex(text.substr(53, 2), flags)) {
    return std::nullopt;
  }
  if ((context.trace_high | context.trace_low) == 0 || context.span == 0) {
    return std::nullopt;
  }
  context.sampled = (flags & 1) != 0;
  return context;
}

TraceContext child_of(const std::optional<TraceContext>& parent, Random& random) noexcept {
  TraceContext context = parent.value_or(TraceContext{});
  if (!parent.has_value()) {
    context.trace_high = random.next();
    context.trace_low = random.next() | 1;
  }
  context.span = random.next() | 1;
  return context;
}

std::array<char, 55> format_traceparent(const TraceContext& context) noexcept {
  std::array<char, 55> text;
  text[0] = text[1] = '0';
  text[2] = text[35] = text[52] = '-';
  put_hex(&text[3], context.trace_high, 16);
  put_hex(&text[19], context.trace_low, 16);
  put_hex(&text[36], context.span, 16);
  text[53] = '0';
  text[54] = context.sampled ? '1' : '0';
  return text;
}

std::array<char, 36> make_uuid(Random& random) noexcept {
  const std::uint64_t high = (random.next() & ~std::uint64_t{0xF000}) | 0x4000;
  const std::uint64_t low = (random.next() >> 2) | (std::uint64_t{2} << 62);
  std::array<char, 36> text;
  put_hex(&text[0], high >> 32, 8);
  text[8] = '-';
  put_hex(&text[9], high >> 16, 4);
  text[13] = '-';
  put_hex(&text[14], high, 4);
  text[18] = '-';
  put_hex(&text[19], low >> 48, 4);
  text[23] = '-';
  put_hex(&text[24], low, 12);
  return text;
}

}  // namespace mik::telemetry
