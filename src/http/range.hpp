// Range, RFC 9110 section 14.2: which part of a representation a client wants. Pure functions:
// thread-safe.
#pragma once

#include <cstdint>
#include <span>

#include "http/message.hpp"

namespace mik::http {

struct ByteRange {
  std::uint64_t first = 0;
  std::uint64_t bytes = 0;
};

enum class RangeAnswer : std::uint8_t {
  kWhole,          // 200: no Range, or one that is passed over
  kPart,           // 206
  kUnsatisfiable,  // 416
};

// For GET of a representation of `size` bytes. `part` is set for kPart. One range is answered; a
// Range with several (section 14.2 leaves it to us: they cost many times the file), of another
// unit, or with an error in it is passed over.
RangeAnswer wanted_range(std::span<const Field> fields, std::uint64_t size,
                         ByteRange& part) noexcept;

}  // namespace mik::http
