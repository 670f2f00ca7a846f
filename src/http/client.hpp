// The HTTP/1.1 client for guests' outgoing requests: pooled per host, TLS, every address checked
// (docs/design/outbound.md). One per worker, confined to its loop's thread; lookups and the trust
// store are read on the offload pool.
//
//   caller ── check, start ──► Client ──► ClientExchange ◄── pump, resume, cancel ── caller
//   ClientExchange ── peek, consume, on_head, on_body, on_end | on_error ──► ClientExchangeHandler
//
// The request body is pulled like http::Exchange's response body: so a slow upstream stops its own
// source.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/time.hpp"
#include "http/exchange.hpp"
#include "http/message.hpp"
#include "http/resolver.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"

namespace mik::http {

class AllowList;

// Why an exchange failed: the client's share of wasi:http error-code, numbered as enum
// mik_http_error of engine.h.
enum class ClientError : std::uint8_t {
  kNone = 0,
  kDnsTimeout = 1,
  kDnsError,
  kDestinationNotFound,
  kDestinationUnavailable,
  kDestinationIpProhibited,
  kDestinationIpUnroutable,
  kConnectionRefused,
  kConnectionTerminated,   // closed or reset before the response's head
  kConnectionTimeout,      // no connection within the connect timeout
  kConnectionReadTimeout,  // first-byte or between-bytes timeout
  kConnectionWriteTimeout,
  kConnectionLimitReached,
  kTlsProtocolError,
  kTlsCertificateError,
  kTlsAlertReceived,
  kRequestDenied,  // name or address is not on the allow-list
  kRequestUriInvalid,
  kRequestBodySize,     // the source gave more or less than the length it promised
  kResponseIncomplete,  // closed or reset inside the response
  kResponseHeaderSectionSize,
  kResponseTimeout,  // the deadline of the whole exchange
  kProtocolError,
  kInternalError,
};
inline constexpr std::size_t kClientErrorCount = 24;

// "connection_refused"; static storage.
std::string_view label(ClientError error) noexcept;

enum class RequestBody : std::uint8_t {
  kNone,
  kLength,  // exactly content_length bytes
  kStream,  // ends by itself: chunked, or a length when the source is complete at the start
};

// All views need to live only during the call.
struct ClientRequest {
  std::string_view method = "GET";
  std::string_view scheme;        // "http" or "https" in any case; empty means https
  std::string_view authority;     // as the guest wrote it: becomes Host
  std::string_view path_query;    // empty means "/"
  std::span<const Field> fields;  // hop-by-hop fields, Host, Content-Length and Expect are left out
  RequestBody body = RequestBody::kNone;
  std::uint64_t content_length = 0;  // when body is kLength
  // Of the guest; zero or less means ClientOptions' own. All are clipped by the deadline.
  base::Duration
      connect_timeout{};  // queueing for the pool, name lookup, connecting, TLS handshake
  base::Duration
      first_byte_timeout{};  // from the last request byte that went out to the response's head
  base::Duration between_bytes_timeout{};  // between reads of the response body while it is wanted
  base::Time deadline = base::kNever;  // the exchange is over by then, whatever the upstream drips
  // Where it may go; null: where the client may. One list for all requests of a partition; outlives
  // the client.
  const AllowList* allowed = nullptr;
  // Of whom it is (a module). Connections and TLS sessions are kept for its own requests only: one
  // that was opened by another's list, or that another's upstream has left bytes in, is not shared.
  std::uint64_t partition = 0;
};

class ClientExchangeHandler {
 public:
  virtual ~ClientExchangeHandler() = default;

  // As in ExchangeHandler. Asked only of requests that have a body.
  virtual std::size_t peek(std::span<iovec> pieces) = 0;
  virtual void consume(std::size_t bytes) = 0;
  virtual SourceState source_state() = 0;

  // The final response's head, once; views valid for the call. Hop-by-hop fields are left out.
  virtual void on_head(int status, std::span<const Field> fields) = 0;
  // Response content, decoded; valid for the call, taken whole. kPause stops reading until
  // ClientExchange::resume().
  virtual Flow on_body(std::string_view bytes) = 0;

  // Exactly one of these, once, unless cancel() came before: the exchange is over and its reference
  // dead. The handler may destroy itself. `detail` is for the operator's log.
  virtual void on_end(std::span<const Field> trailers) = 0;
  virtual void on_error(ClientError error, std::string_view detail) = 0;
};

class ClientExchange {
 public:
  // The body's source has news: more bytes, the end, or a cut (which ends the exchange with
  // kConnectionTerminated). May call peek, consume, source_state and on_error before it returns.
  virtual void pump() = 0;
  // After Flow::kPause. May call on_body, on_end and on_error before it returns.
  virtual void resume() = 0;
  // Gives everything up now; its connection is closed, not pooled. No callback follows. The
  // reference is dead.
  virtual void cancel() = 0;

 protected:
  ~ClientExchange() = default;
};

struct ClientOptions {
  // PEM file of certificates trusted besides the system's and SSL_CERT_FILE's; empty for none.
  std::string ca_file;
  base::Duration connect_timeout = std::chrono::seconds(600);
  base::Duration first_byte_timeout = std::chrono::seconds(600);
  base::Duration between_bytes_timeout = std::chrono::seconds(600);
  base::Duration idle_timeout = std::chrono::seconds(60);
  base::Duration attempt_stagger = std::chrono::milliseconds(250);  // RFC 8305 section 5
  std::uint32_t idle_per_host_max = 32;
  std::uint32_t per_host_max = 256;
  std::uint32_t connections_max = 1024;
  std::uint32_t waiting_max = 1024;
  Limits limits;  // head_bytes_max and fields_max (at most 256) of responses
  ResolverOptions resolver;
};

struct ClientCounters {
  std::uint64_t started = 0;
  std::uint64_t completed = 0;
  std::uint64_t cancelled = 0;
  std::uint64_t opened = 0;   // connections established, TLS included
  std::uint64_t reused = 0;   // exchanges that were given a pooled connection
  std::uint64_t retried = 0;  // on a fresh connection, after a pooled one turned out dead
  std::uint64_t resumed = 0;  // TLS sessions
  std::uint64_t lookups = 0;  // names that went to the system's resolver
  std::array<std::uint64_t, kClientErrorCount>
      failed{};                 // by ClientError; not those that check() refused
  std::size_t active = 0;       // exchanges now
  std::size_t waiting = 0;      // of them, in the pool's queue
  std::size_t connections = 0;  // now, those being opened included
  std::size_t idle = 0;
};

class Client {
 public:
  // Loop, pool and list must outlive the client. `allowed` is for requests that bring none.
  Client(net::Loop& loop, net::Offload& offload, ClientOptions options, const AllowList& allowed);
  ~Client();  // close_all()
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // What can be said without asking anybody: kNone, kRequestUriInvalid (no or bad authority or
  // path), kProtocolError (scheme, method or a field), kRequestDenied (the name, or an address
  // literal).
  ClientError check(const ClientRequest& request) const;

  // Begins an exchange; the request is copied. A request that check() refuses fails with that
  // error. The handler hears peek, consume and source_state at most before this returns, and must
  // live until its last callback or cancel().
  ClientExchange* start(const ClientRequest& request, ClientExchangeHandler& handler);

  // Closes idle connections and pools no more; exchanges go on, and new ones may begin.
  void drain();
  // Ends every exchange with kConnectionTerminated and every connection, at once.
  void close_all();

  ClientCounters counters() const;

 private:
  class Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace mik::http
