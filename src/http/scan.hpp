// Character classes of RFC 9110 and RFC 9112 and fast scans over them, shared by the parsers of
// this folder. Pure functions: thread-safe. Internal to src/http.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "http/message.hpp"

namespace mik::http::scan {

// tchar, RFC 9110 section 5.6.2.
inline constexpr std::uint8_t kToken = 1;
// VCHAR without '#', and bytes from 0x80, which are looked at again as UTF-8.
inline constexpr std::uint8_t kTarget = 2;
// field-content: HTAB, SP, VCHAR, obs-text (RFC 9110 section 5.5).
inline constexpr std::uint8_t kValue = 4;
// unreserved and sub-delims, RFC 3986 section 3.2.2; '%' is apart.
inline constexpr std::uint8_t kRegName = 8;
inline constexpr std::uint8_t kHex = 16;

consteval std::array<std::uint8_t, 256> make_classes() {
  std::array<std::uint8_t, 256> classes{};
  const auto add = [&classes](std::string_view characters, std::uint8_t bits) {
    for (const char c : characters) {
      classes[static_cast<unsigned char>(c)] |= bits;
    }
  };
  constexpr std::string_view kAlphanumeric =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  add(kAlphanumeric, kToken | kRegName);
  add("!#$%&'*+-.^_`|~", kToken);
  add("-._~!$&'()*+,;=", kRegName);
  add("0123456789abcdefABCDEF", kHex);
  for (std::size_t c = 0; c < 256; ++c) {
    const bool control = c < 0x20 || c == 0x7f;
    if (!control || c == '\t') {
      classes[c] |= kValue;
    }
    if (!control && c != ' ' && c != '#') {
      classes[c] |= kTarget;
    }
  }
  return classes;
}

inline constexpr std::array<std::uint8_t, 256> kClasses = make_classes();

inline bool is(char c, std::uint8_t bits) noexcept {
  return (kClasses[static_cast<unsigned char>(c)] & bits) != 0;
}

inline bool is_blank(char c) noexcept { return c == ' ' || c == '\t'; }
inline bool is_digit(char c) noexcept { return c >= '0' && c <= '9'; }

inline char lower(char c) noexcept {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

// 0 to 15; only for a character of class kHex.
inline std::uint32_t hex_digit(char c) noexcept {
  return static_cast<std::uint32_t>(c <= '9' ? c - '0' : lower(c) - 'a' + 10);
}

// The scans return the first byte in [at, end) that is not of the class, or `end`.
template <std::uint8_t kBits>
const char* skip_slow(const char* at, const char* end) noexcept {
  while (at != end && is(*at, kBits)) {
    ++at;
  }
  return at;
}

#if defined(__SSE2__)

inline __m128i load(const char* at) noexcept {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

inline __m128i below(__m128i bytes, unsigned char limit) noexcept {
  const __m128i most = _mm_set1_epi8(static_cast<char>(limit - 1));
  return _mm_cmpeq_epi8(_mm_min_epu8(bytes, most), bytes);
}

inline __m128i equal(__m128i bytes, char c) noexcept {
  return _mm_cmpeq_epi8(bytes, _mm_set1_epi8(c));
}

inline const char* skip_value(const char* at, const char* end) noexcept {
  for (; end - at >= 16; at += 16) {
    const __m128i bytes = load(at);
    const __m128i control = _mm_andnot_si128(equal(bytes, '\t'), below(bytes, 0x20));
    const auto stop =
        static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_or_si128(control, equal(bytes, 0x7f))));
    if (stop != 0) {
      return at + std::countr_zero(stop);
    }
  }
  return skip_slow<kValue>(at, end);
}

inline const char* skip_target(const char* at, const char* end) noexcept {
  for (; end - at >= 16; at += 16) {
    const __m128i bytes = load(at);
    const __m128i other = _mm_or_si128(equal(bytes, '#'), equal(bytes, 0x7f));
    const auto stop =
        static_cast<std::uint32_t>(_mm_movemask_epi8(_mm_or_si128(below(bytes, 0x21), other)));
    if (stop != 0) {
      return at + std::countr_zero(stop);
    }
  }
  return skip_slow<kTarget>(at, end);
}

// Runs over letters, digits and '-' sixteen at a time; the rarer token characters are left to the
// table.
inline const char* skip_token(const char* at, const char* end) noexcept {
  for (; end - at >= 16; at += 16) {
    const __m128i bytes = load(at);
    const __m128i folded = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
    const __m128i letter = below(_mm_sub_epi8(folded, _mm_set1_epi8('a')), 26);
    const __m128i digit = below(_mm_sub_epi8(bytes, _mm_set1_epi8('0')), 10);
    const __m128i common = _mm_or_si128(_mm_or_si128(letter, digit), equal(bytes, '-'));
    const auto stop = static_cast<std::uint32_t>(_mm_movemask_epi8(common)) ^ 0xffffU;
    if (stop != 0) {
      at += std::countr_zero(stop);
      return is(*at, kToken) ? skip_slow<kToken>(at, end) : at;
    }
  }
  return skip_slow<kToken>(at, end);
}

#else

inline const char* skip_value(const char* at, const char* end) noexcept {
  return skip_slow<kValue>(at, end);
}
inline const char* skip_target(const char* at, const char* end) noexcept {
  return skip_slow<kTarget>(at, end);
}
inline const char* skip_token(const char* at, const char* end) noexcept {
  return skip_slow<kToken>(at, end);
}

#endif

inline std::string_view view(const char* from, const char* to) noexcept {
  return {from, static_cast<std::size_t>(to - from)};
}

// Without spaces and tabs at both ends.
inline std::string_view trim(std::string_view text) noexcept {
  while (!text.empty() && is_blank(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && is_blank(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

// Calls visit(member) for each non-empty member of a comma-separated list (RFC 9110 section 5.6.1),
// blanks trimmed. Commas in quoted strings are not known: only for lists of tokens.
template <class Visit>
void for_each_member(std::string_view list, Visit&& visit) {
  while (true) {
    const std::size_t comma = list.find(',');
    const std::string_view member = trim(list.substr(0, comma));
    if (!member.empty()) {
      visit(member);
    }
    if (comma == std::string_view::npos) {
      return;
    }
    list.remove_prefix(comma + 1);
  }
}

enum class Line : std::uint8_t {
  kField,  // `field` is set, `at` behind the line
  kEnd,    // the empty line, `at` behind it
  kMore,   // the bytes end inside the line
  kBad,    // `problem` says why
};

// How much is forgiven: requests and trailers nothing; responses what RFC 9112 lets a recipient
// forgive (a bare LF as line end, section 2.2; whitespace before the colon, section 5.1).
enum class Rules : std::uint8_t { kStrict, kForgiving };

// What is wrong at `at`, where a field line or its end was expected.
std::string_view field_problem(const char* line, const char* at) noexcept;

// field-line = field-name ":" OWS field-value OWS CRLF
template <Rules kRules>
inline Line next_field(const char*& at, const char* end, Field& field,
                       std::string_view& problem) noexcept {
  const char* const line = at;
  const char* const name_end = skip_token(line, end);
  const auto bad = [&problem, line](const char* where) {
    problem = field_problem(line, where);
    return Line::kBad;
  };
  if (name_end == end) {
    return Line::kMore;
  }
  if (name_end == line) {
    const char* stop = line;
    if (*stop == '\r' && ++stop == end) {
      return Line::kMore;
    }
    if (*stop == '\n' && (stop != line || kRules == Rules::kForgiving)) {
      at = stop + 1;
      return Line::kEnd;
    }
    return bad(line);
  }
  const char* colon = name_end;
  if constexpr (kRules == Rules::kForgiving) {
    while (colon != end && is_blank(*colon)) {
      ++colon;
    }
    if (colon == end) {
      return Line::kMore;
    }
  }
  if (*colon != ':') {
    return bad(colon);
  }
  const char* value = colon + 1;
  while (value != end && is_blank(*value)) {
    ++value;
  }
  const char* const stop = skip_value(value, end);
  if (stop == end) {
    return Line::kMore;
  }
  if (*stop == '\r') {
    if (stop + 1 == end) {
      return Line::kMore;
    }
    if (stop[1] != '\n') {
      return bad(stop);
    }
    at = stop + 2;
  } else if (*stop == '\n' && kRules == Rules::kForgiving) {
    at = stop + 1;
  } else {
    return bad(stop);
  }
  const char* value_end = stop;
  while (value_end != value && is_blank(value_end[-1])) {
    --value_end;
  }
  field = {.name = view(line, name_end), .value = view(value, value_end)};
  return Line::kField;
}

// Content-Length = 1*DIGIT that fits 64 bits; false when it is something else.
bool parse_length(std::string_view digits, std::uint64_t& length) noexcept;

// Says whether a head that came in pieces is worth parsing (again), given that its first `scanned`
// bytes were: when its end has come, when it has crossed a power of two (so that errors are seen
// early and the total cost stays linear), or when it is as long as it may be.
bool worth_parsing(std::string_view buffer, std::size_t scanned, std::size_t bytes_max) noexcept;

}  // namespace mik::http::scan
