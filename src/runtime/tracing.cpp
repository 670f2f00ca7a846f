#include "runtime/tracing.hpp"

#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <utility>

#include <fmt/format.h>

#include "http/url.hpp"
#include "otlp/endpoint.hpp"
#include "otlp/sender.hpp"

namespace mik::runtime {

namespace {

using otlp::Attribute;

constexpr std::size_t kTraceStateMax = 512;  // W3C Trace Context section 3.3.1.5
constexpr std::size_t kKeptTextMax = 1024;   // of what a client sent

// What a steady time lacks to be one of the wall clock. Spans of a request share it: read again, it
// would differ by what lies between the two clocks, and a span would begin before the one that it
// follows has ended.
std::uint64_t wall_offset() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  const auto wall = static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
                    static_cast<std::uint64_t>(now.tv_nsec);
  return wall - base::to_ns(base::Clock::now());
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? std::string(name.data())
                                                          : std::string();
}

// By the id, so that all who see the trace decide alike: as TraceIdRatioBased of OpenTelemetry.
bool in_ratio(std::uint64_t trace_low, double ratio) noexcept {
  constexpr double kHalf = 9223372036854775808.0;  // 2^63
  return ratio >= 1.0 || static_cast<double>(trace_low >> 1) < ratio * kHalf;
}

// Of a method that a client made up there is no end: semantic conventions, "HTTP spans".
std::string_view known_method(std::string_view method) noexcept {
  constexpr std::array<std::string_view, 9> kKnown = {
      "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"};
  return std::ranges::find(kKnown, method) != kKnown.end() ? method : "_OTHER";
}

std::string_view version_text(http::Version version) noexcept {
  switch (version) {
    case http::Version::k10:
      return "1.0";
    case http::Version::k11:
      return "1.1";
    case http::Version::k2:
      return "2";
  }
  return "1.1";
}

std::string_view name_of(RequestSpans::Wait wait) noexcept {
  switch (wait) {
    case RequestSpans::Wait::kBody:
      return "body";
    case RequestSpans::Wait::kQueue:
      return "queue";
    case RequestSpans::Wait::kCompile:
      return "compile";
  }
  return "queue";
}

// What was taken off the path before the guest saw it, and "/*": few values, whatever clients ask.
std::string route_of(std::string_view path_query, std::string_view guest_path) {
  if (guest_path.empty()) {
    return {};
  }
  const bool suffix = path_query.ends_with(guest_path) && guest_path.starts_with('/');
  std::string_view taken =
      suffix ? path_query.substr(0, path_query.size() - guest_path.size()) : std::string_view();
  if (!suffix) {
    // "/run/name" alone: the guest is given a "/" that was not there.
    taken = path_query.substr(0, path_query.find('?'));
  }
  return std::string(taken.substr(0, kKeptTextMax)) + "/*";
}

std::string_view cut(std::string_view text) noexcept { return text.substr(0, kKeptTextMax); }

}  // namespace

RequestTrace trace_of(Context& context, std::span<const http::Field> fields) {
  const http::Field* said = http::find_field(fields, "traceparent");
  const auto parent = said == nullptr ? std::nullopt : telemetry::parse_traceparent(said->value);
  RequestTrace trace;
  trace.own = telemetry::child_of(parent, context.random);
  if (!parent.has_value()) {
    trace.own.sampled = in_ratio(trace.own.trace_low, context.settings.tracing.sample_ratio);
    return trace;
  }
  trace.parent = parent->span;
  for (const http::Field& field : fields) {
    if (http::equals_lower(field.name, "tracestate")) {
      trace.state += trace.state.empty() ? "" : ",";
      trace.state += field.value;
    }
  }
  if (trace.state.size() > kTraceStateMax) {
    trace.state.clear();
  }
  return trace;
}

base::Result<std::unique_ptr<Tracing>> Tracing::create(Context& context, net::Offload& offload) {
  const config::TracingSettings& settings = context.settings.tracing;
  if (!settings.enabled || settings.otlp_endpoint.empty()) {
    return std::unique_ptr<Tracing>();
  }
  MIK_TRY_ASSIGN(otlp::Endpoint endpoint,
                 otlp::Endpoint::parse(settings.otlp_endpoint, settings.protocol));
  std::unique_ptr<Tracing> tracing(new Tracing(context));
  tracing->endpoint_ = endpoint.shown;
  otlp::ExporterOptions options;
  options.service_name = settings.service_name;
  options.service_version = context.settings.project_version;
  options.host_name = host_name();
  options.process_pid = ::getpid();
  options.mik_version = MIK_VERSION;
  tracing->exporter_ =
      std::make_unique<otlp::Exporter>(context.loop,
                                       otlp::make_sender({.loop = context.loop,
                                                          .offload = offload,
                                                          .ca_file = context.settings.http_ca_file,
                                                          .user_agent = "mik/" MIK_VERSION},
                                                         std::move(endpoint)),
                                       std::move(options), context.random, *tracing);
  return tracing;
}

void Tracing::on_exported(std::uint64_t spans) {
  shared::count(context_.segment.row(context_.slot).metrics.spans_exported, spans);
}

void Tracing::on_dropped(otlp::Drop why, std::uint64_t spans) {
  static_assert(shared::kSpanDrops == otlp::kDropReasons);
  shared::count(
      context_.segment.row(context_.slot).metrics.spans_dropped[static_cast<std::size_t>(why)],
      spans);
}

void Tracing::on_trouble(std::string_view detail) {
  context_.log.line(telemetry::Level::kWarn, "Traces cannot be sent")
      .str("endpoint", endpoint_)
      .str("error", detail);
}

void Tracing::on_trouble_over() {
  context_.log.line(telemetry::Level::kInfo, "Traces are sent again").str("endpoint", endpoint_);
}

void RequestSpans::begin(Context& context, const RequestTrace& trace, const http::RequestHead& head,
                         std::string_view guest_path) {
  tracing_ = trace.own.sampled ? context.tracing : nullptr;
  wait_started_ = guest_started_ = base::kNever;
  if (!on()) {
    return;
  }
  context_ = &context;
  trace_ = trace;
  started_ = context.loop.now();
  wall_offset_ = wall_offset();
  route_ = route_of(head.path_query, guest_path);
  authority_ = cut(head.authority);
  const http::Field* agent = http::find_field(head.fields, "user-agent");
  user_agent_ = agent == nullptr ? std::string_view() : cut(agent->value);
  version_ = head.version;
}

void RequestSpans::waits(Wait wait, base::Time now) {
  if (on()) {
    goes_on(now);
    wait_ = wait;
    wait_started_ = now;
  }
}

void RequestSpans::goes_on(base::Time now) {
  if (on() && wait_started_ != base::kNever) {
    child(name_of(wait_), std::exchange(wait_started_, base::kNever), now);
  }
}

void RequestSpans::guest_ends(base::Time now, const engine::Stats& stats) {
  if (!on() || guest_started_ == base::kNever) {
    return;
  }
  const base::Time from = std::exchange(guest_started_, base::kNever);
  if (stats.instantiate > base::Duration::zero()) {
    child("instantiate", from, std::min(from + stats.instantiate, now));
  }
  const std::array<Attribute, 2> attributes = {
      Attribute{"mik.cpu_us", std::int64_t{stats.cpu.count() / 1000}},
      Attribute{"mik.outbound_requests", static_cast<std::int64_t>(stats.outbound)},
  };
  child("guest", from, now, attributes);
}

void RequestSpans::child(std::string_view name, base::Time from, base::Time to,
                         std::span<const Attribute> attributes) {
  otlp::Span span;
  span.trace_high = trace_.own.trace_high;
  span.trace_low = trace_.own.trace_low;
  span.id = context_->random.next() | 1;
  span.parent = trace_.own.span;
  span.name = name;
  span.start_unix_ns = wall_offset_ + base::to_ns(from);
  span.end_unix_ns = wall_offset_ + base::to_ns(to);
  span.attributes = attributes;
  tracing_->add(span);
}

void RequestSpans::end(base::Time now, const RequestEnd& end) {
  if (!on()) {
    return;
  }
  goes_on(now);
  const std::string_view method = known_method(end.method);
  const std::string name = fmt::format("{}{}{}", method == "_OTHER" ? "HTTP" : method,
                                       route_.empty() ? "" : " ", route_);
  const int code = end.closed.status;
  const fmt::format_int status(code);
  const bool whole = end.closed.outcome == http::Outcome::kComplete;
  const bool failed = code >= 500 || (!whole && !end.error.empty());
  const std::string_view status_text(status.data(), status.size());
  const auto host = http::split_authority(authority_);
  const std::array<Attribute, 17> attributes = {
      Attribute{"http.request.method", method},
      Attribute{"http.request.method_original",
                method == end.method ? std::string_view() : end.method},
      Attribute{"url.path", end.path},
      Attribute{"url.scheme", end.scheme},
      Attribute{"http.route", std::string_view(route_)},
      Attribute{"server.address", host.has_value() ? host->host : std::string_view()},
      Attribute{"client.address", end.client},
      Attribute{"user_agent.original", std::string_view(user_agent_)},
      Attribute{"network.protocol.name", std::string_view("http")},
      Attribute{"network.protocol.version", version_text(version_)},
      Attribute{"error.type", !whole   ? label(end.closed.outcome)
                              : failed ? status_text
                                       : std::string_view()},
      Attribute{"mik.module", end.tag.module},
      Attribute{"mik.tenant", end.tag.tenant},
      Attribute{"mik.request_id", end.tag.request_id},
      code == 0 ? Attribute{"", std::string_view()}
                : Attribute{"http.response.status_code", std::int64_t{code}},
      host.has_value() && host->port.has_value()
          ? Attribute{"server.port", std::int64_t{*host->port}}
          : Attribute{"", std::string_view()},
      Attribute{"mik.error", failed ? std::string_view() : end.error},
  };
  otlp::Span span;
  span.trace_high = trace_.own.trace_high;
  span.trace_low = trace_.own.trace_low;
  span.id = trace_.own.span;
  span.parent = trace_.parent;
  span.parent_is_remote = trace_.parent != 0;
  span.trace_state = trace_.state;
  span.name = name;
  span.kind = otlp::SpanKind::kServer;
  span.start_unix_ns = wall_offset_ + base::to_ns(started_);
  span.end_unix_ns = wall_offset_ + base::to_ns(now);
  span.attributes = attributes;
  span.failed = failed;
  span.failure = end.error;
  tracing_->add(span);
  tracing_ = nullptr;
}

std::optional<telemetry::TraceContext> OutboundSpan::begin(Context& context,
                                                           const telemetry::TraceContext& request,
                                                           std::string_view guest_says,
                                                           const engine::OutboundHead& head) {
  own_ = request;
  tracing_ = request.sampled ? context.tracing : nullptr;
  const auto said = telemetry::parse_traceparent(guest_says);
  const bool same_trace = said.has_value() && said->trace_high == request.trace_high &&
                          said->trace_low == request.trace_low;
  const bool ours = guest_says.empty() || (same_trace && tracing_ != nullptr);
  if (tracing_ != nullptr) {
    context_ = &context;
    parent_ = same_trace ? said->span : request.span;
    own_.span = context.random.next() | 1;
    started_ = context.loop.now();
    method_ = known_method(head.method);
    const std::string_view scheme = head.scheme.empty() ? std::string_view("https") : head.scheme;
    // Without the query, where guests put keys.
    url_ = fmt::format("{}://{}{}", scheme, head.authority,
                       head.path_query.substr(0, head.path_query.find('?')));
    if (const auto host = http::split_authority(head.authority); host.has_value()) {
      host_ = host->host;
      port_ = host->port.value_or(http::equals_lower(scheme, "http") ? 80 : 443);
    }
  }
  return ours ? std::optional(own_) : std::nullopt;
}

void OutboundSpan::end(std::string_view error) {
  if (tracing_ == nullptr) {
    return;
  }
  const fmt::format_int status(status_);
  const bool failed = !error.empty() || status_ >= 400;
  const std::array<Attribute, 6> attributes = {
      Attribute{"http.request.method", std::string_view(method_)},
      Attribute{"url.full", std::string_view(url_)},
      Attribute{"server.address", std::string_view(host_)},
      Attribute{"server.port", port_},
      Attribute{"error.type", !error.empty() ? error
                              : failed       ? std::string_view(status.data(), status.size())
                                             : std::string_view()},
      status_ == 0 ? Attribute{"", std::string_view()}
                   : Attribute{"http.response.status_code", std::int64_t{status_}},
  };
  otlp::Span span;
  span.trace_high = own_.trace_high;
  span.trace_low = own_.trace_low;
  span.id = own_.span;
  span.parent = parent_;
  span.name = method_ == "_OTHER" ? std::string_view("HTTP") : std::string_view(method_);
  span.kind = otlp::SpanKind::kClient;
  const std::uint64_t offset = wall_offset();
  span.start_unix_ns = offset + base::to_ns(started_);
  span.end_unix_ns = offset + base::to_ns(context_->loop.now());
  span.attributes = attributes;
  span.failed = failed;
  span.failure = error;
  std::exchange(tracing_, nullptr)->add(span);
}

}  // namespace mik::runtime
