#include "http/h2_connection.hpp"

#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "base/assert.hpp"

namespace mik::http {

namespace {

// Between the warning of a drain and its last word: the time for requests that are on their way
// (RFC 9113 section 6.8).
constexpr base::Duration kDrainIdle = std::chrono::seconds(1);
constexpr base::Duration kTickMax = std::chrono::seconds(1);
constexpr int kRoundsMax = 4;
// Frames that are collected for one write.
constexpr std::size_t kQueuedMax = 64 * 1024;
constexpr std::size_t kFramesMax = 1000;
constexpr std::int32_t kConnectionWindow = 1024 * 1024;
// Resets by the client (CVE-2023-44487), and streams that end before their answer, whoever reset
// them (CVE-2025-8671): a burst, then so many a second.
constexpr std::uint64_t kResetBurst = 200;
constexpr std::uint64_t kResetRate = 33;
constexpr std::size_t kAcksMax = 100;

}  // namespace

// What nghttp2 calls. Each returns 0, or a code of nghttp2; none throws.
struct H2Callbacks {
  static H2Stream* stream_of(nghttp2_session* session, std::int32_t id) {
    return static_cast<H2Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static int on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* context) {
    auto& connection = *static_cast<H2Connection*>(context);
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
      H2Stream& stream = connection.add_stream(frame->hd.stream_id);
      nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, &stream);
    }
    return 0;
  }

  static int on_header(nghttp2_session* session, const nghttp2_frame* frame,
                       const std::uint8_t* name, std::size_t name_bytes, const std::uint8_t* value,
                       std::size_t value_bytes, std::uint8_t, void*) {
    H2Stream* const stream = stream_of(session, frame->hd.stream_id);
    if (stream == nullptr || frame->hd.type != NGHTTP2_HEADERS) {
      return 0;
    }
    const std::string_view of_name(reinterpret_cast<const char*>(name), name_bytes);
    const std::string_view of_value(reinterpret_cast<const char*>(value), value_bytes);
    if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
      stream->take_field(of_name, of_value);
    } else {
      stream->take_trailer(of_name, of_value);
    }
    return 0;
  }

  static int on_frame_recv(nghttp2_session* session, const nghttp2_frame* frame, void*) {
    H2Stream* const stream = stream_of(session, frame->hd.stream_id);
    if (stream == nullptr) {
      return 0;
    }
    const bool ended = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
      stream->begin(ended);
    } else if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) && ended) {
      stream->end_content();
    }
    return 0;
  }

  static int on_data(nghttp2_session* session, std::uint8_t, std::int32_t id,
                     const std::uint8_t* data, std::size_t bytes, void*) {
    // The connection's window is given back at once, the stream's when its handler has taken the
    // bytes: a paused stream must not stop its neighbours.
    nghttp2_session_consume_connection(session, bytes);
    if (H2Stream* const stream = stream_of(session, id)) {
      stream->take_content({reinterpret_cast<const char*>(data), bytes});
    }
    return 0;
  }

  static int on_frame_send(nghttp2_session* session, const nghttp2_frame* frame, void*) {
    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      if (H2Stream* const stream = stream_of(session, frame->hd.stream_id)) {
        stream->response_sent();
      }
    }
    return 0;
  }

  // A head above 64 KiB, for one: nghttp2 drops the frame and says no more.
  static int on_frame_not_send(nghttp2_session* session, const nghttp2_frame* frame, int, void*) {
    if (frame->hd.type == NGHTTP2_HEADERS) {
      if (H2Stream* const stream = stream_of(session, frame->hd.stream_id)) {
        stream->head_not_sent();
      }
    }
    return 0;
  }

  static int on_stream_close(nghttp2_session* session, std::int32_t id, std::uint32_t error_code,
                             void* context) {
    if (H2Stream* const stream = stream_of(session, id)) {
      auto& connection = *static_cast<H2Connection*>(context);
      if (stream->closed(error_code)) {
        connection.note_broken_stream();
      }
      nghttp2_session_set_stream_user_data(session, id, nullptr);
      connection.remove_stream(*stream);
    }
    return 0;
  }

  static ssize_t on_send(nghttp2_session*, const std::uint8_t* data, std::size_t bytes, int,
                         void* context) {
    OutputBuffer& output = *static_cast<H2Connection*>(context)->output_;
    if (output.pending() >= kQueuedMax) {
      return NGHTTP2_ERR_WOULDBLOCK;
    }
    output.bytes.append(reinterpret_cast<const char*>(data), bytes);
    return static_cast<ssize_t>(bytes);
  }

  // A DATA frame: its nine bytes of header, and content straight from its source.
  static int on_send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* header,
                          std::size_t bytes, nghttp2_data_source* source, void* context) {
    OutputBuffer& output = *static_cast<H2Connection*>(context)->output_;
    if (output.pending() >= kQueuedMax) {
      return NGHTTP2_ERR_WOULDBLOCK;
    }
    output.bytes.append(reinterpret_cast<const char*>(header), 9);
    static_cast<H2Stream*>(source->ptr)->copy_content(output.bytes, bytes);
    return 0;
  }

  static nghttp2_session* make_session(H2Connection& connection);
};

nghttp2_session* H2Callbacks::make_session(H2Connection& connection) {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_option* options = nullptr;
  MIK_ASSERT(nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&options) == 0);
  nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame_recv);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
  nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_send);
  nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_send);
  nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
  nghttp2_session_callbacks_set_send_callback(callbacks, on_send);
  nghttp2_session_callbacks_set_send_data_callback(callbacks, on_send_data);
  nghttp2_option_set_no_auto_window_update(options, 1);
  nghttp2_option_set_no_closed_streams(options, 1);
  nghttp2_option_set_max_outbound_ack(options, kAcksMax);
  nghttp2_option_set_stream_reset_rate_limit(options, kResetBurst, kResetRate);
  nghttp2_session* session = nullptr;
  const int made = nghttp2_session_server_new2(&session, callbacks, &connection, options);
  nghttp2_option_del(options);
  nghttp2_session_callbacks_del(callbacks);
  MIK_ASSERT(made == 0);
  return session;
}

H2Connection::H2Connection(ServerCore& core, base::Fd socket, std::unique_ptr<TlsSession> tls)
    : Connection(core, std::move(socket), std::move(tls)),
      session_(H2Callbacks::make_session(*this)),
      broken_since_(core.loop.now()),
      idle_since_(core.loop.now()),
      timer_(net::Timer::of<&H2Connection::on_timer>(this)) {
  const Limits& limits = core_.limits;
  const std::array<nghttp2_settings_entry, 3> settings{{
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits.streams_max},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, static_cast<std::uint32_t>(limits.head_bytes_max)},
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
  }};
  nghttp2_submit_settings(session_.get(), NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  nghttp2_session_set_local_window_size(session_.get(), NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

H2Connection::~H2Connection() = default;

void H2Connection::begin(std::string_view bytes) {
  if (core_.draining) {
    on_drain();
  }
  busy_ = true;
  feed(bytes);
  busy_ = false;
  readable_ = tls_ != nullptr;  // which may have read ahead, and no event will tell
  core_.defer(*this);
}

void H2Connection::on_io(std::uint32_t events) {
  if (phase_ == Phase::kClosed) {
    return;
  }
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    gone();
    return;
  }
  // A client that closes its side can open no window any more: no answer would reach its end.
  peer_fin_ = peer_fin_ || (events & EPOLLRDHUP) != 0;
  readable_ = readable_ || (events & (EPOLLIN | EPOLLRDHUP)) != 0;
  writable_ = writable_ || (events & EPOLLOUT) != 0;
  advance();
}

void H2Connection::on_deferred() {
  if (phase_ != Phase::kClosed) {
    advance();
  }
}

void H2Connection::on_drain() {
  nghttp2_submit_shutdown_notice(session_.get());
  drain_since_ = now();
  core_.defer(*this);
}

H2Stream& H2Connection::add_stream(std::int32_t id) {
  streams_.push_back(core_.streams.take());
  H2Stream& stream = *streams_.back();
  stream.reset(*this, id);
  stream.index = streams_.size() - 1;
  return stream;
}

void H2Connection::remove_stream(H2Stream& stream) {
  const std::size_t index = stream.index;
  core_.streams.give(std::move(streams_[index]));
  if (index + 1 < streams_.size()) {
    streams_[index] = std::move(streams_.back());
    streams_[index]->index = index;
  }
  streams_.pop_back();
  idle_since_ = now();
}

void H2Connection::note_broken_stream() {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now() - broken_since_);
  if (seconds.count() > 0) {
    broken_streams_ -=
        std::min(broken_streams_, static_cast<std::uint64_t>(seconds.count()) * kResetRate);
    broken_since_ = now();
  }
  if (++broken_streams_ > kResetBurst) {
    nghttp2_session_terminate_session(session_.get(), NGHTTP2_ENHANCE_YOUR_CALM);
  }
}

void H2Connection::schedule(H2Stream& stream) {
  scheduled_.push_back(stream.id());
  if (!busy_) {
    core_.defer(*this);
  }
}

// By id: a stream may be gone by the time its turn comes.
void H2Connection::run_streams() {
  for (int round = 0; round < kRoundsMax && !scheduled_.empty() && phase_ == Phase::kOpen;
       ++round) {
    running_.swap(scheduled_);
    for (const std::int32_t id : running_) {
      if (H2Stream* const stream = H2Callbacks::stream_of(session_.get(), id)) {
        stream->work();
      }
      if (phase_ == Phase::kClosed) {
        return;
      }
    }
    running_.clear();
  }
  if (phase_ != Phase::kOpen) {
    scheduled_.clear();
  } else if (!scheduled_.empty()) {
    core_.defer(*this);
  }
}

void H2Connection::receive() {
  const ssize_t got = read_some(core_.received.data(), core_.received.size(), readable_);
  if (got > 0) {
    feed({core_.received.data(), static_cast<std::size_t>(got)});
  } else if (got == 0) {
    peer_fin_ = true;
  } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
    gone();
  }
}

void H2Connection::feed(std::string_view bytes) {
  const ssize_t used = nghttp2_session_mem_recv(
      session_.get(), reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
  // What went wrong is in the GOAWAY that nghttp2 has queued, where there is one.
  broken_ = broken_ || used < 0;
}

void H2Connection::advance() {
  if (busy_) {
    return;
  }
  busy_ = true;
  run_streams();
  write_out();
  for (int round = 0; phase_ == Phase::kOpen && !broken_ && readable_; ++round) {
    if (!writable_ && too_much_queued()) {
      break;  // a client that does not read is not read from either: what it asks for costs memory
    }
    if (round == kRoundsMax) {
      core_.defer(*this);
      break;
    }
    receive();
    run_streams();
    write_out();
  }
  busy_ = false;
  if (!scheduled_.empty()) {
    core_.defer(*this);  // what came up while frames were written; no event would bring it
  }
  settle();
}

// Bytes of ours, or frames that nghttp2 keeps back: resets of streams that it refuses have no limit
// there, as acknowledgements have.
bool H2Connection::too_much_queued() const noexcept {
  return (output_ && output_->pending() >= kQueuedMax) ||
         nghttp2_session_get_outbound_queue_size(session_.get()) >= kFramesMax;
}

void H2Connection::write_out() {
  while (phase_ <= Phase::kClosing && writable_) {
    if (output_ == nullptr) {
      if (!nghttp2_session_want_write(session_.get())) {
        return;
      }
      output_ = core_.outputs.take();
    }
    if (nghttp2_session_send(session_.get()) != 0) {
      broken_ = true;
    }
    if (phase_ == Phase::kClosed || output_ == nullptr || output_->pending() == 0 ||
        !send_queued()) {
      return;
    }
  }
}

// False: nothing more goes now.
bool H2Connection::send_queued() {
  const iovec piece{.iov_base = output_->bytes.data() + output_->sent,
                    .iov_len = output_->pending()};
  const ssize_t sent = write_some({&piece, 1});
  if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
    gone();
    return false;
  }
  const auto taken = static_cast<std::size_t>(std::max<ssize_t>(sent, 0));
  if (taken == piece.iov_len) {
    output_->bytes.clear();
    output_->sent = 0;
    blocked_since_ = base::kNever;
    return true;
  }
  output_->sent += taken;
  writable_ = false;
  if (taken > 0 || blocked_since_ == base::kNever) {
    blocked_since_ = now();
  }
  return false;
}

void H2Connection::settle() {
  if (phase_ == Phase::kClosed) {
    return;
  }
  if (peer_fin_ && phase_ != Phase::kLingering && !readable_) {
    gone();
    return;
  }
  const bool queued = output_ != nullptr && output_->pending() > 0;
  if (phase_ == Phase::kOpen) {
    const bool over =
        !nghttp2_session_want_read(session_.get()) && !nghttp2_session_want_write(session_.get());
    const bool drained =
        told_to_go_ && streams_.empty() && !nghttp2_session_want_write(session_.get());
    if (broken_ || over || drained) {
      phase_ = Phase::kClosing;
      busy_ = true;
      end_streams(Outcome::kClientGone);
      busy_ = false;
    }
  }
  if (phase_ == Phase::kClosing && !queued) {
    start_lingering();
  } else if (phase_ == Phase::kLingering && readable_ && linger_over(readable_, peer_fin_)) {
    close_now();
  }
  if (phase_ == Phase::kClosed) {
    return;
  }
  if (output_ && output_->pending() == 0) {
    output_->clear();
    core_.outputs.give(std::move(output_));
  }
  update_timer();
}

void H2Connection::start_lingering() {
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

void H2Connection::end_streams(Outcome outcome) {
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    if (outcome == Outcome::kClientGone) {
      streams_[i]->closed(NGHTTP2_NO_ERROR);
    } else {
      streams_[i]->finish(outcome);
    }
  }
}

void H2Connection::gone() {
  busy_ = true;
  end_streams(Outcome::kClientGone);
  close_now();
}

void H2Connection::close_now() {
  if (phase_ == Phase::kClosed) {
    return;
  }
  phase_ = Phase::kClosed;
  timer_.disarm();
  if (output_ != nullptr) {
    output_->clear();
    core_.outputs.give(std::move(output_));
  }
  core_.remove(*this);
}

void H2Connection::end_now(Outcome outcome) {
  if (phase_ == Phase::kClosed) {
    return;
  }
  const bool inside = std::exchange(busy_, true);
  end_streams(outcome);
  if (phase_ == Phase::kClosed) {
    return;
  }
  if (!inside && phase_ == Phase::kOpen) {
    nghttp2_session_terminate_session(session_.get(), NGHTTP2_NO_ERROR);
    write_out();
  }
  if (phase_ == Phase::kClosed) {
    return;
  }
  phase_ = Phase::kClosed;
  timer_.disarm();
  cut_ = output_ != nullptr && output_->pending() > 0;
  leave();
}

void H2Connection::update_timer() {
  base::Time deadline = base::kNever;
  if (phase_ == Phase::kLingering) {
    deadline = linger_until();
  } else {
    if (streams_.empty()) {
      deadline = idle_since_ + core_.limits.idle_timeout;
    } else {
      // Streams have no timers of their own: a look at all of them now and then is enough.
      deadline = now() + std::min<base::Duration>({kTickMax, core_.limits.body_timeout / 4,
                                                   core_.limits.header_timeout / 4});
      if (timer_.armed()) {
        deadline = std::min(deadline, timer_.deadline());
      }
    }
    if (drain_since_ != base::kNever && !told_to_go_) {
      deadline = std::min(deadline, drain_since_ + kDrainIdle);
    }
    if (blocked_since_ != base::kNever) {
      deadline = std::min(deadline, blocked_since_ + core_.limits.body_timeout);
    }
  }
  core_.loop.wheel().arm(timer_, deadline);
}

void H2Connection::on_timer() {
  if (phase_ == Phase::kClosed) {
    return;
  }
  const base::Time time = now();
  busy_ = true;
  const Limits& limits = core_.limits;
  if (phase_ == Phase::kLingering) {
    close_now();
    return;
  }
  if (blocked_since_ != base::kNever && time >= blocked_since_ + limits.body_timeout) {
    end_streams(Outcome::kTimeout);
    close_now();
    return;
  }
  if (streams_.empty() && time >= idle_since_ + limits.idle_timeout) {
    nghttp2_session_terminate_session(session_.get(), NGHTTP2_NO_ERROR);
  }
  if (drain_since_ != base::kNever && !told_to_go_ && time >= drain_since_ + kDrainIdle) {
    told_to_go_ = true;
    nghttp2_submit_goaway(session_.get(), NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(session_.get()), NGHTTP2_NO_ERROR,
                          nullptr, 0);
  }
  for (std::size_t i = 0; i < streams_.size(); ++i) {
    if (streams_[i]->reading_head() && time >= streams_[i]->started() + limits.header_timeout) {
      nghttp2_session_terminate_session(session_.get(), NGHTTP2_ENHANCE_YOUR_CALM);
      break;
    }
    streams_[i]->check_time(time);
  }
  busy_ = false;
  advance();
}

}  // namespace mik::http
