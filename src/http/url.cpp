#include "http/url.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "http/address.hpp"
#include "http/scan.hpp"

namespace mik::http {
namespace {

bool is_ipv6(std::string_view text) noexcept {
  return text.find(':') != std::string_view::npos && IpAddress::parse(text).has_value();
}

// How long the reg-name at the front is; npos when a percent-escape is malformed.
std::size_t reg_name_length(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    if (scan::is(text[at], scan::kRegName)) {
      ++at;
    } else if (text[at] == '%') {
      if (text.size() - at < 3 || !scan::is(text[at + 1], scan::kHex) ||
          !scan::is(text[at + 2], scan::kHex)) {
        return std::string_view::npos;
      }
      at += 3;
    } else {
      break;
    }
  }
  return at;
}

}  // namespace

std::optional<Authority> split_authority(std::string_view text) noexcept {
  Authority authority;
  std::size_t host_end = 0;
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos || !is_ipv6(text.substr(1, close - 1))) {
      return std::nullopt;
    }
    authority.kind = Authority::Kind::kIpv6;
    authority.host = text.substr(1, close - 1);
    host_end = close + 1;
  } else {
    host_end = reg_name_length(text);
    if (host_end == 0 || host_end == std::string_view::npos) {
      return std::nullopt;
    }
    authority.host = text.substr(0, host_end);
  }
  if (host_end == text.size()) {
    return authority;
  }
  if (text[host_end] != ':') {
    return std::nullopt;
  }
  const std::string_view digits = text.substr(host_end + 1);
  if (digits.empty()) {
    return authority;
  }
  std::uint64_t port = 0;
  if (!scan::parse_length(digits, port) || port > 65535) {
    return std::nullopt;
  }
  authority.port = static_cast<std::uint16_t>(port);
  return authority;
}

std::string normal_host(std::string_view host) {
  if (host.ends_with('.')) {
    host.remove_suffix(1);
  }
  std::string normal(host);
  std::ranges::transform(normal, normal.begin(), scan::lower);
  return normal;
}

bool is_dns_name(std::string_view host) noexcept {
  constexpr std::size_t kNameBytesMax = 253;
  constexpr std::size_t kLabelBytesMax = 63;
  if (host.ends_with('.')) {
    host.remove_suffix(1);
  }
  if (host.size() > kNameBytesMax) {
    return false;
  }
  std::size_t label_bytes = 0;
  for (const char c : host) {
    if (c == '.') {
      if (label_bytes == 0) {
        return false;
      }
      label_bytes = 0;
      continue;
    }
    const char folded = scan::lower(c);
    const bool known =
        (folded >= 'a' && folded <= 'z') || scan::is_digit(c) || c == '-' || c == '_';
    if (!known || ++label_bytes > kLabelBytesMax) {
      return false;
    }
  }
  return label_bytes > 0;
}

base::Result<Url> parse_url(std::string_view text) {
  const auto wrong = [text](std::string_view why) {
    // The quoted text is for people and logs: bytes that are not printable are not shown.
    std::string shown(text.substr(0, 200));
    std::ranges::replace_if(shown, [](char c) { return c < 0x20 || c > 0x7e; }, '?');
    return base::Error(base::ErrorCode::kUsage, fmt::format("\"{}\" {}", shown, why))
        .with_help("write it as http://host:port/path");
  };
  if (!std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; })) {
    return wrong("has characters that a URL must not have; write them as percent-escapes");
  }
  const std::size_t colon = text.find("://");
  const std::string_view scheme = text.substr(0, colon);
  if (colon == std::string_view::npos ||
      (!equals_lower(scheme, "http") && !equals_lower(scheme, "https"))) {
    return wrong("is not an http or https URL");
  }
  if (text.find('#') != std::string_view::npos) {
    return wrong("has a fragment, which is not sent to servers");
  }
  const std::string_view rest = text.substr(colon + 3);
  const std::size_t path = std::min(rest.find_first_of("/?"), rest.size());
  const std::string_view written = rest.substr(0, path);
  if (written.find('@') != std::string_view::npos) {
    return wrong("has a user name in it, which is not supported");
  }
  const std::optional<Authority> authority = split_authority(written);
  if (!authority.has_value() ||
      (authority->kind == Authority::Kind::kName && !is_dns_name(authority->host))) {
    return wrong("has no valid host");
  }
  Url url;
  url.secure = scheme.size() == 5;
  url.host = normal_host(authority->host);
  url.kind = authority->kind;
  url.port = authority->port.value_or(url.secure ? 443 : 80);
  if (url.port == 0) {
    return wrong("has the port 0, which nobody can listen on");
  }
  url.authority = written;
  url.path_query = rest.substr(path);
  if (!url.path_query.starts_with('/')) {
    url.path_query.insert(url.path_query.begin(), '/');
  }
  return url;
}

}  // namespace mik::http
