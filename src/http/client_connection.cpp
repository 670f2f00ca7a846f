#include "http/client_connection.hpp"

#include <fmt/format.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "base/assert.hpp"

namespace mik::http {

namespace {

constexpr std::size_t kBodyPieces = 16;
constexpr std::size_t kReadFirst = 16 * 1024;
constexpr std::size_t kReadMax = 64 * 1024;
constexpr std::size_t kReadPerTurn = 256 * 1024;  // then others have their turn
constexpr std::uint32_t kInterimMax = 32;
constexpr std::size_t kFieldsMax = 256;
constexpr std::string_view kLastChunk = "\r\n0\r\n\r\n";

}  // namespace

// What one write is given: head, frame, body, tail, in this order.
struct ClientConnection::Batch {
  std::array<iovec, kBodyPieces + 3> pieces;
  std::size_t count = 0;
  std::size_t body_bytes = 0;
  bool tail = false;  // kLastChunk follows the body

  void add(std::string_view bytes) {
    if (!bytes.empty()) {
      pieces[count++] = {const_cast<char*>(bytes.data()), bytes.size()};
    }
  }
};

ClientConnection::ClientConnection(net::Loop& loop, std::unique_ptr<Transport> transport,
                                   const Limits& limits)
    : loop_(loop),
      transport_(std::move(transport)),
      limits_(limits),
      idle_timer_(net::Timer::of<&ClientConnection::on_idle_timeout>(this)) {}

ClientConnection::~ClientConnection() { MIK_ASSERT(phase_ == Phase::kClosed); }

void ClientConnection::open(User& user) {
  user_ = &user;
  const auto watched = loop_.watch(transport_->fd(), EPOLLIN | EPOLLOUT | EPOLLRDHUP, *this);
  if (!watched.has_value()) {
    fail(ClientError::kInternalError, watched.error().message());
    return;
  }
  shake_hands();
}

void ClientConnection::shake_hands() {
  const IoResult result = transport_->handshake();
  switch (result.status) {
    case IoStatus::kOk: {
      phase_ = Phase::kReady;
      User* user = std::exchange(user_, nullptr);
      user->on_ready();
      return;
    }
    case IoStatus::kAgain:
      return;
    case IoStatus::kEof:
    case IoStatus::kTruncated:
    case IoStatus::kFailed:
      fail(result.error, transport_->problem());
      return;
  }
}

void ClientConnection::fail(ClientError error, std::string_view detail) {
  const std::string words(detail);  // may be the transport's
  close();
  if (User* user = std::exchange(user_, nullptr); user != nullptr) {
    user->on_connection_failed(error, words);
  }
}

void ClientConnection::close() noexcept {
  if (phase_ == Phase::kClosed) {
    return;
  }
  phase_ = Phase::kClosed;
  idle_timer_.disarm();
  loop_.unwatch(transport_->fd());
  transport_->close();
}

void ClientConnection::on_io(std::uint32_t events) {
  if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
    peer_closed_ = true;
  }
  switch (phase_) {
    case Phase::kHandshake:
      shake_hands();
      break;
    case Phase::kParked:
      if (peer_closed_ || !quiet()) {
        idle_timer_.disarm();
        observer_->on_idle_over(*this);
      }
      break;
    case Phase::kBusy:
      send();
      if (phase_ == Phase::kBusy) {
        receive();
      }
      break;
    case Phase::kReady:
    case Phase::kClosed:
      break;
  }
}

// ---- sending

void ClientConnection::begin(User& user, const Outgoing& request) {
  MIK_ASSERT(phase_ == Phase::kReady);
  phase_ = Phase::kBusy;
  user_ = &user;
  request_ = request;
  head_done_ = 0;
  frame_.clear();
  frame_done_ = 0;
  body_left_ = request.framing == Framing::kLength ? request.length : 0;
  chunk_end_due_ = false;
  last_frame_ = false;
  sending_ = true;
  wrote_any_ = false;
  stage_ = Stage::kHead;
  scanned_ = 0;
  interim_ = 0;
  paused_ = false;
  received_any_ = false;
  keep_ = base::Duration::max();
  decoder_.reset();
  send();
}

void ClientConnection::pump() {
  if (phase_ != Phase::kBusy) {
    return;
  }
  if (request_.framing != Framing::kNone && user_->source_state() == SourceState::kCut) {
    fail(ClientError::kConnectionTerminated, "the request body broke off");
    return;
  }
  iovec more{};
  if (!sending_ && !write_failed_ && request_.framing == Framing::kLength &&
      user_->peek({&more, 1}) > 0 && more.iov_len > 0) {
    fail(ClientError::kRequestBodySize, "the request body is longer than its length");
    return;
  }
  if (!blocked_writing_) {
    send();
  }
}

void ClientConnection::send() {
  blocked_writing_ = false;
  while (phase_ == Phase::kBusy && !write_failed_) {
    Batch batch;
    if (sending_ && !gather(batch)) {
      return;
    }
    const IoResult result = batch.count > 0 ? transport_->write({batch.pieces.data(), batch.count})
                                            : transport_->flush();
    if (result.status == IoStatus::kAgain) {
      blocked_writing_ = true;
      return;
    }
    if (result.status != IoStatus::kOk) {
      // The response may be there all the same, an early 4xx: reading tells, and its event is on
      // the way.
      write_failed_ = true;
      sending_ = false;
      return;
    }
    if (batch.count == 0) {
      return;  // waits for the source, or is through
    }
    wrote_any_ = true;
    account(batch, result.bytes);
    user_->on_bytes_moved();
    if (everything_sent()) {
      sending_ = false;
    }
  }
}

bool ClientConnection::everything_sent() const noexcept {
  if (head_done_ < request_.head.size() || frame_done_ < frame_.size()) {
    return false;
  }
  switch (request_.framing) {
    case Framing::kNone:
      return true;
    case Framing::kLength:
      return body_left_ == 0;
    case Framing::kChunked:
      return last_frame_;
  }
  return true;
}

// False: the exchange has failed.
bool ClientConnection::gather(Batch& batch) {
  batch.add(request_.head.substr(head_done_));
  if (request_.framing == Framing::kNone || last_frame_) {
    batch.add(std::string_view(frame_).substr(frame_done_));
    return true;
  }
  return gather_body(batch);
}

bool ClientConnection::gather_body(Batch& batch) {
  std::array<iovec, kBodyPieces> pieces;
  const std::size_t count = user_->peek(pieces);
  const SourceState state = user_->source_state();
  std::size_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    total += pieces[i].iov_len;
  }
  if (state == SourceState::kCut) {
    fail(ClientError::kConnectionTerminated, "the request body broke off");
    return false;
  }
  // As many pieces as there is room for may not be all.
  const bool all = state == SourceState::kEnd && count < kBodyPieces;
  if (request_.framing == Framing::kLength) {
    if (total > body_left_ || (all && total < body_left_)) {
      fail(ClientError::kRequestBodySize, "the request body does not fit its length");
      return false;
    }
  } else if (body_left_ == 0 && (total > 0 || all)) {
    // Frames accumulate only when an earlier one is still unwritten.
    frame_.erase(0, std::exchange(frame_done_, 0));
    if (std::exchange(chunk_end_due_, false)) {
      frame_ += "\r\n";
    }
    fmt::format_to(std::back_inserter(frame_), "{:x}\r\n{}", total, total == 0 ? "\r\n" : "");
    body_left_ = total;
    last_frame_ = total == 0;
  }
  batch.add(std::string_view(frame_).substr(frame_done_));
  std::uint64_t room = body_left_;
  for (std::size_t i = 0; i < count && room > 0; ++i) {
    const std::size_t take = std::min<std::uint64_t>(pieces[i].iov_len, room);
    batch.add({static_cast<const char*>(pieces[i].iov_base), take});
    batch.body_bytes += take;
    room -= take;
  }
  if (request_.framing == Framing::kChunked && all && batch.body_bytes > 0 && room == 0 &&
      batch.body_bytes == total) {
    batch.add(kLastChunk);
    batch.tail = true;
  }
  return true;
}

void ClientConnection::account(const Batch& batch, std::size_t written) {
  const auto take = [&written](std::size_t most) {
    const std::size_t part = std::min(written, most);
    written -= part;
    return part;
  };
  head_done_ += take(request_.head.size() - head_done_);
  frame_done_ += take(frame_.size() - frame_done_);
  if (const std::size_t body = take(batch.body_bytes); body > 0) {
    user_->consume(body);
    body_left_ -= body;
    chunk_end_due_ = request_.framing == Framing::kChunked && body_left_ == 0;
  }
  if (batch.tail && written > 0) {
    frame_ = kLastChunk;
    frame_done_ = take(kLastChunk.size());
    chunk_end_due_ = false;
    last_frame_ = true;
  }
}

// ---- receiving

void ClientConnection::resume() {
  if (phase_ == Phase::kBusy && std::exchange(paused_, false)) {
    receive();
  }
}

void ClientConnection::read_on() {
  if (phase_ == Phase::kBusy) {
    receive();
  }
}

void ClientConnection::receive() {
  std::size_t read_bytes = 0;
  while (phase_ == Phase::kBusy && !paused_) {
    if (begin_ < end_ && !digest()) {
      return;
    }
    if (read_bytes >= kReadPerTurn) {
      user_->on_more_to_read();
      return;
    }
    if (!make_room()) {
      fail(ClientError::kResponseHeaderSectionSize, "a line of the response is too long");
      return;
    }
    const std::size_t room = capacity_ - end_;
    const IoResult result = transport_->read({buffer_.get() + end_, room});
    if (result.status == IoStatus::kAgain) {
      last_read_full_ = false;
      return;
    }
    if (result.status != IoStatus::kOk) {
      on_peer_gone(result);
      return;
    }
    received_any_ = true;
    end_ += result.bytes;
    read_bytes += result.bytes;
    last_read_full_ = result.bytes == room;
    user_->on_bytes_moved();
    // A bare socket that gave less than asked is empty, and its next bytes are a new event: spare
    // the asking.
    if (!last_read_full_ && transport_->short_read_is_all() && !peer_closed_) {
      digest();
      return;
    }
  }
}

bool ClientConnection::make_room() {
  if (begin_ == end_) {
    begin_ = end_ = 0;
    if (last_read_full_ && stage_ != Stage::kHead && capacity_ < kReadMax) {
      buffer_ = std::make_unique_for_overwrite<char[]>(kReadMax);
      capacity_ = kReadMax;
    }
  }
  if (end_ < capacity_) {
    return true;
  }
  if (begin_ > 0) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= std::exchange(begin_, 0);
    return true;
  }
  // An unfinished head or line fills it.
  const std::size_t most = limits_.head_bytes_max + kReadFirst;
  if (capacity_ >= most && capacity_ > 0) {
    return false;
  }
  const std::size_t larger = capacity_ == 0 ? kReadFirst : std::min(capacity_ * 2, most);
  auto buffer = std::make_unique_for_overwrite<char[]>(larger);
  if (end_ > 0) {
    std::memcpy(buffer.get(), buffer_.get(), end_);
  }
  buffer_ = std::move(buffer);
  capacity_ = larger;
  return true;
}

// Works on what was read. True: needs more bytes; false: paused, or the exchange is over.
bool ClientConnection::digest() {
  while (phase_ == Phase::kBusy && !paused_) {
    if (stage_ != Stage::kHead) {
      return digest_body();
    }
    if (!digest_head()) {
      return phase_ == Phase::kBusy && !paused_;
    }
  }
  return false;
}

// True: a head was taken off. False: needs more, or has failed or finished.
bool ClientConnection::digest_head() {
  std::array<Field, kFieldsMax> storage;
  const std::span<Field> fields =
      std::span(storage).first(std::min(limits_.fields_max, kFieldsMax));
  ResponseStatus head;
  const ParseResult parsed =
      parse_response_head(unread(), limits_, fields, request_.method, scanned_, head);
  if (parsed.status == ParseStatus::kNeedMore) {
    return false;
  }
  if (parsed.status != ParseStatus::kDone) {
    fail(parsed.status == ParseStatus::kHeadTooLarge ? ClientError::kResponseHeaderSectionSize
                                                     : ClientError::kProtocolError,
         parsed.problem);
    return false;
  }
  scanned_ = 0;
  if (head.status < 200) {
    begin_ += parsed.head_bytes;
    // 101 answers an Upgrade, and none was sent (RFC 9110 section 7.8).
    if (head.status == 101 || ++interim_ > kInterimMax) {
      fail(ClientError::kProtocolError, "an interim response that was not asked for");
      return false;
    }
    return true;
  }
  keep_alive_ = head.keep_alive;
  if (const auto seconds = keep_alive_timeout(head.fields)) {
    // A little less, so that the next request does not cross the server's close.
    keep_ = std::chrono::seconds(*seconds) - std::chrono::milliseconds(500);
  }
  content_left_ = head.body == ResponseBody::kLength ? head.content_length : 0;
  stage_ = head.body == ResponseBody::kChunked      ? Stage::kChunked
           : head.body == ResponseBody::kUntilClose ? Stage::kUntilClose
                                                    : Stage::kLength;
  std::array<Field, kFieldsMax> kept;
  const auto end = std::ranges::copy_if(head.fields, kept.begin(), [&](const Field& field) {
                     return !is_hop_by_hop(field.name, head.fields);
                   }).out;
  begin_ += parsed.head_bytes;
  user_->on_response(head.status, {kept.begin(), end});
  if (phase_ != Phase::kBusy) {
    return false;
  }
  if (stage_ == Stage::kLength && content_left_ == 0) {
    finish({});
    return false;
  }
  return true;
}

bool ClientConnection::digest_body() {
  if (stage_ == Stage::kChunked) {
    return digest_chunks();
  }
  std::string_view content = unread();
  if (stage_ == Stage::kLength) {
    content = content.substr(0, std::min<std::uint64_t>(content.size(), content_left_));
    content_left_ -= content.size();
  }
  begin_ += content.size();
  const bool more = content.empty() || deliver(content);
  if (stage_ == Stage::kLength && content_left_ == 0 && phase_ == Phase::kBusy) {
    finish({});
    return false;
  }
  return more;
}

bool ClientConnection::digest_chunks() {
  while (begin_ < end_) {
    const ChunkedDecoder::Step step = decoder_.decode(unread(), limits_);
    begin_ += step.consumed;
    switch (step.status) {
      case ChunkedDecoder::Status::kData:
        if (!step.data.empty() && !deliver(step.data)) {
          return false;
        }
        break;
      case ChunkedDecoder::Status::kNeedMore:
        return true;
      case ChunkedDecoder::Status::kEnd:
        finish(decoder_.trailers());
        return false;
      case ChunkedDecoder::Status::kBad:
        fail(ClientError::kProtocolError, "the response's chunked coding is broken");
        return false;
    }
  }
  return true;
}

// True: go on.
bool ClientConnection::deliver(std::string_view content) {
  if (user_->on_content(content) == Flow::kPause && phase_ == Phase::kBusy) {
    paused_ = true;
  }
  return phase_ == Phase::kBusy && !paused_;
}

void ClientConnection::on_peer_gone(const IoResult& result) {
  if (stage_ == Stage::kUntilClose && result.status == IoStatus::kEof) {
    keep_alive_ = false;
    finish({});
    return;
  }
  if (result.status == IoStatus::kFailed && result.error != ClientError::kConnectionTerminated) {
    fail(result.error, transport_->problem());
    return;
  }
  std::string_view detail = transport_->problem();
  if (detail.empty()) {
    detail = "the peer closed the connection";
  }
  fail(received_any_ ? ClientError::kResponseIncomplete : ClientError::kConnectionTerminated,
       detail);
}

void ClientConnection::finish(std::span<const Field> trailers) {
  const bool reusable = keep_alive_ && !sending_ && !write_failed_ && begin_ == end_ &&
                        !peer_closed_ && stage_ != Stage::kUntilClose &&
                        transport_->flush().status == IoStatus::kOk &&
                        ((!last_read_full_ && transport_->short_read_is_all()) || quiet());
  phase_ = Phase::kReady;
  User* user = std::exchange(user_, nullptr);
  user->on_response_end(trailers, reusable ? std::optional(keep_) : std::nullopt);
}

// ---- between exchanges

// Nothing is to be read: no byte that was not asked for and no end. Takes in TLS's own messages.
bool ClientConnection::quiet() {
  char byte = 0;
  return transport_->read({&byte, 1}).status == IoStatus::kAgain;
}

void ClientConnection::park(IdleObserver& observer, ClientHost& home, base::Duration keep) {
  MIK_ASSERT(phase_ == Phase::kReady);
  phase_ = Phase::kParked;
  observer_ = &observer;
  home_ = &home;
  parked_at_ = loop_.now();
  buffer_.reset();
  capacity_ = begin_ = end_ = 0;
  loop_.wheel().arm(idle_timer_, base::saturating_add(parked_at_, keep));
}

bool ClientConnection::unpark() {
  MIK_ASSERT(phase_ == Phase::kParked);
  idle_timer_.disarm();
  phase_ = Phase::kReady;
  return !peer_closed_ && quiet();
}

void ClientConnection::on_idle_timeout() {
  if (phase_ == Phase::kParked) {
    observer_->on_idle_over(*this);
  }
}

}  // namespace mik::http
