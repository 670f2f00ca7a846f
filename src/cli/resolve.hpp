// From command line, environment, mik.toml and the machine to Settings: flag > environment > file >
// automatic (docs/reference/config.md). Reads the environment and the file system, changes nothing.
// May be called again in a running supervisor, with the same arguments: SIGHUP.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "cli/command_line.hpp"
#include "cli/manifest.hpp"
#include "config/build.hpp"
#include "config/settings.hpp"

namespace mik::cli {

using config::Environment;
Environment process_environment();

// What no key of the file says.
struct BesideTheFile {
  std::string name;
  std::string value;  // secrets are masked
  config::Origin origin;
};

struct Resolved {
  config::Settings settings;
  std::vector<std::string> warnings;
  config::Document document;  // completed: where each value comes from
  std::vector<BesideTheFile> beside;
};

struct ResolveOptions {
  bool verbose = false;
  bool terminal = false;  // standard output is one
  config::Purpose purpose = config::Purpose::kRun;
  // Without it the settings lack what is served, and nothing is looked for: `mik config show`.
  bool find_served = true;
};

base::Result<Resolved> resolve(const RunArguments& arguments, const Environment& environment,
                               const ResolveOptions& options);

}  // namespace mik::cli
