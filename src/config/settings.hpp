// Everything a run of the server is told, resolved: flags, environment, file and defaults have been
// weighed already. A value type. The supervisor has one; workers and the compile child get a copy
// over shared::WorkerBoot.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/time.hpp"

namespace mik::config {

enum class LogFormat : std::uint8_t { kText, kJson };
enum class LogLevel : std::uint8_t { kError, kWarn, kInfo, kDebug, kTrace, kOff };

// What guests may have and use: of the server, of a module or of a tenant; see guest_settings.
struct GuestSettings {
  base::Duration execution_timeout = std::chrono::seconds(30);
  base::Duration cpu_budget = std::chrono::seconds(30);  // of one request
  std::uint64_t memory_limit_bytes = 128ull << 20;       // of one request
  std::uint32_t max_requests = 0;                        // at once, one module; 0: no limit
  std::uint32_t cpu_share = 100;                         // weight in the scheduler
  std::uint32_t reuse = 1;                               // requests of one instance
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<std::string> http_allowed;
  std::vector<std::string> services;

  friend bool operator==(const GuestSettings&, const GuestSettings&) = default;
};

// [modules.NAME]: what differs from [server] is resolved already.
struct ModuleSettings {
  std::string name;
  GuestSettings guest;
};

// [tenants.ID]: for all modules of the tenant, each, and quotas of them together.
struct TenantSettings {
  std::string id;
  GuestSettings guest;             // guest.max_requests: of one module of the tenant
  std::uint32_t max_requests = 0;  // of all of the tenant's modules together; 0: no limit
  std::uint64_t memory_bytes = 0;  // of all its guests that live; 0: no limit
  std::uint64_t kv_bytes_max = 0;  // of its stores; 0: no limit
  std::uint64_t sql_bytes_max = 0;
  std::uint64_t storage_bytes_max = 0;
};

// [[routes]]: exact hosts before wildcards before any; then the longest path (runtime/router.hpp).
struct RouteSettings {
  std::string host;  // "", "api.example.com", "*.example.com"; lower case
  std::string path;  // begins with "/"
  std::string tenant;
  std::string module;
  bool strip_prefix = false;
};

struct BreakerSettings {
  std::uint32_t failures = 5;
  base::Duration open = std::chrono::seconds(30);
  std::uint32_t probes = 3;
  bool guest_5xx = false;
};

enum class HotReload : std::uint8_t {
  kReport,  // MIK_HOT_RELOAD=0: a change is told of, applied by SIGHUP
  kSwap,    // the default: probed, then swapped
  kEager,   // MIK_HOT_RELOAD=1: at once
};

enum class HttpPrivate : std::uint8_t { kNamed, kDeny, kAllow };

// [tracing]
struct TracingSettings {
  bool enabled = true;
  std::string otlp_endpoint;  // empty: nothing is exported
  std::string service_name;
  std::string protocol = "auto";  // auto, grpc, http/protobuf
  double sample_ratio = 1.0;
};

struct Settings {
  std::string config_file;  // absolute; empty: there is none
  std::string project_name;
  std::string project_version;

  // Listening: "127.0.0.1:3000", "[::1]:3000", "unix:/run/mik/http.sock".
  std::vector<std::string> binds;
  std::string admin;  // where /metrics, /_mik and the rest of administration move; empty: nowhere
  std::uint32_t workers = 1;
  bool pin_workers = false;  // workers equal the CPUs of the mask and no quota is set
  std::string tls_cert;      // PEM files, absolute; both or none
  std::string tls_key;
  std::string tls_ticket_key;  // random bytes that the workers share, made by the supervisor
  std::vector<std::string> trusted_proxies;  // addresses, CIDR; unix sockets are trusted always

  // What is served: one component or a folder of modules, and tenants' folders.
  std::string component_path;  // single-component mode; else empty
  std::string component_name;  // its name under /run/
  // Absolute; empty in single-component mode, and when only tenants are served.
  std::string modules_dir;
  std::string user_modules_dir;
  std::string static_dir;
  bool compression = true;
  std::string scripts_dir;
  std::string root;  // the module that answers paths which nothing else claims
  std::vector<RouteSettings> routes;
  HotReload hot_reload = HotReload::kSwap;
  base::Duration watch_debounce = std::chrono::milliseconds(300);

  std::string state_dir;           // absolute; cache/ lies below it
  std::uint32_t cache_size = 100;  // components loaded, in a worker
  std::uint64_t max_cache_bytes = 256ull << 20;
  std::uint64_t aot_max_bytes = 1ull << 30;

  // Guests.
  GuestSettings guest;
  std::vector<ModuleSettings> modules;  // sorted by name
  std::vector<TenantSettings> tenants;  // sorted by id
  HttpPrivate http_private = HttpPrivate::kNamed;
  std::string http_ca_file;
  std::uint64_t memory_budget_bytes = 0;  // guests, bodies, compile children; 0: none

  // Limits.
  std::uint32_t max_concurrent_requests = 1000;
  base::Duration queue{};  // how long a request may wait for a permit
  bool adaptive_limit = false;
  std::uint32_t max_connections = 10000;
  std::uint64_t max_body_bytes = 10ull << 20;
  std::uint64_t max_header_bytes = 64ull << 10;
  base::Duration header_timeout = std::chrono::seconds(10);
  base::Duration idle_timeout = std::chrono::seconds(130);
  base::Duration body_timeout = std::chrono::seconds(30);
  base::Duration stream_idle = std::chrono::seconds(60);
  base::Duration stream_max{};  // 0: none
  base::Duration shutdown_timeout = std::chrono::seconds(30);
  BreakerSettings breaker;

  std::string api_key;

  // Logs and traces.
  LogFormat log_format = LogFormat::kJson;
  LogLevel log_level = LogLevel::kInfo;
  std::string log_filter;  // RUST_LOG where it says more than a level (telemetry/directives.hpp)
  bool log_stdout = true;  // the log goes to standard output
  std::string log_file;    // and to this file; absolute; empty: to none
  std::uint64_t log_max_bytes = 10ull << 20;
  std::uint32_t log_max_files = 5;
  bool guest_logging = false;
  TracingSettings tracing;

  bool single_component() const noexcept { return !component_path.empty(); }
};

// What holds for a module: [modules.NAME], else [tenants.ID], else [server]. `tenant` is empty for
// a platform module. The reference is into `settings`.
const GuestSettings& guest_settings(const Settings& settings, std::string_view tenant,
                                    std::string_view module) noexcept;
// Nothing when the tenant has no section.
const TenantSettings* tenant_settings(const Settings& settings, std::string_view tenant) noexcept;

// One block of bytes for another process of the same binary; deserialize refuses what serialize did
// not make.
std::string serialize(const Settings& settings);
base::Result<Settings> deserialize(std::string_view bytes);

}  // namespace mik::config
