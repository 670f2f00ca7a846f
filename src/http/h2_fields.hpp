// A list of fields in one block of bytes that may still move: names and values are kept as offsets.
// Internal to src/http. Externally synchronised.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "http/message.hpp"
#include "http/scan.hpp"

namespace mik::http {

class FieldBlock {
 public:
  void add(std::string_view name, std::string_view value) {
    spans_.push_back({.at = static_cast<std::uint32_t>(bytes_.size()),
                      .name = static_cast<std::uint32_t>(name.size()),
                      .value = static_cast<std::uint32_t>(value.size())});
    bytes_.append(name).append(value);
  }
  // HTTP/2 knows names in lower case only (RFC 9113 section 8.2).
  void add_lower(std::string_view name, std::string_view value) {
    const std::size_t at = bytes_.size();
    add(name, value);
    for (std::size_t i = at; i < at + name.size(); ++i) {
      bytes_[i] = scan::lower(bytes_[i]);
    }
  }
  // Bytes that belong to no field.
  std::string& bytes() noexcept { return bytes_; }
  std::size_t size() const noexcept { return spans_.size(); }
  // Valid until the next add.
  Field operator[](std::size_t i) const noexcept {
    const Span& span = spans_[i];
    const std::string_view bytes = bytes_;
    return {.name = bytes.substr(span.at, span.name),
            .value = bytes.substr(span.at + span.name, span.value)};
  }
  void clear() {
    bytes_.clear();
    spans_.clear();
    if (bytes_.capacity() > kKept) {
      std::string().swap(bytes_);
    }
  }

 private:
  static constexpr std::size_t kKept = 4 * 1024;
  struct Span {
    std::uint32_t at;
    std::uint32_t name;
    std::uint32_t value;
  };
  std::string bytes_;
  std::vector<Span> spans_;
};

}  // namespace mik::http
