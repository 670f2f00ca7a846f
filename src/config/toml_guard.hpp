// What the TOML parser does not take without harm, found before it runs: keys of very many parts
// (a.b.c..., each a table inside a table: it bounds neither, and recurses), and characters beyond
// ASCII where it looks for blanks (toml++ 3.3: undefined behaviour). Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mik::config {

inline constexpr std::size_t kKeyPartsMax = 16;

struct TomlTrouble {
  std::uint32_t line = 1;
  std::uint32_t column = 1;  // in bytes
  std::string_view what;     // static storage
};

// The first trouble. May take a broken text for one; what stands in comments never, and in strings
// only a character beyond ASCII where a line that ends in a backslash goes on.
std::optional<TomlTrouble> find_trouble(std::string_view text) noexcept;

}  // namespace mik::config
