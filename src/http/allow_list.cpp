#include "http/allow_list.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "http/scan.hpp"
#include "http/url.hpp"

namespace mik::http {
namespace {

constexpr std::string_view kForms =
    "accepted are \"*\", \"*.example.com\", \"api.example.com\", \"192.0.2.1\" and "
    "\"[2001:db8::1]\", each with "
    "\":port\" or without";

base::Error never(std::string_view pattern, std::string_view why, std::string help) {
  return base::Error(base::ErrorCode::kConfig,
                     fmt::format("http_allowed: \"{}\" can never match: {}", pattern, why))
      .with_help(std::move(help));
}

// What the operator most likely meant by a pattern that is a URL: its authority.
std::string_view authority_of(std::string_view text) {
  if (const std::size_t scheme = text.find("://"); scheme != std::string_view::npos) {
    text.remove_prefix(scheme + 3);
  }
  text = text.substr(0, text.find_first_of("/?#"));
  if (const std::size_t at = text.rfind('@'); at != std::string_view::npos) {
    text.remove_prefix(at + 1);
  }
  return text;
}

}  // namespace

// A host as it is compared.
struct AllowList::Host {
  explicit Host(std::string_view host) {
    if (host.starts_with('[') && host.ends_with(']')) {
      host = host.substr(1, host.size() - 2);
    }
    name = normal_host(host);
    address = IpAddress::parse(name);
  }

  std::string name;
  std::optional<IpAddress> address;  // when the host is the text of one
};

base::Result<AllowList> AllowList::compile(std::span<const std::string> patterns,
                                           PrivatePolicy private_policy) {
  AllowList list;
  list.private_policy_ = private_policy;
  for (const std::string& text : patterns) {
    MIK_TRY_ASSIGN(Pattern pattern, parse(text, private_policy));
    list.patterns_.push_back(std::move(pattern));
  }
  return list;
}

base::Result<AllowList::Pattern> AllowList::parse(std::string_view text,
                                                  PrivatePolicy private_policy) {
  if (text.empty()) {
    return never(text, "it is empty", "to allow nothing, write http_allowed = []");
  }
  if (!std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; })) {
    return never(text, "it has spaces, control characters or letters outside ASCII",
                 "write the host alone; international names in their xn-- form");
  }
  if (text.find_first_of("/?#@") != std::string_view::npos) {
    return never(text, "it is more than a host and a port",
                 fmt::format("write \"{}\"; {}", authority_of(text), kForms));
  }
  if (text.find(':') != text.rfind(':') && IpAddress::parse(text).has_value()) {
    return never(text, "an IPv6 address needs brackets", fmt::format("write \"[{}]\"", text));
  }
  const std::size_t host_end = text.starts_with('[') ? text.find(']') : 0;
  const std::size_t colon = text.find(':', std::min(host_end, text.size()));
  Pattern pattern;
  if (colon != std::string_view::npos) {
    std::uint64_t port = 0;
    if (!scan::parse_length(text.substr(colon + 1), port) || port == 0 || port > 65535) {
      return never(text, "its port is no number from 1 to 65535", std::string(kForms));
    }
    pattern.port = static_cast<std::uint16_t>(port);
  }
  if (const std::string_view why = parse_host(text.substr(0, colon), pattern); !why.empty()) {
    return never(text, why,
                 pattern.address.has_value()
                     ? fmt::format("write \"{}\"", pattern.address->to_string())
                     : std::string(kForms));
  }
  if (private_policy == PrivatePolicy::kDeny && pattern.kind == Pattern::Kind::kAddress &&
      pattern.address->address_class() == AddressClass::kPrivate) {
    return never(text, "it is a private address and http_private is \"deny\"",
                 "set http_private = \"named\", or remove the pattern");
  }
  return pattern;
}

// Fills in all but the port. What is wrong, or ""; an address that is set then is what was meant.
std::string_view AllowList::parse_host(std::string_view host, Pattern& pattern) {
  if (host == "*") {
    pattern.kind = Pattern::Kind::kAny;
    return {};
  }
  const bool below = host.starts_with("*.");
  if (below) {
    host.remove_prefix(2);
  }
  if (host.find('*') != std::string_view::npos) {
    return "a wildcard stands alone or is \"*.\" at the beginning";
  }
  if (!below && host.starts_with('[')) {
    const bool in_brackets = host.ends_with(']') && host.find(':') != std::string_view::npos;
    pattern.kind = Pattern::Kind::kAddress;
    pattern.address =
        in_brackets ? IpAddress::parse(host.substr(1, host.size() - 2)) : std::nullopt;
    return pattern.address.has_value() ? ""
                                       : "it is not an IPv6 address in brackets, without a zone";
  }
  if (!is_dns_name(host)) {
    return "its host is neither a name that DNS can know nor an address";
  }
  pattern.name = normal_host(host);
  const std::optional<IpAddress> address = IpAddress::parse(host);
  if (below) {
    pattern.kind = Pattern::Kind::kBelow;
    return address.has_value() ? "addresses have no names below them" : "";
  }
  pattern.kind = address.has_value() ? Pattern::Kind::kAddress : Pattern::Kind::kName;
  pattern.address = address;
  return address.has_value() && address->to_string() != pattern.name
             ? "it is an unusual spelling of an IPv4 address"
             : "";
}

bool AllowList::matches(const Pattern& pattern, const Host& host, std::uint16_t port) {
  if (pattern.port.has_value() && *pattern.port != port) {
    return false;
  }
  switch (pattern.kind) {
    case Pattern::Kind::kAny:
      return true;
    case Pattern::Kind::kAddress:
      return host.address == pattern.address;
    case Pattern::Kind::kName:
      return host.name == pattern.name;
    case Pattern::Kind::kBelow: {
      const std::string_view name = host.name;
      return !host.address.has_value() && name.ends_with(pattern.name) &&
             (name.size() == pattern.name.size() ||
              name[name.size() - pattern.name.size() - 1] == '.');
    }
  }
  return false;
}

// Whether a pattern that matches the host opens the address it led to.
bool AllowList::opens(const Pattern& pattern, const IpAddress& address) const {
  switch (address.address_class()) {
    case AddressClass::kPublic:
      return true;
    case AddressClass::kPrivate:
      return private_policy_ == PrivatePolicy::kAllow ||
             (private_policy_ == PrivatePolicy::kNamed && pattern.kind != Pattern::Kind::kAny);
    default:
      return pattern.kind == Pattern::Kind::kName || pattern.kind == Pattern::Kind::kAddress;
  }
}

bool AllowList::allows(const Host& host, std::uint16_t port, const IpAddress& address) const {
  bool name_matches = false;
  bool address_opens = false;
  for (const Pattern& pattern : patterns_) {
    if (matches(pattern, host, port)) {
      name_matches = true;
      address_opens = address_opens || opens(pattern, address);
    } else if (pattern.kind == Pattern::Kind::kAddress && pattern.address == address) {
      address_opens = address_opens || !pattern.port.has_value() || *pattern.port == port;
    }
  }
  return name_matches && address_opens;
}

bool AllowList::allows_name(std::string_view host, std::uint16_t port) const {
  const Host parsed(host);
  if (parsed.address.has_value()) {
    return allows(parsed, port, *parsed.address);
  }
  return is_dns_name(parsed.name) &&
         std::ranges::any_of(patterns_, [&parsed, port](const Pattern& pattern) {
           return matches(pattern, parsed, port);
         });
}

std::optional<std::size_t> AllowList::pattern_of(std::string_view host, std::uint16_t port) const {
  const Host parsed(host);
  const auto found = std::ranges::find_if(
      patterns_, [&](const Pattern& pattern) { return matches(pattern, parsed, port); });
  return found == patterns_.end()
             ? std::nullopt
             : std::optional(static_cast<std::size_t>(found - patterns_.begin()));
}

bool AllowList::allows_address(const sockaddr& address, std::string_view host,
                               std::uint16_t port) const {
  const Host parsed(host);
  const std::optional<IpAddress> reached = IpAddress::from_sockaddr(address);
  const bool fits = parsed.address.has_value()
                        ? parsed.address == reached  // a literal leads to itself
                        : is_dns_name(parsed.name);
  if (!reached.has_value() || !fits) {
    return false;
  }
  return allows(parsed, port, *reached);
}

}  // namespace mik::http
