// One outgoing exchange, from the pool's queue to its last callback: which step it is at, its
// timeouts, its one retry. Confined to the loop thread.
#pragma once

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "http/allow_list.hpp"
#include "http/client.hpp"
#include "http/client_connection.hpp"
#include "http/client_connector.hpp"
#include "http/client_pool.hpp"
#include "http/client_request.hpp"
#include "http/resolver.hpp"
#include "http/tls.hpp"
#include "net/wheel.hpp"

namespace mik::http {

class OutgoingExchange;

// What the exchanges of a client share.
struct ClientCore {
  ClientCore(net::Loop& loop_in, net::Offload& offload, ClientOptions options_in,
             const AllowList& allowed_in);
  ClientCore(const ClientCore&) = delete;
  ClientCore& operator=(const ClientCore&) = delete;

  net::Loop& loop;
  ClientOptions options;
  const AllowList& allowed;
  Resolver resolver;
  TlsClient tls;
  ClientPool pool;
  ClientCounters counters;
  bool closing = false;

  // Running exchanges. Over: moved out and retired.
  std::list<std::unique_ptr<OutgoingExchange>> exchanges;

  // Has exchange.on_later() called in another turn.
  void call_later(OutgoingExchange& exchange);
  void forget_later(OutgoingExchange& exchange);

  std::weak_ptr<ClientCore> self;  // for what is posted

 private:
  void run_later();

  std::vector<OutgoingExchange*> later_;
  std::vector<OutgoingExchange*> running_later_;
};

// An IoHandler only so that Loop::retire() takes it: callbacks may end it while it is on the stack.
class OutgoingExchange final : public net::IoHandler,
                               public ClientExchange,
                               private ClientPool::Waiter,
                               private ResolveWaiter,
                               private TlsWaiter,
                               private Connector::User,
                               private ClientConnection::User {
 public:
  OutgoingExchange(ClientCore& core, const ClientRequest& request, ClientExchangeHandler& handler);

  // Its place in core.exchanges, set before begin().
  std::list<std::unique_ptr<OutgoingExchange>>::iterator place;

  // Takes the first steps; failures are told in a later turn.
  void begin(ClientError checked);
  void on_later();
  // Tells the handler kConnectionTerminated, or the failure it has coming, before it returns.
  // Nothing when it is over.
  void end_now();

  void pump() override;
  void resume() override;
  void cancel() override;
  void on_io(std::uint32_t /*events*/) override {}

 private:
  enum class Phase : std::uint8_t {
    kQueued,
    kResolving,
    kTrusting,  // waits for the trust store
    kConnecting,
    kShaking,   // TLS
    kAwaiting,  // sends, and waits for the response's head
    kReceiving,
    kFailing,  // torn down; on_error follows in a later turn
    kOver,
  };

  void on_granted(ClientHost& host, std::unique_ptr<ClientConnection> kept) override;
  void on_resolved(const Resolved& resolved) override;
  void on_tls_ready(const base::Result<void>& result) override;
  void on_connected(base::Fd socket) override;
  void on_connect_failed(int errno_value) override;

  void on_ready() override;
  std::size_t peek(std::span<iovec> pieces) override { return handler_.peek(pieces); }
  void consume(std::size_t bytes) override;
  SourceState source_state() override { return handler_.source_state(); }
  void on_bytes_moved() override;
  void on_response(int status, std::span<const Field> fields) override;
  Flow on_content(std::string_view bytes) override;
  void on_more_to_read() override { core_.call_later(*this); }
  void on_response_end(std::span<const Field> trailers,
                       std::optional<base::Duration> keep) override;
  void on_connection_failed(ClientError error, std::string_view detail) override;

  void fail(ClientError error, std::string_view detail);
  void open();
  void trust_then_connect();
  void connect();
  void send_request();
  void choose_framing();
  bool may_send_again() const noexcept;
  void arm(base::Duration phase_timeout);
  void on_timeout();
  void drop_connection();
  void tear_down();
  void leave_core();

  ClientCore& core_;
  ClientExchangeHandler& handler_;
  const AllowList& allowed_;
  Phase phase_ = Phase::kQueued;
  Origin origin_;
  std::string method_;
  std::string head_;
  std::size_t head_base_ = 0;  // of it, without framing
  RequestBody body_;
  std::uint64_t content_length_;
  Framing framing_ = Framing::kNone;
  base::Duration connect_timeout_;
  base::Duration first_byte_timeout_;
  base::Duration between_bytes_timeout_;
  base::Time deadline_;

  ClientHost* host_ = nullptr;  // while a permit or a connection of it is ours
  std::unique_ptr<ClientConnection> connection_;
  Connector connector_;
  std::vector<net::SocketAddress> addresses_;
  bool reused_ = false;  // may still be given another connection
  bool body_taken_ = false;
  bool wants_content_ = true;
  bool deferring_ = false;  // no failure may be told now
  ClientError failure_ = ClientError::kNone;
  std::string failure_detail_;
  base::Time phase_deadline_ = base::kNever;
  net::Timer timer_;
};

}  // namespace mik::http
