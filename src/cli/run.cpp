#include "cli/run.hpp"

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include <fmt/format.h>

#include "cli/machine.hpp"
#include "cli/resolve.hpp"
#include "cli/state_folder.hpp"
#include "supervisor/supervisor.hpp"
#include "telemetry/log.hpp"

namespace mik::cli {

namespace {

// Text for people on a terminal; log lines where stdout is a pipeline for JSON.
class Narrator final : public supervisor::Observer {
 public:
  Narrator(const config::Settings& settings, bool terminal)
      : settings_(settings), terminal_(terminal) {
    open_log();
  }

  void warn(const std::string& text) {
    log_->line(telemetry::Level::kWarn, text);
    log_->flush();
  }

  void on_listening(const std::vector<std::string>& addresses) override {
    if (terminal_ || (settings_.log_stdout && settings_.log_format == config::LogFormat::kText)) {
      banner(addresses);
      if (settings_.log_file.empty()) {
        return;
      }
    }
    for (const std::string& address : addresses) {
      const bool one = settings_.single_component();
      log_->line(telemetry::Level::kInfo, said(address, addresses))
          .str(one ? "module" : "modules", one ? settings_.component_name : settings_.modules_dir)
          .num("workers", settings_.workers);
    }
    log_->flush();
  }

  void on_reloaded(const config::Settings& settings) override {
    settings_ = settings;
    open_log();
  }

  void on_reopen_logs() override { log_->reopen(); }

  void on_ready() override {
    log_->line(telemetry::Level::kInfo, "Ready");
    log_->flush();
  }

  void on_event(supervisor::Severity severity, const std::string& text) override {
    const telemetry::Level level =
        severity == supervisor::Severity::kError     ? telemetry::Level::kError
        : severity == supervisor::Severity::kWarning ? telemetry::Level::kWarn
                                                     : telemetry::Level::kInfo;
    log_->line(level, text);
    log_->flush();
  }

 private:
  // The last one is that of `admin`, where it is set.
  std::string said(const std::string& address, const std::vector<std::string>& all) const {
    const bool admin = !settings_.admin.empty() && &address == &all.back();
    return (admin ? "Serving administration on " : "Starting server on ") + url(address);
  }
  // A unix socket is no URL and keeps its name.
  std::string url(const std::string& address) const {
    if (address.starts_with("unix:")) {
      return address;
    }
    return (settings_.tls_cert.empty() ? "http://" : "https://") + address;
  }
  void banner(const std::vector<std::string>& addresses) {
    const bool one = settings_.single_component();
    const std::string name = telemetry::visible(settings_.component_name);
    fmt::print("Serving {} {}, {} worker{}\n", one ? "component" : "modules of",
               one ? fmt::format("{} ({})", name, telemetry::visible(settings_.component_path))
                   : telemetry::visible(settings_.modules_dir),
               settings_.workers, settings_.workers == 1 ? "" : "s");
    for (const std::string& address : addresses) {
      fmt::print("{}\n", telemetry::visible(said(address, addresses)));
    }
    if (one) {
      fmt::print("Routes: /run/{}/* -> component\nRoutes: /* -> component\n", name);
    } else {
      fmt::print("Routes: /run/<module>/* -> <module>.wasm\n");
    }
    if (!settings_.user_modules_dir.empty()) {
      fmt::print("Routes: /tenant/<tenant>/<module>/* -> <tenant>/<module>.wasm\n");
    }
    if (!settings_.static_dir.empty()) {
      fmt::print("Routes: /static/* -> static files\n");
    }
    fmt::print("Health: /health\nMetrics: /metrics\n\n");
    std::fflush(stdout);
  }

  void open_log() {
    log_ = std::make_unique<telemetry::Log>(
        telemetry::log_options(settings_, telemetry::Writing::kDirect, -1));
  }

  config::Settings settings_;
  const bool terminal_;
  std::unique_ptr<telemetry::Log> log_;
};

// A log that was asked for by name must be there; one that is a matter of course must not keep a
// server from starting.
base::Result<void> check_log_file(Resolved& resolved) {
  config::Settings& settings = resolved.settings;
  if (settings.log_file.empty()) {
    return {};
  }
  auto checked = telemetry::check_log_file(settings.log_file);
  if (checked.has_value() || !settings.log_stdout) {
    return checked;
  }
  resolved.warnings.push_back(checked.error().to_string() +
                              ": the log goes to standard output alone");
  settings.log_file.clear();
  return {};
}

}  // namespace

base::Result<void> run(const RunArguments& arguments, bool verbose) {
  const ResolveOptions options{.verbose = verbose, .terminal = ::isatty(STDOUT_FILENO) == 1};
  const Environment environment = process_environment();
  MIK_TRY(native_code_allowed());
  MIK_TRY_ASSIGN(const std::string state, state_dir(environment));
  make_state_dir(state);  // its modules/ may be what the manifest names
  MIK_TRY_ASSIGN(Resolved resolved, resolve(arguments, environment, options));
  MIK_TRY(check_log_file(resolved));
  Narrator narrator(resolved.settings, options.terminal);
  for (const std::string& warning : resolved.warnings) {
    narrator.warn(warning);
  }
  supervisor::Options family;
  // The same flags and variables over what the files say now.
  family.reload = [&]() -> base::Result<config::Settings> {
    MIK_TRY_ASSIGN(Resolved again, resolve(arguments, environment, options));
    MIK_TRY(check_log_file(again));
    for (const std::string& warning : again.warnings) {
      narrator.warn(warning);
    }
    return std::move(again.settings);
  };
  return supervisor::run(resolved.settings, narrator, family);
}

}  // namespace mik::cli
