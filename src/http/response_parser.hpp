// HTTP/1.x response heads, RFC 9112, as a client reads them. No state, no allocation. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "http/message.hpp"
#include "http/request_parser.hpp"

namespace mik::http {

enum class ResponseBody : std::uint8_t { kNone, kLength, kChunked, kUntilClose };

struct ResponseStatus {
  int status = 0;
  Version version = Version::k11;
  ResponseBody body = ResponseBody::kNone;  // by status, fields and `request_method` (RFC 9112 section 6.3)
  std::uint64_t content_length = 0;
  bool keep_alive = true;
  std::span<const Field> fields;
};

// As parse_request_head. Interim (1xx) responses are returned like others; the caller reads on.
ParseResult parse_response_head(std::string_view buffer, const Limits& limits, std::span<Field> fields,
                                std::string_view request_method, std::size_t& scanned,
                                ResponseStatus& response) noexcept;

}  // namespace mik::http
