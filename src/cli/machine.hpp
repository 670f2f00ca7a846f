// What this machine, or the control group, has: what automatic sizes are derived from.
#pragma once

#include <string>

#include "config/build.hpp"

namespace mik::cli {

// `state_dir` need not exist: the file system that it would be on counts.
config::Machine this_machine(const std::string& state_dir);

}  // namespace mik::cli
