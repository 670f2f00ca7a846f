#include "runtime/admin_sockets.hpp"

#include <algorithm>

namespace mik::runtime {

base::Result<AdminSockets> AdminSockets::of(const std::vector<base::Fd>& listeners) {
  AdminSockets sockets;
  for (const base::Fd& listener : listeners) {
    MIK_TRY_ASSIGN(const net::SocketAddress address, net::local_address(listener.get()));
    if (&listener != &listeners.back()) {
      sockets.others_.push_back(address.to_string());
      continue;
    }
    sockets.admin_ = address.to_string();
    sockets.any_ = address.host() == "0.0.0.0" || address.host() == "::";
    sockets.port_ = address.port();
    sockets.family_ = address.storage.ss_family;
  }
  return sockets;
}

bool AdminSockets::contain(int socket) const {
  const auto address = net::local_address(socket);
  if (!address.has_value()) {
    return false;  // it is gone already
  }
  const std::string text = address->to_string();
  return text == admin_ ||
         (any_ && address->port() == port_ && address->storage.ss_family == family_ &&
          std::ranges::find(others_, text) == others_.end());
}

}  // namespace mik::runtime
