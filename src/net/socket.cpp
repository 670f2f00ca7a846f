#include "net/socket.hpp"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstddef>
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
  if (storage.ss_family == AF_UNIX) {
    sockaddr_un un{};
    std::memcpy(&un, &storage, sizeof un);
    constexpr std::size_t kPath = offsetof(sockaddr_un, sun_path);
    const std::size_t room = length > kPath ? length - kPath : 0;
    return "unix:" +
           std::string(un.sun_path, ::strnlen(un.sun_path, std::min(room, sizeof un.sun_path)));
  }
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

namespace {

void share_port(int fd, bool share) noexcept {
  const int value = share ? 1 : 0;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &value, sizeof value);
}

}  // namespace

base::Result<base::Fd> listen_tcp(const SocketAddress& address, int backlog) {
  return listen_tcp_beside(address, backlog, {});
}

base::Result<base::Fd> listen_tcp_beside(const SocketAddress& address, int backlog,
                                         const std::vector<int>& overlapping) {
  base::Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return base::Error::from_errno("socket", errno);
  }
  const int one = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (address.storage.ss_family == AF_INET6) {
    ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  }
  // For this call alone, so that nobody else shares the port later.
  share_port(fd.get(), !overlapping.empty());
  for (const int other : overlapping) {
    share_port(other, true);
  }
  const bool listens =
      ::bind(fd.get(), address.get(), address.length) == 0 && ::listen(fd.get(), backlog) == 0;
  const int error = errno;
  share_port(fd.get(), false);
  for (const int other : overlapping) {
    share_port(other, false);
  }
  if (!listens) {
    if (error == EADDRINUSE) {
      return base::Error(base::ErrorCode::kAddressInUse,
                         fmt::format("{} is already in use", address.to_string()));
    }
    auto refused =
        base::Error::from_errno(fmt::format("cannot listen on {}", address.to_string()), error);
    if (error == EACCES) {
      return std::move(refused).with_help(
          "ports below 1024 need root, or CAP_NET_BIND_SERVICE: choose another, or put a proxy in "
          "front");
    }
    return refused;
  }
  return fd;
}

namespace {

base::Result<sockaddr_un> unix_address(const std::string& path) {
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  if (path.empty() || path.front() != '/' || path.size() >= sizeof un.sun_path) {
    return base::Error(base::ErrorCode::kConfig,
                       fmt::format("'unix:{}' is not an address to bind: the path must be absolute "
                                   "and shorter than {} bytes",
                                   path, sizeof un.sun_path))
        .with_help("write it as unix:/run/mik/http.sock");
  }
  std::memcpy(un.sun_path, path.data(), path.size());
  return un;
}

// Two that start at the same time must not take each other's new file for one that was left behind:
// who holds the abstract name of the same spelling has the turn. It goes with its descriptor.
base::Result<base::Fd> take_turn(const sockaddr_un& un, const std::string& path) {
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path + 1, un.sun_path, path.size());
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + path.size());
  if (!fd.valid() || ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name), length) != 0) {
    const int error = errno;
    if (error == EADDRINUSE) {
      return base::Error(base::ErrorCode::kAddressInUse,
                         fmt::format("unix:{} is being taken by another process", path));
    }
    return base::Error::from_errno(fmt::format("cannot listen on unix:{}", path), error);
  }
  return fd;
}

bool bind_unix(int fd, const sockaddr_un& un) noexcept {
  // From its first moment on, and whatever the umask: who is of the group may connect.
  constexpr mode_t kMask = 0117;
  const mode_t before = ::umask(kMask);
  const bool bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&un), sizeof un) == 0;
  const int error = errno;
  ::umask(before);
  errno = error;
  return bound;
}

// The file is a socket on which nobody listens.
base::Result<void> remove_stale(const std::string& path, const sockaddr_un& un) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) {
    return {};  // gone since
  }
  if (!S_ISSOCK(status.st_mode)) {
    return base::Error(
               base::ErrorCode::kConfig,
               fmt::format("cannot listen on unix:{}: the file is there, and is no socket", path))
        .with_help("remove the file, or name another in [server] bind");
  }
  const base::Fd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&un), sizeof un) == 0 ||
      errno != ECONNREFUSED) {
    const int error = errno;
    if (error == EACCES || error == EPERM) {
      return base::Error::from_errno(fmt::format("cannot listen on unix:{}", path), error);
    }
    return base::Error(base::ErrorCode::kAddressInUse,
                       fmt::format("unix:{} is already in use", path))
        .with_help("stop the process that listens there, or name another in [server] bind");
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return base::Error::from_errno(fmt::format("cannot replace the socket file {}", path), errno);
  }
  return {};
}

}  // namespace

base::Result<base::Fd> listen_unix(const std::string& path, int backlog) {
  MIK_TRY_ASSIGN(const sockaddr_un un, unix_address(path));
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) {
    return base::Error::from_errno("socket", errno);
  }
  MIK_TRY_ASSIGN(const base::Fd turn, take_turn(un, path));
  bool bound = bind_unix(fd.get(), un);
  if (!bound && errno == EADDRINUSE) {
    MIK_TRY(remove_stale(path, un));
    bound = bind_unix(fd.get(), un);
  }
  if (!bound || ::listen(fd.get(), backlog) != 0) {
    return base::Error::from_errno(fmt::format("cannot listen on unix:{}", path), errno);
  }
  return fd;
}

bool drop_new_connections(int listener) noexcept {
  // Classic BPF over the TCP header: a segment with SYN is dropped, all else passes, so that
  // handshakes that have begun still end and are accepted.
  constexpr std::uint32_t kFlagsOffset = 13;
  constexpr std::uint32_t kSyn = 0x02;
  std::array<sock_filter, 4> code = {{
      BPF_STMT(BPF_LD | BPF_B | BPF_ABS, kFlagsOffset),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, kSyn, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, 0),
      BPF_STMT(BPF_RET | BPF_K, 0xffff'ffff),
  }};
  const sock_fprog program{.len = code.size(), .filter = code.data()};
  return ::setsockopt(listener, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0;
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
