#include "cli/resolve.hpp"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include <fmt/format.h>

#include "cli/binds.hpp"
#include "cli/machine.hpp"
#include "cli/served.hpp"
#include "cli/state_folder.hpp"
#include "supervisor/cpus.hpp"
#include "telemetry/directives.hpp"

namespace mik::cli {

namespace {

using base::Error;
using base::ErrorCode;
using config::Origin;

Origin from_environment(const char* name) { return {Origin::Kind::kEnvironment, name, 0, 0}; }

class Resolver {
 public:
  Resolver(const RunArguments& arguments, const Environment& environment,
           const ResolveOptions& options)
      : arguments_(arguments), environment_(environment), options_(options) {}

  base::Result<Resolved> run();

 private:
  base::Result<void> load();
  base::Result<void> build(const Served& served);
  void resolve_state_dir_origin();
  void resolve_log_level();
  void resolve_log_file();
  void resolve_hot_reload();
  base::Result<void> resolve_api_key();
  void warn(std::string text) { resolved_.warnings.push_back(std::move(text)); }
  void beside(const char* name, std::string value, Origin origin) {
    resolved_.beside.push_back({name, std::move(value), std::move(origin)});
  }

  const RunArguments& arguments_;
  const Environment& environment_;
  const ResolveOptions& options_;
  Resolved resolved_;
  std::vector<config::Problem> problems_;
  std::string state_dir_;
};

base::Result<void> Resolver::load() {
  MIK_TRY_ASSIGN(state_dir_, state_dir(environment_));
  std::error_code error;
  const std::filesystem::path working = std::filesystem::current_path(error);
  if (error) {
    return Error(ErrorCode::kSystem,
                 fmt::format("the working directory cannot be told: {}", error.message()));
  }
  MIK_TRY_ASSIGN(const std::string file, find_manifest(arguments_.config));
  MIK_TRY_ASSIGN(Manifest manifest,
                 load_manifest(file, arguments_, {.state = state_dir_, .working = working.string()},
                               options_.purpose));
  resolved_.document = std::move(manifest.document);
  problems_ = std::move(manifest.problems);
  if (std::ranges::any_of(problems_, [](const config::Problem& p) { return !p.warning; })) {
    // What building would find is said at the same time.
    config::Document copy = resolved_.document;
    config::build(copy, {}, environment_, problems_);
    sort_problems(problems_);
  }
  return refuse_problems(problems_, file);
}

base::Result<void> Resolver::build(const Served& served) {
  const bool component = !served.component_path.empty();
  const config::BuildContext context{
      .machine = this_machine(state_dir_),
      .serving = component ? config::Serving::kComponent : config::Serving::kModules,
      .terminal = options_.terminal};
  config::Settings& settings = resolved_.settings;
  settings = config::build(resolved_.document, context, environment_, problems_);
  MIK_TRY(refuse_problems(problems_, resolved_.document.file));
  for (const config::Problem& problem : problems_) {
    warn(problem.to_string());
  }
  settings.state_dir = state_dir_;
  settings.component_path = served.component_path;
  settings.component_name = served.component_name;
  settings.modules_dir = served.modules_dir;
  if (component && !settings.root.empty() && settings.root != served.component_name) {
    warn(fmt::format("server.root = {} is not used: the component {} answers all paths",
                     config::in_quotes(settings.root), config::in_quotes(served.component_name)));
  }
  if (component) {
    settings.root = served.component_name;
  }
  settings.pin_workers = supervisor::cpu_budget().pins(settings.workers);
  return {};
}

void Resolver::resolve_state_dir_origin() {
  const auto home = environment_("MIK_HOME");
  const bool named = home.has_value() && !home->empty();
  beside("state folder", state_dir_,
         named ? from_environment("MIK_HOME") : Origin{.kind = Origin::Kind::kAutomatic});
}

void Resolver::resolve_log_level() {
  config::LogLevel& level = resolved_.settings.log_level;
  const auto rust_log = environment_("RUST_LOG");
  if (!rust_log.has_value()) {
    level = options_.verbose ? config::LogLevel::kDebug : config::LogLevel::kInfo;
    beside("log level", options_.verbose ? "debug" : "info",
           options_.verbose ? Origin{Origin::Kind::kFlag, "--verbose", 0, 0} : Origin{});
    return;
  }
  bool bad = false;
  level = telemetry::LogFilter::parse(*rust_log, bad).level(telemetry::Target::kServer);
  if (!bad) {
    resolved_.settings.log_filter = *rust_log;
  } else {
    const std::string shown = config::in_quotes(*rust_log);
    warn(fmt::format("RUST_LOG '{}' is not understood: info is used",
                     shown.substr(1, shown.size() - 2)));
  }
  beside("log level", bad ? "info" : config::in_quotes(*rust_log), from_environment("RUST_LOG"));
}

// Whoever says how a log is rotated wants a file: without a name for it there is one in the state
// folder, beside standard output.
void Resolver::resolve_log_file() {
  config::Settings& settings = resolved_.settings;
  const auto named = [this](const char* key) {
    const config::Value* value = resolved_.document.find(config::SectionId::kServer, key);
    return value != nullptr && value->origin.kind != Origin::Kind::kDefault;
  };
  if (!settings.log_file.empty() || !(named("log_max_size_mb") || named("log_max_files"))) {
    return;
  }
  const std::string& bind = settings.binds.front();
  const std::size_t colon = bind.rfind(':');
  const std::string port = bind.starts_with("unix:") ? "unix" : bind.substr(colon + 1);
  settings.log_file =
      fmt::format("{}/logs/{}-{}.log", state_dir_,
                  settings.project_name.empty() ? "mik" : settings.project_name, port);
  beside("log file", config::in_quotes(settings.log_file), {Origin::Kind::kAutomatic, {}, 0, 0});
}

// Unset: new files are probed and swapped. Off: a change is only reported, until SIGHUP. On: at
// once.
void Resolver::resolve_hot_reload() {
  config::HotReload& reload = resolved_.settings.hot_reload;
  const auto said = environment_("MIK_HOT_RELOAD");
  const bool off = said.has_value() && (said->empty() || *said == "0" || *said == "false");
  const bool on = said.has_value() && (*said == "1" || *said == "true");
  reload = off  ? config::HotReload::kReport
           : on ? config::HotReload::kEager
                : config::HotReload::kSwap;
  if (said.has_value() && !off && !on) {
    warn(fmt::format("MIK_HOT_RELOAD {} is not understood: 0 or false, 1 or true; taken as unset",
                     config::in_quotes(*said)));
  }
  beside("hot reload",
         off  ? "report"
         : on ? "eager"
              : "swap",
         off || on ? from_environment("MIK_HOT_RELOAD") : Origin{});
}

base::Result<void> Resolver::resolve_api_key() {
  std::string& key = resolved_.settings.api_key;
  Origin origin;
  if (arguments_.api_key.has_value()) {
    key = *arguments_.api_key;
    origin = {Origin::Kind::kFlag, "--api-key", 0, 0};
    if (key.empty()) {
      return Error(ErrorCode::kUsage, "--api-key is empty")
          .with_help("is the variable set? MIK_API_KEY=$(openssl rand -hex 32)");
    }
  } else if (const auto said = environment_("MIK_API_KEY"); said.has_value() && !said->empty()) {
    key = *said;
    origin = from_environment("MIK_API_KEY");
  }
  beside("api key", key.empty() ? "none" : "***", origin);
  return {};
}

base::Result<Resolved> Resolver::run() {
  MIK_TRY(load());
  Served served;
  if (options_.find_served) {
    MIK_TRY_ASSIGN(served, find_served(arguments_.path, resolved_.document));
  } else if (auto found = find_served(arguments_.path, resolved_.document); found.has_value()) {
    served = std::move(*found);
  }
  for (std::string& warning : served.warnings) {
    warn(std::move(warning));
  }
  MIK_TRY(build(served));
  MIK_TRY_ASSIGN(Binds binds, resolve_binds(arguments_, environment_, resolved_.document));
  if (!binds.warning.empty()) {
    warn(std::move(binds.warning));
  }
  resolved_.document.at(config::SectionId::kServer)
      .set(*config::find_key(config::SectionId::kServer, "bind"),
           {.data = binds.addresses, .origin = std::move(binds.origin)});
  resolved_.settings.binds = std::move(binds.addresses);
  resolve_state_dir_origin();
  resolve_log_level();
  resolve_log_file();
  resolve_hot_reload();
  MIK_TRY(resolve_api_key());
  if (options_.find_served) {
    for (std::string& warning : missing_names(resolved_.settings)) {
      warn(std::move(warning));
    }
  }
  return std::move(resolved_);
}

}  // namespace

Environment process_environment() {
  return [](std::string_view name) -> std::optional<std::string> {
    const char* value = std::getenv(std::string(name).c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
}

base::Result<Resolved> resolve(const RunArguments& arguments, const Environment& environment,
                               const ResolveOptions& options) {
  return Resolver(arguments, environment, options).run();
}

}  // namespace mik::cli
