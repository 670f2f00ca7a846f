// What the TOML parser does not bound itself: the parts of one key (a.b.c...), each of which
// becomes a table inside a table. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mik::config {

inline constexpr std::size_t kKeyPartsMax = 16;

struct TomlPlace {
  std::uint32_t line = 1;
  std::uint32_t column = 1;
};

// The first key of more than kKeyPartsMax parts. May take a broken text for one; a text in strings
// and comments never.
std::optional<TomlPlace> find_deep_key(std::string_view text) noexcept;

}  // namespace mik::config
