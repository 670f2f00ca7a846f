#include "http/response_writer.hpp"

#include <array>
#include <charconv>

#include "http/scan.hpp"

namespace mik::http {

namespace {

template <class Number>
void append_number(std::string& out, Number number, int base) {
  std::array<char, 24> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), number, base).ptr;
  out.append(digits.data(), end);
}

void append_field(std::string& out, const Field& field) {
  out.append(field.name);
  out.append(": ");
  out.append(field.value);
  out.append("\r\n");
}

}  // namespace

bool is_connection_field(std::string_view name) noexcept {
  // The length decides most of them without a comparison.
  switch (name.size()) {
    case 2:
      return equals_lower(name, "te");
    case 7:
      return equals_lower(name, "upgrade");
    case 10:
      return equals_lower(name, "connection") || equals_lower(name, "keep-alive");
    case 14:
      return equals_lower(name, "content-length");
    case 16:
      return equals_lower(name, "proxy-connection");
    case 17:
      return equals_lower(name, "transfer-encoding");
    default:
      return false;
  }
}

bool is_sound_field(const Field& field) noexcept {
  const char* const name = field.name.data();
  const char* const name_end = name + field.name.size();
  const char* const value = field.value.data();
  const char* const value_end = value + field.value.size();
  return name != name_end && scan::skip_token(name, name_end) == name_end &&
         scan::skip_value(value, value_end) == value_end;
}

void append_head(std::string& out, int status, std::span<const Field> fields,
                 std::string_view date_line) {
  if (status == 200) {
    out.append("HTTP/1.1 200 OK\r\n");
  } else {
    out.append("HTTP/1.1 ");
    append_number(out, status, 10);
    out.append(" ");
    out.append(reason_phrase(status));
    out.append("\r\n");
  }
  bool dated = false;
  for (const Field& field : fields) {
    if (is_connection_field(field.name) || !is_sound_field(field)) {
      continue;
    }
    dated = dated || (field.name.size() == 4 && equals_lower(field.name, "date"));
    append_field(out, field);
  }
  if (!dated) {
    out.append(date_line);
  }
}

void append_framing(std::string& out, const FramingFields& framing) {
  if (framing.framing == Framing::kLength ||
      (framing.framing == Framing::kNoContent && framing.has_length)) {
    out.append("Content-Length: ");
    append_number(out, framing.length, 10);
    out.append("\r\n");
  } else if (framing.framing == Framing::kChunked) {
    out.append("Transfer-Encoding: chunked\r\n");
  }
  if (framing.keep_alive == KeepAlive::kClose) {
    out.append("Connection: close\r\n");
  } else if (framing.keep_alive == KeepAlive::kSay) {
    out.append("Connection: keep-alive\r\n");
  }
  out.append("\r\n");
}

void append_chunk_size(std::string& out, std::size_t bytes) {
  append_number(out, bytes, 16);
  out.append("\r\n");
}

void append_last_chunk(std::string& out, std::span<const Field> trailers) {
  out.append("0\r\n");
  for (const Field& field : trailers) {
    if (!is_connection_field(field.name) && is_sound_field(field)) {
      append_field(out, field);
    }
  }
  out.append("\r\n");
}

}  // namespace mik::http
