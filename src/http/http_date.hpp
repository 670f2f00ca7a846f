// HTTP-date, RFC 9110 section 5.6.7. Pure functions: thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mik::http {

// Seconds since 1970 of any of the three forms, or nothing. Two digits of a year (RFC 850) mean the
// one that is not more than 50 years after `now`. The name of the day may be wrong; a leap second
// is the second before it.
std::optional<std::int64_t> parse_http_date(std::string_view text, std::int64_t now) noexcept;

}  // namespace mik::http
