#include "config/model.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "config/model_rows.hpp"
#include "config/model_server.hpp"

namespace mik::config {

namespace rows {
namespace {

using enum SectionId;
using enum Type;

constexpr std::array kSections = {
    Section{kProject, "project", Shape::kOne, "What is deployed."},
    Section{kServer, "server", Shape::kOne, "The server, and what holds for each module."},
    Section{kModules, "modules", Shape::kNamed,
            "One module, named by the stem of its file. A key that stands here replaces the one of "
            "`[server]`, `env` and lists as a whole."},
    Section{kTenants, "tenants", Shape::kNamed,
            "One tenant: what holds for each of its modules, in place of `[server]`, and quotas of "
            "all of them together."},
    Section{kRoutes, "routes", Shape::kList,
            "A host and path that lead to a module. The longest path wins, then an exact host "
            "before a wildcard, then a wildcard before any host."},
    Section{kBreaker, "breaker", Shape::kOne,
            "The circuit breaker, of each module and each module of a tenant."},
    Section{kTracing, "tracing", Shape::kOne, "Traces."},
    Section{kComposition, "composition", Shape::kOne, "How a component is composed when built."},
    Section{kLb, "lb", Shape::kOne,
            "A load balancer over processes. One port is shared by all workers here, so nothing "
            "of it is needed."},
    Section{kDependencies, "dependencies", Shape::kNamed,
            "Components that a build takes in. `name = \"1.0\"` is short for "
            "`name = { version = \"1.0\" }`. One source each: version, git, path or registry "
            "(which needs a version)."},
    Section{kDevDependencies, "dev-dependencies", Shape::kNamed,
            "As `[dependencies.NAME]`, for development."},
    Section{kSchedules, "schedules", Shape::kList, "Requests by the clock."},
};

constexpr std::string_view kServices = "kv|sql|storage";

// [modules.NAME] and [tenants.ID] share these.
void add_guest_keys(std::vector<Key>& out, SectionId section) {
  const auto none = std::string_view();
  out.insert(
      out.end(),
      {
          {section, "env", kPairs, none, "What its guests see as their environment.",
           pairs<&GuestSettings::env>},
          {section, "http_allowed", kTexts, none, "Where its guests may connect.",
           texts<&GuestSettings::http_allowed>, 0, 0, Check::kHostPattern},
          {section, "execution_timeout_secs", kWhole, none,
           "Seconds until the head of a response must be out.",
           seconds<&GuestSettings::execution_timeout>, 1, 300},
          {section, "memory_limit_bytes", kWhole, none, "Linear memory of one request.",
           whole<&GuestSettings::memory_limit_bytes>, kMiB, 4096 * kMiB},
          {section, "cpu_ms", kWhole, none, "CPU time of one request, streaming included.",
           milliseconds<&GuestSettings::cpu_budget>, 1, 3'600'000},
          {section, "cpu_share", kWhole, none, "Weight in the scheduler; 100 when not given.",
           whole<&GuestSettings::cpu_share>, 1, 10'000},
          {section, "reuse", kWhole, none, "Requests per instance; 1: a fresh one for each.",
           whole<&GuestSettings::reuse>, 1, 1'000'000},
          {.section = section,
           .name = "services",
           .type = kTexts,
           .fallback = none,
           .meaning = "Grants of services.",
           .apply = texts<&GuestSettings::services>,
           .check = Check::kChoice,
           .choices = kServices,
           .later = true},
      });
}

void add_module_keys(std::vector<Key>& out) {
  add_guest_keys(out, kModules);
  out.push_back({kModules, "max_requests", kWhole, "",
                 "Requests at once, in place of `max_per_module_requests`.",
                 whole<&GuestSettings::max_requests>, 1, 1'000'000});
}

void add_tenant_keys(std::vector<Key>& out) {
  add_guest_keys(out, kTenants);
  const auto quota = [&](std::string_view name, std::string_view meaning,
                         void (*apply)(const Target&, const Value&)) {
    out.push_back({.section = kTenants,
                   .name = name,
                   .type = kWhole,
                   .fallback = "",
                   .meaning = meaning,
                   .apply = apply,
                   .min = 1,
                   .max = 1 << 30,
                   .later = true});
  };
  out.push_back({kTenants, "max_requests", kWhole, "",
                 "Requests at once, of all its modules together; without it no limit but "
                 "`max_concurrent_requests`.",
                 whole<&TenantSettings::max_requests>, 1, 1'000'000});
  out.push_back({kTenants, "memory_bytes", kWhole, "",
                 "Memory of all its guests at once; without it no limit but the budget.",
                 whole<&TenantSettings::memory_bytes>, kMiB, kMiB << 20});
  quota("kv_max_mb", "Its keys and values.", whole<&TenantSettings::kv_bytes_max, kMiB>);
  quota("sql_max_mb", "Its databases.", whole<&TenantSettings::sql_bytes_max, kMiB>);
  quota("storage_max_mb", "Its objects.", whole<&TenantSettings::storage_bytes_max, kMiB>);
}

void add_route_keys(std::vector<Key>& out) {
  out.insert(
      out.end(),
      {
          {kRoutes, "host", kText, "",
           "`api.example.com`, `*.example.com` (all below it); "
           "without it any host.",
           text<&RouteSettings::host>, 0, 0, Check::kRouteHost},
          {kRoutes, "path", kText, "\"/\"", "A prefix that ends between segments.",
           text<&RouteSettings::path>, 0, 0, Check::kRoutePath},
          {kRoutes, "tenant", kText, "", "Whose module; without it a module of the platform.",
           text<&RouteSettings::tenant>, 0, 0, Check::kTenant},
          {.section = kRoutes,
           .name = "module",
           .type = kText,
           .fallback = "",
           .meaning = "Which module answers.",
           .apply = text<&RouteSettings::module>,
           .check = Check::kModule,
           .required = true},
          {kRoutes, "strip_prefix", kBool, "false", "The module sees the path without the prefix.",
           flag<&RouteSettings::strip_prefix>},
      });
}

void add_tracing_keys(std::vector<Key>& out) {
  out.insert(
      out.end(),
      {
          {.section = kTracing,
           .name = "enabled",
           .type = kBool,
           .fallback = "true",
           .meaning = "Whether spans are made.",
           .apply = flag<&TracingSettings::enabled>},
          {.section = kTracing,
           .name = "otlp_endpoint",
           .type = kText,
           .fallback = "",
           .meaning = "The collector that spans are sent to; without it none are.",
           .apply = text<&TracingSettings::otlp_endpoint>,
           .check = Check::kUrl},
          {.section = kTracing,
           .name = "service_name",
           .type = kText,
           .fallback = "",
           .meaning = "`service.name` of spans; without it the project's name, else `mik`.",
           .apply = text<&TracingSettings::service_name>,
           .check = Check::kNotEmpty},
          {.section = kTracing,
           .name = "protocol",
           .type = kText,
           .fallback = "\"auto\"",
           .meaning = "`auto`: http/protobuf for port 4318 and for a URL with a path; else grpc.",
           .apply = text<&TracingSettings::protocol>,
           .check = Check::kChoice,
           .choices = "auto|grpc|http/protobuf"},
          {.section = kTracing,
           .name = "sample_ratio",
           .type = kNumber,
           .fallback = "1.0",
           .meaning = "How many of the requests that carry no decision of the caller are traced.",
           .apply = number<&TracingSettings::sample_ratio>,
           .min = 0,
           .max = 1},
      });
}

void add_small_sections(std::vector<Key>& out) {
  out.insert(
      out.end(),
      {
          {kBreaker, "failures", kWhole, "5", "Failures in a row that open it.",
           whole<&BreakerSettings::failures>, 1, 1'000'000},
          {kBreaker, "open_secs", kWhole, "30", "How long it stays open.",
           seconds<&BreakerSettings::open>, 1, kDay},
          {kBreaker, "probes", kWhole, "3", "Requests let through to try, after that.",
           whole<&BreakerSettings::probes>, 1, 1000},
          {kBreaker, "guest_5xx", kBool, "false", "Whether a guest's own 5xx answer is a failure.",
           flag<&BreakerSettings::guest_5xx>},
          {kComposition, "http_handler", kBool, "true", "Plug the handler into the bridge."},
          {.section = kComposition,
           .name = "bridge",
           .type = kText,
           .fallback = "",
           .meaning = "The bridge to take.",
           .check = Check::kNotEmpty},
      });
}

void add_lb_keys(std::vector<Key>& out) {
  const auto whole_key = [&](std::string_view name, std::string_view fallback,
                             std::string_view meaning) {
    out.push_back({kLb, name, kWhole, fallback, meaning, nullptr, 0, 1u << 31});
  };
  out.push_back({kLb, "enabled", kBool, "false", "A balancer in front."});
  out.push_back({kLb, "health_check_type", kText, "\"http\"", "`http` or `tcp`."});
  out.push_back({.section = kLb,
                 .name = "health_check_path",
                 .type = kText,
                 .fallback = "\"/health\"",
                 .meaning = "What is asked.",
                 .check = Check::kRoutePath});
  whole_key("health_check_interval_ms", "5000", "How often.");
  whole_key("health_check_timeout_ms", "2000", "How long an answer may take.");
  whole_key("unhealthy_threshold", "3", "Failures until a process is left out.");
  whole_key("healthy_threshold", "2", "Answers until it is taken back.");
  whole_key("request_timeout_secs", "30", "Of one request.");
  whole_key("max_connections_per_backend", "100", "Of one process.");
  whole_key("pool_idle_timeout_secs", "90", "Of a connection that nobody uses.");
  whole_key("tcp_keepalive_secs", "60", "Of a connection to a process.");
  out.push_back({kLb, "http2_only", kBool, "false", "HTTP/2 on both sides."});
}

void add_dependency_keys(std::vector<Key>& out, SectionId section) {
  for (const auto& [name, meaning] :
       {std::pair<std::string_view, std::string_view>{"version", "From a registry."},
        {"git", "`https://...`, `ssh://...` or `git@host:path`."},
        {"branch", "Of git; one of branch, tag and rev."},
        {"tag", "Of git."},
        {"rev", "Of git."},
        {"path", "A `.wasm` file or a folder, relative to this file."},
        {"registry", "Which registry; with a version."}}) {
    out.push_back({section, name, kText, "", meaning});
  }
}

void add_schedule_keys(std::vector<Key>& out) {
  const auto required = [&](std::string_view name, Check check, std::string_view meaning) {
    out.push_back({.section = kSchedules,
                   .name = name,
                   .type = kText,
                   .fallback = "",
                   .meaning = meaning,
                   .check = check,
                   .required = true});
  };
  required("name", Check::kNotEmpty, "Its name.");
  required("module", Check::kModule, "Whom it calls.");
  required("cron", Check::kNotEmpty, "When: five, six or seven fields.");
  out.insert(
      out.end(),
      {
          {kSchedules, "method", kText, "\"GET\"", "Of the request.", nullptr, 0, 0,
           Check::kNotEmpty},
          {kSchedules, "path", kText, "\"/\"", "Of the request.", nullptr, 0, 0, Check::kRoutePath},
          {kSchedules, "enabled", kBool, "true", "Whether it runs."},
          {kSchedules, "port", kWhole, "3000", "Where the instance listens.", nullptr, 1, 65535},
          {kSchedules, "body", kText, "", "Of the request."},
          {kSchedules, "headers", kPairs, "", "Of the request."},
          {kSchedules, "health_path", kText, "\"/health\"", "Asked before.", nullptr, 0, 0,
           Check::kRoutePath},
      });
}

std::vector<Key> make_keys() {
  std::vector<Key> out = {
      {.section = kProject,
       .name = "name",
       .type = kText,
       .fallback = "",
       .meaning = "The project's name; default of `tracing.service_name`.",
       .apply = text<&Settings::project_name>,
       .check = Check::kProjectName,
       .required = true},
      {kProject, "version", kText, "\"0.1.0\"", "Its version: `service.version` of spans.",
       text<&Settings::project_version>, 0, 0, Check::kVersion},
      {kProject, "description", kText, "", "A sentence."},
      {kProject, "authors", kPersons, "", "Tables of `name` and, when there is one, `email`."},
      {kProject, "language", kText, "", "Which language a build takes it for."},
  };
  const auto server = rows::server_keys();
  out.insert(out.end(), server.begin(), server.end());
  add_module_keys(out);
  add_tenant_keys(out);
  add_route_keys(out);
  add_small_sections(out);
  add_tracing_keys(out);
  add_lb_keys(out);
  add_dependency_keys(out, kDependencies);
  add_dependency_keys(out, kDevDependencies);
  add_schedule_keys(out);
  return out;
}

}  // namespace
}  // namespace rows

std::span<const Section> sections() noexcept { return rows::kSections; }

std::span<const Key> keys() noexcept {
  static const std::vector<Key> kAll = rows::make_keys();
  return kAll;
}

const Section& section(SectionId id) noexcept {
  return *std::ranges::find(rows::kSections, id, &Section::id);
}

const Section* find_section(std::string_view name) noexcept {
  const auto* found = std::ranges::find(rows::kSections, name, &Section::name);
  return found != rows::kSections.end() ? found : nullptr;
}

const Key* find_key(SectionId section, std::string_view name) noexcept {
  for (const Key& key : keys()) {
    if (key.section == section && key.name == name) {
      return &key;
    }
  }
  return nullptr;
}

}  // namespace mik::config
