#include "net/socket.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>

#include <fmt/format.h>

namespace mik::net {

namespace {

base::Error bad_address(std::string_view text) {
  return base::Error(base::ErrorCode::kConfig, fmt::format("'{}' is not an address to bind", text))
      .with_help("write it as 127.0.0.1:3000 or [::1]:3000");
}

}  // namespace

std::string SocketAddress::host() const {
  std::array<char, INET6_ADDRSTRLEN> text{};
  if (storage.ss_family == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, &storage, sizeof in);
    ::inet_ntop(AF_INET, &in.sin_addr, text.data(), text.size());
  } else if (storage.ss_family == AF_INET6) {
    sockaddr_in6 in6{};
    std::memcpy(&in6, &storage, sizeof in6);
    ::inet_ntop(AF_INET6, &in6.sin6_addr, text.data(), text.size());
  }
  return text.data();
}

std::uint16_t SocketAddress::port() const noexcept {
  if (storage.ss_family == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, &storage, sizeof in);
    return ntohs(in.sin_port);
  }
  if (storage.ss_family == AF_INET6) {
    sockaddr_in6 in6{};
    std::memcpy(&in6, &storage, sizeof in6);
    return ntohs(in6.sin6_port);
  }
  return 0;
}

std::string SocketAddress::to_string() const {
  return storage.ss_family == AF_INET6 ? fmt::format("[{}]:{}", host(), port())
                                       : fmt::format("{}:{}", host(), port());
}

base::Result<SocketAddress> parse_socket_address(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) {
    return bad_address(text);
  }
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  std::uint16_t port = 0;
  const auto [end, error] =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), port);
  if (error != std::errc() || end != port_text.data() + port_text.size()) {
    return bad_address(text);
  }
  SocketAddress address;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    if (::inet_pton(AF_INET6, std::string(host).c_str(), &in6.sin6_addr) != 1) {
      return bad_address(text);
    }
    std::memcpy(&address.storage, &in6, sizeof in6);
    address.length = sizeof in6;
    return address;
  }
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(port);
  if (::inet_pton(AF_INET, std::string(host).c_str(), &in.sin_addr) != 1) {
    return bad_address(text);
  }
  std::memcpy(&address.storage, &in, sizeof in);
  address.length = sizeof in;
  return address;
}

base::Result<base::Fd> listen_tcp(const SocketAddress& address, int backlog) {
  base::Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return base::Error::from_errno("socket", errno);
  }
  const int one = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (address.storage.ss_family == AF_INET6) {
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  }
  if (::bind(fd.get(), address.get(), address.length) != 0 || ::listen(fd.get(), backlog) != 0) {
    const int error = errno;
    if (error == EADDRINUSE) {
      return base::Error(base::ErrorCode::kAddressInUse,
                         fmt::format("{} is already in use", address.to_string()));
    }
    return base::Error::from_errno(fmt::format("cannot listen on {}", address.to_string()), error);
  }
  return fd;
}

namespace {

using NameCall = int (*)(int, sockaddr*, socklen_t*);

base::Result<SocketAddress> name_of(int fd, NameCall call, std::string_view what) {
  SocketAddress address;
  address.length = sizeof address.storage;
  if (call(fd, address.get(), &address.length) != 0) {
    return base::Error::from_errno(what, errno);
  }
  return address;
}

}  // namespace

base::Result<SocketAddress> local_address(int fd) {
  return name_of(fd, ::getsockname, "getsockname");
}

base::Result<SocketAddress> peer_address(int fd) {
  return name_of(fd, ::getpeername, "getpeername");
}

}  // namespace mik::net
