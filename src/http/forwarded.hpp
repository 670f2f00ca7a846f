// Who a request comes from when proxies stand between: X-Forwarded-For and -Proto, Forwarded (RFC
// 7239), X-Real-IP, believed from trusted proxies only. Pure functions; TrustedProxies is immutable
// after compile(): thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "http/address.hpp"
#include "http/exchange.hpp"
#include "http/message.hpp"

namespace mik::http {

// The key trusted_proxies. Unix sockets are trusted always: who may connect is decided by the file.
class TrustedProxies {
 public:
  // Unix sockets only.
  TrustedProxies() = default;

  //   entry = address / address "/" bits             IPv4 or IPv6, without brackets
  //
  // A v4-mapped network is the IPv4 network in it. ErrorCode::kConfig for the first entry that is
  // none, with what is right as help.
  static base::Result<TrustedProxies> compile(std::span<const std::string> entries);

  bool contains(const IpAddress& address) const noexcept;
  bool contains(const Peer& peer) const noexcept;

 private:
  struct Network {
    IpAddress address;
    int bits;
  };
  static base::Result<Network> parse(const std::string& text);

  std::vector<Network> networks_;
};

enum class ForwardedScheme : std::uint8_t { kNotSaid, kHttp, kHttps };

struct ForwardedView {
  // The client as far as trusted proxies know it, an address (as it was written) or "unix:"; into
  // the head or the peer. The peer's own when it is no trusted proxy or said nothing that is one.
  std::string_view client;
  // Of the connection that the client made. kNotSaid: that of our own connection counts.
  ForwardedScheme scheme = ForwardedScheme::kNotSaid;
  // The peer is a trusted proxy, and this request was made by somebody else: any of the fields is
  // there.
  bool forwarded = false;
};

// From the right, since each proxy appends: hops that are trusted proxies themselves are passed
// over, and it stops at the first that is not one, or before what is no address. Most proxies write
// one of X-Forwarded-* and Forwarded and pass on what a client made up of the other. Which one is
// not known (RFC 7239 section 8.1): where both are there, what they do not agree on is not said.
// X-Real-IP counts where there is neither X-Forwarded-For nor Forwarded. Allocates nothing.
ForwardedView forwarded(const RequestHead& head, const Peer& peer,
                        const TrustedProxies& proxies) noexcept;

// Whether the client's connection is HTTPS, by that view of an exchange.
bool is_https(const ForwardedView& view, const Exchange& exchange) noexcept;

}  // namespace mik::http
