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

struct Settings {
  // Listening: "127.0.0.1:3000", "[::1]:3000".
  std::vector<std::string> binds;
  std::uint32_t workers = 1;
  bool pin_workers = false;  // workers equal the CPUs of the mask and no quota is set

  // The component.
  std::string component_path;
  std::string component_name;
  std::string state_dir;  // absolute; cache/ lies below it
  std::uint32_t reuse = 1;
  std::uint64_t memory_limit_bytes = 128ull << 20;
  base::Duration execution_timeout = std::chrono::seconds(30);
  base::Duration cpu_budget = std::chrono::seconds(30);
  std::vector<std::pair<std::string, std::string>> env;  // what guests see

  // Outgoing requests of guests.
  std::vector<std::string> http_allowed;

  // Limits.
  std::uint32_t max_concurrent_requests = 1000;
  std::uint32_t max_connections = 10000;
  std::uint64_t max_body_bytes = 10ull << 20;
  std::uint64_t max_header_bytes = 64ull << 10;
  base::Duration header_timeout = std::chrono::seconds(10);
  base::Duration idle_timeout = std::chrono::seconds(130);
  base::Duration body_timeout = std::chrono::seconds(30);
  base::Duration stream_idle = std::chrono::seconds(60);
  base::Duration shutdown_timeout = std::chrono::seconds(30);

  // Logs.
  LogFormat log_format = LogFormat::kJson;
  LogLevel log_level = LogLevel::kInfo;
};

// One block of bytes for another process of the same binary; deserialize refuses what serialize did
// not make.
std::string serialize(const Settings& settings);
base::Result<Settings> deserialize(std::string_view bytes);

}  // namespace mik::config
