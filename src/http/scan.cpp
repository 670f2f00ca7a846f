#include "http/scan.hpp"

#include <limits>

namespace mik::http::scan {

std::string_view field_problem(const char* line, const char* at) noexcept {
  if (at == line) {
    switch (*at) {
      case ' ':
      case '\t':
        return "a field line begins with whitespace (obs-fold)";
      case ':':
        return "a field without a name";
      default:
        break;
    }
  }
  switch (*at) {
    case '\r':
      return "a bare CR, or a field line without a colon";
    case '\n':
      return "a line that ends with a bare LF";
    case ' ':
    case '\t':
      return "whitespace before the colon of a field";
    default:
      return "a character that a field must not have";
  }
}

bool parse_length(std::string_view digits, std::uint64_t& length) noexcept {
  if (digits.empty()) {
    return false;
  }
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t value = 0;
  for (const char c : digits) {
    if (!is_digit(c)) {
      return false;
    }
    const auto digit = static_cast<std::uint64_t>(c - '0');
    if (value > (kMax - digit) / 10) {
      return false;
    }
    value = value * 10 + digit;
  }
  length = value;
  return true;
}

bool worth_parsing(std::string_view buffer, std::size_t scanned, std::size_t bytes_max) noexcept {
  if (scanned == 0 || buffer.size() >= bytes_max ||
      std::bit_width(buffer.size()) > std::bit_width(scanned)) {
    return true;
  }
  // The end is LF LF or LF CR LF, and LF CR with anything else behind it is an error; up to two
  // bytes of that may have been there before.
  std::size_t from = scanned < 2 ? 0 : scanned - 2;
  while ((from = buffer.find('\n', from)) != std::string_view::npos) {
    const std::string_view rest = buffer.substr(from + 1, 2);
    if (rest.starts_with('\n') || (rest.size() == 2 && rest.front() == '\r')) {
      return true;
    }
    ++from;
  }
  return false;
}

}  // namespace mik::http::scan
