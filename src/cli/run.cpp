#include "cli/run.hpp"

#include <unistd.h>

#include <cstdio>
#include <string>

#include <fmt/format.h>

#include "cli/resolve.hpp"
#include "supervisor/supervisor.hpp"
#include "telemetry/log.hpp"

namespace mik::cli {

namespace {

// Text for people on a terminal; log lines where stdout is a pipeline for JSON.
class Narrator final : public supervisor::Observer {
 public:
  explicit Narrator(const config::Settings& settings)
      : settings_(settings),
        log_(STDOUT_FILENO, settings.log_level, settings.log_format, telemetry::Writing::kDirect) {}

  void warn(const std::string& text) {
    log_.line(telemetry::Level::kWarn, text);
    log_.flush();
  }

  void on_listening(const std::vector<std::string>& addresses) override {
    if (settings_.log_format == config::LogFormat::kText) {
      banner(addresses);
      return;
    }
    for (const std::string& address : addresses) {
      log_.line(telemetry::Level::kInfo, fmt::format("Starting server on http://{}", address))
          .str("module", settings_.component_name)
          .num("workers", settings_.workers);
    }
    log_.flush();
  }

  void on_ready() override {
    log_.line(telemetry::Level::kInfo, "Ready");
    log_.flush();
  }

  void on_event(supervisor::Severity severity, const std::string& text) override {
    const telemetry::Level level =
        severity == supervisor::Severity::kError     ? telemetry::Level::kError
        : severity == supervisor::Severity::kWarning ? telemetry::Level::kWarn
                                                     : telemetry::Level::kInfo;
    log_.line(level, text);
    log_.flush();
  }

 private:
  void banner(const std::vector<std::string>& addresses) {
    fmt::print("Serving component {} ({}), {} worker{}\n", settings_.component_name,
               settings_.component_path, settings_.workers, settings_.workers == 1 ? "" : "s");
    for (const std::string& address : addresses) {
      fmt::print("Starting server on http://{}\n", address);
    }
    fmt::print(
        "Routes: /run/{}/* -> component\nRoutes: /* -> component\nHealth: /health\nMetrics: "
        "/metrics\n\n",
        settings_.component_name);
    std::fflush(stdout);
  }

  const config::Settings& settings_;
  telemetry::Log log_;
};

}  // namespace

base::Result<void> run(const RunArguments& arguments, bool verbose) {
  MIK_TRY_ASSIGN(const Resolved resolved, resolve_run(arguments, verbose, process_environment(),
                                                      ::isatty(STDOUT_FILENO) == 1));
  Narrator narrator(resolved.settings);
  for (const std::string& warning : resolved.warnings) {
    narrator.warn(warning);
  }
  return supervisor::run(resolved.settings, narrator);
}

}  // namespace mik::cli
