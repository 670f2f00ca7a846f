// The seam between connections and whoever answers requests: one request and its response.
// Confined to the loop thread.
//
//   connection ── on_request ──► Service ── attach(handler) ─► a handler for this exchange
//   handler ── start, pump, respond, abort ──► Exchange (the connection's side)
//   Exchange ── on_body, peek, consume, on_closed ──► handler
//
// The response body is pulled: the handler says pump() when its source has news, and the connection
// takes pieces by peek() straight into writev and says consume() when they are written. So a slow
// client stops its own source.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <string_view>

#include "http/message.hpp"

namespace mik::http {

enum class Flow : std::uint8_t { kGoOn, kPause };

enum class BodyError : std::uint8_t {
  kTooLarge,   // more than Limits::body_bytes_max: 413
  kMalformed,  // a chunk that is none: 400
  kTooSlow,    // 408
  kGone,       // the client closed before the end; nobody will read an answer
};

enum class SourceState : std::uint8_t {
  kOpen,  // more will come after what peek shows
  kEnd,   // complete after what peek shows
  kCut,   // broken: the client must be able to tell (RFC 9112 section 8: close without the last
          // chunk; RST_STREAM)
};

// How an exchange ended.
enum class Outcome : std::uint8_t {
  kComplete,    // the whole response was handed to the kernel
  kCut,         // the response was started and cut by us (source cut, deadline)
  kClientGone,  // the client closed or reset
  kTimeout,     // the client made no progress reading or sending
  kShutdown,    // the connection was ended by a drain that ran out of time
};

struct Closed {
  Outcome outcome = Outcome::kComplete;
  int status = 0;                    // what was sent; 0 when no head went out
  std::uint64_t body_bytes_in = 0;   // decoded request content
  std::uint64_t body_bytes_out = 0;  // response content, without framing
};

class ExchangeHandler {
 public:
  virtual ~ExchangeHandler() = default;

  // Request content, decoded; valid for the call, taken whole. kPause stops reading until
  // Exchange::resume_body().
  virtual Flow on_body(std::string_view bytes) = 0;
  virtual void on_body_end(std::span<const Field> trailers) = 0;
  // There will be no on_body_end. If no response was started the handler answers with respond();
  // the connection closes after it in any case.
  virtual void on_body_error(BodyError error) = 0;

  // Fills in what is ready to be written, in order; stays valid until consume() or the handler is
  // told anything else.
  virtual std::size_t peek(std::span<iovec> pieces) = 0;
  virtual void consume(std::size_t bytes) = 0;
  virtual SourceState source_state() = 0;
  // At kEnd: trailers to send where the protocol and client allow.
  virtual std::span<const Field> trailers() = 0;

  // Last call, once: the exchange is over and its reference dead. The handler cancels what still
  // runs and destroys itself when it likes.
  virtual void on_closed(const Closed& closed) = 0;
};

class Exchange {
 public:
  // Only inside Service::on_request: the views die with it.
  virtual const RequestHead& head() const = 0;
  virtual const Peer& peer() const = 0;
  virtual bool secure() const = 0;

  // From now on `handler` is told of this exchange. Needed for all but respond() inside on_request.
  // The handler must outlive on_closed.
  virtual void attach(ExchangeHandler& handler) = 0;

  // A complete answer; the body is copied. HEAD, 204 and 304 keep their fields and lose the body.
  // After it the handler hears only on_closed.
  virtual void respond(const ResponseHead& head, std::string_view body) = 0;

  // Queues a response head (copied); bytes follow by pump(). Nothing is written before the first
  // pump().
  virtual void start(const ResponseHead& head) = 0;
  // The source has news: write what can be written. May call peek, consume, and on_closed before it
  // returns.
  virtual void pump() = 0;
  // Cuts the exchange: before start() the connection is closed without an answer, after it visibly
  // broken. Calls on_closed before it returns.
  virtual void abort() = 0;

  // After Flow::kPause.
  virtual void resume_body() = 0;
  // Nobody reads the request body any more: what comes is dropped, within limits, or the connection
  // closes after the response. on_body is not called again.
  virtual void discard_body() = 0;

 protected:
  ~Exchange() = default;
};

// Who answers. Called on the loop thread.
class Service {
 public:
  virtual ~Service() = default;
  // A request's head is complete. Respond now, or attach() a handler. An exchange that is neither
  // answered nor attached when this returns is a bug of the service.
  virtual void on_request(Exchange& exchange) = 0;

  // A request that never became one: answer text of the connection's own errors (400, 408, 413,
  // 414, 431, 503). Appends whole field lines ("name: value\r\n", content-type included) and the
  // body. `detail` is for the client.
  virtual void describe_failure(int status, std::string_view detail, std::string& field_lines,
                                std::string& body) = 0;
};

}  // namespace mik::http
