#include "otlp/exporter.hpp"

#include <algorithm>
#include <utility>

#include "otlp/encoder.hpp"

namespace mik::otlp {

Exporter::Exporter(net::Loop& loop, std::unique_ptr<Sender> sender, ExporterOptions options,
                   telemetry::Random& random, ExporterObserver& observer)
    : loop_(loop),
      sender_(std::move(sender)),
      options_(std::move(options)),
      random_(random),
      observer_(observer),
      backoff_(options_.retry_first),
      delay_timer_(net::Timer::of<&Exporter::on_delay>(this)),
      retry_timer_(net::Timer::of<&Exporter::on_retry>(this)) {}

Exporter::~Exporter() {
  sender_->cancel();
  drop_all(Drop::kShutdown);
}

void Exporter::add(const Span& span) {
  if (queued_spans_ >= options_.queue_spans_max || queued_bytes_ >= options_.queue_bytes_max) {
    observer_.on_dropped(Drop::kQueueFull, 1);
    return;
  }
  if (queue_.empty() || queue_.back().count >= options_.batch_spans_max ||
      queue_.back().spans.size() >= options_.batch_bytes_max) {
    queue_.emplace_back();
  }
  Batch& batch = queue_.back();
  const std::size_t before = batch.spans.size();
  append_span(batch.spans, span);
  queued_bytes_ += batch.spans.size() - before;
  ++batch.count;
  ++queued_spans_;
  if (state_ == State::kIdle) {
    go_on();
  }
}

void Exporter::go_on() {
  if (queue_.empty()) {
    if (draining_ && done_) {
      std::exchange(done_, nullptr)();
    }
    return;
  }
  const Batch& first = queue_.front();
  const bool full =
      first.count >= options_.batch_spans_max || first.spans.size() >= options_.batch_bytes_max;
  if (full || draining_) {
    send_next();
  } else if (!delay_timer_.armed()) {
    loop_.wheel().arm(delay_timer_, loop_.now() + options_.delay);
  }
}

void Exporter::on_delay() {
  if (state_ == State::kIdle && !queue_.empty()) {
    send_next();
  }
}

void Exporter::send_next() {
  delay_timer_.disarm();
  batch_ = std::move(queue_.front());
  queue_.pop_front();
  queued_spans_ -= batch_.count;
  queued_bytes_ -= batch_.spans.size();
  message_ = export_request({.service_name = options_.service_name,
                             .service_version = options_.service_version,
                             .host_name = options_.host_name,
                             .process_pid = options_.process_pid,
                             .scope_version = options_.mik_version},
                            batch_.spans);
  give_up_ = loop_.now() + options_.retry_for;
  attempt();
}

void Exporter::attempt() {
  state_ = State::kSending;
  sender_->send(message_, loop_.now() + options_.timeout, *this);
}

void Exporter::on_reply(Reply reply) {
  state_ = State::kIdle;
  switch (reply.kind) {
    case Reply::Kind::kTaken: {
      const std::uint64_t rejected = std::min(reply.rejected, batch_.count);
      observer_.on_exported(batch_.count - rejected);
      batch_.count = rejected;
      if (rejected > 0) {
        note_trouble(reply.detail);
      } else {
        note_success();
      }
      drop_batch(Drop::kRejected);  // its memory in any case
      backoff_ = options_.retry_first;
      break;
    }
    case Reply::Kind::kRefused:
      note_trouble(reply.detail);
      drop_batch(Drop::kRejected);
      backoff_ = options_.retry_first;
      break;
    case Reply::Kind::kRetry:
      note_trouble(reply.detail);
      retry_or_drop(reply);
      break;
  }
  if (state_ == State::kIdle) {
    go_on();
  }
}

void Exporter::retry_or_drop(const Reply& reply) {
  if (draining_) {
    drop_all(Drop::kShutdown);
    return;
  }
  const base::Duration wait = std::max(jittered(backoff_), reply.retry_after);
  backoff_ = std::min(2 * backoff_, options_.retry_max);
  if (loop_.now() + wait > give_up_) {
    drop_batch(Drop::kUnreachable);
  }
  state_ = State::kWaiting;
  loop_.wheel().arm(retry_timer_, loop_.now() + wait);
}

// The batch again, or the next one when that was given up: it waits as long.
void Exporter::on_retry() {
  if (batch_.count > 0) {
    attempt();
    return;
  }
  state_ = State::kIdle;
  if (!queue_.empty()) {
    send_next();
  }
}

void Exporter::drop_batch(Drop why) {
  if (batch_.count > 0) {
    observer_.on_dropped(why, batch_.count);
  }
  batch_ = {};
  message_ = std::string();
}

void Exporter::drop_all(Drop why) {
  drop_batch(why);
  if (queued_spans_ > 0) {
    observer_.on_dropped(why, queued_spans_);
  }
  queue_.clear();
  queued_spans_ = queued_bytes_ = 0;
}

void Exporter::drain(std::function<void()> done) {
  draining_ = true;
  done_ = std::move(done);
  if (state_ == State::kWaiting) {
    retry_timer_.disarm();
    on_retry();
  }
  if (state_ == State::kIdle) {
    go_on();
  }
}

void Exporter::note_trouble(std::string_view detail) {
  if (!std::exchange(trouble_, true)) {
    observer_.on_trouble(detail);
  }
}

void Exporter::note_success() {
  if (std::exchange(trouble_, false)) {
    observer_.on_trouble_over();
  }
}

// From half of it to all: workers that lost their collector at once do not come back at once.
base::Duration Exporter::jittered(base::Duration wait) {
  return wait / 2 + wait / 2 * static_cast<std::int64_t>(random_.next() >> 54) / 1024;
}

}  // namespace mik::otlp
