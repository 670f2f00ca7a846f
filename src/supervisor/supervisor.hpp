// A run of the server: the supervisor process from its listeners to the exit of its last worker
// (docs/design/processes.md). For the main thread of a process that has no other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "config/settings.hpp"
#include "supervisor/compiles.hpp"

namespace mik::supervisor {

enum class Severity : std::uint8_t { kInfo, kWarning, kError };

// What a run tells its owner. Called from within run().
class Observer {
 public:
  virtual ~Observer() = default;
  // The listeners are open, and no worker is started yet: where to reach us.
  virtual void on_listening(const std::vector<std::string>& addresses) {
    static_cast<void>(addresses);
  }
  // The first worker is ready.
  virtual void on_ready() {}
  // For the log: deaths, restarts, signals, compilations.
  virtual void on_event(Severity severity, const std::string& text) {
    static_cast<void>(severity);
    static_cast<void>(text);
  }
};

struct Options {
  std::string executable =
      "/proc/self/exe";  // whose main hands `__worker` and `__compile` on (shared/boot.hpp)
  CompileLimits compile;
};

// Serves until a signal ends it. Success: exit code 0, also when the drain ran out of time or a
// second signal cut it short. Errors, exit code 1: what open_listeners says; what a worker said was
// fatal before any was ready; kSystem; kInternal when workers keep dying before any was ready. When
// it returns no process of the family is left.
base::Result<void> run(const config::Settings& settings, Observer& observer,
                       const Options& options = {});

}  // namespace mik::supervisor
