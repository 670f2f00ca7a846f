#include "http/url.hpp"

#include <arpa/inet.h>

#include <array>
#include <cstring>

#include "http/scan.hpp"

namespace mik::http {
namespace {

bool is_ipv6(std::string_view text) noexcept {
  std::array<char, INET6_ADDRSTRLEN> copy{};
  if (text.size() >= copy.size() || text.find('\0') != std::string_view::npos) {
    return false;
  }
  std::memcpy(copy.data(), text.data(), text.size());
  in6_addr address{};
  return inet_pton(AF_INET6, copy.data(), &address) == 1;
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

}  // namespace mik::http
