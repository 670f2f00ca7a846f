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
  std::optional<std::uint16_t> port;
  std::optional<std::string> host;
  bool local = false;
  std::optional<std::uint32_t> workers;
  std::optional<std::uint32_t> timeout_secs;
  std::optional<std::uint64_t> memory_limit_bytes;
  std::vector<std::string> allow_hosts;
  std::vector<std::pair<std::string, std::string>> env;
  std::optional<std::uint32_t> reuse;
};

struct HealthArguments {
  std::optional<std::string> url;
  std::optional<std::uint16_t> port;
  bool ready = false;
};

struct CommandLine {
  enum class Command : std::uint8_t { kRun, kHealth, kVersion, kHelp };
  Command command = Command::kHelp;
  bool verbose = false;
  std::string help;  // kHelp: the text to print
  RunArguments run;
  HealthArguments health;
};

// kUsage with a help that names the nearest option for what is unknown.
base::Result<CommandLine> parse_command_line(int argc, const char* const* argv);

// The candidate with the smallest edit distance to `word`, if it is near enough to be meant.
std::optional<std::string> did_you_mean(std::string_view word,
                                        const std::vector<std::string>& candidates);

}  // namespace mik::cli
