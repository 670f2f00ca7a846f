#include "telemetry/escape.hpp"

#include <algorithm>
#include <array>
#include <cstdint>

namespace mik::telemetry {

namespace {

enum class Quotes : std::uint8_t { kEscaped, kKept };

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
constexpr std::string_view kEllipsis = "\xE2\x80\xA6";

// Length of the well-formed UTF-8 sequence at the front, 0 if there is none (RFC 3629 section 4).
std::size_t utf8_length(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto in = [&](std::size_t i, unsigned low, unsigned high) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const unsigned first = byte(0);
  if (first < 0x80) {
    return 1;
  }
  if (first >= 0xC2 && first <= 0xDF) {
    return in(1, 0x80, 0xBF) ? 2 : 0;
  }
  if (first >= 0xE0 && first <= 0xEF) {
    const unsigned low = first == 0xE0 ? 0xA0 : 0x80;
    const unsigned high = first == 0xED ? 0x9F : 0xBF;
    return in(1, low, high) && in(2, 0x80, 0xBF) ? 3 : 0;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    const unsigned low = first == 0xF0 ? 0x90 : 0x80;
    const unsigned high = first == 0xF4 ? 0x8F : 0xBF;
    return in(1, low, high) && in(2, 0x80, 0xBF) && in(3, 0x80, 0xBF) ? 4 : 0;
  }
  return 0;
}

bool plain(char c) noexcept {
  const auto byte = static_cast<unsigned char>(c);
  return byte >= 0x20 && byte < 0x7F && c != '"' && c != '\\';
}

// Of a well-formed sequence of up to three bytes.
std::uint32_t code_point(std::string_view sequence) noexcept {
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return static_cast<unsigned char>(sequence[i]);
  };
  switch (sequence.size()) {
    case 1:
      return byte(0);
    case 2:
      return (byte(0) & 0x1F) << 6 | (byte(1) & 0x3F);
    default:
      return (byte(0) & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  }
}

// Terminals act on it, readers break lines at it, or it turns around what stands beside it.
bool acts(std::uint32_t point) noexcept {
  return point < 0x20 || (point >= 0x7F && point <= 0x9F) || point == 0x061C ||
         (point >= 0x200B && point <= 0x200F) || (point >= 0x2028 && point <= 0x202E) ||
         (point >= 0x2060 && point <= 0x2069) || point == 0xFEFF;
}

struct Escape {
  std::array<char, 6> text{};
  std::size_t size = 0;
  std::string_view view() const noexcept { return {text.data(), size}; }
};

Escape escape(std::uint32_t point) noexcept {
  constexpr std::string_view kHex = "0123456789abcdef";
  return {{'\\', 'u', kHex[point >> 12 & 15], kHex[point >> 8 & 15], kHex[point >> 4 & 15],
           kHex[point & 15]},
          6};
}

void append(std::string& out, std::string_view text, std::size_t bytes_max, Quotes quotes) {
  const std::size_t begin = out.size();
  // Where it can be cut so that the mark still fits.
  std::size_t cut = begin;
  while (!text.empty()) {
    std::size_t run = 0;
    while (run < text.size() && plain(text[run])) {
      ++run;
    }
    const std::size_t used = out.size() - begin;
    out.append(text.substr(0, run));
    if (bytes_max - used >= kEllipsis.size()) {
      cut = begin + used + std::min(run, bytes_max - used - kEllipsis.size());
    }
    text.remove_prefix(run);
    if (!text.empty() && out.size() - begin <= bytes_max) {
      const char c = text.front();
      const std::size_t length = utf8_length(text);
      const std::string_view whole = text.substr(0, length == 0 ? 1 : length);
      if (c == '"' || c == '\\') {
        if (quotes == Quotes::kEscaped) {
          out += '\\';
        }
        out += c;
      } else if (length == 0) {
        out += kReplacement;
      } else if (length <= 3 && acts(code_point(whole))) {
        out += escape(code_point(whole)).view();
      } else {
        out += whole;
      }
      text.remove_prefix(whole.size());
    }
    if (out.size() - begin > bytes_max) {
      out.resize(cut);
      if (bytes_max >= kEllipsis.size()) {
        out += kEllipsis;
      }
      return;
    }
    if (bytes_max - (out.size() - begin) >= kEllipsis.size()) {
      cut = out.size();
    }
  }
}

}  // namespace

void append_json_escaped(std::string& out, std::string_view text, std::size_t bytes_max) {
  append(out, text, bytes_max, Quotes::kEscaped);
}

void append_visible(std::string& out, std::string_view text, std::size_t bytes_max) {
  append(out, text, bytes_max, Quotes::kKept);
}

std::string visible(std::string_view text) {
  std::string out;
  append_visible(out, text);
  return out;
}

bool is_plain(std::string_view text) noexcept {
  for (const char c : text) {
    if (!plain(c)) {
      return false;
    }
  }
  return true;
}

}  // namespace mik::telemetry
