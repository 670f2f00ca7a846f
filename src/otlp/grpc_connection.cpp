#include "otlp/grpc_connection.hpp"

#include <fmt/format.h>
#include <nghttp2/nghttp2.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <span>
#include <utility>
#include <vector>

#include "base/assert.hpp"
#include "otlp/encoder.hpp"

namespace mik::otlp {

namespace {

using http::IoResult;
using http::IoStatus;

constexpr std::size_t kPrefixBytes = 5;
constexpr std::size_t kReadBytes = 16 * 1024;
constexpr std::size_t kReadMax = 1024 * 1024;
constexpr std::size_t kSendBytes = 64 * 1024;
constexpr std::size_t kGrpcMessageMax = 256;

nghttp2_nv pair(std::string_view name, std::string_view value) {
  return {.name = reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
          .value = reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())),
          .namelen = name.size(),
          .valuelen = value.size(),
          .flags = NGHTTP2_NV_FLAG_NONE};
}

template <class Number>
Number number_or(std::string_view text, Number otherwise) noexcept {
  Number number = otherwise;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size() ? number : otherwise;
}

// OTLP specification, "OTLP/gRPC failures"; RESOURCE_EXHAUSTED only when it says when.
bool is_retryable(int grpc_status, bool says_when) noexcept {
  switch (grpc_status) {
    case 1:   // CANCELLED
    case 4:   // DEADLINE_EXCEEDED
    case 10:  // ABORTED
    case 11:  // OUT_OF_RANGE
    case 14:  // UNAVAILABLE
    case 15:  // DATA_LOSS
      return true;
    case 8:  // RESOURCE_EXHAUSTED
      return says_when;
    default:
      return false;
  }
}

// Length-prefixed and not compressed, and one; else nothing.
std::optional<ExportResponse> read_framed(std::string_view bytes) noexcept {
  if (bytes.size() < kPrefixBytes || bytes.front() != 0) {
    return std::nullopt;
  }
  std::size_t length = 0;
  for (std::size_t i = 1; i < kPrefixBytes; ++i) {
    length = length << 8 | static_cast<unsigned char>(bytes[i]);
  }
  if (length != bytes.size() - kPrefixBytes) {
    return std::nullopt;
  }
  return read_export_response(bytes.substr(kPrefixBytes));
}

}  // namespace

struct GrpcConnection::Callbacks {
  static GrpcConnection& of(void* context) { return *static_cast<GrpcConnection*>(context); }
  static std::string_view view(const std::uint8_t* bytes, std::size_t count) {
    return {reinterpret_cast<const char*>(bytes), count};
  }

  static int on_header(nghttp2_session* /*session*/, const nghttp2_frame* frame,
                       const std::uint8_t* name, std::size_t name_bytes, const std::uint8_t* value,
                       std::size_t value_bytes, std::uint8_t /*flags*/, void* context) {
    if (frame->hd.stream_id == of(context).stream_) {
      of(context).on_field(view(name, name_bytes), view(value, value_bytes));
    }
    return 0;
  }
  static int on_data(nghttp2_session* /*session*/, std::uint8_t /*flags*/, std::int32_t stream,
                     const std::uint8_t* data, std::size_t bytes, void* context) {
    GrpcConnection& self = of(context);
    if (stream == self.stream_) {
      const std::size_t room = kAnswerBytesMax - self.answer_.size();
      self.answer_too_long_ = self.answer_too_long_ || bytes > room;
      self.answer_ += view(data, std::min(bytes, room));
    }
    return 0;
  }
  static int on_frame(nghttp2_session* /*session*/, const nghttp2_frame* frame, void* context) {
    of(context).going_away_ = of(context).going_away_ || frame->hd.type == NGHTTP2_GOAWAY;
    return 0;
  }
  static int on_close(nghttp2_session* /*session*/, std::int32_t stream, std::uint32_t error,
                      void* context) {
    if (stream == of(context).stream_) {
      of(context).on_stream_over(error);
    }
    return 0;
  }
  static ssize_t on_read(nghttp2_session* /*session*/, std::int32_t /*stream*/,
                         std::uint8_t* buffer, std::size_t bytes, std::uint32_t* flags,
                         nghttp2_data_source* source, void* /*context*/) {
    return static_cast<ssize_t>(of(source->ptr).take_message(buffer, bytes, *flags));
  }
};

GrpcConnection::GrpcConnection(net::Loop& loop, std::unique_ptr<http::Transport> transport,
                               User& user)
    : loop_(loop), transport_(std::move(transport)), user_(user) {}

GrpcConnection::~GrpcConnection() {
  MIK_ASSERT(phase_ == Phase::kClosed);
  nghttp2_session_del(session_);
}

void GrpcConnection::open() {
  const auto watched = loop_.watch(transport_->fd(), EPOLLIN | EPOLLOUT | EPOLLRDHUP, *this);
  if (!watched.has_value()) {
    fail(watched.error().to_string());
    return;
  }
  shake_hands();
}

void GrpcConnection::shake_hands() {
  const IoResult result = transport_->handshake();
  if (result.status == IoStatus::kAgain) {
    return;
  }
  if (result.status != IoStatus::kOk) {
    fail(transport_->problem().empty() ? "closed during the TLS handshake"
                                       : std::string_view(transport_->problem()));
    return;
  }
  if (!start_session()) {
    fail("out of memory");
    return;
  }
  phase_ = Phase::kIdle;
  read_left_ = kReadMax;
  user_.on_open();
}

bool GrpcConnection::start_session() {
  nghttp2_session_callbacks* callbacks = nullptr;
  if (nghttp2_session_callbacks_new(&callbacks) != 0) {
    return false;
  }
  nghttp2_session_callbacks_set_on_header_callback(callbacks, Callbacks::on_header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, Callbacks::on_data);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, Callbacks::on_frame);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, Callbacks::on_close);
  const int made = nghttp2_session_client_new(&session_, callbacks, this);
  nghttp2_session_callbacks_del(callbacks);
  constexpr std::array<nghttp2_settings_entry, 2> kSettings = {
      {{NGHTTP2_SETTINGS_ENABLE_PUSH, 0}, {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, 16 * 1024}}};
  return made == 0 && nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, kSettings.data(),
                                              kSettings.size()) == 0;
}

void GrpcConnection::call(const GrpcCall& call) {
  MIK_ASSERT(phase_ == Phase::kIdle);
  phase_ = Phase::kCalling;
  read_left_ = kReadMax;
  message_ = call.message;
  prefix_.assign(1, '\0');
  for (int shift = 24; shift >= 0; shift -= 8) {
    prefix_ += static_cast<char>(message_.size() >> shift & 0xff);
  }
  taken_ = 0;
  status_ = 0;
  grpc_status_ = -1;
  grpc_message_.clear();
  pushback_ = base::Duration(-1);
  answer_.clear();
  answer_too_long_ = stream_over_ = false;
  std::vector<nghttp2_nv> fields = {pair(":method", "POST"),
                                    pair(":scheme", call.scheme),
                                    pair(":path", call.path),
                                    pair(":authority", call.authority),
                                    pair("content-type", "application/grpc"),
                                    pair("te", "trailers"),
                                    pair("user-agent", call.user_agent)};
  if (!call.authorization.empty()) {
    fields.push_back(pair("authorization", call.authorization));
  }
  const nghttp2_data_provider body{.source = {.ptr = this}, .read_callback = Callbacks::on_read};
  stream_ = nghttp2_submit_request(session_, nullptr, fields.data(), fields.size(), &body, nullptr);
  if (stream_ < 0) {
    fail(nghttp2_strerror(stream_));
    return;
  }
  work();
}

std::size_t GrpcConnection::take_message(std::uint8_t* buffer, std::size_t bytes,
                                         std::uint32_t& flags) {
  std::size_t done = 0;
  const auto take = [&](std::string_view from, std::size_t at) {
    const std::size_t count = std::min(bytes - done, from.size() - at);
    from.copy(reinterpret_cast<char*>(buffer) + done, count, at);
    done += count;
    taken_ += count;
  };
  if (taken_ < kPrefixBytes) {
    take(prefix_, taken_);
  }
  if (taken_ >= kPrefixBytes) {
    take(message_, taken_ - kPrefixBytes);
  }
  if (taken_ == kPrefixBytes + message_.size()) {
    flags |= NGHTTP2_DATA_FLAG_EOF;
  }
  return done;
}

void GrpcConnection::on_field(std::string_view name, std::string_view value) {
  if (name == ":status") {
    status_ = number_or(value, 0);
  } else if (name == "grpc-status") {
    grpc_status_ = number_or(value, 2);  // 2: UNKNOWN
  } else if (name == "grpc-message") {
    grpc_message_ = value.substr(0, kGrpcMessageMax);
  } else if (name == "grpc-retry-pushback-ms") {
    if (const auto ms = number_or<std::int64_t>(value, -1); ms >= 0) {
      pushback_ = std::min<base::Duration>(
          std::chrono::milliseconds(std::min<std::int64_t>(ms, INT32_MAX)), kRetryAfterMax);
    }
  } else if (name == "retry-after" && pushback_ < base::Duration::zero()) {
    if (const base::Duration after = parse_retry_after(value); after > base::Duration::zero()) {
      pushback_ = after;
    }
  }
}

void GrpcConnection::on_stream_over(std::uint32_t error) {
  stream_ = -1;
  stream_error_ = error;
  stream_over_ = true;
}

Reply GrpcConnection::judge() const {
  const bool says_when = pushback_ >= base::Duration::zero();
  if (grpc_status_ < 0) {
    Reply reply = status_ != 200 && status_ != 0
                      ? reply_to_status(status_)
                      : Reply{.kind = stream_error_ != NGHTTP2_NO_ERROR ? Reply::Kind::kRetry
                                                                        : Reply::Kind::kRefused,
                              .detail = fmt::format("no gRPC answer (HTTP/2 {})",
                                                    nghttp2_http2_strerror(stream_error_))};
    reply.retry_after = std::max(pushback_, base::Duration::zero());
    return reply;
  }
  if (grpc_status_ != 0) {
    return {
        .kind = is_retryable(grpc_status_, says_when) ? Reply::Kind::kRetry : Reply::Kind::kRefused,
        .retry_after = std::max(pushback_, base::Duration::zero()),
        .detail = fmt::format("gRPC status {}: {}", grpc_status_, grpc_message_)};
  }
  const auto answer = answer_too_long_ ? std::nullopt : read_framed(answer_);
  if (!answer.has_value()) {
    return {.kind = Reply::Kind::kRefused, .detail = "the answer is not OTLP"};
  }
  return {.kind = Reply::Kind::kTaken,
          .rejected = answer->rejected_spans,
          .detail = std::string(answer->error_message)};
}

void GrpcConnection::on_io(std::uint32_t /*events*/) {
  switch (phase_) {
    case Phase::kHandshake:
      shake_hands();
      return;
    case Phase::kIdle:
    case Phase::kCalling:
      work();
      return;
    case Phase::kClosed:
      return;
  }
}

void GrpcConnection::work() {
  if (!receive() || !send()) {
    return;  // it has failed
  }
  const bool over = going_away_ || (nghttp2_session_want_read(session_) == 0 &&
                                    nghttp2_session_want_write(session_) == 0);
  if (stream_over_ && phase_ == Phase::kCalling) {
    stream_over_ = false;
    phase_ = Phase::kIdle;
    user_.on_answer(judge(), over ? User::After::kOver : User::After::kUsable);
    return;
  }
  if (over && phase_ == Phase::kIdle) {
    user_.on_connection_over("the collector ends the connection");
  }
}

bool GrpcConnection::receive() {
  std::array<char, kReadBytes> buffer;
  for (;;) {
    const IoResult got = transport_->read(buffer);
    if (got.status == IoStatus::kAgain) {
      return true;
    }
    if (got.status != IoStatus::kOk) {
      if (stream_over_) {
        going_away_ = true;  // what it had to say was said
        return true;
      }
      fail(transport_->problem().empty() ? "the collector closed the connection"
                                         : std::string_view(transport_->problem()));
      return false;
    }
    if (got.bytes > read_left_) {
      fail("the collector says too much");
      return false;
    }
    read_left_ -= got.bytes;
    const ssize_t used = nghttp2_session_mem_recv(
        session_, reinterpret_cast<const std::uint8_t*>(buffer.data()), got.bytes);
    if (used < 0) {
      fail(fmt::format("not HTTP/2: {}", nghttp2_strerror(static_cast<int>(used))));
      return false;
    }
  }
}

// More of what nghttp2 has to send; false: it is broken.
bool GrpcConnection::fill() {
  out_.clear();
  out_done_ = 0;
  while (out_.size() < kSendBytes) {
    const std::uint8_t* bytes = nullptr;
    const ssize_t count = nghttp2_session_mem_send(session_, &bytes);
    if (count < 0) {
      return false;
    }
    if (count == 0) {
      break;
    }
    out_.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
  }
  return true;
}

bool GrpcConnection::send() {
  if (going_away_ && stream_over_) {
    return true;
  }
  for (;;) {
    const IoResult flushed = transport_->flush();
    if (flushed.status == IoStatus::kAgain) {
      return true;
    }
    IoResult put = flushed;
    if (flushed.status == IoStatus::kOk) {
      if (out_done_ == out_.size() && !fill()) {
        fail("HTTP/2 is out of order");
        return false;
      }
      if (out_.empty()) {
        return true;
      }
      const iovec piece{.iov_base = out_.data() + out_done_, .iov_len = out_.size() - out_done_};
      put = transport_->write(std::span(&piece, 1));
      if (put.status == IoStatus::kAgain) {
        return true;
      }
    }
    if (put.status != IoStatus::kOk) {
      fail(transport_->problem());
      return false;
    }
    out_done_ += put.bytes;
  }
}

void GrpcConnection::fail(std::string_view why) { user_.on_connection_over(why); }

void GrpcConnection::close() noexcept {
  if (std::exchange(phase_, Phase::kClosed) != Phase::kClosed) {
    loop_.unwatch(transport_->fd());
    transport_->close();
  }
}

}  // namespace mik::otlp
