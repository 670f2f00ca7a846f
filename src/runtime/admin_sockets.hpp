// Which connections came to `[server] admin`: told by where their sockets are bound, so that one
// may pass from worker to worker as any other. Immutable; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "net/socket.hpp"

namespace mik::runtime {

class AdminSockets {
 public:
  // The last of the listeners is the one of `admin`.
  static base::Result<AdminSockets> of(const std::vector<base::Fd>& listeners);

  bool contain(int socket) const;

 private:
  std::string admin_;
  bool any_ = false;  // every address of its port that no other listener has
  std::uint16_t port_ = 0;
  int family_ = 0;
  std::vector<std::string> others_;
};

}  // namespace mik::runtime
