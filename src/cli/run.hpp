// `mik run`: from the command line to the exit code.
#pragma once

#include "base/result.hpp"
#include "cli/command_line.hpp"

namespace mik::cli {

base::Result<void> run(const RunArguments& arguments, bool verbose);

}  // namespace mik::cli
