// What this machine, or the control group, has: what automatic sizes are derived from.
#pragma once

#include <string>

#include "base/result.hpp"
#include "config/build.hpp"

namespace mik::cli {

// `state_dir` need not exist: the file system that it would be on counts.
config::Machine this_machine(const std::string& state_dir);

// Whether this process may make memory executable, which compiled components need. kSystem: it may
// not, and what usually forbids it. Without this check every module would be found broken.
base::Result<void> native_code_allowed();

}  // namespace mik::cli
