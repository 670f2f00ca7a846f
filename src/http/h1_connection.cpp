#include "http/h1_connection.hpp"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mik::http {

namespace {

constexpr base::Duration kDrainIdle = std::chrono::seconds(1);
constexpr base::Duration kRateGrace = std::chrono::seconds(5);
// How many buffers of input one connection may take before others have their turn.
constexpr int kRoundsMax = 4;
// Answers to pipelined requests that are collected for one write.
constexpr std::size_t kBacklogMax = 64 * 1024;
// What TLS may keep to itself of what it has read: a buffer of its own, and a record.
constexpr std::size_t kTlsAheadMax = 64 * 1024;

}  // namespace

H1Connection::H1Connection(ServerCore& core, base::Fd socket, std::unique_ptr<TlsSession> tls)
    : Connection(core, std::move(socket), std::move(tls)),
      idle_since_(core.loop.now()),
      timer_(net::Timer::of<&H1Connection::on_timer>(this)) {
  update_timer();
}

void H1Connection::begin() {
  readable_ = true;
  core_.defer(*this);
}

void H1Connection::on_io(std::uint32_t events) {
  if (phase_ == Phase::kClosed) {
    return;
  }
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    // A reset, or both directions are closed: nothing that is written arrives any more.
    busy_ = true;
    gone();
    return;
  }
  if ((events & EPOLLRDHUP) != 0) {
    peer_fin_ = true;
  }
  if ((events & (EPOLLIN | EPOLLRDHUP)) != 0) {
    readable_ = true;
  }
  if ((events & EPOLLOUT) != 0) {
    writable_ = true;
  }
  advance();
}

void H1Connection::on_deferred() {
  if (phase_ != Phase::kClosed) {
    advance();
  }
}

void H1Connection::on_drain() {
  if (phase_ == Phase::kRequest && head_started_ == base::kNever) {
    idle_since_ = now();
    update_timer();
  }
}

// Reads, asks and writes until there is nothing more to do at once. For callers that no handler has
// called.
void H1Connection::advance() {
  if (busy_) {
    return;
  }
  busy_ = true;
  int rounds = 0;
  while (phase_ < Phase::kClosing) {
    const bool starved = take_input();
    write_out();
    if (!can_take() || (starved && !readable_)) {
      break;
    }
    if (!starved) {
      continue;
    }
    if (++rounds > kRoundsMax) {
      core_.defer(*this);
      break;
    }
    receive();
  }
  check_half_closed();
  write_out();
  busy_ = false;
  settle();
}

// Writes what can be written. For calls of handlers: the next request is not begun on their stack.
void H1Connection::flush() {
  if (busy_) {
    return;
  }
  busy_ = true;
  write_out();
  busy_ = false;
  if (can_take() && (readable_ || input_ != nullptr)) {
    core_.defer(*this);
  }
  settle();
}

bool H1Connection::can_take() const noexcept {
  switch (phase_) {
    case Phase::kRequest:
      // Until earlier answers are out, a client that pipelines and does not read gets no more of
      // them made.
      return writable_ && queued() < kBacklogMax;
    case Phase::kExchange:
      return body_ == Body::kReading && (!paused_ || discarding_);
    case Phase::kDiscard:
      return true;
    default:
      return false;
  }
}

// A FIN while a request is in flight. A client that announced its end (HTTP/1.0, Connection: close)
// may have closed only its side and still wants the answer. One that meant to go on has gone:
// closing is all that a killed client does, and without a write nothing else would ever show it
// (nginx decides the same, its status 499).
void H1Connection::check_half_closed() {
  if (!peer_fin_ || phase_ != Phase::kExchange) {
    return;
  }
  if (body_ == Body::kReading) {
    int waiting = 0;
    if (readable_ && !chunked_in_ && ::ioctl(socket_.get(), FIONREAD, &waiting) == 0) {
      const std::size_t kept =
          (input_ == nullptr ? 0 : input_->view().size()) + (tls_ == nullptr ? 0 : kTlsAheadMax);
      if (content_in_left_ > kept + static_cast<std::size_t>(waiting)) {
        gone();
      }
    } else if (!readable_ && !can_take()) {
      // What is kept may hold the end; known when the handler takes it.
    } else if (!readable_) {
      gone();
    }
    return;
  }
  if (client_keeps_) {
    gone();
  }
}

// After each piece of work: goes on with an end, gives back what an idle connection need not hold,
// sets the clock.
void H1Connection::settle() {
  if (peer_fin_ && !readable_ && can_take() && phase_ != Phase::kExchange &&
      (input_ == nullptr || input_->empty() || head_started_ != base::kNever)) {
    begin_closing();
  }
  if (phase_ == Phase::kClosing && queued() == 0) {
    start_lingering();
  } else if (phase_ == Phase::kLingering && readable_ && linger_over(readable_, peer_fin_)) {
    close_now();
  }
  if (phase_ == Phase::kClosed) {
    return;
  }
  give_back_buffers();
  update_timer();
}

void H1Connection::give_back_buffers() {
  if (input_ && (input_->empty() || phase_ >= Phase::kClosing)) {
    input_->shrink();
    core_.inputs.give(std::move(input_));
  }
  if (output_ && output_->pending() == 0 && (output_->head.empty() || phase_ != Phase::kExchange)) {
    output_->clear();
    core_.outputs.give(std::move(output_));
  }
}

void H1Connection::begin_closing() noexcept {
  if (phase_ < Phase::kClosing) {
    phase_ = Phase::kClosing;
  }
}

void H1Connection::start_lingering() {
  if (reset_) {
    phase_ = Phase::kClosed;
    timer_.disarm();
    give_back_buffers();
    leave_with_reset();
    return;
  }
  if (!begin_lingering()) {
    if (blocked_since_ == base::kNever) {
      blocked_since_ = now();
    }
    return;
  }
  phase_ = Phase::kLingering;
  blocked_since_ = base::kNever;
  if (linger_over(readable_, peer_fin_)) {
    close_now();
  }
}

void H1Connection::close_now() {
  if (phase_ == Phase::kClosed) {
    return;
  }
  phase_ = Phase::kClosed;
  timer_.disarm();
  if (output_ != nullptr) {
    output_->clear();
  }
  give_back_buffers();
  if (reset_) {
    leave_with_reset();
  } else {
    core_.remove(*this);
  }
}

void H1Connection::gone() {
  if (phase_ == Phase::kExchange) {
    if (body_ == Body::kReading && handler_ != nullptr && !discarding_) {
      body_ = Body::kFailed;
      handler_->on_body_error(BodyError::kGone);
    }
    if (phase_ == Phase::kExchange) {
      finish_exchange(Outcome::kClientGone);
    }
  }
  close_now();
}

void H1Connection::end_now(Outcome outcome) {
  busy_ = true;
  if (phase_ == Phase::kExchange) {
    finish_exchange(outcome);
  }
  if (phase_ == Phase::kClosed) {
    return;
  }
  phase_ = Phase::kClosed;
  timer_.disarm();
  if (queued() > 0) {
    const std::size_t bytes = queued();
    const iovec piece{.iov_base = output_->bytes.data() + output_->sent, .iov_len = bytes};
    cut_ = write_some({&piece, 1}) != static_cast<ssize_t>(bytes) || cut_;
    output_->clear();
  }
  give_back_buffers();
  if (reset_) {
    leave_with_reset();
  } else {
    leave();
  }
}

void H1Connection::finish_exchange(Outcome outcome) {
  ExchangeHandler* const handler = std::exchange(handler_, nullptr);
  --core_.exchanges;
  // Where only the end of the connection tells the end, a reset has to tell the difference.
  cut_ = outcome != Outcome::kComplete && answer_ != Answer::kNone;
  reset_ = cut_ && framing_ == Framing::kUntilClose && answer_ == Answer::kStreaming;
  source_news_ = false;
  const bool goes_on = outcome == Outcome::kComplete && keep_alive_ && body_ != Body::kFailed;
  if (!goes_on) {
    begin_closing();
  } else if (body_ == Body::kReading) {
    phase_ = Phase::kDiscard;
    begin_discarding();
  } else {
    phase_ = Phase::kRequest;
  }
  idle_since_ = now();
  if (handler != nullptr) {
    handler->on_closed({.outcome = outcome,
                        .status = head_sent_ ? status_ : 0,
                        .body_bytes_in = bytes_in_,
                        .body_bytes_out = bytes_out_});
  }
}

// One that has said nothing yet has the time of a head: whoever connects means to ask.
base::Time H1Connection::idle_deadline() const noexcept {
  const Limits& limits = core_.limits;
  return idle_since_ + (core_.draining   ? kDrainIdle
                        : first_request_ ? limits.header_timeout
                                         : limits.idle_timeout);
}

base::Time H1Connection::body_deadline() const noexcept {
  if (body_ != Body::kReading || (paused_ && !discarding_)) {
    return base::kNever;
  }
  // Bytes one by one would keep a limit on silence happy for ever: so content has to arrive at a
  // rate, too.
  const std::uint64_t rate = std::max<std::uint64_t>(core_.limits.body_rate_min, 1);
  const base::Time by_rate =
      body_started_ + kRateGrace + std::chrono::milliseconds(bytes_in_ * 1000 / rate);
  return std::min(by_rate, body_progress_ + core_.limits.body_timeout);
}

void H1Connection::update_timer() {
  base::Time deadline = base::kNever;
  switch (phase_) {
    case Phase::kRequest:
      if (head_started_ != base::kNever) {
        deadline = head_started_ + core_.limits.header_timeout;
      } else {
        deadline = idle_deadline();
      }
      break;
    case Phase::kExchange:
    case Phase::kDiscard:
      deadline = body_deadline();
      break;
    case Phase::kLingering:
      deadline = linger_until();
      break;
    default:
      break;
  }
  if (blocked_since_ != base::kNever) {
    deadline = std::min(deadline, blocked_since_ + core_.limits.body_timeout);
  }
  if (deadline == base::kNever) {
    timer_.disarm();
  } else {
    core_.loop.wheel().arm(timer_, deadline);
  }
}

void H1Connection::on_timer() {
  if (phase_ == Phase::kClosed) {
    return;
  }
  busy_ = true;
  const base::Time time = now();
  if (blocked_since_ != base::kNever && time >= blocked_since_ + core_.limits.body_timeout) {
    // The client does not read: nobody is there to linger for.
    if (phase_ == Phase::kExchange) {
      finish_exchange(Outcome::kTimeout);
    }
    close_now();
    return;
  }
  switch (phase_) {
    case Phase::kRequest:
      if (head_started_ == base::kNever) {
        if (time >= idle_deadline()) {
          begin_closing();
        }
      } else if (time >= head_started_ + core_.limits.header_timeout) {
        fail(408, "the request head did not arrive in time");
      }
      break;
    case Phase::kExchange:
    case Phase::kDiscard:
      if (time >= body_deadline()) {
        on_body_timer();
      }
      break;
    case Phase::kLingering:
      close_now();
      return;
    default:
      break;
  }
  busy_ = false;
  advance();
}

void H1Connection::on_body_timer() {
  if (phase_ == Phase::kExchange && answer_ != Answer::kNone) {
    body_ = Body::kFailed;
    finish_exchange(Outcome::kTimeout);
    return;
  }
  fail_body(BodyError::kTooSlow);
}

}  // namespace mik::http
