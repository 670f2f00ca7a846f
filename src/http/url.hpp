// URLs and authorities of http and https, RFC 3986 and RFC 9110 section 4.2, and what an address is.
// Pure functions and value types: thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mik::http {

// uri-host [ ":" port ]. Views into what was split.
struct Authority {
  enum class Kind : std::uint8_t { kName, kIpv6 };  // an IPv4 address counts as a name: see parse_ipv4_literal

  std::string_view host;  // as written; without the brackets for kIpv6
  Kind kind = Kind::kName;
  std::optional<std::uint16_t> port;  // nothing when absent or empty ("host:")
};

// Splits and checks an authority: reg-name with well-formed percent-escapes, or an IPv6 literal in brackets. Nothing for
// an empty host, userinfo, a zone id, IPvFuture, a port that is no number up to 65535, or any byte outside the grammar.
std::optional<Authority> split_authority(std::string_view text) noexcept;

}  // namespace mik::http
