// RUST_LOG: which lines are written, by level and by what they are about. A value type.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "config/settings.hpp"

namespace mik::telemetry {

using Level = config::LogLevel;

// What a line is about.
enum class Target : std::uint8_t {
  kServer = 0,  // processes: start, reload, drain, signals, what goes wrong outside requests
  kHttp,        // requests
  kModules,     // components: loaded, compiled, swapped, refused
  kOutbound,    // requests that guests make
  kGuest,       // what guests write
};
inline constexpr std::size_t kTargets = 5;
// "mik::server", "mik::http", "mik::modules", "mik::outbound", "mik_guest".
std::string_view name(Target target) noexcept;

class LogFilter {
 public:
  // One level for all.
  LogFilter(Level level = Level::kInfo) noexcept;  // NOLINT: a level is a filter

  // Comma-separated directives: a level, or `target=level`, where a target means every target that
  // begins with it; the longest one counts, and of equals the last. A target alone means trace.
  // What names targets that we do not have is understood and does nothing. Sets `bad` when nothing
  // in it could be understood.
  static LogFilter parse(std::string_view text, bool& bad) noexcept;
  static LogFilter of(const config::Settings& settings) noexcept;

  bool passes(Level level, Target target) const noexcept {
    return static_cast<std::uint8_t>(level) < levels_[static_cast<std::size_t>(target)];
  }
  Level level(Target target) const noexcept;

 private:
  // How many levels pass: 0 for off, 5 for trace.
  std::array<std::uint8_t, kTargets> levels_{};
};

}  // namespace mik::telemetry
