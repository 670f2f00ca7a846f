// Addresses as text and back, and listening sockets. Stateless; thread-safe.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace mik::net {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;

  const sockaddr* get() const noexcept { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() noexcept { return reinterpret_cast<sockaddr*>(&storage); }

  // "127.0.0.1", "::1"; empty for a unix socket.
  std::string host() const;
  std::uint16_t port() const noexcept;  // 0 where there is none
  // "127.0.0.1:3000", "[::1]:3000", "unix:/run/mik/http.sock"; "unix:" for one without a path, as
  // clients of unix sockets are.
  std::string to_string() const;
};

// "127.0.0.1:3000", "[::1]:3000". Literals only: no name is looked up. kConfig when it is none.
base::Result<SocketAddress> parse_socket_address(std::string_view text);

// A bound, listening, non-blocking TCP socket with SO_REUSEADDR; IPv6 is IPv6 only. kAddressInUse
// when it is taken.
base::Result<base::Fd> listen_tcp(const SocketAddress& address, int backlog);
// The same beside listening sockets of this process whose addresses overlap with this one
// ("0.0.0.0" and "127.0.0.1" of one port), all of which are named. Who asks for the more exact
// address gets it.
base::Result<base::Fd> listen_tcp_beside(const SocketAddress& address, int backlog,
                                         const std::vector<int>& overlapping);

// A bound, listening, non-blocking unix socket with the mode 0660 whatever the umask. A socket file
// on which nobody listens is replaced. For a process with one thread (it changes the umask for a
// moment). Errors: kAddressInUse; kConfig for a path that is too long or is something else;
// kSystem.
base::Result<base::Fd> listen_unix(const std::string& path, int backlog);

// Makes the kernel drop new connection attempts at this listening TCP socket, in whichever process
// it is open, while those that are queued can still be accepted. A client's kernel tries again a
// second later. False when the kernel will not.
bool drop_new_connections(int listener) noexcept;

// Where a socket is bound to, or connected to.
base::Result<SocketAddress> local_address(int fd);
base::Result<SocketAddress> peer_address(int fd);

}  // namespace mik::net
