// `mik health`: asks a running server over HTTP.
#pragma once

#include "base/result.hpp"
#include "cli/command_line.hpp"

namespace mik::cli {

// Prints the answer's document. An error when there is no answer within 5 s or it is no 200.
base::Result<void> health(const HealthArguments& arguments);

}  // namespace mik::cli
