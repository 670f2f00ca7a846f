// The listening sockets of a family, and who sits on a port that is taken. Stateless; any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace mik::supervisor {

struct Listener {
  base::Fd fd;
  std::string
      address;  // "127.0.0.1:3000", with the port that the kernel chose where 0 was asked for
};

// Opens them all or none. What is set here is inherited by accepted sockets: TCP_NODELAY. Errors:
// kConfig; kAddressInUse, which names the process that has the port where /proc tells; kSystem.
base::Result<std::vector<Listener>> open_listeners(const std::vector<std::string>& binds);

struct PortOwner {
  pid_t pid = 0;
  std::string name;  // its comm
};
// Nothing when nobody listens there, or it belongs to a user whose processes we may not look into.
// Reads all of /proc.
std::optional<PortOwner> port_owner(std::uint16_t port);

}  // namespace mik::supervisor
