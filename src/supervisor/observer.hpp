// What a run tells its owner. Called on the supervisor's thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "config/settings.hpp"

namespace mik::supervisor {

enum class Severity : std::uint8_t { kInfo, kWarning, kError };

class Observer {
 public:
  virtual ~Observer() = default;
  // The listeners are open, and no worker is started yet: where to reach us, `admin` last.
  virtual void on_listening(const std::vector<std::string>& addresses) {
    static_cast<void>(addresses);
  }
  // The first worker is ready.
  virtual void on_ready() {}
  // A reload is done: workers with these settings serve.
  virtual void on_reloaded(const config::Settings& settings) { static_cast<void>(settings); }
  // SIGUSR1: log files may have been moved away.
  virtual void on_reopen_logs() {}
  // For the log: deaths, restarts, signals, compilations.
  virtual void on_event(Severity severity, const std::string& text) {
    static_cast<void>(severity);
    static_cast<void>(text);
  }
};

}  // namespace mik::supervisor
