// TLS for outgoing connections, OpenSSL 3: one trust store per client, read on the offload pool,
// and sessions per host. Confined to the loop thread. OpenSSL's own types stay in tls.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "http/client_request.hpp"
#include "http/client_transport.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"

namespace mik::http {

// Who waits for the trust store.
class TlsWaiter {
 public:
  // Must not destroy the TlsClient.
  virtual void on_tls_ready(const base::Result<void>& result) = 0;

 protected:
  ~TlsWaiter() = default;
};

class TlsClient {
 public:
  // Trusts the system's certificates, those of SSL_CERT_FILE and SSL_CERT_DIR, and those of
  // `ca_file` (PEM; empty for none). Nothing is read before the first prepare(). The pool must
  // outlive the client.
  enum class Alpn : std::uint8_t { kHttp1, kHttp2 };
  TlsClient(net::Offload& offload, std::string ca_file, Alpn alpn = Alpn::kHttp1);
  ~TlsClient();  // waiters hear nothing any more; transports may live on
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool ready() const noexcept;
  // Tells `waiter` when connect() may be called, or why not: a trust store that cannot be read
  // (kConfig), a full pool (kOverload). The next prepare() tries again. False: a full pool, and the
  // waiter is not told.
  bool prepare(TlsWaiter& waiter);
  void leave(TlsWaiter& waiter);

  // Takes a connected socket. TLS 1.2 at least, ALPN as asked for, SNI but for address literals,
  // the peer's certificate checked for origin.host, a kept session offered. Only when ready().
  std::unique_ptr<Transport> connect(base::Fd socket, const Origin& origin);

 private:
  struct State;
  struct Build;
  void finish(Build& build);

  net::Offload& offload_;
  std::string ca_file_;
  Alpn alpn_;
  std::shared_ptr<State> state_;  // also of transports, for the sessions that they are given
  bool building_ = false;
  std::vector<TlsWaiter*> waiters_;  // nullptr: has left
  std::shared_ptr<TlsClient*> self_;
};

}  // namespace mik::http
