#include "http/h2_stream.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/assert.hpp"
#include "http/chunked.hpp"
#include "http/h2_connection.hpp"
#include "http/request_parser.hpp"
#include "http/response_writer.hpp"

namespace mik::http {

namespace {

// What an unwanted body may cost before the stream is reset.
constexpr std::uint64_t kDiscardBytes = 256 * 1024;
constexpr base::Duration kRateGrace = std::chrono::seconds(5);

int status_of(ParseStatus status) noexcept {
  return status == ParseStatus::kTargetTooLong  ? 414
         : status == ParseStatus::kHeadTooLarge ? 431
                                                : 400;
}

}  // namespace

void H2Stream::reset(H2Connection& connection, std::int32_t id) {
  connection_ = &connection;
  id_ = id;
  handler_ = nullptr;
  phase_ = Phase::kHead;
  body_ = Body::kDone;
  answer_ = Answer::kNone;
  for (FieldBlock* block : {&request_, &trailers_in_, &response_}) {
    block->clear();
  }
  for (std::string* text : {&method_, &path_, &authority_, &cookie_, &held_, &own_content_}) {
    text->clear();
    if (text->capacity() > 1024) {
      std::string().swap(*text);
    }
  }
  request_length_.reset();
  length_.reset();
  reset_due_.reset();
  too_many_fields_ = expecting_ = head_request_ = false;
  paused_ = resumed_ = discarding_ = end_held_ = false;
  whole_ = news_ = deferred_ = scheduled_ = counted_ = continue_due_ = false;
  bytes_in_ = bytes_out_ = dropped_ = length_left_ = 0;
  unconsumed_ = own_taken_ = 0;
  status_ = 0;
  started_ = connection.now();
  body_started_ = body_progress_ = paused_since_ = out_progress_ = base::kNever;
}

void H2Stream::take_field(std::string_view name, std::string_view value) {
  const Limits& limits = connection_->core().limits;
  const std::size_t kept = request_.bytes().size() + cookie_.size() + path_.size();
  if (request_.size() + 1 >= limits.fields_max ||
      kept + name.size() + value.size() > limits.head_bytes_max) {
    too_many_fields_ = true;
    return;
  }
  if (name.starts_with(':')) {
    if (name == ":method") {
      method_ = value;
    } else if (name == ":path") {
      path_ = value;
    } else if (name == ":authority") {
      authority_ = value;
    }
    return;
  }
  if (name == "cookie") {
    // One line again (RFC 9113 section 8.2.3): what is behind HTTP/2 does not expect several.
    cookie_.append(cookie_.empty() ? "" : "; ").append(value);
    return;
  }
  if (name == "content-length") {
    std::uint64_t length = 0;
    std::from_chars(value.data(), value.data() + value.size(), length);
    request_length_ = length;
  } else if (name == "expect") {
    expecting_ = equals_lower(value, "100-continue");
  } else if (name == "host" && authority_.empty()) {
    authority_ = value;
  }
  request_.add(name, value);
}

void H2Stream::take_trailer(std::string_view name, std::string_view value) {
  const Limits& limits = connection_->core().limits;
  if (!is_forbidden_trailer(name) && trailers_in_.size() < limits.fields_max &&
      trailers_in_.bytes().size() + name.size() + value.size() <= limits.head_bytes_max) {
    trailers_in_.add(name, value);
  }
}

// The pseudo fields are written as the head of an HTTP/1.1 request and parsed as one: so both
// versions take the same methods, targets and authorities.
H2Stream::Fault H2Stream::build_head(bool ended) {
  ServerCore& core = connection_->core();
  if (too_many_fields_) {
    return {.status = 431, .detail = "the request head is too large"};
  }
  if (!cookie_.empty()) {
    request_.add("cookie", cookie_);
  }
  std::string& bytes = request_.bytes();
  const std::size_t at = bytes.size();
  bytes.append(method_).append(" ").append(method_ == "CONNECT" ? authority_ : path_);
  bytes.append(" HTTP/1.1\r\nhost: ").append(authority_).append("\r\n\r\n");
  std::array<Field, 2> line;
  std::size_t scanned = 0;
  const ParseResult result =
      parse_request_head(std::string_view(bytes).substr(at), core.limits, line, scanned, head_);
  if (result.status != ParseStatus::kDone || at + result.head_bytes != bytes.size()) {
    return {.status = status_of(result.status), .detail = result.problem};
  }
  for (std::size_t i = 0; i < request_.size(); ++i) {
    core.fields[i] = request_[i];
  }
  head_.bytes = bytes;
  head_.fields = std::span<const Field>(core.fields).first(request_.size());
  head_.version = Version::k2;
  head_.te_trailers = true;
  head_.keep_alive = true;
  head_.expect_continue = expecting_ && !ended;
  if (ended) {
    head_.body = BodyKind::kNone;
  } else if (request_length_.value_or(0) > 0) {
    head_.body = BodyKind::kLength;
    head_.content_length = *request_length_;
    if (head_.content_length > core.limits.body_bytes_max) {
      return {.status = 413, .detail = "the request body is larger than this server accepts"};
    }
  } else {
    head_.body = BodyKind::kChunked;
  }
  return {};
}

void H2Stream::begin(bool ended) {
  ServerCore& core = connection_->core();
  const Fault fault = build_head(ended);
  phase_ = Phase::kExchange;
  head_request_ = method_ == "HEAD";
  body_ = ended ? Body::kDone : Body::kReading;
  body_started_ = body_progress_ = connection_->now();
  if (fault.status != 0) {
    refuse(fault);
    return;
  }
  counted_ = true;
  ++core.exchanges;
  core.service.on_request(*this);
  head_ = {};
  MIK_ASSERT(phase_ == Phase::kOver || handler_ != nullptr || whole_);
  if (phase_ != Phase::kExchange) {
    return;
  }
  if (handler_ == nullptr) {
    discarding_ = true;
  }
  if (expecting_ && body_ == Body::kReading && !discarding_ && !whole_) {
    continue_due_ = true;
    schedule();
  }
}

// An answer of the connection itself: there is no request that a service could have seen.
void H2Stream::refuse(const Fault& fault) {
  ServerCore& core = connection_->core();
  core.failure_fields.clear();
  core.failure_body.clear();
  core.service.describe_failure(fault.status, fault.detail, core.failure_fields, core.failure_body);
  queue_head({.status = fault.status, .fields = {}, .content_length = std::nullopt});
  std::string_view lines = core.failure_fields;
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find("\r\n"), lines.size());
    const std::string_view line = lines.substr(0, end);
    const std::size_t colon = line.find(':');
    if (colon != std::string_view::npos) {
      const Field field{.name = line.substr(0, colon), .value = scan::trim(line.substr(colon + 1))};
      if (!is_connection_field(field.name) && is_sound_field(field)) {
        response_.add_lower(field.name, field.value);
      }
    }
    lines.remove_prefix(std::min(end + 2, lines.size()));
  }
  own_content_ = core.failure_body;
  whole_ = true;
  news_ = true;
  discarding_ = true;
  schedule();
}

void H2Stream::take_content(std::string_view bytes) {
  bytes_in_ += bytes.size();
  body_progress_ = connection_->now();
  if (discarding_ || phase_ == Phase::kOver) {
    drop(bytes.size());
    return;
  }
  if (bytes_in_ > connection_->core().limits.body_bytes_max) {
    fail_body(BodyError::kTooLarge);
    return;
  }
  if (paused_ || resumed_ || !held_.empty()) {
    held_.append(bytes);
    return;
  }
  deliver(bytes);
}

void H2Stream::deliver(std::string_view bytes) {
  const Flow flow = handler_->on_body(bytes);
  if (flow == Flow::kPause && phase_ == Phase::kExchange && !discarding_) {
    paused_ = true;
    paused_since_ = connection_->now();
    unconsumed_ += bytes.size();
  } else {
    consume_window(bytes.size());
  }
}

void H2Stream::end_content() {
  if (phase_ == Phase::kExchange && (paused_ || resumed_ || !held_.empty())) {
    end_held_ = true;
    return;
  }
  deliver_end();
}

void H2Stream::deliver_end() {
  end_held_ = false;
  if (body_ != Body::kReading) {
    return;
  }
  body_ = Body::kDone;
  if (handler_ == nullptr || discarding_) {
    return;
  }
  std::vector<Field> trailers;
  for (std::size_t i = 0; i < trailers_in_.size(); ++i) {
    trailers.push_back(trailers_in_[i]);
  }
  handler_->on_body_end(trailers);
}

void H2Stream::fail_body(BodyError error) {
  if (body_ != Body::kReading) {
    return;
  }
  body_ = Body::kFailed;
  if (handler_ != nullptr && !discarding_) {
    discarding_ = true;
    handler_->on_body_error(error);
  }
}

// Unwanted content: taken for a while, since a reset is a loss to those that do not expect it; then
// the window stays shut, and once the answer is out the stream is reset (RFC 9113 section 8.1).
void H2Stream::drop(std::size_t bytes) {
  dropped_ += bytes;
  if (dropped_ <= kDiscardBytes) {
    consume_window(bytes);
  } else {
    refuse_more();
  }
}

// A client whose window is shut sends nothing that would bring us here again: so this is asked when
// the answer is out, too.
void H2Stream::refuse_more() {
  if (phase_ == Phase::kOver && dropped_ > kDiscardBytes) {
    reset_later(NGHTTP2_NO_ERROR);
  }
}

void H2Stream::consume_window(std::size_t bytes) {
  nghttp2_session_consume_stream(connection_->session(), id_, bytes);
  // The window update is queued; it goes with what is written at the end of this turn's reading.
  schedule();
}

void H2Stream::resume_body() {
  if (!paused_) {
    return;
  }
  paused_ = false;
  resumed_ = true;
  body_started_ += connection_->now() - paused_since_;
  body_progress_ = connection_->now();
  schedule();
}

void H2Stream::discard_body() {
  if (body_ != Body::kReading || discarding_) {
    return;
  }
  discarding_ = true;
  paused_ = false;
  resumed_ = true;  // what is held is dropped
  body_started_ = body_progress_ = connection_->now();
  schedule();
}

// What was held while the handler was paused.
void H2Stream::take_paused() {
  resumed_ = false;
  const std::size_t bytes = std::exchange(unconsumed_, 0);
  if (bytes > 0) {
    consume_window(bytes);
  }
  if (!held_.empty()) {
    const std::string held = std::exchange(held_, {});
    if (discarding_ || phase_ == Phase::kOver) {
      drop(held.size());
    } else {
      deliver(held);
    }
  }
  if (end_held_ && !paused_ && !resumed_) {
    deliver_end();
  }
}

const RequestHead& H2Stream::head() const { return head_; }

const Peer& H2Stream::peer() const { return connection_->peer(); }

bool H2Stream::secure() const { return connection_->secure(); }

void H2Stream::attach(ExchangeHandler& handler) { handler_ = &handler; }

void H2Stream::schedule() {
  if (!scheduled_) {
    scheduled_ = true;
    connection_->schedule(*this);
  }
}

void H2Stream::respond(const ResponseHead& head, std::string_view body) {
  if (phase_ != Phase::kExchange || answer_ != Answer::kNone) {
    return;
  }
  queue_head(head);
  if (no_content()) {
    if (!length_.has_value() && status_ != 304) {
      length_ = body.size();
    }
  } else {
    length_.reset();
    own_content_ = body;
  }
  whole_ = true;
  news_ = true;
  schedule();
}

void H2Stream::start(const ResponseHead& head) {
  if (phase_ == Phase::kExchange && answer_ == Answer::kNone) {
    queue_head(head);
  }
}

void H2Stream::pump() {
  if (phase_ == Phase::kExchange) {
    news_ = true;
    schedule();
  }
}

void H2Stream::abort() {
  if (phase_ == Phase::kExchange) {
    finish(Outcome::kCut);
    reset_later(NGHTTP2_INTERNAL_ERROR);
  }
}

void H2Stream::finish(Outcome outcome) {
  if (phase_ != Phase::kExchange) {
    return;
  }
  phase_ = Phase::kOver;
  // What the client has still to send is dropped, and has its time anew.
  body_started_ = body_progress_ = connection_->now();
  if (counted_) {
    --connection_->core().exchanges;
  }
  if (paused_ || !held_.empty()) {
    paused_ = false;
    resumed_ = true;
    schedule();
  }
  if (ExchangeHandler* const handler = std::exchange(handler_, nullptr)) {
    const bool head_out = answer_ == Answer::kStreaming || answer_ == Answer::kSent;
    handler->on_closed({.outcome = outcome,
                        .status = head_out ? status_ : 0,
                        .body_bytes_in = bytes_in_,
                        .body_bytes_out = bytes_out_});
  }
}

void H2Stream::reset_later(std::uint32_t error_code) {
  if (!reset_due_.has_value()) {
    reset_due_ = error_code;
    schedule();
  }
}

bool H2Stream::closed(std::uint32_t error_code) {
  if (phase_ != Phase::kExchange) {
    return false;
  }
  if (answer_ == Answer::kSent) {
    finish(Outcome::kComplete);
    return false;
  }
  if (body_ == Body::kReading && handler_ != nullptr && !discarding_) {
    body_ = Body::kFailed;
    // nghttp2 ends a stream by itself when its content is not what content-length says.
    handler_->on_body_error(error_code == NGHTTP2_PROTOCOL_ERROR ? BodyError::kMalformed
                                                                 : BodyError::kGone);
  }
  finish(Outcome::kClientGone);
  return true;
}

// When content of which `bytes` have come is too slow.
base::Time H2Stream::content_deadline(std::uint64_t bytes) const {
  const Limits& limits = connection_->core().limits;
  const std::uint64_t rate = std::max<std::uint64_t>(limits.body_rate_min, 1);
  const base::Time by_rate =
      body_started_ + kRateGrace + std::chrono::milliseconds(bytes * 1000 / rate);
  return std::min(by_rate, body_progress_ + limits.body_timeout);
}

void H2Stream::check_time(base::Time now) {
  if (phase_ == Phase::kOver && now >= content_deadline(dropped_)) {
    // Answered, but the client does not end its content: the stream would keep the connection for
    // ever.
    reset_later(NGHTTP2_NO_ERROR);
  }
  if (phase_ != Phase::kExchange) {
    return;
  }
  const Limits& limits = connection_->core().limits;
  if (body_ == Body::kReading && !paused_ && !resumed_) {
    if (now >= content_deadline(bytes_in_)) {
      if (answer_ == Answer::kNone) {
        fail_body(BodyError::kTooSlow);
      } else {
        finish(Outcome::kTimeout);
        reset_later(NGHTTP2_CANCEL);
      }
      return;
    }
  }
  // Content waits for a window that the client does not open.
  if (answer_ == Answer::kStreaming && !deferred_ && now >= out_progress_ + limits.body_timeout) {
    finish(Outcome::kTimeout);
    reset_later(NGHTTP2_CANCEL);
  }
}

}  // namespace mik::http
