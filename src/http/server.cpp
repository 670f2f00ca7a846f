#include "http/server.hpp"

#include <sys/epoll.h>

#include <utility>

#include "http/h1_connection.hpp"
#include "http/h2_stream.hpp"
#include "http/server_core.hpp"
#include "http/tls_handshake.hpp"

namespace mik::http {

class Server::Impl {
 public:
  Impl(net::Loop& loop, Service& service, const Limits& limits, ConnectionObserver& observer)
      : core(loop, service, limits, observer) {}

  ServerCore core;
};

Server::Server(net::Loop& loop, Service& service, const Limits& limits,
               ConnectionObserver& observer)
    : impl_(std::make_unique<Impl>(loop, service, limits, observer)) {}

Server::~Server() { close_all(); }

void Server::adopt(base::Fd socket, const ServerTls* tls) {
  ServerCore& core = impl_->core;
  if (tls == nullptr) {
    core.add(std::make_unique<H1Connection>(core, std::move(socket), nullptr));
  } else if (auto session = tls->accept(socket.get()); session != nullptr) {
    core.add(std::make_unique<TlsHandshake>(core, std::move(socket), std::move(session)));
  }
}

std::size_t Server::connections() const noexcept { return impl_->core.connections(); }

std::size_t Server::exchanges() const noexcept { return impl_->core.exchanges; }

void Server::drain(net::Loop::Task done) { impl_->core.drain(std::move(done)); }

void Server::close_all() { impl_->core.end_all(Outcome::kShutdown); }

}  // namespace mik::http
