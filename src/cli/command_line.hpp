// What the command line asks for, and the help that goes with it. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace mik::cli {

struct RunArguments {
  std::optional<std::string> path;
  std::optional<std::string> config;  // --config, or FILE of `mik config`
  std::optional<std::uint16_t> port;
  std::optional<std::string> host;
  bool local = false;
  std::optional<std::uint32_t> workers;
  std::optional<std::uint32_t> timeout_secs;
  std::optional<std::uint64_t> memory_limit_bytes;
  std::vector<std::string> allow_hosts;
  std::vector<std::pair<std::string, std::string>> env;
  std::optional<std::uint32_t> reuse;
  std::optional<std::string> api_key;
};

struct HealthArguments {
  std::optional<std::string> url;
  std::optional<std::uint16_t> port;
  bool ready = false;
};

struct CommandLine {
  enum class Command : std::uint8_t { kRun, kHealth, kConfigCheck, kConfigShow, kVersion, kHelp };
  Command command = Command::kHelp;
  bool verbose = false;
  std::string help;  // kHelp: the text to print
  RunArguments run;  // of `run` and `config`
  HealthArguments health;
};

// kUsage with a help that names the nearest option for what is unknown.
base::Result<CommandLine> parse_command_line(int argc, const char* const* argv);

// Overwrites the value of --api-key, so that `ps` does not show it. To be called after parsing and
// before any child is started.
void wipe_secrets(int argc, char** argv) noexcept;

}  // namespace mik::cli
