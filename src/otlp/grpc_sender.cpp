#include <netinet/in.h>

#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/assert.hpp"
#include "http/client_connector.hpp"
#include "http/client_request.hpp"
#include "http/resolver.hpp"
#include "http/tls.hpp"
#include "net/wheel.hpp"
#include "otlp/grpc_connection.hpp"
#include "otlp/sender.hpp"

namespace mik::otlp {

namespace {

constexpr base::Duration kAttemptStagger = std::chrono::milliseconds(250);  // RFC 8305 section 5

http::Origin origin_of(const http::Url& url) {
  http::Origin origin;
  origin.tls = url.secure;
  origin.host = url.host;
  origin.port = url.port;
  origin.literal = http::address_literal(url.host).length > 0;
  return origin;
}

void set_port(net::SocketAddress& address, std::uint16_t port) noexcept {
  if (address.storage.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(address.get())->sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in*>(address.get())->sin_port = htons(port);
  }
}

class GrpcSender final : public Sender,
                         public GrpcConnection::User,
                         public http::Connector::User,
                         public http::ResolveWaiter,
                         public http::TlsWaiter {
 public:
  GrpcSender(const SenderParts& parts, Endpoint endpoint)
      : loop_(parts.loop),
        endpoint_(std::move(endpoint)),
        user_agent_(parts.user_agent),
        origin_(origin_of(endpoint_.url)),
        resolver_(parts.loop, parts.offload, {}),
        tls_(parts.offload, parts.ca_file, http::TlsClient::Alpn::kHttp2),
        connector_(parts.loop, *this),
        timer_(net::Timer::of<&GrpcSender::on_timeout>(this)) {}

  ~GrpcSender() override { cancel(); }

  void send(std::string_view message, base::Time deadline, Sender::User& user) override {
    MIK_ASSERT(user_ == nullptr);
    user_ = &user;
    message_ = message;
    loop_.wheel().arm(timer_, deadline);
    if (connection_ != nullptr) {
      call();
    } else {
      resolve();
    }
  }

  void cancel() override {
    timer_.disarm();
    resolver_.leave(origin_.host, *this);
    tls_.leave(*this);
    connector_.cancel();
    drop_connection();
    user_ = nullptr;
  }

  void on_resolved(const http::Resolved& resolved) override {
    if (resolved.addresses.empty()) {
      fail(resolved.problem);
      return;
    }
    addresses_ = http::interleave_families(resolved.addresses);
    for (net::SocketAddress& address : addresses_) {
      set_port(address, origin_.port);
    }
    if (!origin_.tls || tls_.ready()) {
      connector_.start(std::move(addresses_), kAttemptStagger);
    } else if (!tls_.prepare(*this)) {
      fail("too much work is queued to read the trust store");
    }
  }
  void on_tls_ready(const base::Result<void>& result) override {
    if (!result.has_value()) {
      fail(result.error().to_string());
      return;
    }
    connector_.start(std::move(addresses_), kAttemptStagger);
  }
  void on_connect_failed(int errno_value) override {
    fail(fmt::format("cannot connect: {}", std::generic_category().message(errno_value)));
  }
  void on_connected(base::Fd socket) override {
    auto transport = origin_.tls ? tls_.connect(std::move(socket), origin_)
                                 : http::make_plain_transport(std::move(socket));
    if (transport == nullptr) {
      fail("cannot set up TLS");
      return;
    }
    connection_ = std::make_unique<GrpcConnection>(loop_, std::move(transport), *this);
    connection_->open();
  }

  void on_open() override { call(); }
  void on_answer(Reply reply, After after) override {
    if (after == After::kOver) {
      drop_connection();
    }
    finish(std::move(reply));
  }
  void on_connection_over(std::string_view why) override {
    const std::string text(why);
    drop_connection();
    if (user_ != nullptr) {
      fail(text);
    }
  }

 private:
  void resolve() {
    if (origin_.literal) {
      http::Resolved resolved;
      resolved.addresses.push_back(http::address_literal(origin_.host));
      on_resolved(resolved);
    } else if (const auto* known = resolver_.resolve(origin_.host, *this); known != nullptr) {
      on_resolved(*known);
    }
  }

  void call() {
    connection_->call({.scheme = origin_.tls ? "https" : "http",
                       .authority = endpoint_.url.authority,
                       .path = endpoint_.url.path_query,
                       .authorization = endpoint_.authorization,
                       .user_agent = user_agent_,
                       .message = message_});
  }

  void on_timeout() {
    Sender::User* const user = user_;
    cancel();
    user->on_reply({.kind = Reply::Kind::kRetry, .detail = "no answer in time"});
  }

  void fail(std::string why) { finish({.kind = Reply::Kind::kRetry, .detail = std::move(why)}); }

  void finish(Reply reply) {
    timer_.disarm();
    std::exchange(user_, nullptr)->on_reply(std::move(reply));
  }

  void drop_connection() {
    if (connection_ != nullptr) {
      connection_->close();
      loop_.retire(std::move(connection_));
    }
  }

  net::Loop& loop_;
  const Endpoint endpoint_;
  const std::string user_agent_;
  const http::Origin origin_;
  http::Resolver resolver_;
  http::TlsClient tls_;
  http::Connector connector_;
  net::Timer timer_;
  std::vector<net::SocketAddress> addresses_;
  std::unique_ptr<GrpcConnection> connection_;
  Sender::User* user_ = nullptr;  // null: nothing is under way
  std::string_view message_;
};

}  // namespace

std::unique_ptr<Sender> make_grpc_sender(const SenderParts& parts, Endpoint endpoint) {
  return std::make_unique<GrpcSender>(parts, std::move(endpoint));
}

}  // namespace mik::otlp
