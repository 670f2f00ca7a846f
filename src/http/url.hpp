// URLs and authorities of http and https, RFC 3986 and RFC 9110 section 4.2.
// Pure functions and value types: thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace mik::http {

// uri-host [ ":" port ]. Views into what was split.
struct Authority {
  enum class Kind : std::uint8_t {
    kName,
    kIpv6
  };  // spellings of IPv4 count as names here: see IpAddress::parse

  std::string_view host;  // as written; without the brackets for kIpv6
  Kind kind = Kind::kName;
  std::optional<std::uint16_t> port;  // nothing when absent or empty ("host:")
};

// Splits and checks an authority: reg-name with well-formed percent-escapes, or an IPv6 literal in
// brackets. Nothing for an empty host, userinfo, a zone id, IPvFuture, a port that is no number up
// to 65535, or any byte outside the grammar.
std::optional<Authority> split_authority(std::string_view text) noexcept;

// A host as names are compared: lower case, without the dot that ends a fully qualified name.
// Neither brackets nor escapes are looked at.
std::string normal_host(std::string_view host);

// Whether DNS could know it: labels of 1 to 63 letters, digits, '-' and '_', at most 253 bytes, a
// dot at the end or not. Tighter than reg-name: no percent-escapes, no sub-delims.
bool is_dns_name(std::string_view host) noexcept;

struct Url {
  bool secure = false;  // https
  std::string host;     // normal_host, without brackets
  Authority::Kind kind = Authority::Kind::kName;
  std::uint16_t port = 0;  // 80 or 443 when the URL has none
  std::string authority;   // as written: for Host
  std::string path_query;  // begins with '/'; as written but for the '/' of an empty path

  friend bool operator==(const Url&, const Url&) = default;
};

// "http://host:port/path?query": absolute URLs of the two schemes, whose host is a DNS name, an
// IPv4 spelling or an IPv6 literal, without userinfo and fragment, in printable ASCII.
// ErrorCode::kUsage with a sentence that quotes the URL.
base::Result<Url> parse_url(std::string_view text);

}  // namespace mik::http
