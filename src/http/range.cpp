#include "http/range.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <string_view>

#include "http/list_field.hpp"

namespace mik::http {

namespace {

// 1*DIGIT; what is larger than any file is the largest number.
std::optional<std::uint64_t> number(std::string_view text) noexcept {
  constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t value = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') {
      return std::nullopt;
    }
    const auto digit = static_cast<std::uint64_t>(c - '0');
    value = value > (kMax - digit) / 10 ? kMax : value * 10 + digit;
  }
  return text.empty() ? std::nullopt : std::optional(value);
}

// int-range = first-pos "-" [ last-pos ]; suffix-range = "-" suffix-length
RangeAnswer resolve(std::string_view spec, std::uint64_t size, ByteRange& part) noexcept {
  const std::size_t dash = spec.find('-');
  if (dash == std::string_view::npos) {
    return RangeAnswer::kWhole;
  }
  const std::string_view last_text = spec.substr(dash + 1);
  const std::optional<std::uint64_t> last = number(last_text);
  if (dash == 0) {
    if (!last.has_value() || (size == 0 && *last > 0)) {
      return RangeAnswer::kWhole;
    }
    part.bytes = std::min(*last, size);
    part.first = size - part.bytes;
    return part.bytes == 0 ? RangeAnswer::kUnsatisfiable : RangeAnswer::kPart;
  }
  const std::optional<std::uint64_t> first = number(spec.substr(0, dash));
  if (!first.has_value() || (!last_text.empty() && (!last.has_value() || *last < *first))) {
    return RangeAnswer::kWhole;
  }
  if (*first >= size) {
    return RangeAnswer::kUnsatisfiable;
  }
  part.first = *first;
  part.bytes = std::min(last.value_or(size - 1), size - 1) - *first + 1;
  return RangeAnswer::kPart;
}

}  // namespace

RangeAnswer wanted_range(std::span<const Field> fields, std::uint64_t size,
                         ByteRange& part) noexcept {
  const Field* only = nullptr;
  for (const Field& field : fields) {
    if (equals_lower(field.name, "range")) {
      if (only != nullptr) {
        return RangeAnswer::kWhole;
      }
      only = &field;
    }
  }
  constexpr std::string_view kUnit = "bytes=";
  if (only == nullptr || !equals_lower(only->value.substr(0, kUnit.size()), kUnit)) {
    return RangeAnswer::kWhole;
  }
  std::string_view rest = only->value.substr(kUnit.size());
  std::string_view spec;
  while (!rest.empty()) {
    const std::string_view item = take_item(rest);
    if (!item.empty()) {
      if (!spec.empty()) {
        return RangeAnswer::kWhole;
      }
      spec = item;
    }
  }
  return resolve(spec, size, part);
}

}  // namespace mik::http
