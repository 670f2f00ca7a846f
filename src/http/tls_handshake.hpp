// An accepted socket until its TLS handshake is through: then an HTTP connection takes it over.
// Internal to src/http. Confined to the loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "base/fd.hpp"
#include "http/server_core.hpp"
#include "net/wheel.hpp"

namespace mik::http {

class TlsHandshake final : public Connection {
 public:
  // It has Limits::header_timeout.
  TlsHandshake(ServerCore& core, base::Fd socket, std::unique_ptr<TlsSession> tls);

  void on_io(std::uint32_t events) override;
  void on_drain() override;
  void end_now(Outcome outcome) override;
  void on_deferred() override {}

 private:
  void hand_over();
  void refuse_plain_http();
  void on_timer();
  void fail(std::string_view why);
  void end();

  bool over_ = false;
  net::Timer timer_;
};

}  // namespace mik::http
