// Reading of HTTP/1.x requests: the socket, heads, content. Confined to the loop thread.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/assert.hpp"
#include "http/h1_connection.hpp"
#include "http/h2_connection.hpp"
#include "http/request_parser.hpp"

namespace mik::http {

namespace {

// What an unwanted body may cost to keep a connection; more is dearer than a new connection.
constexpr std::uint64_t kDiscardBytes = 256 * 1024;

int status_of(ParseStatus status) noexcept {
  switch (status) {
    case ParseStatus::kTargetTooLong:
      return 414;
    case ParseStatus::kHeadTooLarge:
      return 431;
    case ParseStatus::kVersion:
      return 505;
    default:
      return 400;
  }
}

}  // namespace

InputBuffer& H1Connection::input() {
  if (input_ == nullptr) {
    input_ = core_.inputs.take();
  }
  return *input_;
}

void H1Connection::receive() {
  InputBuffer& buffer = input();
  std::pair<char*, std::size_t> room = buffer.room();
  if (room.second == 0) {
    buffer.grow();
    room = buffer.room();
  }
  const ssize_t got = read_some(room.first, room.second, readable_);
  if (got > 0) {
    buffer.commit(static_cast<std::size_t>(got));
  } else if (got == 0) {
    peer_fin_ = true;
  } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
    gone();
  }
}

// Uses what has been read. True: all of it is used, or what is left is the beginning of a head.
bool H1Connection::take_input() {
  while (input_ != nullptr && !input_->empty()) {
    if (!can_take()) {
      return false;
    }
    if (phase_ == Phase::kRequest ? !take_head() : !take_content()) {
      return true;
    }
  }
  return true;
}

// False: the head is incomplete.
bool H1Connection::take_head() {
  if (first_request_ && hand_over_to_http2()) {
    return false;
  }
  const ParseResult result =
      parse_request_head(input_->view(), core_.limits, core_.fields, scanned_, core_.head);
  switch (result.status) {
    case ParseStatus::kNeedMore:
      if (input_->view() == "\r\n" && !blank_line_) {
        // What some clients send behind a body (RFC 9112 section 2.2): no head has begun.
        blank_line_ = true;
        scanned_ = 0;
        input_->clear();
        return false;
      }
      start_head_clock();
      return false;
    case ParseStatus::kDone:
      begin_exchange(result.head_bytes);
      return true;
    default:
      fail(status_of(result.status), result.problem);
      return true;
  }
}

// The first head's began with the connection.
void H1Connection::start_head_clock() noexcept {
  if (head_started_ == base::kNever) {
    head_started_ = first_request_ ? idle_since_ : now();
  }
}

// True: these bytes are, or may become, the preface of HTTP/2 with prior knowledge (RFC 9113
// section 3.4).
bool H1Connection::hand_over_to_http2() {
  constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  const std::string_view bytes = input_->view();
  const std::size_t seen = std::min(bytes.size(), kPreface.size());
  if (bytes.substr(0, seen) != kPreface.substr(0, seen)) {
    return false;
  }
  if (seen < kPreface.size()) {
    start_head_clock();
    return true;
  }
  core_.loop.unwatch(socket_.get());
  auto heir = std::make_unique<H2Connection>(core_, std::move(socket_), std::move(tls_));
  H2Connection& connection = *heir;
  const std::unique_ptr<InputBuffer> read = std::move(input_);
  if (core_.add(std::move(heir))) {
    connection.begin(read->view());
  }
  close_now();
  return true;
}

void H1Connection::begin_exchange(std::size_t head_bytes) {
  const RequestHead& head = core_.head;
  first_request_ = blank_line_ = false;
  scanned_ = 0;
  head_started_ = base::kNever;
  version_ = head.version;
  client_keeps_ = head.keep_alive;
  keep_alive_ = head.keep_alive;
  te_trailers_ = head.te_trailers;
  head_request_ = head.method == "HEAD";
  expecting_ = head.expect_continue;
  chunked_in_ = head.body == BodyKind::kChunked;
  content_in_left_ = head.content_length;
  body_ = head.body == BodyKind::kNone ? Body::kDone : Body::kReading;
  if (head.body == BodyKind::kLength && head.content_length > core_.limits.body_bytes_max) {
    fail(413, "the request body is larger than this server accepts");
    return;
  }
  paused_ = discarding_ = head_sent_ = source_news_ = false;
  bytes_in_ = bytes_out_ = 0;
  status_ = 0;
  answer_ = Answer::kNone;
  handler_ = nullptr;
  phase_ = Phase::kExchange;
  ++core_.exchanges;
  core_.service.on_request(*this);
  if (phase_ == Phase::kClosed) {
    return;
  }
  input_->consume(head_bytes);
  if (phase_ != Phase::kExchange) {
    return;
  }
  if (body_ == Body::kReading) {
    start_body();
  }
  if (handler_ == nullptr) {
    // An answer without a handler needs no news of its way to the client: the next request may be
    // looked at, so that pipelined ones are answered by one write.
    MIK_ASSERT(answer_ == Answer::kWhole);
    finish_exchange(Outcome::kComplete);
  }
}

void H1Connection::start_body() {
  body_started_ = body_progress_ = now();
  if (chunked_in_) {
    decoder_.reset();
  }
  if (!expecting_) {
    return;
  }
  if (!input_->empty()) {
    expecting_ = false;  // the client did not wait
  } else if (!discarding_ && answer_ != Answer::kWhole) {
    output().bytes.append("HTTP/1.1 100 Continue\r\n\r\n");
    expecting_ = false;
  }
}

// False: needs more bytes.
bool H1Connection::take_content() {
  if (!chunked_in_) {
    const std::string_view bytes = input_->view().substr(0, content_in_left_);
    content_in_left_ -= bytes.size();
    input_->consume(bytes.size());
    deliver(bytes);
    if (body_ == Body::kReading && content_in_left_ == 0 && phase_ < Phase::kClosing) {
      end_body({});
    }
    return true;
  }
  const ChunkedDecoder::Step step = decoder_.decode(input_->view(), core_.limits);
  input_->consume(step.consumed);
  switch (step.status) {
    case ChunkedDecoder::Status::kData:
      deliver(step.data);
      return true;
    case ChunkedDecoder::Status::kNeedMore:
      return false;
    case ChunkedDecoder::Status::kEnd:
      end_body(decoder_.trailers());
      return true;
    case ChunkedDecoder::Status::kBad:
      fail_body(BodyError::kMalformed);
      return true;
  }
  return true;
}

void H1Connection::deliver(std::string_view bytes) {
  bytes_in_ += bytes.size();
  body_progress_ = now();
  expecting_ = false;
  if (discarding_) {
    drop(bytes.size());
    return;
  }
  if (bytes_in_ > core_.limits.body_bytes_max) {
    fail_body(BodyError::kTooLarge);
    return;
  }
  if (handler_->on_body(bytes) == Flow::kPause && phase_ == Phase::kExchange && !discarding_) {
    paused_ = true;
    paused_since_ = now();
  }
}

void H1Connection::begin_discarding() {
  discarding_ = true;
  paused_ = false;
  body_started_ = body_progress_ = now();
  discard_left_ = kDiscardBytes;
  if (!chunked_in_ && content_in_left_ > discard_left_) {
    drop(discard_left_);
  }
}

void H1Connection::drop(std::uint64_t bytes) {
  if (bytes < discard_left_) {
    discard_left_ -= bytes;
    return;
  }
  body_ = Body::kFailed;
  keep_alive_ = false;
  if (phase_ == Phase::kDiscard) {
    begin_closing();
  }
}

void H1Connection::end_body(std::span<const Field> trailers) {
  body_ = Body::kDone;
  if (phase_ == Phase::kDiscard) {
    phase_ = Phase::kRequest;
    idle_since_ = now();
  } else if (!discarding_) {
    handler_->on_body_end(trailers);
  }
}

void H1Connection::fail_body(BodyError error) {
  body_ = Body::kFailed;
  keep_alive_ = false;
  if (phase_ == Phase::kDiscard) {
    begin_closing();
  } else if (!discarding_) {
    handler_->on_body_error(error);
  }
}

void H1Connection::resume_body() {
  if (!paused_) {
    return;
  }
  paused_ = false;
  // The time in which we did not read is not the client's.
  body_started_ += now() - paused_since_;
  body_progress_ = now();
  if (!busy_) {
    core_.defer(*this);
  }
}

void H1Connection::discard_body() {
  if (body_ != Body::kReading || discarding_) {
    return;
  }
  begin_discarding();
  if (!busy_) {
    core_.defer(*this);
  }
}

}  // namespace mik::http
