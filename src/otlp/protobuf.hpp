// The wire format of Protocol Buffers, as far as OTLP needs it
// (protobuf.dev/programming-guides/encoding). Pure functions and value types; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mik::otlp {

enum class WireType : std::uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, std::uint64_t value);
void put_number(std::string& out, std::uint32_t field, std::uint64_t value);
void put_fixed64(std::string& out, std::uint32_t field, std::uint64_t value);
void put_fixed32(std::string& out, std::uint32_t field, std::uint32_t value);
void put_bytes(std::string& out, std::uint32_t field, std::string_view bytes);
// A string field must be UTF-8 or the whole message is refused: what is not becomes U+FFFD.
// `bytes_max` bounds it before that.
void put_text(std::string& out, std::uint32_t field, std::string_view text, std::size_t bytes_max);

// A message inside another, of a length that is known when it ends: begin() gives what end() wants.
std::size_t begin_message(std::string& out, std::uint32_t field);
void end_message(std::string& out, std::size_t begun);

// One field of a message that somebody sent.
struct WireField {
  std::uint32_t number = 0;
  WireType type = WireType::kVarint;
  std::uint64_t value = 0;  // numbers
  std::string_view bytes;   // kBytes
};

// Takes messages apart, a field at a time. Groups, which proto3 has not, are malformed.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) noexcept : rest_(bytes) {}
  // Nothing at the end, and when the rest is malformed.
  std::optional<WireField> next() noexcept;
  bool malformed() const noexcept { return malformed_; }

 private:
  bool take_varint(std::uint64_t& value) noexcept;
  bool take_fixed(std::size_t bytes, std::uint64_t& value) noexcept;

  std::string_view rest_;
  bool malformed_ = false;
};

}  // namespace mik::otlp
