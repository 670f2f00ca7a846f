// Elements of fields that are lists, RFC 9110 section 5.6.1. Pure functions: thread-safe. Internal
// to src/http.
#pragma once

#include <string_view>

#include "http/scan.hpp"

namespace mik::http {

inline std::string_view trim_blanks(std::string_view text) noexcept {
  while (!text.empty() && scan::is_blank(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && scan::is_blank(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

// Takes the next element off a list without quoted strings: trimmed, and empty where there is
// nothing between commas.
inline std::string_view take_item(std::string_view& rest) noexcept {
  const std::size_t comma = rest.find(',');
  const std::string_view item = rest.substr(0, comma);
  rest.remove_prefix(comma == std::string_view::npos ? rest.size() : comma + 1);
  return trim_blanks(item);
}

}  // namespace mik::http
