// Names of modules against a second reading of the rules: decode first, then look at the code
// points.
#include "base/names.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <vector>

namespace {

using namespace mik::base;

// Code points, or nothing when the bytes are not UTF-8. By value, not by table.
std::optional<std::vector<std::uint32_t>> decode(std::string_view text) {
  std::vector<std::uint32_t> points;
  for (std::size_t i = 0; i < text.size();) {
    const auto first = static_cast<std::uint8_t>(text[i]);
    std::size_t more = 0;
    std::uint32_t point = first;
    std::uint32_t least = 0;
    if ((first & 0xe0) == 0xc0) {
      more = 1, point = first & 0x1fu, least = 0x80;
    } else if ((first & 0xf0) == 0xe0) {
      more = 2, point = first & 0x0fu, least = 0x800;
    } else if ((first & 0xf8) == 0xf0) {
      more = 3, point = first & 0x07u, least = 0x10000;
    } else if (first >= 0x80) {
      return std::nullopt;
    }
    if (text.size() - i <= more) {
      return std::nullopt;
    }
    for (std::size_t k = 1; k <= more; ++k) {
      const auto next = static_cast<std::uint8_t>(text[i + k]);
      if ((next & 0xc0) != 0x80) {
        return std::nullopt;
      }
      point = (point << 6) | (next & 0x3fu);
    }
    if (point < least || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
      return std::nullopt;
    }
    points.push_back(point);
    i += more + 1;
  }
  return points;
}

bool expected(std::string_view name) {
  const auto points = decode(name);
  if (!points.has_value() || name.empty() || name.size() > 255 || name == "." || name == "..") {
    return false;
  }
  for (const std::uint32_t point : *points) {
    if (point < 0x20 || (point >= 0x7f && point < 0xa0) || point == '/' || point == '\\') {
      return false;
    }
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view name(reinterpret_cast<const char*>(data), size);
  const bool valid = valid_module_name(name);
  if (valid != expected(name) || is_utf8(name) != decode(name).has_value() ||
      valid != describe(name_problem(name)).empty()) {
    std::fprintf(stderr, "a name is taken for what it is not\n");
    std::abort();
  }
  return 0;
}
