// The server side of connections: takes accepted sockets, speaks HTTP/1.x or HTTP/2, asks a Service
// for answers. Confined to the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/fd.hpp"
#include "http/exchange.hpp"
#include "http/message.hpp"
#include "http/server_tls.hpp"
#include "net/loop.hpp"

namespace mik::http {

// Told of connections: what the load balancing between workers and /metrics count.
class ConnectionObserver {
 public:
  virtual ~ConnectionObserver() = default;
  virtual void on_connections(std::size_t open) { static_cast<void>(open); }
  // A client that had begun one; `why` is for operators, and lives for ever. Who closes before its
  // first byte has only looked at the port.
  virtual void on_handshake_failed(std::string_view why) { static_cast<void>(why); }
};

class Server {
 public:
  // Loop, service and observer must outlive the server.
  Server(net::Loop& loop, Service& service, const Limits& limits, ConnectionObserver& observer);
  ~Server();  // closes what is left, at once
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Takes an accepted, non-blocking stream socket, TLS expected on it when there is `tls`. The
  // protocol is found by ALPN or from its first bytes: HTTP/1.x, or HTTP/2 with prior knowledge
  // (RFC 9113 section 3.3).
  void adopt(base::Fd socket, const ServerTls* tls = nullptr);

  std::size_t connections() const noexcept;
  // Exchanges that have begun and are not over.
  std::size_t exchanges() const noexcept;

  // Begins a drain: responses say Connection: close (or GOAWAY), a connection in a request ends
  // after it, and an idle one lives until its next request or 1 s, so that a proxy's request that
  // is under way is not lost (RFC 9112 section 9.6). `done` is called once, when the last
  // connection is gone.
  void drain(net::Loop::Task done);
  // Ends every connection now; exchanges close with Outcome::kShutdown. No unread answer is reset.
  void close_all();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mik::http
