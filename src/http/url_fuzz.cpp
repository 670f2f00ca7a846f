// URLs, authorities, addresses and the allow-list. Input: lines; the first is a URL or authority,
// the others patterns.
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "http/address.hpp"
#include "http/allow_list.hpp"
#include "http/request_grammar.hpp"
#include "http/url.hpp"

namespace {

using namespace mik::http;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "url, address or allow-list is wrong: %s\n", what);
    std::abort();
  }
}

// What the resolver takes for an address without asking anybody, we must take for the same one.
void compare_with_resolver(const std::string& host) {
  if (host.empty() || host.find('\0') != std::string::npos || host.find('%') != std::string::npos) {
    return;
  }
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::optional<IpAddress> ours = IpAddress::parse(host);
  if (getaddrinfo(host.c_str(), nullptr, &hints, &found) == 0) {
    const std::optional<IpAddress> theirs = IpAddress::from_sockaddr(*found->ai_addr);
    freeaddrinfo(found);
    require(ours.has_value() && ours == theirs, "a spelling of an address that is not known");
  } else if (ours.has_value()) {
    require(host.ends_with('.'), "an address that the resolver does not know");
  }
  if (ours.has_value()) {
    require(IpAddress::parse(ours->to_string()) == ours,
            "an address that does not survive its text");
  }
}

void check_authority(std::string_view text) {
  const std::optional<Authority> authority = split_authority(text);
  bool has_port = false;
  require(authority.has_value() == testing::authority_fits(text, has_port), "authority");
  if (authority.has_value()) {
    require(authority->port.has_value() == has_port, "port");
    compare_with_resolver(std::string(authority->host));
  }
}

void check_url(std::string_view text) {
  const mik::base::Result<Url> url = parse_url(text);
  if (!url.has_value()) {
    for (const char c : url.error().message()) {
      require(c >= 0x20 && c < 0x7f, "a message that is not printable");
    }
    return;
  }
  require(url->path_query.starts_with('/') && url->port != 0 && !url->host.empty(), "URL");
  require(split_authority(url->authority).has_value(), "authority of a URL");
  const mik::base::Result<Url> again =
      parse_url((url->secure ? "https://" : "http://") + url->authority + url->path_query);
  require(again.has_value() && *again == *url, "a URL that does not survive its text");
}

bool reaches(const AllowList& list, std::string_view host, std::uint16_t port, std::uint32_t v4) {
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(v4);
  const auto& address = reinterpret_cast<const sockaddr&>(in);
  const bool allowed = list.allows_address(address, host, port);
  require(!allowed || list.allows_name(host, port), "an address allowed for a name that is not");
  return allowed;
}

void check_list(const std::vector<std::string>& patterns, std::string_view host) {
  constexpr std::uint32_t kMetadata = 0xa9fea9fe;
  constexpr std::uint32_t kLoopback = 0x7f000001;
  constexpr std::uint32_t kPrivate = 0x0a000001;
  bool wild = true;
  for (const std::string& pattern : patterns) {
    wild = wild && pattern.starts_with('*');
  }
  for (const PrivatePolicy policy :
       {PrivatePolicy::kNamed, PrivatePolicy::kDeny, PrivatePolicy::kAllow}) {
    const mik::base::Result<AllowList> list = AllowList::compile(patterns, policy);
    if (!list.has_value()) {
      require(!list.error().help().empty(), "an error without help");
      continue;
    }
    for (const std::uint16_t port : {std::uint16_t{80}, std::uint16_t{443}}) {
      const bool loopback = reaches(*list, host, port, kLoopback);
      const bool metadata = reaches(*list, host, port, kMetadata);
      require(!wild || (!loopback && !metadata), "a wildcard that opens loopback or metadata");
      const bool rfc1918 = reaches(*list, host, port, kPrivate);
      require(!rfc1918 || policy != PrivatePolicy::kDeny, "a private address that is denied");
      require(!patterns.empty() || !list->allows_name(host, port), "an empty list that allows");
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::string> lines =
      testing::split(std::string_view(reinterpret_cast<const char*>(data), size), '\n');
  const std::string subject = lines.front();
  lines.erase(lines.begin());
  check_url(subject);
  check_authority(subject);
  compare_with_resolver(subject);
  check_list(lines, subject);
  const mik::base::Result<Url> url = parse_url(subject);
  if (url.has_value()) {
    check_list(lines, url->host);
  }
  return 0;
}
