#include "runtime/metrics_text.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "reliability/breaker.hpp"
#include "runtime/answers.hpp"
#include "runtime/metrics_writer.hpp"

namespace mik::runtime {

namespace {

using shared::ModuleSums;
using Type = MetricType;
using Buckets = std::array<std::uint64_t, shared::kLatencyBuckets>;
constexpr auto kRelaxed = std::memory_order_relaxed;

constexpr std::array<std::string_view, shared::kGuestFailures> kFailureNames = {
    "trap",   "no_response", "error_code", "deadline", "cpu_budget",
    "memory", "overload",    "aborted",    "other"};
constexpr std::array<std::string_view, shared::kSpanDrops> kSpanDropNames = {
    "queue_full", "unreachable", "rejected", "shutdown"};

struct Histogram {
  Buckets buckets{};
  std::uint64_t sum_ns = 0;

  void add(const shared::HistogramCells& cells) noexcept {
    for (std::size_t i = 0; i < buckets.size(); ++i) {
      buckets[i] += cells.buckets[i].load(kRelaxed);
    }
    sum_ns += cells.sum_ns.load(kRelaxed);
  }
  bool empty() const noexcept {
    return std::ranges::all_of(buckets, [](std::uint64_t count) { return count == 0; });
  }
};

struct LoopLag {
  std::string labels;
  Histogram histogram;
  std::uint64_t max_us = 0;
};

struct ModuleSample {
  std::string labels;
  ModuleSums sums;
  std::optional<std::uint64_t> breaker;  // reliability::BreakerState; none of the others together
};

struct TenantSample {
  std::string labels;
  std::uint64_t active = 0;
  std::uint64_t memory_bytes = 0;
};

struct OutboundSample {
  std::uint64_t answered = 0;
  std::uint64_t failed = 0;
};

// What is read before anything is written.
struct Snapshot {
  shared::Totals totals;
  std::uint64_t resident_bytes = 0;

  std::uint64_t instances = 0;
  std::uint64_t instances_max = 0;
  std::uint64_t waiting = 0;
  std::uint64_t spans_exported = 0;
  std::array<std::uint64_t, shared::kSpanDrops> spans_dropped{};
  std::uint64_t outbound_refused = 0;
  std::map<std::string, OutboundSample> outbound;
  Histogram queue;
  Histogram execution;
  Histogram instantiation;
  std::vector<LoopLag> loop_lag;
  std::array<std::optional<shared::Exemplar>, shared::kLatencyBuckets> exemplars;

  std::uint64_t modules_all = 0;
  std::uint64_t modules_broken = 0;
  std::uint64_t modules_compiling = 0;
  std::uint64_t modules_pending = 0;
  std::uint64_t cache_entries = 0;
  std::uint64_t cache_bytes = 0;
  ModuleSums all{};  // those that are gone, too
  std::vector<ModuleSample> modules;
  std::vector<TenantSample> tenants;
};

std::string label(std::string_view name, std::string_view value) {
  std::string text(name);
  text += "=\"";
  escape_label(text, value);
  text += '"';
  return text;
}

// A module of the platform has no tenant, and none is the same as an empty one.
std::string labels_of(const shared::ModuleRow& row) {
  return row.tenant.empty()
             ? label("module", row.name)
             : label("module", row.tenant + "/" + row.name) + "," + label("tenant", row.tenant);
}

void read_outbound(Snapshot& to, const shared::Segment& segment) {
  for (std::size_t place = 0; place <= shared::kOutboundPatterns; ++place) {
    OutboundSample sums;
    for (std::size_t slot = 0; slot < segment.slots(); ++slot) {
      const shared::OutboundCells& cells = segment.row(slot).metrics.outbound[place];
      sums.answered += cells.answered.load(kRelaxed);
      sums.failed += cells.failed.load(kRelaxed);
    }
    const bool others = place == shared::kOutboundPatterns;
    if (others && sums.answered + sums.failed == 0) {
      continue;
    }
    const auto pattern = others ? std::string(shared::kOtherLabel)
                                : segment.outbound_pattern_at(place).value_or(std::string());
    if (!pattern.empty()) {
      OutboundSample& sample = to.outbound[pattern];
      sample.answered += sums.answered;
      sample.failed += sums.failed;
    }
  }
}

void read_workers(Snapshot& to, const shared::Segment& segment) {
  for (std::size_t slot = 0; slot < segment.slots(); ++slot) {
    const shared::WorkerMetrics& worker = segment.row(slot).metrics;
    to.instances += worker.instances.load(kRelaxed);
    to.instances_max += worker.instances_max.load(kRelaxed);
    to.waiting += worker.waiting.load(kRelaxed);
    to.spans_exported += worker.spans_exported.load(kRelaxed);
    for (std::size_t i = 0; i < to.spans_dropped.size(); ++i) {
      to.spans_dropped[i] += worker.spans_dropped[i].load(kRelaxed);
    }
    to.outbound_refused += worker.outbound_refused.load(kRelaxed);
    to.queue.add(worker.queue);
    to.execution.add(worker.execution);
    to.instantiation.add(worker.instantiation);
    LoopLag lag{fmt::format("worker=\"{}\"", slot), {}, worker.loop_lag_max_us.load(kRelaxed)};
    lag.histogram.add(worker.loop_lag);
    if (!lag.histogram.empty()) {
      to.loop_lag.push_back(std::move(lag));
    }
    for (std::size_t i = 0; i < to.exemplars.size(); ++i) {
      const auto found = segment.exemplar(slot, i);
      if (found.has_value() &&
          (!to.exemplars[i].has_value() || found->unix_ms > to.exemplars[i]->unix_ms)) {
        to.exemplars[i] = found;
      }
    }
  }
}

void read_tenants(Snapshot& to, const shared::Segment& segment,
                  const std::set<std::uint32_t>& tenants) {
  const shared::ModuleTable& table = segment.modules();
  for (const std::uint32_t row : tenants) {
    TenantSample sample{label("tenant", table.tenant_name(row)), 0, 0};
    for (std::size_t slot = 0; slot < segment.slots(); ++slot) {
      const shared::TenantCells& cells = table.tenant_cells(row, slot);
      sample.active += cells.active.load(kRelaxed);
      sample.memory_bytes += cells.memory_bytes.load(kRelaxed);
    }
    to.tenants.push_back(std::move(sample));
  }
}

void count_module(Snapshot& to, const shared::ModuleRow& row, const ModuleSums& sums) {
  ++to.modules_all;
  to.modules_broken += row.state == shared::RowState::kBroken || sums.broken != 0 ? 1 : 0;
  to.modules_compiling += row.state == shared::RowState::kCompiling ? 1 : 0;
  to.modules_pending += row.changed || !row.pending_error.empty() ? 1 : 0;
  if (sums.loaded != 0) {  // in several workers: its pages are there once
    ++to.cache_entries;
    to.cache_bytes += row.artefact_bytes;
  }
}

void read_modules(Snapshot& to, const shared::Segment& segment, base::Time now) {
  const shared::ModuleTable& table = segment.modules();
  to.modules.clear();
  to.tenants.clear();
  to.modules_all = to.modules_broken = to.modules_compiling = to.modules_pending = 0;
  to.cache_entries = to.cache_bytes = 0;
  to.all = {};
  ModuleSums others{};
  std::set<std::uint32_t> tenants;
  for (std::uint32_t number = 0; number < table.rows(); ++number) {
    ModuleSums sums{};
    for (std::size_t slot = 0; slot < segment.slots(); ++slot) {
      shared::add(sums, table.cells(number, slot));
      shared::add(to.all, table.cells(number, slot));
    }
    const bool labelled = table.has_label(number);
    if (!labelled) {
      for (std::size_t slot = 0; slot < segment.slots(); ++slot) {
        shared::add(others, table.cells(number, slot));
      }
    }
    const shared::ModuleRow row = table.read(number);
    if (row.state == shared::RowState::kFree || row.state == shared::RowState::kGone) {
      continue;
    }
    count_module(to, row, sums);
    if (labelled && sums.requests > 0) {
      const auto state = reliability::breaker_state(table.breaker(number), now);
      to.modules.push_back({labels_of(row), sums, static_cast<std::uint64_t>(state)});
      if (row.tenant_row != shared::kNoRow) {
        tenants.insert(row.tenant_row);
      }
    }
  }
  shared::add(others, table.gone());
  shared::add(to.all, table.gone());
  if (others.requests > 0) {
    to.modules.push_back({label("module", shared::kOtherLabel), others, std::nullopt});
  }
  read_tenants(to, segment, tenants);
}

Snapshot take(const shared::Segment& segment, base::Time now) {
  constexpr int kAttempts = 8;
  Snapshot snapshot;
  snapshot.totals = segment.totals();
  snapshot.resident_bytes = resident_bytes(segment);
  read_workers(snapshot, segment);
  read_outbound(snapshot, segment);
  // Once, but when a row changes hands meanwhile.
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::uint64_t before = segment.modules().folds();
    read_modules(snapshot, segment, now);
    if ((before & 1) == 0 && segment.modules().folds() == before) {
      break;
    }
  }
  return snapshot;
}

void write_http(MetricsWriter& out, const Snapshot& from) {
  const shared::Totals& totals = from.totals;
  const BucketLabels bounds(shared::kLatencyBoundsUs, out.format());
  out.family("mik_http_requests_total", Type::kCounter, "Responses sent, by class of status.");
  for (std::size_t i = 0; i < totals.status.size(); ++i) {
    out.sample(fmt::format("status=\"{}xx\"", i + 1), totals.status[i]);
  }
  out.family("mik_http_request_duration_seconds", Type::kHistogram,
             "Time from the head of a request to the end of its response.");
  out.histogram({}, bounds, totals.latency, from_us(totals.latency_sum_us), from.exemplars);
  out.family("mik_queue_duration_seconds", Type::kHistogram,
             "Time that a request waited for its component and its permit before it started.");
  out.histogram({}, bounds, from.queue.buckets, from_ns(from.queue.sum_ns));
  out.family("mik_wasm_execution_duration_seconds", Type::kHistogram,
             "Time from the start of a guest to its end.");
  out.histogram({}, bounds, from.execution.buckets, from_ns(from.execution.sum_ns));
  out.family("mik_wasm_instantiation_duration_seconds", Type::kHistogram,
             "Time that it took to instantiate a guest.");
  out.histogram({}, BucketLabels(shared::kShortBoundsUs, out.format()), from.instantiation.buckets,
                from_ns(from.instantiation.sum_ns));
  out.family("mik_guest_failures_total", Type::kCounter,
             "Requests that the host answered or cut for a guest.");
  for (std::size_t i = 0; i < kFailureNames.size(); ++i) {
    out.sample(label("reason", kFailureNames[i]), totals.failures[i]);
  }
}

struct Simple {
  std::string_view name;
  Type type;
  std::string_view help;
  std::uint64_t value;
};

template <std::size_t N>
void write_simple(MetricsWriter& out, const std::array<Simple, N>& families) {
  for (const Simple& family : families) {
    out.family(family.name, family.type, family.help);
    out.sample(family.value);
  }
}

void write_traffic(MetricsWriter& out, const Snapshot& from) {
  const shared::Totals& totals = from.totals;
  write_simple(
      out,
      std::array{
          Simple{"mik_guest_requests_total", Type::kCounter, "Requests that went to a guest.",
                 totals.guest_requests},
          Simple{"mik_client_gone_total", Type::kCounter,
                 "Requests whose client left before the end.", totals.client_gone},
          Simple{"mik_active_requests", Type::kGauge, "Requests to guests in flight.",
                 totals.active_requests},
          Simple{"mik_waiting_requests", Type::kGauge,
                 "Requests that wait for their body, component or permit.", from.waiting},
          Simple{"mik_active_connections", Type::kGauge, "Open connections.", totals.connections},
          Simple{"mik_connections_accepted_total", Type::kCounter, "Connections accepted.",
                 totals.accepted},
          Simple{"mik_connections_refused_total", Type::kCounter,
                 "Connections over max_connections.", totals.refused},
          Simple{"mik_connections_handed_over_total", Type::kCounter,
                 "Connections passed to a lighter worker.", totals.handed_out},
          Simple{"mik_accept_errors_total", Type::kCounter, "Failed accept calls.",
                 totals.accept_errors},
          Simple{"mik_tls_handshake_failures_total", Type::kCounter,
                 "TLS handshakes that clients began and that failed.", totals.tls_failures},
          Simple{"mik_http_request_body_bytes_total", Type::kCounter, "Request content received.",
                 totals.bytes_in},
          Simple{"mik_http_response_body_bytes_total", Type::kCounter, "Response content sent.",
                 totals.bytes_out},
          Simple{"mik_wasm_instances", Type::kGauge, "Guests that have an instance.",
                 from.instances},
          Simple{"mik_wasm_instances_max", Type::kGauge, "Instances that the pools can hold.",
                 from.instances_max}});
  out.family("mik_outbound_requests_total", Type::kCounter,
             "Outgoing requests, by the pattern that allows them.");
  for (const auto& [pattern, sums] : from.outbound) {
    const std::string labels = label("pattern", pattern);
    out.sample(labels, "outcome=\"answered\"", sums.answered);
    out.sample(labels, "outcome=\"failed\"", sums.failed);
  }
  out.family("mik_outbound_refused_total", Type::kCounter,
             "Outgoing requests that were not begun: not allowed, malformed, or too many at once.");
  out.sample(from.outbound_refused);
}

void write_process(MetricsWriter& out, const Snapshot& from, const shared::SegmentHeader& header) {
  const shared::Totals& totals = from.totals;
  write_simple(
      out,
      std::array{
          Simple{"mik_workers", Type::kGauge, "Worker processes that should run.", totals.workers},
          Simple{"mik_workers_ready", Type::kGauge, "Worker processes that serve.",
                 totals.workers_ready},
          Simple{"mik_worker_restarts_total", Type::kCounter,
                 "Workers started again after they died.", totals.restarts},
          Simple{"mik_log_lines_dropped_total", Type::kCounter,
                 "Log lines lost: a slow reader, a full disk, guests over their rate.",
                 totals.log_lines_dropped},
          Simple{"mik_config_last_reload_successful", Type::kGauge,
                 "1: the configuration as it was last read serves; 0: it could not be used.",
                 totals.config_reload_ok},
          Simple{"mik_config_last_reload_success_timestamp_seconds", Type::kGauge,
                 "When the configuration that serves was read.", totals.config_reload_unix_s},
          Simple{"mik_config_reload_failures_total", Type::kCounter,
                 "Reloads that left the configuration as it was.", totals.config_reloads_failed},
          Simple{"mik_compiles_total", Type::kCounter, "Compilations that ended.",
                 header.compiles.load(kRelaxed)},
          Simple{"mik_compile_failures_total", Type::kCounter, "Of those, the ones that failed.",
                 header.compile_failures.load(kRelaxed)}});
  out.family("mik_compile_seconds_total", Type::kCounter, "Time that compilations took.");
  out.sample({}, from_ns(header.compile_ns.load(kRelaxed)));
  out.family("mik_loop_lag_seconds", Type::kHistogram,
             "How long each turn of the event loop of a worker took.");
  const BucketLabels bounds(shared::kShortBoundsUs, out.format());
  for (const LoopLag& lag : from.loop_lag) {
    out.histogram(lag.labels, bounds, lag.histogram.buckets, from_ns(lag.histogram.sum_ns));
  }
  out.family("mik_loop_lag_max_seconds", Type::kGauge, "The longest turn of the last minute.");
  for (const LoopLag& lag : from.loop_lag) {
    out.sample(lag.labels, from_us(lag.max_us));
  }
  out.family("mik_trace_spans_exported_total", Type::kCounter, "Spans that a collector has.");
  out.sample(from.spans_exported);
  out.family("mik_trace_spans_dropped_total", Type::kCounter, "Spans lost, by the reason.");
  for (std::size_t i = 0; i < kSpanDropNames.size(); ++i) {
    out.sample(label("reason", kSpanDropNames[i]), from.spans_dropped[i]);
  }
}

struct ByModule {
  std::string_view name;
  Type type;
  std::string_view help;
  std::uint64_t ModuleSums::* value;
  bool nanoseconds = false;
};

constexpr std::array<ByModule, 13> kByModule = {{
    {"mik_module_requests_total", Type::kCounter, "Requests to a module.", &ModuleSums::requests},
    {"mik_module_active_requests", Type::kGauge, "Requests to a module in flight.",
     &ModuleSums::active},
    {"mik_module_cpu_seconds_total", Type::kCounter, "CPU time of the guests of a module.",
     &ModuleSums::cpu_ns, true},
    {"mik_module_execution_seconds_total", Type::kCounter,
     "Time from the start of its guests to their end.", &ModuleSums::execution_ns, true},
    {"mik_module_instantiation_seconds_total", Type::kCounter,
     "Time that it took to instantiate its guests.", &ModuleSums::instantiate_ns, true},
    {"mik_module_queue_seconds_total", Type::kCounter,
     "Time that its requests waited before they started.", &ModuleSums::queue_ns, true},
    {"mik_module_memory_bytes", Type::kGauge, "Memory and tables of its guests that live.",
     &ModuleSums::memory_bytes},
    {"mik_module_request_body_bytes_total", Type::kCounter, "Request content received.",
     &ModuleSums::bytes_in},
    {"mik_module_response_body_bytes_total", Type::kCounter, "Response content sent.",
     &ModuleSums::bytes_out},
    {"mik_module_outbound_requests_total", Type::kCounter, "Outgoing requests that were begun.",
     &ModuleSums::outbound},
    {"mik_module_hits_total", Type::kCounter, "Requests that found the module loaded.",
     &ModuleSums::hits},
    {"mik_module_loads_total", Type::kCounter, "How often a worker has loaded the module.",
     &ModuleSums::loads},
    {"mik_module_loaded", Type::kGauge, "Workers that have the module loaded.",
     &ModuleSums::loaded},
}};

void write_by_module(MetricsWriter& out, const Snapshot& from) {
  for (const ByModule& family : kByModule) {
    out.family(family.name, family.type, family.help);
    for (const ModuleSample& module : from.modules) {
      const std::uint64_t value = module.sums.*family.value;
      if (family.nanoseconds) {
        out.sample(module.labels, from_ns(value));
      } else {
        out.sample(module.labels, value);
      }
    }
  }
  out.family("mik_module_responses_total", Type::kCounter,
             "Responses to requests to a module, by class of status.");
  constexpr std::array<std::string_view, shared::kStatusClasses> kClasses = {
      "status=\"1xx\"", "status=\"2xx\"", "status=\"3xx\"", "status=\"4xx\"", "status=\"5xx\""};
  for (const ModuleSample& module : from.modules) {
    for (std::size_t i = 1; i < kClasses.size(); ++i) {
      out.sample(module.labels, kClasses[i], module.sums.status[i]);
    }
  }
  out.family("mik_module_failures_total", Type::kCounter,
             "Requests that the host answered or cut for a guest of the module; no line before the "
             "first.");
  for (const ModuleSample& module : from.modules) {
    for (std::size_t i = 0; i < kFailureNames.size(); ++i) {
      if (module.sums.failures[i] > 0) {
        out.sample(module.labels, label("reason", kFailureNames[i]), module.sums.failures[i]);
      }
    }
  }
  out.family("mik_module_request_duration_seconds", Type::kHistogram,
             "Time from the head of a request to the end of its response.");
  const BucketLabels bounds(shared::kModuleBoundsUs, out.format());
  for (const ModuleSample& module : from.modules) {
    out.histogram(module.labels, bounds, module.sums.latency, from_us(module.sums.latency_sum_us));
  }
}

void write_modules(MetricsWriter& out, const Snapshot& from) {
  out.family("mik_modules", Type::kGauge, "Modules that there are, by what can be said of them.");
  for (const auto& [state, count] :
       {std::pair{"all", from.modules_all}, std::pair{"broken", from.modules_broken},
        std::pair{"compiling", from.modules_compiling},
        std::pair{"pending", from.modules_pending}}) {
    out.sample(label("state", state), count);
  }
  write_simple(out, std::array{Simple{"mik_module_cache_hits_total", Type::kCounter,
                                      "Requests that found their module loaded.", from.all.hits},
                               Simple{"mik_module_cache_misses_total", Type::kCounter,
                                      "Modules that were loaded.", from.all.loads},
                               Simple{"mik_module_cache_size_bytes", Type::kGauge,
                                      "Bytes of the loaded artefacts.", from.cache_bytes}});
  write_by_module(out, from);
  out.family("mik_module_refused_total", Type::kCounter,
             "Requests to a module that were refused, by what refused them.");
  for (const ModuleSample& module : from.modules) {
    out.sample(module.labels, "by=\"module\"", module.sums.refused_module);
    out.sample(module.labels, "by=\"tenant\"", module.sums.refused_tenant);
    out.sample(module.labels, "by=\"breaker\"", module.sums.refused_breaker);
  }
  out.family("mik_tenant_active_requests", Type::kGauge, "Requests to its modules in flight.");
  for (const TenantSample& tenant : from.tenants) {
    out.sample(tenant.labels, tenant.active);
  }
  out.family("mik_tenant_memory_bytes", Type::kGauge, "Memory and tables of its guests that live.");
  for (const TenantSample& tenant : from.tenants) {
    out.sample(tenant.labels, tenant.memory_bytes);
  }
}

// The reference's names.
void write_reference(MetricsWriter& out, const Snapshot& from, const config::Settings& settings) {
  write_simple(
      out,
      std::array{
          Simple{"mik_requests_total", Type::kCounter,
                 "Requests received, built-in endpoints included.", from.totals.requests},
          Simple{"mik_cache_entries", Type::kGauge, "Modules that are loaded.", from.cache_entries},
          Simple{"mik_cache_bytes", Type::kGauge, "Bytes of the loaded artefacts.",
                 from.cache_bytes},
          Simple{"mik_cache_capacity_bytes", Type::kGauge, "Limit of mik_cache_bytes.",
                 settings.max_cache_bytes},
          Simple{"mik_max_concurrent_requests", Type::kGauge,
                 "Configured limit of requests in flight.", settings.max_concurrent_requests}});
  out.family("mik_circuit_breaker_state", Type::kGauge,
             "Circuit breaker of a module: 0 closed, 1 open, 2 half-open.");
  for (const ModuleSample& module : from.modules) {
    if (module.breaker.has_value()) {
      out.sample(module.labels, *module.breaker);
    }
  }
  write_simple(out, std::array{Simple{"mik_memory_bytes", Type::kGauge,
                                      "Resident memory of all workers.", from.resident_bytes}});
}

}  // namespace

std::string metrics_text(const config::Settings& settings, const shared::Segment& segment,
                         MetricsFormat format, base::Time now) {
  const Snapshot snapshot = take(segment, now);
  MetricsWriter out(format);
  write_http(out, snapshot);
  write_traffic(out, snapshot);
  write_process(out, snapshot, segment.header());
  write_modules(out, snapshot);
  write_reference(out, snapshot, settings);
  return std::move(out).finish();
}

}  // namespace mik::runtime
