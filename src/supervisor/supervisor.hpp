// A run of the server: the supervisor process from its listeners to the exit of its last worker
// (docs/design/processes.md). For the main thread of a process that has no other.
#pragma once

#include <functional>
#include <string>

#include "base/result.hpp"
#include "config/settings.hpp"
#include "supervisor/compiles.hpp"
#include "supervisor/observer.hpp"

namespace mik::supervisor {

struct Options {
  std::string executable =
      "/proc/self/exe";  // whose main hands `__worker` and `__compile` on (shared/boot.hpp)
  CompileLimits compile;
  // SIGHUP: reads the configuration again. Without it a SIGHUP changes nothing.
  std::function<base::Result<config::Settings>()> reload;
};

// Serves until a signal ends it. Success: exit code 0, also when the drain ran out of time or a
// second signal cut it short. Errors, exit code 1: what Listeners::open says; what a worker said
// was fatal before any was ready; kSystem; kInternal when workers keep dying before any was ready.
// When it returns no process of the family is left.
base::Result<void> run(const config::Settings& settings, Observer& observer,
                       const Options& options = {});

}  // namespace mik::supervisor
