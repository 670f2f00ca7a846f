// Bytes of the messages inside the family: little-endian fixed-width numbers, strings behind their
// length. Both ends are the same build, so there is no negotiation; a reader still trusts no
// length.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mik::shared {

class WireWriter {
 public:
  template <std::unsigned_integral T>
  void number(T value) {
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      bytes_.push_back(static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i)));
    }
  }
  // Cut to `max` bytes.
  void text(std::string_view value, std::size_t max) {
    value = value.substr(0, max);
    number(static_cast<std::uint32_t>(value.size()));
    bytes_.append(value);
  }
  std::string take() && { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Remembers the first thing that did not fit; what is read after that is empty.
class WireReader {
 public:
  explicit WireReader(std::string_view bytes) noexcept : bytes_(bytes) {}

  template <std::unsigned_integral T>
  T number() noexcept {
    if (bytes_.size() < sizeof(T)) {
      fail();
      return 0;
    }
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < sizeof(T); ++i) {
      value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes_[i])) << (8 * i);
    }
    bytes_.remove_prefix(sizeof(T));
    return static_cast<T>(value);
  }
  std::string text(std::size_t max) {
    const auto size = number<std::uint32_t>();
    if (size > max || size > bytes_.size()) {
      fail();
      return {};
    }
    std::string value(bytes_.substr(0, size));
    bytes_.remove_prefix(size);
    return value;
  }
  // Everything was read, and everything was there.
  bool complete() const noexcept { return !failed_ && bytes_.empty(); }

 private:
  void fail() noexcept {
    failed_ = true;
    bytes_ = {};
  }
  std::string_view bytes_;
  bool failed_ = false;
};

}  // namespace mik::shared
