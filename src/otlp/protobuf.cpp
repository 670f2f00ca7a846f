#include "otlp/protobuf.hpp"

#include <algorithm>
#include <array>

namespace mik::otlp {

namespace {

void put_tag(std::string& out, std::uint32_t field, WireType type) {
  put_varint(out, std::uint64_t{field} << 3 | static_cast<std::uint64_t>(type));
}

void put_little_endian(std::string& out, std::uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) {
    out += static_cast<char>(value >> (8 * i) & 0xff);
  }
}

// Length of the well-formed UTF-8 sequence at the front, 0 if there is none (RFC 3629 section 4).
std::size_t sequence_length(std::string_view text) noexcept {
  const auto first = static_cast<unsigned char>(text.front());
  if (first < 0x80) {
    return 1;
  }
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) {
    return 0;
  }
  std::uint32_t character = first & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if ((byte & 0xC0) != 0x80) {
      return 0;
    }
    character = character << 6 | (byte & 0x3Fu);
  }
  constexpr std::array<std::uint32_t, 5> kFirst = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = character >= 0xD800 && character <= 0xDFFF;
  return character < kFirst[length] || surrogate || character > 0x10FFFF ? 0 : length;
}

}  // namespace

void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out += static_cast<char>(value | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

void put_number(std::string& out, std::uint32_t field, std::uint64_t value) {
  put_tag(out, field, WireType::kVarint);
  put_varint(out, value);
}

void put_fixed64(std::string& out, std::uint32_t field, std::uint64_t value) {
  put_tag(out, field, WireType::kFixed64);
  put_little_endian(out, value, 8);
}

void put_fixed32(std::string& out, std::uint32_t field, std::uint32_t value) {
  put_tag(out, field, WireType::kFixed32);
  put_little_endian(out, value, 4);
}

void put_bytes(std::string& out, std::uint32_t field, std::string_view bytes) {
  put_tag(out, field, WireType::kBytes);
  put_varint(out, bytes.size());
  out += bytes;
}

void put_text(std::string& out, std::uint32_t field, std::string_view text, std::size_t bytes_max) {
  if (text.size() > bytes_max) {
    text = text.substr(0, bytes_max);
    // Between characters, where it is UTF-8.
    std::size_t cut = text.size();
    for (int back = 0; back < 3 && cut > 0 && (text[cut - 1] & 0xC0) == 0x80; ++back) {
      --cut;
    }
    if (cut > 0 && sequence_length(text.substr(cut - 1)) == 0) {
      text = text.substr(0, cut - 1);
    }
  }
  if (std::ranges::all_of(text, [](char c) { return (c & 0x80) == 0; })) {
    put_bytes(out, field, text);
    return;
  }
  const std::size_t begun = begin_message(out, field);  // the same on the wire
  while (!text.empty()) {
    const std::size_t length = sequence_length(text);
    out += length == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, length);
    text.remove_prefix(std::max<std::size_t>(length, 1));
  }
  end_message(out, begun);
}

std::size_t begin_message(std::string& out, std::uint32_t field) {
  put_tag(out, field, WireType::kBytes);
  return out.size();
}

void end_message(std::string& out, std::size_t begun) {
  std::string length;  // of at most ten bytes: nothing is allocated
  put_varint(length, out.size() - begun);
  out.insert(begun, length);
}

bool WireReader::take_varint(std::uint64_t& value) noexcept {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest_.front());
    rest_.remove_prefix(1);
    if (shift == 63 && byte > 1) {
      return false;
    }
    value |= std::uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) {
      return true;
    }
  }
  return false;
}

bool WireReader::take_fixed(std::size_t bytes, std::uint64_t& value) noexcept {
  if (rest_.size() < bytes) {
    return false;
  }
  value = 0;
  for (std::size_t i = 0; i < bytes; ++i) {
    value |= std::uint64_t{static_cast<unsigned char>(rest_[i])} << (8 * i);
  }
  rest_.remove_prefix(bytes);
  return true;
}

std::optional<WireField> WireReader::next() noexcept {
  if (rest_.empty() || malformed_) {
    return std::nullopt;
  }
  malformed_ = true;  // until all of the field is there
  std::uint64_t tag = 0;
  if (!take_varint(tag) || tag >> 3 == 0 || tag >> 32 != 0) {
    return std::nullopt;
  }
  WireField field;
  field.number = static_cast<std::uint32_t>(tag >> 3);
  field.type = static_cast<WireType>(tag & 7);
  bool whole = false;
  switch (field.type) {
    case WireType::kVarint:
      whole = take_varint(field.value);
      break;
    case WireType::kFixed64:
      whole = take_fixed(8, field.value);
      break;
    case WireType::kFixed32:
      whole = take_fixed(4, field.value);
      break;
    case WireType::kBytes:
      whole = take_varint(field.value) && field.value <= rest_.size();
      if (whole) {
        field.bytes = rest_.substr(0, field.value);
        rest_.remove_prefix(field.value);
      }
      break;
  }
  if (!whole) {
    return std::nullopt;
  }
  malformed_ = false;
  return field;
}

}  // namespace mik::otlp
