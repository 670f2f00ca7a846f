// `mik config check` and `mik config show`.
#pragma once

#include <string>

#include "base/result.hpp"
#include "cli/command_line.hpp"
#include "cli/resolve.hpp"

namespace mik::cli {

// Says that all is well, and what is odd; the problems as an error.
base::Result<void> config_check(const RunArguments& arguments);
// Prints what holds, each value with where it comes from.
base::Result<void> config_show(const RunArguments& arguments, bool verbose);

// What config_show prints: TOML, with secrets masked.
std::string show(const Resolved& resolved);

}  // namespace mik::cli
