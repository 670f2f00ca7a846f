#include "runtime/outbound.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "http/url.hpp"
#include "runtime/guest_exchange.hpp"

namespace mik::runtime {

namespace {

// Outgoing requests of one request at once: the worker has 1024 connections for all of its guests.
constexpr std::size_t kPerGuestMax = 128;

http::ClientOptions client_options(const Context& context) {
  http::ClientOptions options;
  options.ca_file = context.settings.http_ca_file;
  return options;
}

// Of a module for as long as its name stands in the table. Not 0, which is nobody's.
std::uint64_t partition_of(const ModuleEntry& module) noexcept {
  return (module.incarnation << 32) | (module.row + 1ull);
}

// For the log: an authority may come with a name and a password.
std::string_view host_of(std::string_view authority) noexcept {
  return authority.substr(authority.rfind('@') + 1);
}

}  // namespace

class OutboundExchanges::One final : public http::ClientExchangeHandler {
 public:
  One(OutboundExchanges& owner, engine::OutboundId id, engine::RequestId guest,
      shared::OutboundCells& cells, OutboundSpan span)
      : owner_(owner), id_(id), guest_(guest), cells_(cells), span_(std::move(span)) {}

  engine::OutboundId id() const noexcept { return id_; }
  engine::RequestId guest() const noexcept { return guest_; }
  void started(http::ClientExchange* exchange) noexcept { exchange_ = exchange; }

  void on_events(const engine::OutboundEvents& events) {
    if (events.dropped()) {
      cancel();
      span_.end("cancelled");
      owner_.end(*this);
      return;
    }
    body_ended_ = body_ended_ || events.body_end();
    body_failed_ = body_failed_ || events.body_fail();
    in_events_ = true;
    if (exchange_ != nullptr && (events.body() || events.body_end() || events.body_fail())) {
      exchange_->pump();
    }
    if (exchange_ != nullptr && events.read() && paused_) {
      paused_ = false;
      exchange_->resume();
    }
    in_events_ = false;
    if (over_) {
      owner_.end(*this);
    }
  }

  void cancel() {
    if (exchange_ != nullptr) {
      exchange_->cancel();
      exchange_ = nullptr;
    }
  }

  std::size_t peek(std::span<iovec> pieces) override { return guests().outbound_peek(id_, pieces); }
  void consume(std::size_t bytes) override { guests().outbound_consume(id_, bytes); }
  http::SourceState source_state() override {
    if (body_failed_) {
      return http::SourceState::kCut;
    }
    return body_ended_ ? http::SourceState::kEnd : http::SourceState::kOpen;
  }

  void on_head(int status, std::span<const http::Field> fields) override {
    owner_.context_.log
        .line(telemetry::Level::kDebug, telemetry::Target::kOutbound, "Outgoing request answered")
        .num("status", status);
    answered_ = true;
    shared::bump(cells_.answered);
    span_.answered(status);
    guests().outbound_respond(id_, status, fields);
  }
  http::Flow on_body(std::string_view bytes) override {
    if (guests().outbound_push(id_, bytes) != engine::Push::kFull) {
      return http::Flow::kGoOn;
    }
    paused_ = true;
    return http::Flow::kPause;
  }
  void on_end(std::span<const http::Field> trailers) override {
    span_.end({});
    guests().outbound_end(id_, trailers);
    finish();
  }
  void on_error(http::ClientError error, std::string_view detail) override {
    if (!answered_) {
      shared::bump(cells_.failed);
    }
    owner_.context_.log
        .line(telemetry::Level::kWarn, telemetry::Target::kOutbound, "Outgoing request failed")
        .str("error", http::label(error))
        .str("detail", detail);
    span_.end(http::label(error));
    guests().outbound_fail(id_, static_cast<int>(error));
    finish();
  }

 private:
  // The client is through. The engine keeps what the guest has still to read, and says no more of
  // this exchange: so it is released here, by the last who touches it.
  void finish() {
    exchange_ = nullptr;
    over_ = true;
    if (!in_events_) {
      owner_.end(*this);
    }
  }

  engine::Guests& guests() { return *owner_.context_.guests; }

  OutboundExchanges& owner_;
  engine::OutboundId id_;
  engine::RequestId guest_;
  shared::OutboundCells& cells_;
  OutboundSpan span_;
  http::ClientExchange* exchange_ = nullptr;  // null before the start and after the end
  bool answered_ = false;
  bool body_ended_ = false;
  bool body_failed_ = false;
  bool paused_ = false;
  bool in_events_ = false;
  bool over_ = false;
};

OutboundExchanges::OutboundExchanges(Context& context, net::Offload& offload)
    : context_(context), client_(context.loop, offload, client_options(context), nothing_) {}

OutboundExchanges::~OutboundExchanges() {
  for (One* one : active_) {
    one->cancel();
    delete one;
  }
}

void OutboundExchanges::drain() { client_.drain(); }

void OutboundExchanges::end(One& one) {
  context_.guests->outbound_release(one.id());
  active_.erase(&one);
  if (const auto found = by_guest_.find(one.guest()); --found->second == 0) {
    by_guest_.erase(found);
  }
  delete &one;
}

namespace {

base::Duration timeout_of(base::Duration guest) noexcept {
  return guest == base::Duration::max() ? base::Duration::zero()
                                        : guest;  // zero: the client's default
}

}  // namespace

// The guest's fields, with the trace's where it has set none.
void OutboundExchanges::collect_fields(const engine::OutboundHead& head, const GuestExchange& guest,
                                       OutboundSpan& span, std::array<char, 55>& traceparent,
                                       std::vector<http::Field>& fields) {
  fields.reserve(head.fields.size() + 2);
  std::string_view said;
  bool state = false;
  for (const engine::Field& field : head.fields) {
    said = field.name == "traceparent" ? field.value : said;
    state = state || field.name == "tracestate";
    fields.push_back({field.name, field.value});
  }
  const auto trace = span.begin(context_, guest.trace(), said, head);
  if (!trace.has_value()) {
    return;
  }
  traceparent = telemetry::format_traceparent(*trace);
  std::erase_if(fields, [](const http::Field& field) { return field.name == "traceparent"; });
  fields.push_back({"traceparent", telemetry::view(traceparent)});
  if (said.empty() && !state && !guest.trace_state().empty()) {
    fields.push_back({"tracestate", guest.trace_state()});
  }
}

void OutboundExchanges::begin(engine::OutboundId id, const GuestExchange& guest) {
  const engine::OutboundHead head = context_.guests->outbound_head(id);
  std::vector<http::Field> fields;
  OutboundSpan span;
  std::array<char, 55> traceparent{};
  collect_fields(head, guest, span, traceparent, fields);
  http::ClientRequest request;
  request.method = head.method;
  request.scheme = head.scheme;
  request.authority = head.authority;
  request.path_query = head.path_query;
  request.fields = fields;
  if (head.has_body) {
    request.body =
        head.has_content_length ? http::RequestBody::kLength : http::RequestBody::kStream;
    request.content_length = head.has_content_length ? head.content_length : 0;
  }
  request.connect_timeout = timeout_of(head.connect_timeout);
  request.first_byte_timeout = timeout_of(head.first_byte_timeout);
  request.between_bytes_timeout = timeout_of(head.between_bytes_timeout);
  request.deadline = guest.deadline();
  const ModuleEntry& module = guest.module();
  request.allowed = &module.allowed;
  request.partition = partition_of(module);
  http::ClientError error = client_.check(request);
  if (const auto found = by_guest_.find(guest.id()); error == http::ClientError::kNone &&
                                                     found != by_guest_.end() &&
                                                     found->second >= kPerGuestMax) {
    error = http::ClientError::kConnectionLimitReached;
  }
  if (error != http::ClientError::kNone) {
    context_.log
        .line(telemetry::Level::kWarn, telemetry::Target::kOutbound, "Outgoing request refused")
        .str("request_id", guest.request_id())
        .str("module", module.label)
        .str("host", host_of(head.authority))
        .str("error", http::label(error));
    shared::bump(context_.metrics_cells().outbound_refused);
    span.end(http::label(error));
    context_.guests->refuse(id, static_cast<int>(error));
    return;
  }
  auto* one =
      new One(*this, id, guest.id(), cells(module, head.scheme, head.authority), std::move(span));
  active_.insert(one);
  ++by_guest_[guest.id()];
  context_.guests->accept(id, reinterpret_cast<std::uint64_t>(one));
  context_.log
      .line(telemetry::Level::kDebug, telemetry::Target::kOutbound, "Outgoing request started")
      .str("request_id", guest.request_id())
      .str("module", module.label)
      .str("method", request.method)
      .str("host", host_of(head.authority));
  one->started(client_.start(request, *one));
}

shared::OutboundCells& OutboundExchanges::cells(const ModuleEntry& module, std::string_view scheme,
                                                std::string_view authority) {
  auto& all = context_.metrics_cells().outbound;
  const auto split = http::split_authority(authority);
  if (!split.has_value()) {
    return all.back();
  }
  const bool plain = http::equals_lower(scheme, "http");
  const auto pattern =
      module.allowed.pattern_of(split->host, split->port.value_or(plain ? 80 : 443));
  if (!pattern.has_value() || *pattern >= module.guest.http_allowed.size()) {
    return all.back();
  }
  const std::string& text = module.guest.http_allowed[*pattern];
  auto found = places_.find(text);
  if (found == places_.end()) {
    found = places_.emplace(text, context_.segment.outbound_pattern(text)).first;
  }
  return all[found->second];
}

void OutboundExchanges::on_outbound(const engine::OutboundEvents& events) {
  auto* one = reinterpret_cast<One*>(events.user);
  if (active_.contains(one) && one->id() == events.id) {  // and no other that has its place by now
    one->on_events(events);
  }
}

}  // namespace mik::runtime
