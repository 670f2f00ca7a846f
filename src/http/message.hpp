// What the HTTP code and those who answer requests say to each other: heads, fields, limits.
// Value types and views; who owns the bytes of a view is said where it is handed over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/time.hpp"

namespace mik::http {

// A field line, RFC 9110 section 5. Names compare without case; values are bytes.
struct Field {
  std::string_view name;
  std::string_view value;
};

enum class Version : std::uint8_t { k10, k11, k2 };

enum class BodyKind : std::uint8_t {
  kNone,     // no content
  kLength,   // content_length bytes, more than none
  kChunked,  // ends by itself: a chunked body, or an HTTP/2 stream without content-length
};

// The head of a request. All views point into `bytes`, but for the path_query "*" of OPTIONS in
// absolute form without a path, which is static.
struct RequestHead {
  std::string_view bytes;   // one contiguous block
  std::string_view method;  // as received; case-sensitive
  // As received: origin, absolute, authority or asterisk form (RFC 9112 section 3.2).
  std::string_view target;
  // Origin form of it, untouched; "*" for asterisk form; empty for authority form.
  std::string_view path_query;
  std::string_view authority;  // of the target, else Host; empty only in HTTP/1.0 without Host
  Version version = Version::k11;
  BodyKind body = BodyKind::kNone;
  std::uint64_t content_length = 0;  // when body is kLength, and then not 0
  bool expect_continue = false;
  bool keep_alive = true;         // what the client asks for, by version and Connection
  bool te_trailers = false;       // TE: trailers, or HTTP/2
  std::span<const Field> fields;  // as received, in order
};

// First value of a field, or nullptr. `name` in lower case.
const Field* find_field(std::span<const Field> fields, std::string_view name) noexcept;

// ASCII case-insensitive, RFC 9110 section 5.1. `lower` is in lower case.
bool equals_lower(std::string_view text, std::string_view lower) noexcept;

// The head of a response as whoever answers gives it. Hop-by-hop fields, Date, Content-Length and
// framing are the connection's: content_length says which. Views need to live only during the call.
struct ResponseHead {
  int status = 200;
  std::span<const Field> fields;
  std::optional<std::uint64_t> content_length;  // known length of the content
};

// Who is on the other side of a connection.
struct Peer {
  std::string address;  // "203.0.113.7", "2001:db8::1", "unix:"; empty when it is gone already
  std::uint16_t port = 0;
};

struct Limits {
  std::size_t head_bytes_max = 64 * 1024;           // 431
  std::size_t fields_max = 128;                     // 431
  std::size_t target_bytes_max = 8 * 1024;          // 414
  std::uint64_t body_bytes_max = 10 * 1024 * 1024;  // 413
  base::Duration header_timeout =
      std::chrono::seconds(10);  // from a head's first byte to its end: 408
  base::Duration idle_timeout = std::chrono::seconds(130);  // between requests
  base::Duration body_timeout = std::chrono::seconds(30);   // no progress of a body, either way
  std::uint64_t body_rate_min = 240;  // bytes per second after 5 s of a request body, else 408
  std::uint32_t streams_max = 100;    // HTTP/2 concurrent streams per connection
};

// Reason phrase of RFC 9110 section 15, "" when there is none.
std::string_view reason_phrase(int status) noexcept;

}  // namespace mik::http
