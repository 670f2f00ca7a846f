#include "http/client_exchange.hpp"

#include <netinet/in.h>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

namespace mik::http {

namespace {

base::Duration positive_or(base::Duration wanted, base::Duration otherwise) noexcept {
  return wanted > base::Duration::zero() ? wanted : otherwise;
}

ClientError error_of_connect(int errno_value) noexcept {
  switch (errno_value) {
    case ECONNREFUSED:
      return ClientError::kConnectionRefused;
    case ETIMEDOUT:
      return ClientError::kConnectionTimeout;
    case ENETUNREACH:
    case EHOSTUNREACH:
      return ClientError::kDestinationIpUnroutable;
    case EMFILE:
    case ENFILE:
    case EADDRNOTAVAIL:  // every local port is taken
      return ClientError::kConnectionLimitReached;
    default:
      return ClientError::kDestinationUnavailable;
  }
}

void set_port(net::SocketAddress& address, std::uint16_t port) noexcept {
  if (address.storage.ss_family == AF_INET) {
    reinterpret_cast<sockaddr_in&>(address.storage).sin_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in6&>(address.storage).sin6_port = htons(port);
  }
}

}  // namespace

OutgoingExchange::OutgoingExchange(ClientCore& core, const ClientRequest& request,
                                   ClientExchangeHandler& handler)
    : core_(core),
      handler_(handler),
      allowed_(request.allowed != nullptr ? *request.allowed : core.allowed),
      method_(request.method),
      body_(request.body),
      content_length_(request.content_length),
      connect_timeout_(positive_or(request.connect_timeout, core.options.connect_timeout)),
      first_byte_timeout_(positive_or(request.first_byte_timeout, core.options.first_byte_timeout)),
      between_bytes_timeout_(
          positive_or(request.between_bytes_timeout, core.options.between_bytes_timeout)),
      deadline_(request.deadline),
      connector_(core.loop, *this),
      timer_(net::Timer::of<&OutgoingExchange::on_timeout>(this)) {
  static_cast<void>(parse_origin(request.scheme, request.authority, origin_));
  origin_.partition = request.partition;
  head_ = write_head(request);
  head_base_ = head_.size();
}

// ---- steps towards a connection

void OutgoingExchange::begin(ClientError checked) {
  deferring_ = true;
  if (checked != ClientError::kNone) {
    fail(checked, "the request was refused");
  } else if (core_.closing) {
    fail(ClientError::kConnectionTerminated, "shutting down");
  } else if (deadline_ <= core_.loop.now()) {
    fail(ClientError::kConnectionTimeout, "there was no time left");
  } else {
    arm(connect_timeout_);
    if (core_.pool.acquire(origin_, *this) == ClientPool::Acquired::kFull) {
      fail(ClientError::kConnectionLimitReached, "too many requests wait for a connection");
    }
  }
  deferring_ = false;
}

void OutgoingExchange::on_granted(ClientHost& host, std::unique_ptr<ClientConnection> kept) {
  // The pool may be in the middle of somebody else's callback.
  const bool outer = std::exchange(deferring_, true);
  host_ = &host;
  if (core_.closing) {
    connection_ = std::move(kept);
    fail(ClientError::kConnectionTerminated, "shutting down");
  } else if (kept != nullptr) {
    connection_ = std::move(kept);
    reused_ = true;
    ++core_.counters.reused;
    send_request();
  } else {
    open();
  }
  deferring_ = outer;
}

void OutgoingExchange::open() {
  phase_ = Phase::kResolving;
  if (origin_.literal) {
    Resolved resolved;
    resolved.addresses.push_back(address_literal(origin_.host));
    on_resolved(resolved);
  } else if (const Resolved* known = core_.resolver.resolve(origin_.host, *this);
             known != nullptr) {
    on_resolved(*known);
  }
}

void OutgoingExchange::on_resolved(const Resolved& resolved) {
  if (resolved.addresses.empty()) {
    fail(ClientError::kDnsError, resolved.problem);
    return;
  }
  // Asked of the very addresses that are connected to: a name that leads elsewhere today gains
  // nothing.
  addresses_.clear();
  for (const net::SocketAddress& address : interleave_families(resolved.addresses)) {
    if (address.length > 0 && allowed_.allows_address(*address.get(), origin_.host, origin_.port)) {
      set_port(addresses_.emplace_back(address), origin_.port);
    }
  }
  if (addresses_.empty()) {
    fail(ClientError::kRequestDenied, "no address of the host may be connected to");
    return;
  }
  trust_then_connect();
}

void OutgoingExchange::trust_then_connect() {
  if (!origin_.tls || core_.tls.ready()) {
    connect();
    return;
  }
  phase_ = Phase::kTrusting;
  if (!core_.tls.prepare(*this)) {
    fail(ClientError::kInternalError, "too much work is queued to read the trust store");
  }
}

void OutgoingExchange::on_tls_ready(const base::Result<void>& result) {
  if (!result.has_value()) {
    fail(ClientError::kInternalError, result.error().to_string());
    return;
  }
  connect();
}

void OutgoingExchange::connect() {
  phase_ = Phase::kConnecting;
  connector_.start(std::move(addresses_), core_.options.attempt_stagger);
}

void OutgoingExchange::on_connect_failed(int errno_value) {
  fail(error_of_connect(errno_value),
       "cannot connect: " + std::generic_category().message(errno_value));
}

void OutgoingExchange::on_connected(base::Fd socket) {
  phase_ = Phase::kShaking;
  std::unique_ptr<Transport> transport = origin_.tls ? core_.tls.connect(std::move(socket), origin_)
                                                     : make_plain_transport(std::move(socket));
  if (transport == nullptr) {
    fail(ClientError::kInternalError, "cannot set up TLS for this host");
    return;
  }
  connection_ =
      std::make_unique<ClientConnection>(core_.loop, std::move(transport), core_.options.limits);
  connection_->open(*this);
}

void OutgoingExchange::on_ready() {
  ++core_.counters.opened;
  core_.counters.resumed += connection_->resumed_tls() ? 1 : 0;
  send_request();
}

// ---- the exchange on a connection

void OutgoingExchange::choose_framing() {
  head_.resize(head_base_);
  framing_ = Framing::kNone;
  std::uint64_t length = content_length_;
  if (body_ == RequestBody::kLength && length > 0) {
    framing_ = Framing::kLength;
  } else if (body_ == RequestBody::kStream) {
    framing_ = Framing::kChunked;
    // A source that is complete already has a length, and there are servers that want one (RFC 9110
    // section 8.6).
    std::array<iovec, 16> pieces;
    const std::size_t count = handler_.peek(pieces);
    if (handler_.source_state() == SourceState::kEnd && count < pieces.size()) {
      length = 0;
      for (std::size_t i = 0; i < count; ++i) {
        length += pieces[i].iov_len;
      }
      framing_ = length > 0 ? Framing::kLength : Framing::kNone;
    }
  }
  finish_head(head_, method_, framing_, length);
  content_length_ = framing_ == Framing::kLength ? length : content_length_;
}

void OutgoingExchange::send_request() {
  phase_ = Phase::kAwaiting;
  choose_framing();
  arm(first_byte_timeout_);
  connection_->begin(
      *this, {.method = method_, .head = head_, .framing = framing_, .length = content_length_});
}

void OutgoingExchange::consume(std::size_t bytes) {
  body_taken_ = true;
  handler_.consume(bytes);
}

void OutgoingExchange::on_bytes_moved() {
  if (phase_ == Phase::kAwaiting) {
    arm(first_byte_timeout_);
  } else if (wants_content_) {
    arm(between_bytes_timeout_);
  }
}

void OutgoingExchange::on_response(int status, std::span<const Field> fields) {
  phase_ = Phase::kReceiving;
  arm(between_bytes_timeout_);
  handler_.on_head(status, fields);
}

Flow OutgoingExchange::on_content(std::string_view bytes) {
  const Flow flow = handler_.on_body(bytes);
  if (flow == Flow::kPause && phase_ == Phase::kReceiving) {
    // The upstream is not to blame for what is not asked for.
    wants_content_ = false;
    phase_deadline_ = base::kNever;
    core_.loop.wheel().arm(timer_, deadline_);
  }
  return flow;
}

void OutgoingExchange::on_response_end(std::span<const Field> trailers,
                                       std::optional<base::Duration> keep) {
  // Trailers lie in the connection, which may serve somebody else before they are told.
  std::string bytes;
  std::vector<Field> copies;
  if (!trailers.empty()) {
    std::size_t size = 0;
    for (const Field& field : trailers) {
      size += field.name.size() + field.value.size();
    }
    bytes.reserve(size);  // never moves below
    const auto copy = [&bytes](std::string_view text) {
      const std::size_t at = bytes.size();
      bytes += text;
      return std::string_view(bytes).substr(at);
    };
    for (const Field& field : trailers) {
      const std::string_view name = copy(field.name);
      copies.push_back({.name = name, .value = copy(field.value)});
    }
  }
  phase_ = Phase::kOver;
  timer_.disarm();
  ++core_.counters.completed;
  leave_core();
  if (keep.has_value()) {
    core_.pool.release(*std::exchange(host_, nullptr), std::move(connection_), *keep);
  } else {
    drop_connection();
    core_.pool.discard(*std::exchange(host_, nullptr));
  }
  handler_.on_end(copies);
}

bool OutgoingExchange::may_send_again() const noexcept {
  if (body_taken_) {
    return false;
  }
  // RFC 9110 section 9.2.2; a request whose content is still to come cannot have been acted on
  // either.
  const bool unfinished = framing_ != Framing::kNone && !connection_->wrote_end();
  return is_idempotent(method_) || unfinished || !connection_->wrote_any();
}

void OutgoingExchange::on_connection_failed(ClientError error, std::string_view detail) {
  const bool stale = reused_ && error == ClientError::kConnectionTerminated &&
                     !connection_->received_any() &&
                     (body_ == RequestBody::kNone || handler_.source_state() != SourceState::kCut);
  if (stale && may_send_again()) {
    // A pooled connection that the server closed meanwhile. Once: the next one is fresh.
    reused_ = false;
    ++core_.counters.retried;
    drop_connection();
    arm(connect_timeout_);
    open();
    return;
  }
  fail(error, detail);
}

void OutgoingExchange::pump() {
  if (phase_ == Phase::kOver || phase_ == Phase::kFailing) {
    return;
  }
  if (phase_ == Phase::kAwaiting || phase_ == Phase::kReceiving) {
    connection_->pump();
  } else if (body_ != RequestBody::kNone && handler_.source_state() == SourceState::kCut) {
    fail(ClientError::kConnectionTerminated, "the request body broke off");
  }
}

void OutgoingExchange::resume() {
  if (phase_ != Phase::kReceiving || std::exchange(wants_content_, true)) {
    return;
  }
  arm(between_bytes_timeout_);
  connection_->resume();
}

// ---- time

void OutgoingExchange::arm(base::Duration phase_timeout) {
  phase_deadline_ = base::saturating_add(core_.loop.now(), phase_timeout);
  core_.loop.wheel().arm(timer_, std::min(phase_deadline_, deadline_));
}

void OutgoingExchange::on_timeout() {
  const bool deadline = deadline_ <= core_.loop.now();
  switch (phase_) {
    case Phase::kQueued:
      fail(ClientError::kConnectionLimitReached, "no connection became free in time");
      return;
    case Phase::kResolving:
      fail(ClientError::kDnsTimeout, "the name was not looked up in time");
      return;
    case Phase::kTrusting:
    case Phase::kConnecting:
      fail(ClientError::kConnectionTimeout, "not connected in time");
      return;
    case Phase::kShaking:
      fail(ClientError::kConnectionTimeout, "no TLS handshake in time");
      return;
    case Phase::kAwaiting:
      if (connection_->blocked_writing()) {
        fail(ClientError::kConnectionWriteTimeout, "the upstream does not read the request");
      } else {
        fail(deadline ? ClientError::kResponseTimeout : ClientError::kConnectionReadTimeout,
             "no response in time");
      }
      return;
    case Phase::kReceiving:
      fail(deadline ? ClientError::kResponseTimeout : ClientError::kConnectionReadTimeout,
           "the response was not complete in time");
      return;
    case Phase::kFailing:
    case Phase::kOver:
      return;
  }
}

// ---- the end

void OutgoingExchange::on_later() {
  if (phase_ == Phase::kFailing) {
    phase_ = Phase::kOver;
    leave_core();
    handler_.on_error(failure_, failure_detail_);
  } else if (phase_ == Phase::kAwaiting || phase_ == Phase::kReceiving) {
    connection_->read_on();
  }
}

void OutgoingExchange::fail(ClientError error, std::string_view detail) {
  if (phase_ == Phase::kOver || phase_ == Phase::kFailing) {
    return;
  }
  ++core_.counters.failed[static_cast<std::size_t>(error)];
  if (deferring_) {
    failure_ = error;
    failure_detail_ = detail;
    tear_down();
    phase_ = Phase::kFailing;
    core_.call_later(*this);
    return;
  }
  tear_down();
  phase_ = Phase::kOver;
  leave_core();
  handler_.on_error(error, detail);
}

void OutgoingExchange::end_now() {
  if (phase_ == Phase::kFailing) {
    on_later();
  } else {
    fail(ClientError::kConnectionTerminated, "shutting down");
  }
}

void OutgoingExchange::cancel() {
  if (phase_ == Phase::kOver) {
    return;
  }
  ++core_.counters.cancelled;
  tear_down();
  phase_ = Phase::kOver;
  leave_core();
}

void OutgoingExchange::drop_connection() {
  if (connection_ != nullptr) {
    connection_->close();
    core_.loop.retire(std::move(connection_));
  }
}

// Gives back whatever this step holds.
void OutgoingExchange::tear_down() {
  timer_.disarm();
  core_.pool.leave(*this);
  if (phase_ == Phase::kResolving) {
    core_.resolver.leave(origin_.host, *this);
  }
  if (phase_ == Phase::kTrusting) {
    core_.tls.leave(*this);
  }
  connector_.cancel();
  drop_connection();
  if (host_ != nullptr) {
    core_.pool.discard(*std::exchange(host_, nullptr));
  }
}

// From here on only this turn's stack knows the exchange.
void OutgoingExchange::leave_core() {
  core_.forget_later(*this);
  std::unique_ptr<OutgoingExchange> self = std::move(*place);
  core_.exchanges.erase(place);
  core_.loop.retire(std::move(self));
}

}  // namespace mik::http
