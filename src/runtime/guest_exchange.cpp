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
  MIK_ASSERT(waits_for_ == WaitsFor::kNothing && !counts_as_open_);
  deadline_timer_.disarm();
  deadline_ = base::kNever;
  stream_end_ = base::kNever;
  running_ = head_sent_ = ended_ = cut_ = failed_ = body_open_ = body_paused_ = false;
  status_ = 0;
  error_.clear();
  failure_.reset();
  stats_ = {};
  trailers_.clear();
  saved_.reset();
  if (module_.use_count() == 1) {
    // The last one of a module that is gone: its account must not end inside a run.
    context_.loop.post([last = std::move(module_)] {});
  }
  module_.reset();
}

void GuestExchange::begin(http::Exchange& exchange, GuestRequest request) {
  const http::RequestHead& head = exchange.head();
  exchange_ = &exchange;
  module_ = std::move(request.module);
  ticket_ = std::move(request.ticket);
  permit_ = std::move(request.permit);
  started_ = queued_ = context_.loop.now();
  guest_started_ = {};
  const RequestTrace trace = trace_of(context_, head.fields);
  trace_ = trace.own;
  trace_state_ = trace.state;
  spans_.begin(context_, trace, head, request.path_query);
  request_id_ = telemetry::make_uuid(context_.random);
  method_ = head.method;
  wanted_ = context_.compression->wanted(head.fields);
  path_ = head.path_query.substr(0, head.path_query.find('?'));
  client_ = request.from.client;
  https_ = is_https(request.from, exchange);
  body_open_ = head.body != http::BodyKind::kNone;
  time_left_ = module_->guest.execution_timeout;
  shared::count(context_.counters().guest_requests);
  exchange.attach(*this);
  run_clock(!body_open_);
  if (context_.log.enabled(telemetry::Level::kDebug, telemetry::Target::kHttp)) {
    line(telemetry::Level::kDebug, telemetry::Target::kHttp, "Request started")
        .str("method", method_)
        .str("path", path_)
        .str("remote_addr", client_);
  }
  if (request.wait_for_body) {
    waits_for_ = WaitsFor::kBody;
    spans_.waits(RequestSpans::Wait::kBody, started_);
    ++context_.waiting_bodies;
    save(head, request.path_query);
    return;
  }
  if (!context_.modules->loaded(*module_)) {
    save(head, request.path_query);
    wait_for_module();
    return;
  }
  if (!permit_.held()) {
    save(head, request.path_query);
    advance();
    return;
  }
  count_open_body();
  start(head, request.path_query);
}

bool GuestExchange::advance() {
  if (waits_for_ == WaitsFor::kBody) {
    queued_ = context_.loop.now();
  }
  stop_waiting();
  if (!context_.modules->loaded(*module_)) {
    permit_.release();
    return wait_for_module();
  }
  if (!permit_.held() && !take_permit()) {
    return waits_for_ == WaitsFor::kPermit;
  }
  count_open_body();
  return start_saved();
}

bool GuestExchange::wait_for_module() {
  run_clock(true);
  switch (context_.modules->wait(module_, *this)) {
    case ModuleCache::Wait::kWaiting:
      waits_for_ = WaitsFor::kModule;
      spans_.waits(RequestSpans::Wait::kCompile, context_.loop.now());
      return true;
    case ModuleCache::Wait::kFull:
      count_failure(GuestFailure::kOverload);
      error_ = "too many requests wait for the module to be loaded";
      break;
    case ModuleCache::Wait::kUnavailable:
      on_module(ModuleTrouble::kUnavailable);
      return false;
    case ModuleCache::Wait::kGone:
      on_module(ModuleTrouble::kGone);
      return false;
  }
  answer(503, error_);
  return false;
}

void GuestExchange::on_module(ModuleTrouble trouble) {
  waits_for_ = WaitsFor::kNothing;  // it was told: the cache has forgotten it
  switch (trouble) {
    case ModuleTrouble::kNone:
      advance();
      return;
    case ModuleTrouble::kGone:
      error_ = fmt::format("module not found: {}", module_->label);
      answer(404, error_);
      return;
    case ModuleTrouble::kBroken:
      error_ = "module is broken";
      answer(502, error_);
      return;
    case ModuleTrouble::kFailed:
      failed_ = true;
      [[fallthrough]];
    case ModuleTrouble::kUnavailable:
      count_failure(GuestFailure::kOther);
      error_ = "the module cannot be loaded now";
      answer(503, error_);
      return;
  }
}

bool GuestExchange::take_permit() {
  run_clock(true);
  const Gate::Answer answer = context_.gate->enter(*this, *module_, deadline_, permit_);
  switch (answer.entered) {
    case reliability::WaitQueue::Entered::kAdmitted:
      return true;
    case reliability::WaitQueue::Entered::kWaiting:
      waits_for_ = WaitsFor::kPermit;
      spans_.waits(RequestSpans::Wait::kQueue, context_.loop.now());
      return false;
    case reliability::WaitQueue::Entered::kRefused:
      on_refused(answer.by);
      return false;
  }
  return false;
}

void GuestExchange::on_admitted(reliability::Permit permit) {
  waits_for_ = WaitsFor::kNothing;
  permit_ = std::move(permit);
  advance();
}

void GuestExchange::on_refused(reliability::RefusedBy by) {
  waits_for_ = WaitsFor::kNothing;
  const Gate::Refusal refusal = context_.gate->refuse(by, *module_, error_);
  answer(refusal.status, error_, refusal.retry_after_secs);
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

void GuestExchange::stop_waiting() {
  switch (std::exchange(waits_for_, WaitsFor::kNothing)) {
    case WaitsFor::kBody:
      --context_.waiting_bodies;
      break;
    case WaitsFor::kModule:
      context_.modules->stop_waiting(*module_, *this);
      break;
    case WaitsFor::kPermit:
      leave();
      break;
    case WaitsFor::kNothing:
      break;
  }
}

void GuestExchange::forget_saved() {
  stop_waiting();
  saved_.reset();
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
  guest_head.https = https_;
  guest_head.has_body = head.body != http::BodyKind::kNone;
  guest_head.user = reinterpret_cast<std::uint64_t>(static_cast<GuestTask*>(this));
  guest_head.cpu_budget = module_->guest.cpu_budget;
  component_ = context_.modules->use(*module_);
  spans_.goes_on(context_.loop.now());
  // The guest's parent is our span, not the caller's.
  const auto traceparent = telemetry::format_traceparent(trace_);
  std::vector<http::Field>& fields = context_.fields;
  fields.assign(head.fields.begin(), head.fields.end());
  std::erase_if(fields, [](const http::Field& field) {
    return http::equals_lower(field.name, "traceparent");
  });
  fields.push_back({"traceparent", telemetry::view(traceparent)});
  auto id = context_.guests->start(component_->component, guest_head,
                                   std::span<const http::Field>(fields));
  if (!id.has_value()) {
    error_ = id.error().to_string();
    const bool client = id.error().code() == base::ErrorCode::kBadMessage;
    answer(client ? 400 : 500, client ? error_ : "internal error");
    return false;
  }
  id_ = *id;
  spans_.guest_starts(context_.loop.now());
  context_.scheduler->add(*this, id_, &module_->account);
  guest_started_ = context_.loop.now();
  const base::Duration waited = guest_started_ - queued_;
  shared::observe(context_.metrics_cells().queue, shared::kLatencyBoundsUs, waited);
  shared::count(module_->cells.queue_ns, static_cast<std::uint64_t>(waited.count()));
  if (context_.log.enabled(telemetry::Level::kTrace, telemetry::Target::kHttp)) {
    line(telemetry::Level::kTrace, telemetry::Target::kHttp, "Guest started");
  }
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

// Of the response once its head is out: the guest is silent for so long, or all of it takes too
// long. After the end what is left is between the connection and its client.
void GuestExchange::arm_stream_timer() {
  const base::Time idle =
      ended_ ? base::kNever
             : base::saturating_add(context_.loop.now(), context_.settings.stream_idle);
  if (const base::Time end = std::min(idle, stream_end_); end != base::kNever) {
    context_.loop.wheel().arm(deadline_timer_, end);
  } else {
    deadline_timer_.disarm();
  }
}

base::Time GuestExchange::deadline() const noexcept {
  if (head_sent_) {
    return stream_end_;
  }
  if (deadline_ != base::kNever) {
    return deadline_;
  }
  return base::saturating_add(context_.loop.now(), time_left_);
}

http::Flow GuestExchange::on_body(std::string_view bytes) {
  if (saved_ != nullptr) {
    saved_->body += bytes;
    if (waits_for_ == WaitsFor::kBody) {
      if (saved_->body.size() < kBytesBeforePermit || !advance() || saved_ == nullptr) {
        return http::Flow::kGoOn;  // answered: this may be gone
      }
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
    if (waits_for_ == WaitsFor::kBody) {
      advance();
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
  arm_stream_timer();
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
  say_memory();
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
    send_head(events.end());
  }
  ended_ = ended_ || events.end();
  if (events.abort()) {
    cut_ = failed_ = true;
    error_ = context_.guests->failure(id_).text;
    count_failure(GuestFailure::kAborted);
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
    arm_stream_timer();
    context_.scheduler->write_soon(*this);
  }
}

void GuestExchange::on_write() {
  if (exchange_ != nullptr) {
    exchange_->pump();
  }
}

// Of a body that is here as a whole; nothing when it is a long one.
std::optional<std::uint64_t> GuestExchange::content_shown() {
  std::array<iovec, 8> pieces;
  const std::size_t count = context_.guests->peek(id_, std::span<iovec>(pieces));
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < count; ++i) {
    total += pieces[i].iov_len;
  }
  return count < pieces.size() ? std::optional(total) : std::nullopt;
}

// `whole`: so is the body.
void GuestExchange::send_head(bool whole) {
  const engine::Response response = context_.guests->response_head(id_);
  deadline_timer_.disarm();
  deadline_ = base::kNever;
  head_sent_ = true;
  if (context_.settings.stream_max > base::Duration::zero()) {
    stream_end_ = context_.loop.now() + context_.settings.stream_max;
  }
  std::vector<http::Field>& fields = context_.fields;
  fields.clear();
  for (const engine::Field& field : response.fields) {
    if (!ours(field.name)) {
      fields.push_back({field.name, field.value});
    }
  }
  const auto traceparent = telemetry::format_traceparent(trace_);
  const base::Time now = base::Clock::now();
  const fmt::format_int duration_ms(
      std::chrono::duration_cast<std::chrono::milliseconds>(now - started_).count());
  fields.push_back({"X-Request-ID", telemetry::view(request_id_)});
  fields.push_back({"traceparent", telemetry::view(traceparent)});
  fields.push_back({"X-Mik-Duration-Ms", {duration_ms.data(), duration_ms.size()}});
  if (!module_->handler.empty()) {
    fields.push_back({"X-Mik-Handler", module_->handler});
  }
  std::optional<std::uint64_t> length;
  if (response.has_content_length) {
    length = response.content_length;
  }
  std::optional<std::uint64_t> known = length.has_value() || !whole ? length : content_shown();
  const http::Coding coding =
      context_.compression->prepare(wanted_, response.status, fields, known);
  http::ResponseHead head;
  head.status = response.status;
  head.fields = fields;
  if (coding == http::Coding::kIdentity) {
    head.content_length = length;
  } else if (method_ != "HEAD") {
    context_.compression->attach(*exchange_, *this, coding);
  }
  status_ = head.status;
  context_.gate->on_answer(*module_, now - guest_started_);
  if (ticket_.probe() || counts_as_failure()) {
    resolve_ticket();  // a stream may go on for long, and others wait for what it shows
  }
  exchange_->start(head);
}

}  // namespace mik::runtime
