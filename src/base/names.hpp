// Names of modules and tenants: what may stand in a URL and in front of ".wasm". Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mik::base {

inline constexpr std::size_t kModuleNameMax = 255;  // bytes

// Why a name is refused, in the order in which it is looked at.
enum class NameProblem : std::uint8_t {
  kNone,
  kEmpty,
  kNullByte,
  kPathSeparator,     // '/' or '\'
  kSpecialDirectory,  // "." or ".."
  kTooLong,
  kControlCharacter,  // C0, DEL, C1
  kNotUtf8,           // names go into logs, labels and JSON as text
};

// Of a name that was percent-decoded already. Everything else passes: dots, spaces, non-ASCII.
NameProblem name_problem(std::string_view name) noexcept;

// For people: "holds a path separator"; empty for kNone. Static storage.
std::string_view describe(NameProblem problem) noexcept;

inline bool valid_module_name(std::string_view name) noexcept {
  return name_problem(name) == NameProblem::kNone;
}

// Well-formed UTF-8, Unicode 15 section 3.9, table 3-7: no surrogates, nothing overlong.
bool is_utf8(std::string_view text) noexcept;

// As they stand in a URL. Decoded once, as RFC 3986 section 2.1 says; what is no escape stays. Into
// `buffer` only where needed.
std::string_view percent_decode(std::string_view text, std::string& buffer);
// All but RFC 3986's unreserved characters are escaped.
std::string percent_encode(std::string_view text);

}  // namespace mik::base
