// JSON (RFC 8259) as documents about APIs need it: members in the order of their names, numbers as
// they were written, depth and size bounded. Ours, since what it has to refuse is most of it.
// Stateless; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"

namespace mik::gateway {

inline constexpr std::size_t kJsonDepthMax = 96;
inline constexpr std::size_t kJsonValuesMax = 200'000;  // some 20 MiB while it is looked at

struct JsonMember;

// A value type.
struct Json {
  enum class Kind : std::uint8_t { kNull, kFalse, kTrue, kNumber, kString, kArray, kObject };

  static Json string(std::string_view text);
  static Json object();

  bool is_object() const noexcept { return kind == Kind::kObject; }
  bool is_array() const noexcept { return kind == Kind::kArray; }
  bool is_string() const noexcept { return kind == Kind::kString; }

  // Of an object; nothing where there is none of that name, or this is no object.
  const Json* find(std::string_view name) const noexcept;
  Json* find(std::string_view name) noexcept;
  void set(std::string_view name, Json value);
  void erase(std::string_view name);

  Kind kind = Kind::kNull;
  std::string text;  // a string's bytes (UTF-8), a number as it was written
  std::vector<Json> items;
  std::vector<JsonMember> members;  // sorted by name, each name once
};

struct JsonMember {
  std::string name;
  Json value;
};

// Of a name that comes twice the last counts. kBadMessage: what is wrong and at which byte.
base::Result<Json> parse_json(std::string_view text);

// Compact, UTF-8 as it is. Appends.
void append_json(std::string& out, const Json& value);
void append_json_string(std::string& out, std::string_view text);

}  // namespace mik::gateway
