// What the configuration asks of the layers that it may not include: forms of addresses and of
// patterns. Pure functions.
#pragma once

#include "config/check.hpp"

namespace mik::cli {

config::Syntax manifest_syntax();

}  // namespace mik::cli
