// What an IP address is: its text in all spellings that resolvers understand, and whom one reaches
// there. Pure functions and value types: thread-safe.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace mik::http {

// Who is reached at an address. IPv6 addresses that carry an IPv4 address are what that one is.
enum class AddressClass : std::uint8_t {
  kPublic,
  kPrivate,      // RFC 1918, 100.64/10, 198.18/15, 192.0.0/24, fc00::/7, fec0::/10
  kLoopback,     // 127/8, ::1
  kLinkLocal,    // 169.254/16, fe80::/10
  kMetadata,     // where clouds hand out credentials: 169.254.169.254, fd00:ec2::/32 and others
  kUnspecified,  // 0/8, ::; Linux connects to loopback
  kMulticast,    // 224/4, ff00::/8
  kReserved,     // 240/4, broadcast
};

class IpAddress {
 public:
  // Nothing for other families. A v4-mapped IPv6 address becomes the IPv4 address, which is where
  // the kernel connects.
  static std::optional<IpAddress> from_sockaddr(const sockaddr& address) noexcept;

  // The address that `host` is a spelling of: IPv6 (no brackets, no zone), dotted IPv4, and all
  // that inet_aton(3) and so getaddrinfo(3) take for IPv4 ("2852039166", "0xA9FEA9FE",
  // "0251.0376.0251.0376", "169.254.43518"), with a dot at the end or not. Nothing for a name.
  static std::optional<IpAddress> parse(std::string_view host) noexcept;

  // Dotted IPv4 or IPv6 alone, as inet_pton(3) reads them: what proxies and operators write.
  static std::optional<IpAddress> parse_plain(std::string_view text) noexcept;

  bool is_v4() const noexcept { return v4_; }
  // The first address of the network that has this one and a prefix of `bits`, at most 32 or 128.
  IpAddress network(int bits) const noexcept;
  AddressClass address_class() const noexcept;
  std::string to_string() const;

  friend bool operator==(const IpAddress&, const IpAddress&) = default;

 private:
  static IpAddress v4(std::uint32_t address) noexcept;
  static IpAddress v6(const std::array<std::uint8_t, 16>& bytes) noexcept;

  std::array<std::uint8_t, 16> bytes_{};  // network order; IPv4 in the last four, after zeroes
  bool v4_ = false;
};

}  // namespace mik::http
