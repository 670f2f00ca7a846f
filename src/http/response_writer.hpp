// Writes HTTP/1.1 response heads and chunk framing (RFC 9112 sections 4, 6 and 7.1) as bytes.
// No state. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "http/message.hpp"

namespace mik::http {

// How the end of a response is told.
enum class Framing : std::uint8_t {
  kNoContent,   // nothing follows the head: HEAD, 204, 304
  kLength,      // Content-Length
  kChunked,     // Transfer-Encoding: chunked
  kUntilClose,  // the connection closes: HTTP/1.0 without a known length
};

// What the server says of the connection in a response.
enum class KeepAlive : std::uint8_t {
  kDefault,  // HTTP/1.1 stays open: nothing to say
  kSay,      // HTTP/1.0 that asked for it
  kClose,
};

// Fields that are the connection's to write, never the handler's: framing and hop-by-hop fields
// (RFC 9110 section 7.6.1). Such fields of a handler are dropped.
bool is_connection_field(std::string_view name) noexcept;

// A name that is a token and a value without control characters (RFC 9110 section 5): what may be
// written at all.
bool is_sound_field(const Field& field) noexcept;

// Appends the status line, the fields that are the handler's to give, and Date unless there is one.
// `date_line` is DateCache::line(). The head stays open for append_framing().
void append_head(std::string& out, int status, std::span<const Field> fields,
                 std::string_view date_line);

// Appends the framing fields and the empty line. `length` is written for kLength, and for
// kNoContent when has_length.
struct FramingFields {
  Framing framing = Framing::kLength;
  KeepAlive keep_alive = KeepAlive::kDefault;
  bool has_length = false;
  std::uint64_t length = 0;
};
void append_framing(std::string& out, const FramingFields& framing);

// "1f\r\n"
void append_chunk_size(std::string& out, std::size_t bytes);
// "0\r\n", the trailer section, the empty line.
void append_last_chunk(std::string& out, std::span<const Field> trailers);

}  // namespace mik::http
