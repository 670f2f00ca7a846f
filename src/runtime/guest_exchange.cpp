#include "runtime/guest_exchange.hpp"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

#include "base/assert.hpp"
#include "runtime/answers.hpp"

namespace mik::runtime {

namespace {

using shared::GuestFailure;

// Of a body whose request has no permit yet: what is kept of it before it asks for one.
constexpr std::size_t kBytesBeforePermit = 64 * 1024;

struct FailureAnswer {
  int status;
  GuestFailure counted;
};

// risks: 504 for a CPU budget used up, 507 when memory was refused, 502 for all that is the guest's
// own doing.
FailureAnswer answer_to(engine::Failure failure) noexcept {
  switch (failure) {
    case engine::Failure::kCpu:
      return {504, GuestFailure::kCpuBudget};
    case engine::Failure::kMemory:
      return {507, GuestFailure::kMemory};
    case engine::Failure::kBusy:
      return {503, GuestFailure::kOverload};
    case engine::Failure::kNoResponse:
      return {502, GuestFailure::kNoResponse};
    case engine::Failure::kGuestError:
      return {502, GuestFailure::kErrorCode};
    case engine::Failure::kInternal:
      return {500, GuestFailure::kOther};
    case engine::Failure::kTrap:
    case engine::Failure::kBody:
      return {502, GuestFailure::kTrap};
  }
  return {502, GuestFailure::kTrap};
}

// For the client: what happened, without the guest's insides.
std::string_view public_text(engine::Failure failure) noexcept {
  switch (failure) {
    case engine::Failure::kCpu:
      return "the module used up its CPU time";
    case engine::Failure::kMemory:
      return "the module reached its memory limit";
    case engine::Failure::kBusy:
      return "no instance of the module is free";
    case engine::Failure::kNoResponse:
      return "the module returned without a response";
    case engine::Failure::kGuestError:
      return "the module answered with an error";
    case engine::Failure::kInternal:
      return "internal error";
    case engine::Failure::kTrap:
    case engine::Failure::kBody:
      return "the module failed";
  }
  return "the module failed";
}

std::string_view label(http::Outcome outcome) noexcept {
  switch (outcome) {
    case http::Outcome::kComplete:
      return "complete";
    case http::Outcome::kCut:
      return "cut";
    case http::Outcome::kClientGone:
      return "client_gone";
    case http::Outcome::kTimeout:
      return "client_timeout";
    case http::Outcome::kShutdown:
      return "shutdown";
  }
  return "complete";
}

// The host says these; a guest's own are dropped.
bool ours(std::string_view name) noexcept {
  return name == "x-request-id" || name == "traceparent" || name == "x-mik-duration-ms" ||
         name == "x-mik-handler" || name == "content-length";
}

}  // namespace

// The head, and the first piece of the body, of a request that came before its component.
struct GuestExchange::SavedHead {
  std::string bytes;
  http::RequestHead head;  // views into bytes
  std::vector<http::Field> fields;
  std::string path_query;
  std::string body;
  std::vector<std::pair<std::string, std::string>> trailers;
};

GuestExchange::GuestExchange(Context& context, GuestExchangePool& pool)
    : context_(context),
      pool_(pool),
      deadline_timer_(net::Timer::of<&GuestExchange::on_deadline>(this)) {}

GuestExchange::~GuestExchange() = default;

void GuestExchange::reset() {
  MIK_ASSERT(exchange_ == nullptr && id_ == 0);
  deadline_timer_.disarm();
  deadline_ = base::kNever;
  running_ = head_sent_ = ended_ = cut_ = body_open_ = body_paused_ = false;
  MIK_ASSERT(!waits_for_body_ && !counts_as_open_);
  error_.clear();
  stats_ = {};
  trailers_.clear();
  saved_.reset();
}

void GuestExchange::begin(http::Exchange& exchange, std::string_view path_query,
                          shared::RequestPermit permit) {
  const http::RequestHead& head = exchange.head();
  exchange_ = &exchange;
  permit_ = std::move(permit);
  started_ = context_.loop.now();
  const http::Field* parent = http::find_field(head.fields, "traceparent");
  trace_ = telemetry::child_of(
      parent == nullptr ? std::nullopt : telemetry::parse_traceparent(parent->value),
      context_.random);
  request_id_ = telemetry::make_uuid(context_.random);
  method_ = head.method;
  path_ = head.path_query.substr(0, head.path_query.find('?'));
  peer_ = exchange.peer().address;
  body_open_ = head.body != http::BodyKind::kNone;
  time_left_ = context_.settings.guest.execution_timeout;
  shared::count(context_.counters().guest_requests);
  exchange.attach(*this);
  run_clock(!body_open_);
  if (!permit_.held()) {
    waits_for_body_ = true;
    ++context_.waiting_bodies;
    save(head, path_query);
    return;
  }
  count_open_body();
  if (context_.component == nullptr) {
    save(head, path_query);
    wait_for_component();
    return;
  }
  start(head, path_query);
}

void GuestExchange::wait_for_component() {
  pool_.waiting_.push_back(this);
  run_clock(true);
}

void GuestExchange::count_open_body() {
  if (body_open_) {
    counts_as_open_ = true;
    ++context_.open_bodies;
  }
}

void GuestExchange::drop_open_body() {
  if (std::exchange(counts_as_open_, false)) {
    --context_.open_bodies;
  }
}

void GuestExchange::stop_waiting_for_body() {
  if (std::exchange(waits_for_body_, false)) {
    --context_.waiting_bodies;
  }
}

bool GuestExchange::admit() {
  stop_waiting_for_body();
  auto permit =
      context_.segment.try_acquire(context_.slot, context_.settings.max_concurrent_requests);
  if (!permit.has_value()) {
    context_.segment.count_failure(context_.slot, GuestFailure::kOverload);
    error_ = "too many requests at once";
    answer(503, error_);
    return false;
  }
  permit_ = std::move(*permit);
  count_open_body();
  if (context_.component == nullptr) {
    body_paused_ = true;
    wait_for_component();
    return true;
  }
  return start_saved();
}

void GuestExchange::save(const http::RequestHead& head, std::string_view path_query) {
  saved_ = std::make_unique<SavedHead>();
  saved_->bytes = head.bytes;
  saved_->path_query = path_query;
  const auto moved = [&](std::string_view view) {
    return view.empty() ? view
                        : std::string_view(saved_->bytes)
                              .substr(static_cast<std::size_t>(view.data() - head.bytes.data()),
                                      view.size());
  };
  for (const http::Field& field : head.fields) {
    saved_->fields.push_back({moved(field.name), moved(field.value)});
  }
  saved_->head = head;
  saved_->head.bytes = saved_->bytes;
  saved_->head.method = moved(head.method);
  saved_->head.authority = moved(head.authority);
  saved_->head.fields = saved_->fields;
}

bool GuestExchange::start_saved() {
  const std::unique_ptr<SavedHead> saved = std::move(saved_);
  run_clock(!body_open_);
  if (!start(saved->head, saved->path_query)) {
    return false;  // answered: this may be gone
  }
  if (!saved->body.empty()) {
    context_.guests->push_body(id_, saved->body);
  }
  if (saved->head.body != http::BodyKind::kNone && !body_open_) {
    std::vector<http::Field> trailers;
    for (const auto& [name, value] : saved->trailers) {
      trailers.push_back({name, value});
    }
    context_.guests->end_body(id_, std::span<const http::Field>(trailers));
  } else if (body_paused_) {
    body_paused_ = false;
    exchange_->resume_body();
  }
  return true;
}

bool GuestExchange::start(const http::RequestHead& head, std::string_view path_query) {
  engine::Head guest_head;
  guest_head.bytes = head.bytes;
  guest_head.method = head.method;
  // HTTP/1.0 may come without Host; guests are promised an authority.
  guest_head.authority = head.authority.empty() ? std::string_view("localhost") : head.authority;
  guest_head.path_query = path_query;
  guest_head.https = exchange_->secure();
  guest_head.has_body = head.body != http::BodyKind::kNone;
  guest_head.user = reinterpret_cast<std::uint64_t>(static_cast<GuestTask*>(this));
  guest_head.cpu_budget = context_.settings.guest.cpu_budget;
  auto id = context_.guests->start(*context_.component, guest_head, head.fields);
  if (!id.has_value()) {
    error_ = id.error().to_string();
    const bool client = id.error().code() == base::ErrorCode::kBadMessage;
    answer(client ? 400 : 500, client ? error_ : "internal error");
    return false;
  }
  id_ = *id;
  context_.scheduler->add(*this, id_);
  return true;
}

void GuestExchange::run_clock(bool on) {
  if (head_sent_ || on == (deadline_ != base::kNever)) {
    return;
  }
  if (on) {
    deadline_ = base::saturating_add(context_.loop.now(), time_left_);
    context_.loop.wheel().arm(deadline_timer_, deadline_);
  } else {
    time_left_ = deadline_ - context_.loop.now();
    deadline_ = base::kNever;
    deadline_timer_.disarm();
  }
}

base::Time GuestExchange::deadline() const noexcept {
  if (head_sent_ || deadline_ != base::kNever) {
    return deadline_;
  }
  return base::saturating_add(context_.loop.now(), time_left_);
}

http::Flow GuestExchange::on_body(std::string_view bytes) {
  if (saved_ != nullptr) {
    saved_->body += bytes;
    if (waits_for_body_ && saved_->body.size() < kBytesBeforePermit) {
      return http::Flow::kGoOn;
    }
    if (waits_for_body_ && !admit()) {
      return http::Flow::kGoOn;  // answered: this may be gone
    }
    if (saved_ == nullptr) {
      return http::Flow::kGoOn;
    }
    body_paused_ = true;
    return http::Flow::kPause;
  }
  if (id_ == 0 || context_.guests->push_body(id_, bytes) != engine::Push::kFull) {
    return http::Flow::kGoOn;
  }
  body_paused_ = true;
  run_clock(true);
  return http::Flow::kPause;
}

void GuestExchange::on_body_end(std::span<const http::Field> trailers) {
  body_open_ = false;
  drop_open_body();
  run_clock(true);
  if (saved_ != nullptr) {
    for (const http::Field& field : trailers) {
      saved_->trailers.emplace_back(field.name, field.value);
    }
    if (waits_for_body_) {
      static_cast<void>(admit());
    }
    return;
  }
  if (id_ != 0) {
    context_.guests->end_body(id_, trailers);
  }
}

void GuestExchange::on_body_error(http::BodyError error) {
  body_open_ = false;
  drop_open_body();
  if (head_sent_) {
    if (id_ != 0) {
      context_.guests->fail_body(id_);
    }
    return;
  }
  switch (error) {
    case http::BodyError::kTooLarge:
      error_ = fmt::format("Request body too large (max {})", context_.settings.max_body_bytes);
      answer(413, error_);
      return;
    case http::BodyError::kMalformed:
      error_ = "malformed request body";
      answer(400, error_);
      return;
    case http::BodyError::kTooSlow:
      error_ = "the request body came too slowly";
      answer(408, error_);
      return;
    case http::BodyError::kGone:
      release_guest();
      exchange_->abort();
      return;
  }
}

std::size_t GuestExchange::peek(std::span<iovec> pieces) {
  return id_ == 0 ? 0 : context_.guests->peek(id_, pieces);
}

void GuestExchange::consume(std::size_t bytes) {
  if (id_ == 0) {
    return;
  }
  context_.guests->consume(id_, bytes);
  if (!ended_) {
    context_.loop.wheel().arm(deadline_timer_, context_.loop.now() + context_.settings.stream_idle);
  }
}

http::SourceState GuestExchange::source_state() {
  if (cut_) {
    return http::SourceState::kCut;
  }
  return ended_ ? http::SourceState::kEnd : http::SourceState::kOpen;
}

std::span<const http::Field> GuestExchange::trailers() {
  trailers_.clear();
  if (id_ != 0) {
    for (const engine::Field& field : context_.guests->trailers(id_)) {
      trailers_.push_back({field.name, field.value});
    }
  }
  return trailers_;
}

void GuestExchange::on_run(engine::Events events) {
  running_ = true;
  finish_run(events);
  running_ = false;
  if (exchange_ == nullptr) {
    pool_.put(*this);
  }
}

void GuestExchange::finish_run(engine::Events events) {
  if (events.failed()) {
    send_failure(context_.guests->failure(id_));
    return;
  }
  if (events.outbound()) {
    while (const engine::OutboundId outbound = context_.guests->next_outbound(id_)) {
      context_.outbound->begin(outbound, *this);
    }
  }
  if (events.head()) {
    send_head();
  }
  ended_ = ended_ || events.end();
  if (events.abort()) {
    cut_ = true;
    error_ = context_.guests->failure(id_).text;
    context_.segment.count_failure(context_.slot, GuestFailure::kAborted);
  }
  if (events.body_unused() && exchange_ != nullptr) {
    exchange_->discard_body();
  } else if (events.need_body() && body_paused_ && exchange_ != nullptr) {
    body_paused_ = false;
    run_clock(!body_open_);
    exchange_->resume_body();
  }
  const bool news = events.head() || events.body() || events.end() || events.abort();
  if (news && exchange_ != nullptr && head_sent_) {
    if (ended_) {
      deadline_timer_.disarm();  // what is left is between the connection and its client
    } else {
      context_.loop.wheel().arm(deadline_timer_,
                                context_.loop.now() + context_.settings.stream_idle);
    }
    exchange_->pump();
  }
}

void GuestExchange::send_head() {
  const engine::Response response = context_.guests->response_head(id_);
  deadline_timer_.disarm();
  deadline_ = base::kNever;
  head_sent_ = true;
  std::vector<http::Field>& fields = context_.fields;
  fields.clear();
  for (const engine::Field& field : response.fields) {
    if (!ours(field.name)) {
      fields.push_back({field.name, field.value});
    }
  }
  const auto traceparent = telemetry::format_traceparent(trace_);
  const auto elapsed = base::Clock::now() - started_;
  const fmt::format_int duration_ms(
      std::chrono::duration_cast<std::chrono::milliseconds>(elapsed).count());
  fields.push_back({"X-Request-ID", telemetry::view(request_id_)});
  fields.push_back({"traceparent", telemetry::view(traceparent)});
  fields.push_back({"X-Mik-Duration-Ms", {duration_ms.data(), duration_ms.size()}});
  fields.push_back({"X-Mik-Handler", context_.settings.component_name});
  http::ResponseHead head;
  head.status = response.status;
  head.fields = fields;
  if (response.has_content_length) {
    head.content_length = response.content_length;
  }
  exchange_->start(head);
}

void GuestExchange::send_failure(engine::RequestFailure failure) {
  error_ = failure.text;
  const FailureAnswer to = answer_to(failure.failure);
  context_.segment.count_failure(context_.slot, to.counted);
  answer(to.status, public_text(failure.failure));
}

void GuestExchange::answer(int status, std::string_view detail) {
  release_guest();
  forget_saved();
  deadline_timer_.disarm();
  write_problem(context_.text, status, detail);
  const auto traceparent = telemetry::format_traceparent(trace_);
  std::vector<http::Field>& fields = context_.fields;
  fields.clear();
  fields.push_back({"Content-Type", kProblemType});
  fields.push_back({"X-Request-ID", telemetry::view(request_id_)});
  fields.push_back({"traceparent", telemetry::view(traceparent)});
  if (status == 503) {
    fields.push_back({"Retry-After", "1"});
  }
  http::ResponseHead head;
  head.status = status;
  head.fields = fields;
  exchange_->respond(head, context_.text);
}

void GuestExchange::on_deadline() {
  if (exchange_ == nullptr) {
    return;
  }
  context_.segment.count_failure(context_.slot, GuestFailure::kDeadline);
  if (head_sent_) {
    error_ = "the module produced nothing for stream_idle_secs";
    release_guest();
    cut_ = true;
    exchange_->abort();
    return;
  }
  const auto seconds = std::chrono::duration_cast<std::chrono::duration<double>>(
      context_.settings.guest.execution_timeout);
  error_ = fmt::format("no response within execution_timeout_secs ({})", seconds.count());
  answer(504, "the module did not answer in time");
}

void GuestExchange::release_guest() {
  if (id_ == 0) {
    return;
  }
  stats_ = context_.guests->stats(id_);
  context_.scheduler->remove(*this);
  context_.guests->release(id_);
  id_ = 0;
}

void GuestExchange::forget_saved() {
  if (saved_ != nullptr) {
    std::erase(pool_.waiting_, this);
    saved_.reset();
  }
}

void GuestExchange::on_closed(const http::Closed& closed) {
  exchange_ = nullptr;
  drop_open_body();
  stop_waiting_for_body();
  deadline_timer_.disarm();
  forget_saved();
  release_guest();
  permit_.release();
  log_closed(closed);
  if (!running_) {
    pool_.put(*this);
  }
}

void GuestExchange::log_closed(const http::Closed& closed) {
  const base::Duration took = base::Clock::now() - started_;
  shared::Counters& counters = context_.counters();
  if (closed.status != 0) {
    context_.segment.count_response(context_.slot, closed.status, took);
  }
  if (closed.outcome == http::Outcome::kClientGone) {
    shared::count(counters.client_gone);
  }
  shared::count(counters.bytes_in, closed.body_bytes_in);
  shared::count(counters.bytes_out, closed.body_bytes_out);
  const telemetry::Level level = error_.empty() ? telemetry::Level::kInfo : telemetry::Level::kWarn;
  if (!context_.log.enabled(level)) {
    return;
  }
  const auto traceparent = telemetry::format_traceparent(trace_);
  auto line = context_.log.line(level, error_.empty() ? "Request completed" : "Request failed");
  line.str("request_id", telemetry::view(request_id_))
      .str("trace_id", telemetry::view(traceparent).substr(3, 32))
      .str("method", method_)
      .str("path", path_)
      .str("remote_addr", peer_)
      .str("module", context_.settings.component_name)
      .num("status", closed.status)
      .ms("duration_ms", took)
      .ms("cpu_ms", stats_.cpu)
      .num("bytes_in", static_cast<std::int64_t>(closed.body_bytes_in))
      .num("bytes_out", static_cast<std::int64_t>(closed.body_bytes_out));
  if (closed.outcome != http::Outcome::kComplete) {
    line.str("outcome", label(closed.outcome));
  }
  if (!error_.empty()) {
    line.str("error", error_);
  }
}

void GuestExchange::on_guest_output(int stream, std::string_view text) noexcept {
  if (!context_.log.enabled(telemetry::Level::kInfo)) {
    return;
  }
  constexpr std::array<std::string_view, 3> kStreams = {"dropped", "stdout", "stderr"};
  context_.log.line(telemetry::Level::kInfo, "Guest output")
      .str("request_id", telemetry::view(request_id_))
      .str("module", context_.settings.component_name)
      .str("stream", kStreams[static_cast<std::size_t>(std::clamp(stream, 0, 2))])
      .str("text", text);
}

}  // namespace mik::runtime
