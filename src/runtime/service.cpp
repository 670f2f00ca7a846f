#include "runtime/service.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "base/fd.hpp"

namespace mik::runtime {

namespace {

constexpr std::string_view kAllow = "GET, HEAD, OPTIONS";
// What the guide shows for a server without a manifest (runtime.md 2.4).
constexpr std::uint64_t kCacheCapacity = 100;
constexpr std::uint64_t kCacheBytesMax = 256ull << 20;

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Once, as RFC 3986 section 2.1 says; what is no escape stays.
std::string percent_decode(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
        hex_digit(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string_view query_of(std::string_view path_query) noexcept {
  const std::size_t mark = path_query.find('?');
  return mark == std::string_view::npos ? std::string_view() : path_query.substr(mark + 1);
}

// The first item that begins with "verbose=" is exactly true or 1.
bool is_verbose(std::string_view query) noexcept {
  constexpr std::string_view kKey = "verbose=";
  while (!query.empty()) {
    const std::string_view item = query.substr(0, query.find('&'));
    if (item.starts_with(kKey)) {
      const std::string_view value = item.substr(kKey.size());
      return value == "true" || value == "1";
    }
    query.remove_prefix(std::min(query.size(), item.size() + 1));
  }
  return false;
}

// Second number of /proc/PID/statm: resident pages.
std::uint64_t resident_bytes_of(std::uint64_t pid) {
  const base::Fd fd(::open(fmt::format("/proc/{}/statm", pid).c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 128> text{};
  if (!fd.valid() || ::read(fd.get(), text.data(), text.size() - 1) <= 0) {
    return 0;
  }
  char* end = nullptr;
  std::strtoull(text.data(), &end, 10);
  return std::strtoull(end, nullptr, 10) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

Route route(std::string_view path_query, std::string_view component) {
  Route route;
  const std::string_view path = path_query.substr(0, path_query.find('?'));
  route.rest = path_query;
  if (path == "/health") {
    route.to = Route::To::kHealth;
  } else if (path == "/health/live") {
    route.to = Route::To::kLive;
  } else if (path == "/health/ready") {
    route.to = Route::To::kReady;
  } else if (path == "/metrics") {
    route.to = Route::To::kMetrics;
  } else if (path_query == "*") {
    route.to = Route::To::kServer;
  } else if (path == "/run" || path.starts_with("/run/")) {
    const std::string_view after = path.substr(std::min<std::size_t>(path.size(), 5));
    const std::string_view name = after.substr(0, after.find('/'));
    if (name.empty()) {
      route.to = Route::To::kNoModule;
    } else if (route.module = percent_decode(name); route.module != component) {
      route.to = Route::To::kUnknownModule;
    } else {
      route.rest = path_query.substr(5 + name.size());
      if (route.rest.empty() || route.rest.front() != '/') {
        route.path_query = "/";
        route.path_query += route.rest;
        route.rest = route.path_query;
      }
    }
  }
  return route;
}

struct Service::Answer {
  int status = 200;
  std::string_view type;
  std::string_view body;
  bool allow = false;  // name the methods
  bool retry_after = false;
};

Service::Service(Context& context, GuestExchangePool& pool) : context_(context), pool_(pool) {}

void Service::on_request(http::Exchange& exchange) {
  shared::count(context_.counters().requests);
  const http::RequestHead& head = exchange.head();
  if (head.path_query.empty()) {  // CONNECT: this is no proxy
    problem(exchange, 405, "CONNECT is not served here");
    return;
  }
  const Route to = route(head.path_query, context_.settings.component_name);
  if (to.to == Route::To::kComponent) {
    to_component(exchange, to.rest);
  } else {
    built_in(exchange, to);
  }
}

void Service::to_component(http::Exchange& exchange, std::string_view path_query) {
  if (component_failed_) {
    problem(exchange, 502, "the module could not be loaded");
    return;
  }
  if (exchange.head().body != http::BodyKind::kNone && context_.open_bodies >= open_bodies_max()) {
    wait_for_body(exchange, path_query);
    return;
  }
  auto permit =
      context_.segment.try_acquire(context_.slot, context_.settings.max_concurrent_requests);
  if (!permit.has_value()) {
    context_.segment.count_failure(context_.slot, shared::GuestFailure::kOverload);
    problem(exchange, 503, "too many requests at once");
    return;
  }
  pool_.get().begin(exchange, path_query, std::move(*permit));
}

// Slow uploads may hold half of the permits: a share for each worker.
std::uint64_t Service::open_bodies_max() const {
  return std::max<std::uint64_t>(
      1, context_.settings.max_concurrent_requests / 2 / context_.settings.workers);
}

// Further ones take a permit when their body is here, or 64 KiB of it.
void Service::wait_for_body(http::Exchange& exchange, std::string_view path_query) {
  if (context_.waiting_bodies >= context_.settings.max_concurrent_requests) {
    context_.segment.count_failure(context_.slot, shared::GuestFailure::kOverload);
    problem(exchange, 503, "too many requests at once");
    return;
  }
  pool_.get().begin(exchange, path_query, shared::RequestPermit());
}

void Service::built_in(http::Exchange& exchange, const Route& to) {
  const std::string_view method = exchange.head().method;
  if (to.to == Route::To::kNoModule) {
    problem(exchange, 404, "No module specified. Use /run/<module>/");
    return;
  }
  if (to.to == Route::To::kUnknownModule) {
    problem(exchange, 404, fmt::format("module not found: {}", to.module));
    return;
  }
  const bool draining = context_.segment.draining();
  if (method == "OPTIONS" || to.to == Route::To::kServer) {
    Answer answer;
    answer.status = draining && to.to != Route::To::kLive ? 503 : 200;
    answer.allow = true;
    send(exchange, answer);
    return;
  }
  if (method != "GET" && method != "HEAD") {
    Answer answer;
    answer.status = 405;
    answer.allow = true;
    answer.type = kProblemType;
    write_problem(context_.text, 405, fmt::format("{} is not allowed here", method));
    answer.body = context_.text;
    send(exchange, answer);
    return;
  }
  Answer answer;
  if (to.to == Route::To::kMetrics) {
    const shared::Totals totals = context_.segment.totals();
    MetricsView view;
    view.totals = &totals;
    view.health = health({});
    view.max_concurrent_requests = context_.settings.max_concurrent_requests;
    write_metrics(context_.text, view);
    answer.type = kMetricsType;
  } else {
    HealthView view = health(query_of(exchange.head().path_query));
    if (to.to == Route::To::kLive) {
      view.status = "live";
    } else if (view.status != "ready") {
      answer.status = 503;
      answer.retry_after = true;
    }
    write_health(context_.text, view);
    answer.type = "application/json";
  }
  answer.body = context_.text;
  send(exchange, answer);
}

void Service::send(http::Exchange& exchange, const Answer& answer) {
  const auto id = telemetry::make_uuid(context_.random);
  const http::Field* parent = http::find_field(exchange.head().fields, "traceparent");
  const auto traceparent = telemetry::format_traceparent(telemetry::child_of(
      parent == nullptr ? std::nullopt : telemetry::parse_traceparent(parent->value),
      context_.random));
  std::vector<http::Field>& fields = context_.fields;
  fields.clear();
  if (!answer.type.empty()) {
    fields.push_back({"Content-Type", answer.type});
  }
  if (answer.allow) {
    fields.push_back({"Allow", kAllow});
  }
  if (answer.retry_after) {
    fields.push_back({"Retry-After", "1"});
  }
  fields.push_back({"X-Request-ID", telemetry::view(id)});
  fields.push_back({"traceparent", telemetry::view(traceparent)});
  http::ResponseHead head;
  head.status = answer.status;
  head.fields = fields;
  head.content_length = answer.body.size();
  context_.segment.count_response(context_.slot, answer.status, {});
  exchange.respond(head, answer.body);
}

void Service::problem(http::Exchange& exchange, int status, std::string_view detail) {
  write_problem(context_.text, status, detail);
  Answer answer;
  answer.status = status;
  answer.type = kProblemType;
  answer.body = context_.text;
  answer.retry_after = status == 503;
  answer.allow = status == 405;
  send(exchange, answer);
}

void Service::describe_failure(int status, std::string_view detail, std::string& field_lines,
                               std::string& body) {
  shared::count(context_.counters().requests);
  context_.segment.count_response(context_.slot, status, {});
  write_problem(body, status, detail);
  fmt::format_to(std::back_inserter(field_lines), "Content-Type: {}\r\nX-Request-ID: {}\r\n",
                 kProblemType, telemetry::view(telemetry::make_uuid(context_.random)));
  if (status == 503) {
    field_lines += "Retry-After: 1\r\n";
  }
}

std::string_view Service::status_now() const {
  if (context_.segment.draining()) {
    return "draining";
  }
  return context_.component != nullptr ? "ready" : "starting";
}

std::uint64_t Service::resident_bytes() {
  // /proc is read at most once a second, however often anybody asks.
  if (const base::Time now = context_.loop.now(); now - resident_read_ > std::chrono::seconds(1)) {
    resident_read_ = now;
    resident_bytes_ = 0;
    for (std::size_t slot = 0; slot < context_.segment.slots(); ++slot) {
      if (const std::uint64_t pid = context_.segment.row(slot).gauges.pid.load(); pid != 0) {
        resident_bytes_ += resident_bytes_of(pid);
      }
    }
  }
  return resident_bytes_;
}

HealthView Service::health(std::string_view query) {
  HealthView view;
  view.status = status_now();
  view.cache_size = context_.component != nullptr ? 1 : 0;
  view.cache_capacity = kCacheCapacity;
  view.cache_bytes = context_.component != nullptr ? context_.component->bytes() : 0;
  view.cache_max_bytes = kCacheBytesMax;
  view.workers = context_.segment.header().workers.load();
  for (std::size_t slot = 0; slot < context_.segment.slots(); ++slot) {
    view.total_requests +=
        context_.segment.row(slot).counters.requests.load(std::memory_order_relaxed);
    view.workers_ready += context_.segment.state(slot) == shared::WorkerState::kReady ? 1 : 0;
  }
  view.resident_bytes = resident_bytes();
  view.memory_limit_per_request = context_.settings.guest.memory_limit_bytes;
  view.verbose = is_verbose(query);
  view.loaded_module =
      context_.component != nullptr ? context_.settings.component_name : std::string_view();
  return view;
}

}  // namespace mik::runtime
