// Where a run listens: flags, then PORT and HOST, then `bind`, then `port`.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cli/command_line.hpp"
#include "config/build.hpp"
#include "config/document.hpp"

namespace mik::cli {

struct Binds {
  std::vector<std::string> addresses;  // "127.0.0.1:3000", "unix:/run/mik/http.sock"
  config::Origin origin;
  std::string warning;  // empty, or that `bind` is not used
};

base::Result<Binds> resolve_binds(const RunArguments& flags, const config::Environment& environment,
                                  const config::Document& document);

// PORT, a number from 1 to 65535, or nothing when it is not set. kUsage for anything else.
base::Result<std::optional<std::uint16_t>> port_of(const config::Environment& environment);

}  // namespace mik::cli
