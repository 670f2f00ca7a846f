// From command line, environment and defaults to Settings: flag > environment > default
// (docs/reference/cli.md). Reads the environment and the file system, changes nothing but the state
// folder's path.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "cli/command_line.hpp"
#include "config/settings.hpp"

namespace mik::cli {

// The process's environment, or a test's.
using Environment = std::function<std::optional<std::string>(std::string_view)>;
Environment process_environment();

struct Resolved {
  config::Settings settings;
  std::vector<std::string> warnings;
};

base::Result<Resolved> resolve_run(const RunArguments& arguments, bool verbose,
                                   const Environment& environment, bool stdout_is_terminal);

// PORT, a number from 1 to 65535, or nothing when it is not set. kUsage for anything else.
base::Result<std::optional<std::uint16_t>> port_of(const Environment& environment);

// MIK_HOME, else /var/lib/mik where it is ours to write, else ~/.mik. Absolute.
base::Result<std::string> state_dir(const Environment& environment);

}  // namespace mik::cli
