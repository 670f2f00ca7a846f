// Conditional requests, RFC 9110 section 13: what the client already has against what there is.
// Pure functions: thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "http/message.hpp"

namespace mik::http {

// Of the representation that would be sent.
struct Validators {
  std::string_view etag;                 // with its quotes, perhaps W/; empty: none
  std::optional<std::int64_t> modified;  // seconds since 1970
};

enum class Precondition : std::uint8_t {
  kHolds,
  kNotModified,  // 304
  kFailed,       // 412
};

// If-Match, If-Unmodified-Since, If-None-Match and If-Modified-Since in the order of section
// 13.2.2, for a representation that exists. A field whose value is broken does not match; a date
// that is none is passed over. `now`: seconds since 1970.
Precondition check_preconditions(std::string_view method, std::span<const Field> fields,
                                 const Validators& validators, std::int64_t now) noexcept;

// If-Range: whether Range counts. True when there is no If-Range. By a date only if the file has
// been left alone for two seconds, else it is no strong validator (section 8.8.2.2).
bool if_range_holds(std::span<const Field> fields, const Validators& validators,
                    std::int64_t now) noexcept;

// Whether a list of entity tags has one that is `etag`. Weak: W/"x" and "x" are the same (section
// 8.8.3.2). "*" is not looked at.
bool lists_etag_weak(std::string_view list, std::string_view etag) noexcept;
bool lists_etag_strong(std::string_view list, std::string_view etag) noexcept;

// Whether If-None-Match names entity tags, and no weak one.
bool has_strong_etags_only(std::span<const Field> fields) noexcept;

}  // namespace mik::http
