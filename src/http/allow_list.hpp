// Where guests may connect: the patterns of http_allowed, asked first with the name and then with
// the address. Immutable after compile(): thread-safe.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "http/address.hpp"

namespace mik::http {

// http_private: which patterns open private ranges (AddressClass::kPrivate).
enum class PrivatePolicy : std::uint8_t {
  kNamed,  // all but "*"
  kDeny,   // none; a pattern that is a private address is then an error
  kAllow,  // all
};

//   pattern = host-pattern [ ":" port ]             without a port: any port
//   host-pattern = "*"                              every host
//                / "*." name                        the name and all below it
//                / name / IPv4 / "[" IPv6 "]"       that host
//
// Names compare without case and without the dot that ends a fully qualified name. Addresses
// compare as addresses: "[::1]" is also "[0:0:0:0:0:0:0:1]", and "127.0.0.1" is also
// "[::ffff:127.0.0.1]" and "2130706433". "*.name" never matches an address.
//
// An address is refused, whatever its name, when it is loopback, link-local, metadata, unspecified,
// multicast or reserved, unless a pattern names that host (no wildcard) or that address; and when
// it is private, by PrivatePolicy. So "*" opens public addresses only, "*.internal.example.com"
// private ones too, "localhost" and "127.0.0.1" loopback.
class AllowList {
 public:
  // Denies everything.
  AllowList() = default;

  // ErrorCode::kConfig for the first pattern that could never match, with the accepted form as
  // help.
  static base::Result<AllowList> compile(std::span<const std::string> patterns,
                                         PrivatePolicy private_policy = PrivatePolicy::kNamed);

  // Whether a request to this host may go on to look up its address. `host` as in the authority,
  // with or without brackets. An address literal in any spelling is decided here for good.
  bool allows_name(std::string_view host, std::uint16_t port) const;

  // The first pattern that lets the host pass by its name, by its place in what was compiled.
  std::optional<std::size_t> pattern_of(std::string_view host, std::uint16_t port) const;

  // Whether the address that `host` led to may be connected to. To be asked for the very address
  // given to connect(2), each time. Includes allows_name. `port` is the URL's; the one in `address`
  // is not looked at.
  bool allows_address(const sockaddr& address, std::string_view host, std::uint16_t port) const;

  bool empty() const noexcept { return patterns_.empty(); }

 private:
  struct Pattern {
    enum class Kind : std::uint8_t { kAny, kBelow, kName, kAddress };
    Kind kind = Kind::kAny;
    std::string name;                   // kBelow (without "*.") and kName
    std::optional<IpAddress> address;   // kAddress
    std::optional<std::uint16_t> port;  // nothing: any
  };
  struct Host;

  static base::Result<Pattern> parse(std::string_view text, PrivatePolicy private_policy);
  static std::string_view parse_host(std::string_view host, Pattern& pattern);
  static bool matches(const Pattern& pattern, const Host& host, std::uint16_t port);
  bool opens(const Pattern& pattern, const IpAddress& address) const;
  bool allows(const Host& host, std::uint16_t port, const IpAddress& address) const;

  std::vector<Pattern> patterns_;
  PrivatePolicy private_policy_ = PrivatePolicy::kNamed;
};

}  // namespace mik::http
