// Writing of HTTP/1.x responses: heads, framing, content taken in place from its source. Confined
// to the loop thread.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/assert.hpp"
#include "http/h1_connection.hpp"

namespace mik::http {

namespace {

// What a response to HEAD may produce in vain before it is ended.
constexpr std::uint64_t kDroppedContentMax = 1024 * 1024;

bool has_no_content(int status) noexcept { return status == 204 || status == 304; }

// A status that no final response can have (RFC 9110 section 15) is a fault of whoever answers.
int final_status(int status) noexcept { return status >= 200 && status <= 999 ? status : 500; }

}  // namespace

const RequestHead& H1Connection::head() const { return core_.head; }

const Peer& H1Connection::peer() const { return peer_of_socket(); }

bool H1Connection::secure() const { return tls_ != nullptr; }

void H1Connection::attach(ExchangeHandler& handler) { handler_ = &handler; }

OutputBuffer& H1Connection::output() {
  if (output_ == nullptr) {
    output_ = core_.outputs.take();
  }
  return *output_;
}

void H1Connection::respond(const ResponseHead& head, std::string_view body) {
  if (phase_ != Phase::kExchange || answer_ != Answer::kNone) {
    return;
  }
  queue_whole(head, body);
  flush();
}

void H1Connection::queue_whole(const ResponseHead& head, std::string_view body) {
  status_ = final_status(head.status);
  std::string& out = output().bytes;
  append_head(out, status_, head.fields, core_.date.line());
  const bool no_content = head_request_ || has_no_content(status_);
  FramingFields fields = connection_fields(no_content ? Framing::kNoContent : Framing::kLength);
  // A 304 speaks of a length only when it is that of the content it stands for (RFC 9110
  // section 15.4.5).
  fields.has_length = status_ != 204 && (status_ != 304 || head.content_length.has_value());
  fields.length = head.content_length.value_or(body.size());
  if (!no_content) {
    fields.length = body.size();
    out.reserve(out.size() + body.size() + 128);
    bytes_out_ = body.size();
  }
  append_framing(out, fields);
  if (!no_content) {
    out.append(body);
  }
  answer_ = Answer::kWhole;
}

void H1Connection::start(const ResponseHead& head) {
  if (phase_ != Phase::kExchange || answer_ != Answer::kNone) {
    return;
  }
  status_ = final_status(head.status);
  std::string& out = output().head;
  out.clear();
  append_head(out, status_, head.fields, core_.date.line());
  declared_length_ = head.content_length;
  answer_ = Answer::kStarted;
}

void H1Connection::pump() {
  if (phase_ != Phase::kExchange || !streams()) {
    return;
  }
  source_news_ = true;
  flush();
}

void H1Connection::abort() {
  if (phase_ != Phase::kExchange) {
    return;
  }
  if (answer_ == Answer::kNone || answer_ == Answer::kStarted) {
    finish_exchange(Outcome::kCut);
  } else {
    cut();
  }
  if (!busy_) {
    advance();
  }
}

// The response is not whole and the client must see it (RFC 9112 section 8): no last chunk, or less
// than Content-Length, or a reset.
void H1Connection::cut() { finish_exchange(Outcome::kCut); }

// An answer of the connection itself: there is no request that a service could have seen.
void H1Connection::fail(int status, std::string_view detail) {
  core_.failure_fields.clear();
  core_.failure_body.clear();
  core_.service.describe_failure(status, detail, core_.failure_fields, core_.failure_body);
  std::string& out = output().bytes;
  append_head(out, status, {}, core_.date.line());
  out.append(core_.failure_fields);
  append_framing(out, {.framing = Framing::kLength,
                       .keep_alive = KeepAlive::kClose,
                       .has_length = true,
                       .length = core_.failure_body.size()});
  out.append(core_.failure_body);
  begin_closing();
}

FramingFields H1Connection::connection_fields(Framing framing) {
  // A client that was never told to continue may or may not send its content: what follows cannot
  // be understood.
  const bool unreadable = body_ == Body::kFailed || (body_ == Body::kReading && expecting_);
  if (framing == Framing::kUntilClose || unreadable || core_.draining) {
    keep_alive_ = false;
  }
  FramingFields fields{.framing = framing};
  if (!keep_alive_) {
    fields.keep_alive = KeepAlive::kClose;
  } else if (version_ == Version::k10) {
    fields.keep_alive = KeepAlive::kSay;
  }
  return fields;
}

// At the first pump: a source that has ended already has a known length.
void H1Connection::resolve_framing(std::uint64_t total, bool ended) {
  const bool no_content = head_request_ || has_no_content(status_);
  const bool trailers = te_trailers_ && ended && !no_content && !handler_->trailers().empty();
  Framing framing = Framing::kChunked;
  std::uint64_t length = declared_length_.value_or(total);
  if (no_content) {
    framing = Framing::kNoContent;
  } else if (declared_length_.has_value() || (ended && !trailers)) {
    framing = Framing::kLength;
  } else if (version_ == Version::k10) {
    framing = Framing::kUntilClose;
  }
  FramingFields fields = connection_fields(framing);
  fields.length = length;
  fields.has_length = declared_length_.has_value() && status_ != 204;
  OutputBuffer& out = output();
  append_framing(out.head, fields);
  out.bytes.append(out.head);
  out.head.clear();
  framing_ = framing;
  content_out_left_ = no_content ? kDroppedContentMax : length;
  chunk_left_ = 0;
  answer_ = Answer::kStreaming;
}

// Hands over what there is until the kernel takes no more or the source has no more.
void H1Connection::write_out() {
  while (writable_ && phase_ < Phase::kLingering) {
    Batch batch;
    gather(batch);
    const bool nothing = batch.queued + batch.content + batch.tail == 0;
    if (phase_ == Phase::kClosed || (nothing && !batch.last && !batch.cut && !has_news())) {
      return;
    }
    if (!nothing && !send(batch)) {
      return;
    }
    if (phase_ != Phase::kExchange) {
      continue;
    }
    if (batch.last) {
      answer_ = Answer::kWhole;
    }
    if (batch.cut) {
      cut();
    } else if (answer_ == Answer::kWhole && queued() == 0) {
      finish_exchange(Outcome::kComplete);
    }
  }
}

void H1Connection::gather(Batch& batch) {
  if (has_news()) {
    source_news_ = false;
    batch.count = handler_->peek(std::span(batch.vectors).subspan(1, kPieces));
    MIK_ASSERT(batch.count <= kPieces);
    const SourceState state = handler_->source_state();
    if (phase_ != Phase::kExchange) {
      batch.count = 0;
      return;
    }
    std::size_t total = 0;
    for (std::size_t i = 0; i < batch.count; ++i) {
      total += batch.vectors[i + 1].iov_len;
    }
    const bool all_shown = batch.count < kPieces || total == 0;
    const bool ended = all_shown && state == SourceState::kEnd;
    if (answer_ == Answer::kStarted) {
      resolve_framing(total, ended);
    }
    switch (framing_) {
      case Framing::kNoContent:
        drop_content(batch, total, ended);
        break;
      case Framing::kLength:
        gather_length(batch, total, ended);
        break;
      case Framing::kChunked:
        gather_chunk(batch, total, ended);
        break;
      case Framing::kUntilClose:
        batch.content = total;
        batch.last = ended;
        break;
    }
    batch.cut = batch.cut || (all_shown && state == SourceState::kCut);
    // Pieces that were not shown or do not fit this batch: there is more to write behind it.
    source_news_ = source_news_ || !all_shown ||
                   (!batch.cut && batch.content < total && framing_ != Framing::kNoContent);
  }
  batch.queued = queued();
}

void H1Connection::drop_content(Batch& batch, std::size_t total, bool ended) {
  batch.count = 0;
  if (total > 0) {
    handler_->consume(total);
  }
  content_out_left_ -= std::min<std::uint64_t>(total, content_out_left_);
  batch.last = ended || content_out_left_ == 0;
}

void H1Connection::gather_length(Batch& batch, std::size_t total, bool ended) {
  if (total > content_out_left_) {
    // More than was declared: none of it goes out, so that the client sees too little rather than
    // something wrong.
    batch.count = 0;
    batch.cut = true;
    return;
  }
  batch.content = total;
  batch.last = ended && total == content_out_left_;
  batch.cut = ended && total < content_out_left_;
}

void H1Connection::gather_chunk(Batch& batch, std::size_t total, bool ended) {
  if (chunk_left_ == 0 && total > 0) {
    append_chunk_size(output().bytes, total);
    chunk_left_ = total;
  }
  // The size of a started chunk is out: what the source has got since belongs to the next one.
  batch.content = std::min<std::uint64_t>(total, chunk_left_);
  trim(batch, batch.content);
  std::string& tail = output().head;
  tail.clear();
  if (batch.content > 0 && batch.content == chunk_left_) {
    tail.append("\r\n");
  }
  if (ended && batch.content == total && batch.content == chunk_left_) {
    append_last_chunk(tail, te_trailers_ ? handler_->trailers() : std::span<const Field>());
    batch.last = true;
  }
  batch.tail = tail.size();
}

// Keeps the first `bytes` of the pieces.
void H1Connection::trim(Batch& batch, std::size_t bytes) {
  for (std::size_t i = 0; i < batch.count; ++i) {
    iovec& piece = batch.vectors[i + 1];
    if (piece.iov_len >= bytes) {
      piece.iov_len = bytes;
      batch.count = bytes == 0 ? i : i + 1;
      return;
    }
    bytes -= piece.iov_len;
  }
}

// False: the kernel did not take all of it, or the client is gone.
bool H1Connection::send(Batch& batch) {
  iovec* vectors = batch.vectors.data() + 1;
  std::size_t count = batch.count;
  if (batch.queued > 0) {
    --vectors;
    ++count;
    vectors[0] = {.iov_base = output_->bytes.data() + output_->sent, .iov_len = batch.queued};
  }
  if (batch.tail > 0) {
    vectors[count++] = {.iov_base = output_->head.data(), .iov_len = batch.tail};
  }
  const ssize_t sent = write_some({vectors, count});
  if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
    gone();
    return false;
  }
  const auto taken = static_cast<std::size_t>(std::max<ssize_t>(sent, 0));
  const std::size_t total = batch.queued + batch.content + batch.tail;
  if (taken == total) {
    blocked_since_ = base::kNever;
  } else {
    writable_ = false;  // EPOLLOUT follows; asking again now would be in vain
    if (taken > 0 || blocked_since_ == base::kNever) {
      blocked_since_ = now();
    }
  }
  account(batch, taken);
  return taken == total;
}

void H1Connection::account(Batch& batch, std::size_t sent) {
  const std::size_t of_queued = std::min(sent, batch.queued);
  sent -= of_queued;
  if (of_queued > 0) {
    output_->sent += of_queued;
    if (output_->pending() == 0) {
      output_->bytes.clear();
      output_->sent = 0;
    }
    head_sent_ = head_sent_ || answer_ != Answer::kNone;
  }
  const std::size_t content = std::min(sent, batch.content);
  sent -= content;
  if (content == batch.content && of_queued == batch.queued && sent < batch.tail) {
    // A few bytes of framing are all that is ever copied.
    output_->bytes.append(output_->head, sent);
    if (batch.last) {
      answer_ = Answer::kWhole;
    } else {
      source_news_ = true;
    }
  } else if (content < batch.content || of_queued < batch.queued) {
    source_news_ = true;
  }
  if (batch.tail > 0) {
    output_->head.clear();
  }
  if (content > 0) {
    bytes_out_ += content;
    if (framing_ == Framing::kLength) {
      content_out_left_ -= content;
    } else if (framing_ == Framing::kChunked) {
      chunk_left_ -= content;
    }
    handler_->consume(content);
  }
}

}  // namespace mik::http
