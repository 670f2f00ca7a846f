#include "base/names.hpp"

#include <algorithm>

namespace mik::base {

namespace {

std::uint8_t byte_at(std::string_view text, std::size_t index) noexcept {
  return static_cast<std::uint8_t>(text[index]);
}

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  const char folded = static_cast<char>(c | 0x20);
  return folded >= 'a' && folded <= 'f' ? folded - 'a' + 10 : -1;
}

// Length of the character that begins at `text`, 0 when it is not well-formed.
std::size_t character_length(std::string_view text) noexcept {
  const std::uint8_t first = byte_at(text, 0);
  if (first < 0x80) {
    return 1;
  }
  const std::size_t length = first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (length == 0 || first > 0xf4 || text.size() < length) {
    return 0;
  }
  // The second byte has a narrower range after some first ones.
  const std::uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const std::uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  if (byte_at(text, 1) < low || byte_at(text, 1) > high) {
    return 0;
  }
  for (std::size_t i = 2; i < length; ++i) {
    if ((byte_at(text, i) & 0xc0) != 0x80) {
      return 0;
    }
  }
  return length;
}

bool has_control_character(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::uint8_t byte = byte_at(text, i);
    if (byte < 0x20 || byte == 0x7f) {
      return true;
    }
    // C1 is U+0080 to U+009F: C2 80 to C2 9F.
    if (byte == 0xc2 && i + 1 < text.size() && byte_at(text, i + 1) < 0xa0 &&
        byte_at(text, i + 1) >= 0x80) {
      return true;
    }
  }
  return false;
}

}  // namespace

bool is_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const std::size_t length = character_length(text);
    if (length == 0) {
      return false;
    }
    text.remove_prefix(length);
  }
  return true;
}

std::string_view percent_decode(std::string_view text, std::string& buffer) {
  if (text.find('%') == std::string_view::npos) {
    return text;
  }
  buffer.clear();
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
        hex_digit(text[i + 2]) >= 0) {
      buffer += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
      i += 2;
    } else {
      buffer += text[i];
    }
  }
  return buffer;
}

std::string percent_encode(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<std::uint8_t>(c);
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
        c == '.' || c == '_' || c == '~') {
      out += c;
    } else {
      out += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
    }
  }
  return out;
}

NameProblem name_problem(std::string_view name) noexcept {
  if (name.empty()) {
    return NameProblem::kEmpty;
  }
  if (name.find('\0') != std::string_view::npos) {
    return NameProblem::kNullByte;
  }
  if (name.find_first_of("/\\") != std::string_view::npos) {
    return NameProblem::kPathSeparator;
  }
  if (name == "." || name == "..") {
    return NameProblem::kSpecialDirectory;
  }
  if (name.size() > kModuleNameMax) {
    return NameProblem::kTooLong;
  }
  if (has_control_character(name)) {
    return NameProblem::kControlCharacter;
  }
  return is_utf8(name) ? NameProblem::kNone : NameProblem::kNotUtf8;
}

std::string_view describe(NameProblem problem) noexcept {
  switch (problem) {
    case NameProblem::kNone:
      return {};
    case NameProblem::kEmpty:
      return "is empty";
    case NameProblem::kNullByte:
      return "holds a NUL byte";
    case NameProblem::kPathSeparator:
      return "holds a path separator";
    case NameProblem::kSpecialDirectory:
      return "names a special directory";
    case NameProblem::kTooLong:
      return "is longer than 255 bytes";
    case NameProblem::kControlCharacter:
      return "holds a control character";
    case NameProblem::kNotUtf8:
      return "is not UTF-8";
  }
  return {};
}

}  // namespace mik::base
