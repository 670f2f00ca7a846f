// HTTP/1.x request heads, RFC 9112. Strict where request smuggling lives: a bare LF, obs-fold,
// whitespace before a colon, conflicting lengths, Content-Length beside Transfer-Encoding, an
// unknown transfer coding are all errors. No state, no allocation: heads are views into the
// caller's buffer. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "http/message.hpp"

namespace mik::http {

enum class ParseStatus : std::uint8_t {
  kDone,
  kNeedMore,
  kBadRequest,     // 400
  kTargetTooLong,  // 414
  kHeadTooLarge,   // 431: bytes or number of fields
  kVersion,        // 505: HTTP/x.y that is not 1.x
};

struct ParseResult {
  ParseStatus status = ParseStatus::kNeedMore;
  std::size_t head_bytes = 0;  // kDone: how much of the buffer the head took, empty line included
  std::string_view problem;    // errors: what is wrong, for the client; static storage
};

// Parses the head at the start of `buffer`. `fields` is the caller's storage: its size is the limit
// on the number of fields. On kDone every view of `head` points into `buffer`. kNeedMore may be
// asked again with more bytes: `scanned` (0 at first) remembers how far the end was looked for, so
// that a head that comes byte by byte costs linear time. Up to eight empty lines before the request
// line are skipped (RFC 9112 section 2.2). What is found does not depend on how the bytes were
// split, only when it is found: an error in the middle of a head that has not ended may be told
// later, at the latest with the end of the head or at `head_bytes_max`.
//
// Choices that the RFCs leave open, all 400: a list of equal Content-Lengths and a repeated one
// (RFC 9110 section 8.6); any Transfer-Encoding but `chunked` (501 would do as well for codings
// that are unknown, RFC 9112 section 6.1) and any in HTTP/1.0; an empty Host in HTTP/1.1; a target
// in absolute form with a query but no path. Bytes from 0x80 in a path or query pass if they are
// well-formed UTF-8, since guests get it as text; '#' does not pass. HTTP/1.2 and above are read
// as 1.1. `Content-Length: 0` is BodyKind::kNone. `expect_continue` is set only for a body in
// HTTP/1.1.
ParseResult parse_request_head(std::string_view buffer, const Limits& limits,
                               std::span<Field> fields, std::size_t& scanned,
                               RequestHead& head) noexcept;

}  // namespace mik::http
