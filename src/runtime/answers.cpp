#include "runtime/answers.hpp"

#include <array>
#include <charconv>
#include <ctime>
#include <utility>

#include <fmt/format.h>

#include "http/message.hpp"
#include "telemetry/log.hpp"

namespace mik::runtime {

namespace {

void append_number(std::string& out, std::uint64_t value) {
  std::array<char, 24> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  out.append(text.data(), end);
}

void member(std::string& out, std::string_view name, std::uint64_t value) {
  out += ",\n  \"";
  out += name;
  out += "\": ";
  append_number(out, value);
}

void family(std::string& out, std::string_view name, std::string_view type, std::string_view help) {
  fmt::format_to(std::back_inserter(out), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void sample(std::string& out, std::string_view name, std::string_view type, std::string_view help,
            std::uint64_t value) {
  family(out, name, type, help);
  fmt::format_to(std::back_inserter(out), "{} {}\n", name, value);
}

constexpr std::array<std::string_view, shared::kGuestFailures> kFailureNames = {
    "trap",   "no_response", "error_code", "deadline", "cpu_budget",
    "memory", "overload",    "aborted",    "other"};

void write_histogram(std::string& out, const shared::Totals& totals) {
  constexpr std::string_view kName = "mik_http_request_duration_seconds";
  family(out, kName, "histogram", "Time from a request's head to the end of its response.");
  std::uint64_t cumulative = 0;
  for (std::size_t i = 0; i < shared::kLatencyBoundsUs.size(); ++i) {
    cumulative += totals.latency[i];
    fmt::format_to(std::back_inserter(out), "{}_bucket{{le=\"{}\"}} {}\n", kName,
                   static_cast<double>(shared::kLatencyBoundsUs[i]) / 1e6, cumulative);
  }
  cumulative += totals.latency.back();
  fmt::format_to(std::back_inserter(out), "{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n",
                 kName, cumulative, kName, static_cast<double>(totals.latency_sum_us) / 1e6, kName,
                 cumulative);
}

// Prometheus text format: a label's value.
void append_label(std::string& out, std::string_view value) {
  for (const char c : value) {
    if (c == '\\' || c == '"') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
}

// One sample of each module: `value(out, module)` appends it.
template <class Value>
void by_module(std::string& out, const MetricsView& view, std::string_view name,
               std::string_view type, std::string_view help, Value&& value) {
  family(out, name, type, help);
  for (const ModuleSample& module : view.modules) {
    out += name;
    out += "{module=\"";
    append_label(out, module.label);
    out += "\"} ";
    value(module);
    out += '\n';
  }
}

void write_refusals(std::string& out, const MetricsView& view) {
  constexpr std::string_view kName = "mik_module_refused_total";
  family(out, kName, "counter", "Requests to a module that were refused, by what refused them.");
  for (const ModuleSample& module : view.modules) {
    for (const auto& [by, count] :
         {std::pair{"module", module.refused_module}, std::pair{"tenant", module.refused_tenant},
          std::pair{"breaker", module.refused_breaker}}) {
      out += kName;
      out += "{module=\"";
      append_label(out, module.label);
      fmt::format_to(std::back_inserter(out), "\",by=\"{}\"}} {}\n", by, count);
    }
  }
}

void write_module_metrics(std::string& out, const MetricsView& view) {
  const HealthView& health = view.health;
  family(out, "mik_modules", "gauge", "Modules that there are, by what can be said of them.");
  for (const auto& [state, count] :
       {std::pair{"all", health.modules}, std::pair{"broken", health.modules_broken},
        std::pair{"compiling", health.modules_compiling},
        std::pair{"pending", health.modules_pending}}) {
    fmt::format_to(std::back_inserter(out), "mik_modules{{state=\"{}\"}} {}\n", state, count);
  }
  sample(out, "mik_module_cache_hits_total", "counter", "Requests that found their module loaded.",
         view.cache_hits);
  sample(out, "mik_module_cache_misses_total", "counter", "Modules that were loaded.",
         view.cache_misses);
  sample(out, "mik_module_cache_size_bytes", "gauge", "Bytes of the loaded modules' artefacts.",
         health.cache_bytes);
  const auto number = [&](std::uint64_t ModuleSample::* member) {
    return [&out, member](const ModuleSample& module) { append_number(out, module.*member); };
  };
  by_module(out, view, "mik_module_requests_total", "counter", "Requests to a module.",
            number(&ModuleSample::requests));
  by_module(out, view, "mik_module_active_requests", "gauge", "Requests to a module in flight.",
            number(&ModuleSample::active));
  by_module(out, view, "mik_module_cpu_seconds_total", "counter", "CPU time of a module's guests.",
            [&](const ModuleSample& module) {
              fmt::format_to(std::back_inserter(out), "{}",
                             static_cast<double>(module.cpu_ns) / 1e9);
            });
  by_module(out, view, "mik_module_memory_bytes", "gauge",
            "Memory and tables of a module's guests that live.",
            number(&ModuleSample::memory_bytes));
  write_refusals(out, view);
}

void write_reference_metrics(std::string& out, const MetricsView& view) {
  const HealthView& health = view.health;
  sample(out, "mik_requests_total", "counter", "Requests received, built-in endpoints included.",
         view.totals->requests);
  sample(out, "mik_cache_entries", "gauge", "Modules that are loaded.", health.cache_size);
  sample(out, "mik_cache_bytes", "gauge", "Bytes of the loaded modules' artefacts.",
         health.cache_bytes);
  sample(out, "mik_cache_capacity_bytes", "gauge", "Limit of mik_cache_bytes.",
         health.cache_max_bytes);
  sample(out, "mik_max_concurrent_requests", "gauge", "Configured limit of requests in flight.",
         view.max_concurrent_requests);
  by_module(out, view, "mik_circuit_breaker_state", "gauge",
            "Circuit breaker of a module: 0 closed, 1 open, 2 half-open.",
            [&](const ModuleSample& module) { append_number(out, module.breaker); });
  sample(out, "mik_memory_bytes", "gauge", "Resident memory of all workers.",
         health.resident_bytes);
}

}  // namespace

void write_problem(std::string& out, int status, std::string_view detail) {
  out = R"({"type":"about:blank","title":")";
  out += http::reason_phrase(status);
  out += R"(","status":)";
  append_number(out, static_cast<std::uint64_t>(status));
  out += R"(,"detail":")";
  telemetry::append_json_escaped(out, detail);
  out += R"(","error":")";
  telemetry::append_json_escaped(out, detail);
  out += R"("})";
}

void append_rfc3339(std::string& out) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  ::gmtime_r(&now.tv_sec, &utc);
  std::array<char, 32> text;
  out.append(text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S.", &utc));
  for (long divisor = 100'000'000; divisor >= 1000; divisor /= 10) {
    out += static_cast<char>('0' + now.tv_nsec / divisor % 10);
  }
  out += "+00:00";
}

void write_health(std::string& out, const HealthView& view) {
  out = "{\n  \"status\": \"";
  out += view.status;
  out += "\",\n  \"timestamp\": \"";
  append_rfc3339(out);
  out += '"';
  member(out, "cache_size", view.cache_size);
  member(out, "cache_capacity", view.cache_capacity);
  member(out, "cache_bytes", view.cache_bytes);
  member(out, "cache_max_bytes", view.cache_max_bytes);
  member(out, "total_requests", view.total_requests);
  member(out, "workers", view.workers);
  member(out, "workers_ready", view.workers_ready);
  member(out, "modules", view.modules);
  member(out, "modules_broken", view.modules_broken);
  member(out, "modules_compiling", view.modules_compiling);
  member(out, "modules_pending", view.modules_pending);
  out += ",\n  \"memory\": {\n    \"allocated_bytes\": ";
  append_number(out, view.resident_bytes);
  out += ",\n    \"limit_per_request_bytes\": ";
  append_number(out, view.memory_limit_per_request);
  out += "\n  }";
  if (view.verbose) {
    out += ",\n  \"loaded_modules\": [";
    for (std::size_t i = 0; i < view.loaded_modules.size(); ++i) {
      out += i == 0 ? "\"" : ", \"";
      telemetry::append_json_escaped(out, view.loaded_modules[i]);
      out += '"';
    }
    out += ']';
  }
  out += "\n}\n";
}

void write_metrics(std::string& out, const MetricsView& view) {
  const shared::Totals& totals = *view.totals;
  out.clear();
  family(out, "mik_http_requests_total", "counter", "Responses sent, by class of status.");
  for (std::size_t i = 0; i < totals.status.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "mik_http_requests_total{{status=\"{}xx\"}} {}\n",
                   i + 1, totals.status[i]);
  }
  write_histogram(out, totals);
  family(out, "mik_guest_failures_total", "counter",
         "Requests that the host answered or cut for a guest.");
  for (std::size_t i = 0; i < kFailureNames.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "mik_guest_failures_total{{reason=\"{}\"}} {}\n",
                   kFailureNames[i], totals.failures[i]);
  }
  sample(out, "mik_guest_requests_total", "counter", "Requests that went to a guest.",
         totals.guest_requests);
  sample(out, "mik_client_gone_total", "counter", "Requests whose client left before the end.",
         totals.client_gone);
  sample(out, "mik_active_requests", "gauge", "Requests to guests in flight.",
         totals.active_requests);
  sample(out, "mik_active_connections", "gauge", "Open connections.", totals.connections);
  sample(out, "mik_connections_accepted_total", "counter", "Connections accepted.",
         totals.accepted);
  sample(out, "mik_connections_refused_total", "counter", "Connections over max_connections.",
         totals.refused);
  sample(out, "mik_connections_handed_over_total", "counter",
         "Connections passed to a lighter worker.", totals.handed_out);
  sample(out, "mik_accept_errors_total", "counter", "Failed accept calls.", totals.accept_errors);
  sample(out, "mik_http_request_body_bytes_total", "counter", "Request content received.",
         totals.bytes_in);
  sample(out, "mik_http_response_body_bytes_total", "counter", "Response content sent.",
         totals.bytes_out);
  sample(out, "mik_workers", "gauge", "Worker processes that should run.", totals.workers);
  sample(out, "mik_workers_ready", "gauge", "Worker processes that serve.", totals.workers_ready);
  sample(out, "mik_worker_restarts_total", "counter", "Workers started again after they died.",
         totals.restarts);
  sample(out, "mik_config_last_reload_successful", "gauge",
         "1: the configuration as it was last read serves; 0: it could not be used.",
         totals.config_reload_ok);
  sample(out, "mik_config_last_reload_success_timestamp_seconds", "gauge",
         "When the configuration that serves was read.", totals.config_reload_unix_s);
  sample(out, "mik_config_reload_failures_total", "counter",
         "Reloads that left the configuration as it was.", totals.config_reloads_failed);
  write_module_metrics(out, view);
  write_reference_metrics(out, view);
}

}  // namespace mik::runtime
