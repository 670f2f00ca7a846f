// The response of an HTTP/2 stream: its head, its content as nghttp2 asks for it, its trailers.
// Confined to the loop thread.
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "base/assert.hpp"
#include "http/h2_connection.hpp"
#include "http/h2_stream.hpp"
#include "http/response_writer.hpp"

namespace mik::http {

namespace {

constexpr std::size_t kPieces = 16;
// What a response to HEAD may produce in vain before it is ended.
constexpr std::uint64_t kDroppedContentMax = 1024 * 1024;

nghttp2_nv name_value(const Field& field) {
  // nghttp2 copies both, as no flag says otherwise; its interface only lacks const.
  return {.name = reinterpret_cast<std::uint8_t*>(const_cast<char*>(field.name.data())),
          .value = reinterpret_cast<std::uint8_t*>(const_cast<char*>(field.value.data())),
          .namelen = field.name.size(),
          .valuelen = field.value.size(),
          .flags = NGHTTP2_NV_FLAG_NONE};
}

}  // namespace

bool H2Stream::no_content() const noexcept {
  return head_request_ || status_ == 204 || status_ == 304;
}

void H2Stream::queue_head(const ResponseHead& head) {
  status_ = head.status >= 200 && head.status <= 599 ? head.status : 500;
  response_.add(":status", std::to_string(status_));
  bool dated = false;
  for (const Field& field : head.fields) {
    if (is_connection_field(field.name) || !is_sound_field(field)) {
      continue;
    }
    dated = dated || equals_lower(field.name, "date");
    response_.add_lower(field.name, field.value);
  }
  if (!dated) {
    response_.add("date", connection_->core().date.value());
  }
  length_ = head.content_length;
  answer_ = Answer::kStarted;
}

std::size_t H2Stream::peek(std::span<iovec> pieces) {
  if (!whole_) {
    return handler_ == nullptr ? 0 : handler_->peek(pieces);
  }
  if (own_taken_ == own_content_.size()) {
    return 0;
  }
  pieces[0] = {.iov_base = own_content_.data() + own_taken_,
               .iov_len = own_content_.size() - own_taken_};
  return 1;
}

void H2Stream::work() {
  scheduled_ = false;
  nghttp2_session* const session = connection_->session();
  if (reset_due_.has_value()) {
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id_, *reset_due_);
    return;
  }
  if (continue_due_) {
    continue_due_ = false;
    if (bytes_in_ == 0 && (answer_ == Answer::kNone || answer_ == Answer::kStarted)) {
      const nghttp2_nv status = name_value({.name = ":status", .value = "100"});
      nghttp2_submit_headers(session, NGHTTP2_FLAG_NONE, id_, nullptr, &status, 1, nullptr);
    }
  }
  if (resumed_) {
    take_paused();
  }
  if (!news_ || phase_ != Phase::kExchange) {
    return;
  }
  if (answer_ == Answer::kStarted) {
    news_ = false;
    submit_head();
  } else if (answer_ == Answer::kStreaming && deferred_) {
    news_ = deferred_ = false;
    out_progress_ = connection_->now();
    nghttp2_session_resume_data(session, id_);
  }
}

void H2Stream::submit_head() {
  std::array<iovec, kPieces> pieces;
  const std::size_t count = peek(pieces);
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    total += pieces[i].iov_len;
  }
  const bool ended = count < kPieces && (whole_ || handler_->source_state() == SourceState::kEnd);
  const bool trailers = !no_content() && ended && !whole_ && !handler_->trailers().empty();
  if (!no_content() && !length_.has_value() && ended && !trailers) {
    length_ = total;
  }
  if (length_.has_value() && status_ != 204) {
    response_.add("content-length", std::to_string(*length_));
  }
  length_left_ = no_content() ? kDroppedContentMax : length_.value_or(0);
  std::vector<nghttp2_nv>& names = connection_->names();
  names.clear();
  for (std::size_t i = 0; i < response_.size(); ++i) {
    names.push_back(name_value(response_[i]));
  }
  answer_ = Answer::kStreaming;
  out_progress_ = connection_->now();
  // A response to HEAD whose source still works ends with an empty DATA frame when that is through.
  const bool empty =
      ended && !trailers && (no_content() || (total == 0 && length_.value_or(0) == 0));
  const nghttp2_data_provider provider{
      .source = {.ptr = this},
      .read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t bytes_max,
                          std::uint32_t* flags, nghttp2_data_source* source, void*) -> ssize_t {
        auto& stream = *static_cast<H2Stream*>(source->ptr);
        const Readable readable = stream.readable(bytes_max);
        if (readable.cut) {
          return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;  // RST_STREAM with INTERNAL_ERROR
        }
        if (readable.deferred) {
          return NGHTTP2_ERR_DEFERRED;
        }
        *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
        if (readable.last) {
          *flags |= NGHTTP2_DATA_FLAG_EOF;
          if (stream.has_trailers()) {
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            stream.submit_trailers();
          }
        }
        return static_cast<ssize_t>(readable.bytes);
      }};
  nghttp2_submit_response(connection_->session(), id_, names.data(), names.size(),
                          empty ? nullptr : &provider);
}

// How much can go into the next DATA frame. Inside nghttp2's send.
H2Stream::Readable H2Stream::readable(std::size_t bytes_max) {
  Readable result;
  if (phase_ != Phase::kExchange) {
    result.deferred = true;  // a reset is on its way
    return result;
  }
  std::array<iovec, kPieces> pieces;
  news_ = false;
  const std::size_t count = peek(pieces);
  std::size_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    total += pieces[i].iov_len;
  }
  const SourceState state = whole_ ? SourceState::kEnd : handler_->source_state();
  if (phase_ != Phase::kExchange) {
    result.deferred = true;
    return result;
  }
  const bool ended = count < kPieces && state == SourceState::kEnd;
  if (no_content()) {
    return drop_content(total, ended || state == SourceState::kCut);
  }
  result.bytes = std::min(total, bytes_max);
  const bool too_much = length_.has_value() && total > length_left_;
  const bool too_little = length_.has_value() && ended && total == 0 && length_left_ > 0;
  if (too_much || too_little || (total == 0 && state == SourceState::kCut)) {
    finish(Outcome::kCut);
    result.cut = true;
    return result;
  }
  result.last = ended && result.bytes == total && (!length_.has_value() || total == length_left_);
  if (result.bytes == 0 && !result.last) {
    result.deferred = deferred_ = true;
    if (news_) {
      schedule();  // told of more while it was looked at
    }
  }
  return result;
}

H2Stream::Readable H2Stream::drop_content(std::size_t total, bool ended) {
  if (total > 0) {
    handler_->consume(total);
  }
  length_left_ -= std::min<std::uint64_t>(total, length_left_);
  Readable result;
  result.last = ended || length_left_ == 0;
  result.deferred = !result.last;
  deferred_ = result.deferred && phase_ == Phase::kExchange;
  if (deferred_ && (news_ || total > 0)) {
    news_ = true;
    schedule();
  }
  return result;
}

bool H2Stream::has_trailers() {
  return !whole_ && !no_content() && handler_ != nullptr && !handler_->trailers().empty();
}

void H2Stream::submit_trailers() {
  FieldBlock block;
  for (const Field& field : handler_->trailers()) {
    if (!is_connection_field(field.name) && is_sound_field(field)) {
      block.add_lower(field.name, field.value);
    }
  }
  std::vector<nghttp2_nv> names;
  for (std::size_t i = 0; i < block.size(); ++i) {
    names.push_back(name_value(block[i]));
  }
  nghttp2_submit_trailer(connection_->session(), id_, names.data(), names.size());
}

void H2Stream::copy_content(std::string& out, std::size_t bytes) {
  std::array<iovec, kPieces> pieces;
  const std::size_t count = peek(pieces);
  std::size_t left = bytes;
  for (std::size_t i = 0; i < count && left > 0; ++i) {
    const std::size_t part = std::min(left, pieces[i].iov_len);
    out.append(static_cast<const char*>(pieces[i].iov_base), part);
    left -= part;
  }
  MIK_ASSERT(left == 0);
  bytes_out_ += bytes;
  out_progress_ = connection_->now();
  length_left_ -= std::min<std::uint64_t>(bytes, length_left_);
  if (whole_) {
    own_taken_ += bytes;
  } else if (bytes > 0) {
    handler_->consume(bytes);
  }
}

void H2Stream::response_sent() {
  answer_ = Answer::kSent;
  finish(Outcome::kComplete);
  refuse_more();
}

void H2Stream::head_not_sent() {
  if (answer_ != Answer::kStreaming) {
    return;  // an interim response
  }
  if (bytes_out_ == 0) {
    answer_ = Answer::kStarted;
  }
  finish(Outcome::kCut);
  reset_later(NGHTTP2_INTERNAL_ERROR);
}

}  // namespace mik::http
