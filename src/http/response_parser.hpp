// HTTP/1.x response heads, RFC 9112, as a client reads them. No state, no allocation. Thread-safe.
//
// Forgiving where the RFC lets a recipient be: a bare LF as line end (section 2.2), whitespace
// before a colon (5.1), no reason phrase nor the space before it (4), equal Content-Lengths
// repeated or in a list (RFC 9110 section 8.6), Content-Length beside Transfer-Encoding and
// Transfer-Encoding in HTTP/1.0 (chunked counts, and the connection is not used again: sections 6.1
// and 6.3). All else is kBadRequest, here "not an HTTP response": obs-fold, conflicting lengths, a
// transfer coding but `chunked`, control characters, a status below 100.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "http/message.hpp"
#include "http/request_parser.hpp"

namespace mik::http {

enum class ResponseBody : std::uint8_t {
  kNone,        // no content: by status or method, or a Content-Length of 0
  kLength,      // content_length bytes, more than none
  kChunked,     // as ChunkedDecoder reads it
  kUntilClose,  // what comes until the connection ends; a cut cannot be told from the end
};

struct ResponseStatus {
  int status = 0;                  // 100 to 999
  Version version = Version::k11;  // k10 or k11
  ResponseBody body =
      ResponseBody::kNone;  // by status, fields and `request_method` (RFC 9112 section 6.3)
  std::uint64_t content_length = 0;  // when body is kLength
  bool keep_alive = true;  // whether the connection may be used again once the content is through
  std::span<const Field> fields;  // as received, in order, framing fields included
};

// As parse_request_head; `problem` is for the log, and kVersion means a major version other than 1.
// Interim (1xx) responses are returned like others: the caller reads on behind `head_bytes` with
// `scanned` 0 again, and refuses a 101 it did not ask for. A 2xx to CONNECT has body kNone and
// keep_alive false. `request_method` is case-sensitive.
ParseResult parse_response_head(std::string_view buffer, const Limits& limits,
                                std::span<Field> fields, std::string_view request_method,
                                std::size_t& scanned, ResponseStatus& response) noexcept;

}  // namespace mik::http
