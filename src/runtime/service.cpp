#include "runtime/service.hpp"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <optional>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "base/fd.hpp"
#include "runtime/document_desk.hpp"
#include "runtime/metrics.hpp"

namespace mik::runtime {

namespace {

constexpr std::string_view kAllow = "GET, HEAD, OPTIONS";
constexpr std::string_view kNothingHere = "nothing is here";

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

}  // namespace

struct Service::Answer {
  int status = 200;
  std::string_view type;
  std::string_view body;
  bool allow = false;                  // name the methods
  std::uint32_t retry_after_secs = 0;  // 0: not said
};

Service::Service(Context& context, GuestExchangePool& pool)
    : context_(context), pool_(pool), router_(context.settings) {}

void Service::on_request(http::Exchange& exchange) {
  shared::count(context_.counters().requests);
  const http::RequestHead& head = exchange.head();
  const http::ForwardedView from = http::forwarded(head, exchange.peer(), context_.trusted);
  const Routed to = router_.route(head.authority, head.path_query, route_buffer_);
  switch (to.to) {
    case Routed::To::kModule:
      to_module(exchange, to, from);
      return;
    case Routed::To::kProblem:
      turn_away(exchange, from, to.status, to.text);
      return;
    case Routed::To::kStatic:
      static_file(exchange, from);
      return;
    default:
      built_in(exchange, to, Entrance::kPublic, from.forwarded);
  }
}

void Service::on_admin_request(http::Exchange& exchange) {
  shared::count(context_.counters().requests);
  const http::RequestHead& head = exchange.head();
  const Routed to = router_.route(head.authority, head.path_query, route_buffer_);
  switch (to.to) {
    case Routed::To::kHealth:
    case Routed::To::kLive:
    case Routed::To::kReady:
    case Routed::To::kMetrics:
    case Routed::To::kGateway:
    case Routed::To::kOpenApi:
    case Routed::To::kServer:
      built_in(exchange, to, Entrance::kAdmin,
               http::forwarded(head, exchange.peer(), context_.trusted).forwarded);
      return;
    default:
      problem(exchange, 404, kNothingHere);
  }
}

void Service::to_module(http::Exchange& exchange, const Routed& to,
                        const http::ForwardedView& from) {
  context_.modules->index().refresh();
  const std::shared_ptr<ModuleEntry>* found = context_.modules->index().find(to.tenant, to.module);
  if (found == nullptr) {
    turn_away(exchange, from, 404,
              to.tenant.empty() ? fmt::format("module not found: {}", to.module)
                                : fmt::format("module not found: {}/{}", to.tenant, to.module));
    return;
  }
  ModuleEntry& module = **found;
  if (module.cells.requests.load(std::memory_order_relaxed) == 0) {
    context_.segment.modules().claim_label(module.row, module.label);
  }
  shared::count(module.cells.requests);
  GuestRequest request;
  request.module = *found;
  request.path_query = to.rest;
  request.from = from;
  if (module.state == shared::RowState::kBroken || module.cached.broken) {
    refuse(exchange, request, 502, "module is broken");
    return;
  }
  reliability::BreakerAnswer breaker = context_.gate->ask_breaker(module);
  if (!breaker.ticket.open()) {
    shared::count(module.cells.refused_breaker);
    refuse(exchange, request, 503,
           fmt::format("circuit breaker open for module '{}'", module.label),
           reliability::retry_after_secs(breaker.retry_after));
    return;
  }
  request.ticket = std::move(breaker.ticket);
  if (may_enter(exchange, request)) {
    pool_.get().begin(exchange, std::move(request));
  }
}

// False: it was answered. What has to wait enters later, by itself.
bool Service::may_enter(http::Exchange& exchange, GuestRequest& request) {
  ModuleEntry& module = *request.module;
  const bool loaded = context_.modules->loaded(module);
  if (loaded) {
    shared::count(module.cells.hits);
  }
  if (exchange.head().body != http::BodyKind::kNone && context_.open_bodies >= open_bodies_max()) {
    if (context_.waiting_bodies >= context_.settings.max_concurrent_requests) {
      refuse_entry(exchange, request, reliability::RefusedBy::kGlobal);
      return false;
    }
    request.wait_for_body = true;
    return true;
  }
  if (!loaded || context_.gate->waits()) {
    return true;
  }
  const reliability::RefusedBy by = context_.gate->try_enter(module, request.permit);
  if (by != reliability::RefusedBy::kNone) {
    refuse_entry(exchange, request, by);
    return false;
  }
  return true;
}

void Service::refuse_entry(http::Exchange& exchange, const GuestRequest& request,
                           reliability::RefusedBy by) {
  std::string text;
  const Gate::Refusal refusal = context_.gate->refuse(by, *request.module, text);
  refuse(exchange, request, refusal.status, text, refusal.retry_after_secs);
}

void Service::refuse(http::Exchange& exchange, const GuestRequest& request, int status,
                     std::string_view detail, std::uint32_t retry_after_secs) {
  count_status(request.module->cells, status);
  HostRequest said(context_, exchange, request.from, request.path_query);
  said.fail(*request.module, detail);
  turn_away(exchange, said, make_problem(status, detail, retry_after_secs));
}

void Service::turn_away(http::Exchange& exchange, const http::ForwardedView& from, int status,
                        std::string_view detail) {
  HostRequest said(context_, exchange, from, {});
  turn_away(exchange, said, make_problem(status, detail));
}

void Service::turn_away(http::Exchange& exchange, HostRequest& request, const Answer& answer) {
  const bool head = exchange.head().method == "HEAD";
  const std::size_t bytes = send(exchange, answer, request.marks());
  request.on_end({.status = answer.status, .body_bytes_out = head ? 0 : bytes});
}

// Slow uploads may hold half of the permits: a share for each worker.
std::uint64_t Service::open_bodies_max() const {
  return std::max<std::uint64_t>(
      1, context_.settings.max_concurrent_requests / 2 / context_.settings.workers);
}

// X-API-Key is that of the settings. How long it takes tells nothing of the key but its length.
bool Service::has_key(const http::RequestHead& head) const {
  const std::string& key = context_.settings.api_key;
  const http::Field* const said = http::find_field(head.fields, "x-api-key");
  return !key.empty() && said != nullptr && said->value.size() == key.size() &&
         ::CRYPTO_memcmp(said->value.data(), key.data(), key.size()) == 0;
}

// Whether it may see what is for operators. False: it was answered.
bool Service::may_see(http::Exchange& exchange, const Routed& to, Entrance entrance,
                      bool forwarded) {
  const bool metrics = to.to == Routed::To::kMetrics;
  const bool gateway = to.to == Routed::To::kGateway;
  if (!metrics && !gateway && to.to != Routed::To::kOpenApi) {
    return true;
  }
  const bool moved =
      entrance == Entrance::kPublic && !context_.settings.admin.empty() && (metrics || gateway);
  const bool keyed = has_key(exchange.head());
  // A proxy passes on every path: what is for operators is not for its clients.
  if (moved || (forwarded && !keyed)) {
    problem(exchange, 404, kNothingHere);
    return false;
  }
  if (!keyed && !context_.settings.api_key.empty() && (gateway || entrance == Entrance::kAdmin)) {
    problem(exchange, 401, "X-API-Key is missing or wrong");
    return false;
  }
  return true;
}

// Verbose health.
bool Service::may_see_all(const http::RequestHead& head, Entrance entrance, bool forwarded) const {
  if (entrance == Entrance::kPublic && !context_.settings.admin.empty()) {
    return false;
  }
  return has_key(head) || (context_.settings.api_key.empty() && !forwarded);
}

// GET and HEAD. False: it was answered.
bool Service::method_fits(http::Exchange& exchange, const Routed& to) {
  const std::string_view method = exchange.head().method;
  Answer answer;
  answer.allow = true;
  if (method == "OPTIONS" || to.to == Routed::To::kServer) {
    answer.status = context_.segment.draining() && to.to != Routed::To::kLive ? 503 : 200;
    send(exchange, answer);
    return false;
  }
  if (method != "GET" && method != "HEAD") {
    problem(exchange, 405, fmt::format("{} is not allowed here", method));
    return false;
  }
  return true;
}

void Service::ask_desk(http::Exchange& exchange) {
  const std::string_view path_query = exchange.head().path_query;
  const Marks marks = make_marks(exchange.head());
  if (context_.documents == nullptr ||
      !context_.documents->ask(exchange, path_query.substr(0, path_query.find('?')),
                               telemetry::view(marks.id), telemetry::view(marks.traceparent))) {
    problem(exchange, 503, "too many ask for this at once");
  }
}

void Service::built_in(http::Exchange& exchange, const Routed& to, Entrance entrance,
                       bool forwarded) {
  if (!may_see(exchange, to, entrance, forwarded) || !method_fits(exchange, to)) {
    return;
  }
  if (to.to == Routed::To::kGateway || to.to == Routed::To::kOpenApi) {
    ask_desk(exchange);
    return;
  }
  context_.log.line(telemetry::Level::kDebug, telemetry::Target::kHttp, "Built-in request")
      .str("method", exchange.head().method)
      .str("path", exchange.head().path_query.substr(0, exchange.head().path_query.find('?')));
  if (to.to == Routed::To::kMetrics) {
    const Marks marks = make_marks(exchange.head());
    if (!context_.metrics->scrape(exchange, *context_.compression, telemetry::view(marks.id),
                                  telemetry::view(marks.traceparent))) {
      problem(exchange, 503, "too many ask for this at once");
    }
    return;
  }
  Answer answer;
  HealthView view = health(may_see_all(exchange.head(), entrance, forwarded)
                               ? query_of(exchange.head().path_query)
                               : std::string_view());
  if (to.to == Routed::To::kLive) {
    view.status = "live";
  } else if (view.status != "ready") {
    answer.status = 503;
    answer.retry_after_secs = 1;
  }
  write_health(context_.text, view);
  answer.type = "application/json";
  answer.body = context_.text;
  send(exchange, answer);
}

Service::Marks Service::make_marks(const http::RequestHead& head) {
  const http::Field* parent = http::find_field(head.fields, "traceparent");
  return {telemetry::make_uuid(context_.random),
          telemetry::format_traceparent(telemetry::child_of(
              parent == nullptr ? std::nullopt : telemetry::parse_traceparent(parent->value),
              context_.random))};
}

void Service::send(http::Exchange& exchange, const Answer& answer) {
  const Marks marks = make_marks(exchange.head());
  context_.segment.count_response(context_.slot, answer.status, {});
  send(exchange, answer,
       {{{"X-Request-ID", telemetry::view(marks.id)},
         {"traceparent", telemetry::view(marks.traceparent)}}});
}

std::size_t Service::send(http::Exchange& exchange, const Answer& answer, const MarkFields& marks) {
  std::vector<http::Field>& fields = context_.fields;
  fields.clear();
  if (!answer.type.empty()) {
    fields.push_back({"Content-Type", answer.type});
  }
  if (answer.allow) {
    fields.push_back({"Allow", kAllow});
  }
  const fmt::format_int seconds(answer.retry_after_secs);
  if (answer.retry_after_secs != 0) {
    fields.push_back({"Retry-After", {seconds.data(), seconds.size()}});
  }
  if (answer.status == 401) {
    fields.push_back({"WWW-Authenticate", "ApiKey realm=\"mik\""});
  }
  fields.insert(fields.end(), marks.begin(), marks.end());
  return context_.compression->respond(exchange,
                                       context_.compression->wanted(exchange.head().fields),
                                       answer.status, fields, answer.body);
}

void Service::problem(http::Exchange& exchange, int status, std::string_view detail) {
  send(exchange, make_problem(status, detail));
}

Service::Answer Service::make_problem(int status, std::string_view detail,
                                      std::uint32_t retry_after_secs) {
  write_problem(context_.text, status, detail);
  Answer answer;
  answer.status = status;
  answer.type = kProblemType;
  answer.body = context_.text;
  answer.retry_after_secs = retry_after_secs != 0 ? retry_after_secs : status == 503 ? 1 : 0;
  answer.allow = status == 405;
  return answer;
}

void Service::static_file(http::Exchange& exchange, const http::ForwardedView& from) {
  constexpr std::string_view kFolder = "/static";
  const http::RequestHead& head = exchange.head();
  HostRequest said(context_, exchange, from, head.path_query.substr(kFolder.size()));
  const MarkFields marks = said.marks();
  context_.files->serve(exchange, {.method = head.method,
                                   .path_query = head.path_query,
                                   .fields = head.fields,
                                   .answer_fields = marks,
                                   .end = &said});
}

std::string_view Service::problem(int status, std::string_view detail) {
  write_problem(context_.text, status, detail);
  return context_.text;
}

void Service::on_static_error(std::string_view path, int error) {
  context_.log.line(telemetry::Level::kWarn, "Static file cannot be read")
      .str("path", path)
      .str("error", std::generic_category().message(error));
}

void Service::describe_failure(int status, std::string_view detail, std::string& field_lines,
                               std::string& body) {
  shared::count(context_.counters().requests);
  context_.segment.count_response(context_.slot, status, {});
  write_problem(body, status, detail);
  const auto id = telemetry::make_uuid(context_.random);
  context_.log.line(telemetry::Level::kInfo, telemetry::Target::kHttp, "Request head refused")
      .str("request_id", telemetry::view(id))
      .num("status", status)
      .str("error", detail);
  fmt::format_to(std::back_inserter(field_lines), "Content-Type: {}\r\nX-Request-ID: {}\r\n",
                 kProblemType, telemetry::view(id));
  if (status == 503) {
    field_lines += "Retry-After: 1\r\n";
  }
}

std::string_view Service::status_now() const {
  if (context_.segment.draining()) {
    return "draining";
  }
  return context_.ready ? "ready" : "starting";
}

std::uint64_t Service::resident_bytes() {
  // /proc is read at most once a second, however often anybody asks.
  if (const base::Time now = context_.loop.now(); now - resident_read_ > std::chrono::seconds(1)) {
    resident_read_ = now;
    resident_bytes_ = runtime::resident_bytes(context_.segment);
  }
  return resident_bytes_;
}

HealthView Service::health(std::string_view query) {
  HealthView view;
  view.status = status_now();
  view.cache_capacity = context_.settings.cache_size;
  view.cache_max_bytes = context_.settings.max_cache_bytes;
  view.workers = context_.segment.header().workers.load();
  for (std::size_t slot = 0; slot < context_.segment.slots(); ++slot) {
    view.total_requests +=
        context_.segment.row(slot).counters.requests.load(std::memory_order_relaxed);
    view.workers_ready += context_.segment.state(slot) == shared::WorkerState::kReady ? 1 : 0;
  }
  view.resident_bytes = resident_bytes();
  view.memory_limit_per_request = context_.settings.guest.memory_limit_bytes;
  view.verbose = is_verbose(query);
  add_modules(view);
  return view;
}

// Of all workers: a module that several have loaded counts once, as its pages do.
void Service::add_modules(HealthView& view) {
  const shared::ModuleTable& table = context_.segment.modules();
  loaded_.clear();
  context_.modules->index().refresh();
  context_.modules->index().each([&](const ModuleEntry& module) {
    ++view.modules;
    view.modules_broken +=
        module.state == shared::RowState::kBroken || module.cached.broken ? 1 : 0;
    view.modules_compiling += module.state == shared::RowState::kCompiling ? 1 : 0;
    view.modules_pending += module.pending ? 1 : 0;
    for (std::size_t slot = 0; slot < context_.segment.slots(); ++slot) {
      if (table.cells(module.row, slot).loaded.load(std::memory_order_relaxed) != 0) {
        ++view.cache_size;
        view.cache_bytes += module.artefact_bytes;
        loaded_.push_back(module.label);
        break;
      }
    }
  });
  view.loaded_modules = loaded_;
}

}  // namespace mik::runtime
