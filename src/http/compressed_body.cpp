#include "http/compressed_body.hpp"

#include <algorithm>
#include <array>
#include <utility>

#include "base/assert.hpp"

namespace mik::http {

namespace {

// Compressed on the loop at once: less than a millisecond of work. More goes to the pool.
constexpr std::size_t kOnLoopMax = 64 * 1024;
constexpr std::size_t kJobMax = 256 * 1024;
// Compressed bytes that wait for the client before more is made.
constexpr std::size_t kOutHigh = 64 * 1024;
constexpr std::size_t kPieces = 16;

// Calls `take` for each part of the first `bytes` of the pieces, and says which is the last.
template <class Take>
void each_part(std::span<const iovec> pieces, std::size_t bytes, Take&& take) {
  for (const iovec& piece : pieces) {
    const std::size_t part = std::min(bytes, piece.iov_len);
    bytes -= part;
    take(std::string_view(static_cast<const char*>(piece.iov_base), part), bytes == 0);
    if (bytes == 0) {
      return;
    }
  }
}

}  // namespace

void CompressedBody::begin(Exchange& exchange, ExchangeHandler& source, Coding coding,
                           std::unique_ptr<Encoder> encoder) {
  exchange_ = &exchange;
  source_ = &source;
  coding_ = coding;
  encoder_ = std::move(encoder);
  exchange.attach(*this);
}

std::size_t CompressedBody::peek(std::span<iovec> pieces) {
  fill();
  if (sent_ == out_.size()) {
    return 0;
  }
  pieces[0] = {.iov_base = out_.data() + sent_, .iov_len = out_.size() - sent_};
  return 1;
}

void CompressedBody::consume(std::size_t bytes) {
  sent_ += bytes;
  if (sent_ == out_.size()) {
    out_.clear();
    sent_ = 0;
  }
  if (more_ && out_.size() - sent_ < kOutHigh) {
    pump_later();
  }
}

SourceState CompressedBody::source_state() {
  if (finished_) {
    return SourceState::kEnd;
  }
  // What came before the break goes out first.
  const bool cut = !busy_ && source_->source_state() == SourceState::kCut;
  return broken_ || cut ? SourceState::kCut : SourceState::kOpen;
}

void CompressedBody::fill() {
  if (encoder_ == nullptr || posted_) {
    return;
  }
  if (out_.size() - sent_ >= kOutHigh) {
    more_ = true;
    return;
  }
  more_ = false;
  if (sent_ >= kOutHigh) {
    out_.erase(0, std::exchange(sent_, 0));
  }
  std::array<iovec, kPieces> pieces;
  const std::size_t count = source_->peek(pieces);
  const SourceState state = source_->source_state();
  std::size_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    total += pieces[i].iov_len;
  }
  const std::span<const iovec> shown = std::span(pieces).first(count);
  const bool all_shown = count < kPieces;
  std::size_t bytes = std::min(total, kJobMax);
  const bool job = total > kOnLoopMax;
  const auto step_of = [&] {
    if (bytes < total || !all_shown) {
      return EncodeStep::kMore;
    }
    return state == SourceState::kEnd ? EncodeStep::kEnd : EncodeStep::kFlush;
  };
  if (job && start_job(shown, bytes, step_of())) {
    more_ = bytes < total || !all_shown;
    source_->consume(bytes);
    return;
  }
  bytes = std::min(total, kOnLoopMax);
  const EncodeStep step = step_of();
  if (bytes == 0 && step != EncodeStep::kEnd && !unflushed_) {
    return;
  }
  encode(shown, bytes, step);
  if (bytes > 0) {
    source_->consume(bytes);
  }
  if (step == EncodeStep::kMore) {
    more_ = true;
    if (sent_ == out_.size()) {
      pump_later();  // nothing came out yet, so no consume() will ask for more
    }
  }
}

void CompressedBody::encode(std::span<const iovec> pieces, std::size_t bytes, EncodeStep step) {
  bool good = true;
  if (bytes == 0) {
    good = encoder_->encode({}, step, out_);
  } else {
    each_part(pieces, bytes, [&](std::string_view part, bool last) {
      good = good && encoder_->encode(part, last ? step : EncodeStep::kMore, out_);
    });
  }
  after(step, good);
}

bool CompressedBody::start_job(std::span<const iovec> pieces, std::size_t bytes, EncodeStep step) {
  const auto job = std::make_shared<Job>();
  job->in.reserve(bytes);
  each_part(pieces, bytes, [&](std::string_view part, bool /*last*/) { job->in.append(part); });
  job->step = step;
  job->coding = coding_;
  job->encoder = std::move(encoder_);
  const bool submitted = owner_.offload_.submit(
      [job] { job->good = job->encoder->encode(job->in, job->step, job->out); },
      [this, generation = generation_, job] {
        if (generation == generation_) {
          on_job(job);
        } else {
          owner_.give_encoder(job->coding, std::move(job->encoder));
        }
      });
  if (!submitted) {
    encoder_ = std::move(job->encoder);
  }
  busy_ = submitted;
  return submitted;
}

void CompressedBody::on_job(const std::shared_ptr<Job>& job) {
  busy_ = false;
  encoder_ = std::move(job->encoder);
  if (sent_ == out_.size()) {
    out_ = std::move(job->out);
    sent_ = 0;
  } else {
    out_.append(job->out);
  }
  after(job->step, job->good);
  exchange_->pump();
}

void CompressedBody::after(EncodeStep step, bool good) {
  unflushed_ = step == EncodeStep::kMore;
  broken_ = !good;
  finished_ = good && step == EncodeStep::kEnd;
  if (finished_ || broken_) {
    release_encoder();
  }
}

// In another turn: a client that takes all at once must not keep the loop.
void CompressedBody::pump_later() {
  if (posted_) {
    return;
  }
  posted_ = true;
  owner_.loop_.post([this, generation = generation_] {
    if (generation == generation_) {
      posted_ = false;
      exchange_->pump();
    }
  });
}

void CompressedBody::release_encoder() {
  if (encoder_ != nullptr) {
    owner_.give_encoder(coding_, std::move(encoder_));
  }
}

void CompressedBody::on_closed(const Closed& closed) {
  release_encoder();
  ExchangeHandler* const source = std::exchange(source_, nullptr);
  exchange_ = nullptr;
  ++generation_;
  out_ = {};
  sent_ = 0;
  unflushed_ = more_ = posted_ = busy_ = finished_ = broken_ = false;
  owner_.put(*this);
  source->on_closed(closed);
}

}  // namespace mik::http
