#include "config/toml_guard.hpp"

#include <algorithm>

namespace mik::config {

namespace {

// How many characters the string that begins at `text` takes; all when it does not end.
std::size_t string_length(std::string_view text) noexcept {
  const char quote = text[0];
  const bool escapes = quote == '"';
  const bool triple = text.size() >= 3 && text[1] == quote && text[2] == quote;
  std::size_t i = triple ? 3 : 1;
  while (i < text.size()) {
    if (escapes && text[i] == '\\') {
      i += 2;
    } else if (triple) {
      if (text[i] == quote && text.substr(i, 3) == text.substr(0, 3)) {
        i += 3;
        while (i < text.size() && text[i] == quote) {
          ++i;  // up to two quotes may stand before the closing three
        }
        return i;
      }
      ++i;
    } else if (text[i] == quote) {
      return i + 1;
    } else if (text[i] == '\n') {
      return i;
    } else {
      ++i;
    }
  }
  return text.size();
}

bool continues_key(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-' || c == ' ' || c == '\t' || static_cast<unsigned char>(c) >= 0x80;
}

}  // namespace

std::optional<TomlPlace> find_deep_key(std::string_view text) noexcept {
  std::size_t parts = 1;
  std::size_t i = 0;
  while (i < text.size()) {
    const char c = text[i];
    if (c == '"' || c == '\'') {
      i += string_length(text.substr(i));
      continue;
    }
    if (c == '#') {
      i = std::min(text.find('\n', i), text.size());
      continue;
    }
    if (c == '.') {
      if (++parts > kKeyPartsMax) {
        const std::string_view before = text.substr(0, i);
        const std::size_t start = before.rfind('\n') + 1;  // 0 when there is none
        return TomlPlace{static_cast<std::uint32_t>(std::ranges::count(before, '\n') + 1),
                         static_cast<std::uint32_t>(i - start + 1)};
      }
    } else if (!continues_key(c)) {
      parts = 1;
    }
    ++i;
  }
  return std::nullopt;
}

}  // namespace mik::config
