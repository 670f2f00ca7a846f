#include "cli/command_line.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include "config/suggest.hpp"

namespace mik::cli {

namespace {

std::vector<std::string> names_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) {
      names.push_back("--" + name);
    }
  }
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

// The subcommand that was being parsed, else the top.
const CLI::App& deepest(const CLI::App& app) {
  const auto parsed = app.get_subcommands();
  return parsed.empty() ? app : deepest(*parsed.front());
}

// "mik config show".
std::string path_of(const CLI::App& app) {
  return app.get_parent() == nullptr ? app.get_name()
                                     : path_of(*app.get_parent()) + " " + app.get_name();
}

// Whole numbers from `least` to `most`.
CLI::Validator whole(std::uint64_t least, std::uint64_t most) {
  return CLI::Validator(
      [least, most](const std::string& text) {
        std::uint64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        const bool good = error == std::errc() && end == text.data() + text.size() &&
                          value >= least && value <= most;
        return good ? std::string()
                    : fmt::format("'{}' is not a number from {} to {}", text, least, most);
      },
      fmt::format("{} to {}", least, most));
}

// CLI11 has words of its own for each kind of mistake: here they are sentences like our others.
std::string sentence(const CLI::App& at, const CLI::ParseError& error) {
  const std::string said = error.what();
  const std::size_t start = std::min(said.find("--"), said.size());
  const std::string option = said.substr(start, said.find_first_of(": ", start) - start);
  const std::string kind = error.get_name();
  if (kind == "ValidationError") {  // of whole()
    return option + said.substr(std::min(said.find(' '), said.size()));
  }
  if (kind == "ArgumentMismatch") {
    const bool many = said.find("At Most") != std::string::npos;
    return option + (many ? " is given more than once" : " has no value");
  }
  if (kind == "ConversionError") {
    return option + " takes no value";  // a flag: numbers are looked at by whole()
  }
  if (kind == "ExcludesError") {
    return fmt::format("{} and {} exclude each other", option, said.substr(said.rfind(' ') + 1));
  }
  return kind == "RequiredError" ? path_of(at) + " needs a command" : said;
}

// CLI11 would take the next word for the value that is missing.
std::optional<base::Error> empty_value(int argc, const char* const* argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--") {
      break;
    }
    if (word.starts_with("--") && word.find('=') == word.size() - 1) {
      return base::Error(base::ErrorCode::kUsage,
                         fmt::format("{} has no value", word.substr(0, word.size() - 1)))
          .with_help("is a variable unset? give a value behind the '=', or leave the option out");
    }
  }
  return std::nullopt;
}

base::Error usage_error(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App& at = deepest(app);
  for (const std::string& extra : app.remaining(true)) {
    const bool flag = extra.starts_with('-');
    base::Error unknown(base::ErrorCode::kUsage,
                        fmt::format("unknown {} '{}'", flag ? "option" : "argument", extra));
    const auto near = config::did_you_mean(extra.substr(0, extra.find('=')), names_of(at));
    return std::move(unknown).with_help(
        near.has_value() ? fmt::format("did you mean '{}'?", *near)
                         : fmt::format("'{} --help' lists what there is", path_of(at)));
  }
  return base::Error(base::ErrorCode::kUsage, sentence(at, error))
      .with_help(fmt::format("'{} --help' lists what there is", path_of(at)));
}

struct Parsed {
  std::vector<std::string> env;
  bool lb = false;
};

// What `run` and `config` share: they weigh the same things.
void add_settings(CLI::App* command, RunArguments& run, Parsed& parsed) {
  command->add_option("-p,--port", run.port, "Port (default: PORT, else mik.toml, else 3000)")
      ->check(whole(0, 65535));
  CLI::Option* host =
      command->add_option("--host", run.host, "Address to bind (default: HOST, else 127.0.0.1)");
  command->add_flag("-l,--local", run.local, "Bind 127.0.0.1, whatever HOST says")->excludes(host);
  command
      ->add_option("-w,--workers", run.workers,
                   "Worker processes (default, or 0: one per usable core)")
      ->check(whole(0, 256));
  command
      ->add_option("--timeout", run.timeout_secs,
                   "Seconds until a response must have begun (default 30)")
      ->check(whole(1, 300));
  command
      ->add_option("--memory-limit", run.memory_limit_bytes,
                   "Bytes of memory for each request (default 134217728)")
      ->check(whole(std::uint64_t{1} << 20, std::uint64_t{1} << 32));
  command
      ->add_option("--allow-host", run.allow_hosts,
                   "Host that the component may call: example.com, *.example.com, 127.0.0.1:9001, "
                   "* (repeatable)")
      ->allow_extra_args(false);
  command->add_option("--env", parsed.env, "NAME=VALUE for the component (repeatable)")
      ->allow_extra_args(false);
  command
      ->add_option("--reuse", run.reuse, "Requests per instance (default 1: a fresh one for each)")
      ->check(whole(1, 1'000'000));
  command->add_option("--api-key", run.api_key,
                      "Key for /_mik/ and for what a proxy forwards (default: MIK_API_KEY)");
}

void add_run(CLI::App& app, RunArguments& run, Parsed& parsed) {
  CLI::App* command = app.add_subcommand("run", "Serve components (Ctrl+C ends it)");
  command->add_option("PATH", run.path,
                      "Component file, glob, or folder of modules; default: what mik.toml says, "
                      "else target/composed.wasm, target/wasm32-wasip2/{release,debug}/*.wasm");
  command->add_option("-c,--config", run.config, "Manifest (default: mik.toml, when it is here)");
  add_settings(command, run, parsed);
  command->add_flag("--lb", parsed.lb, "Accepted: the port is balanced over the workers already");
}

void add_config(CLI::App& app, RunArguments& run, Parsed& parsed) {
  CLI::App* command = app.add_subcommand("config", "Look at the configuration");
  command->require_subcommand(1);
  for (CLI::App* action :
       {command->add_subcommand("check", "Whether a manifest can be used: exit code 0 or 1"),
        command->add_subcommand("show", "What holds, and where each value comes from")}) {
    action->add_option("FILE", run.config, "Manifest (default: mik.toml)");
    add_settings(action, run, parsed);
  }
}

void add_health(CLI::App& app, HealthArguments& health) {
  CLI::App* command =
      app.add_subcommand("health", "Ask a running server how it is: exit code 0 or 1");
  CLI::Option* url = command->add_option("--url", health.url, "http://host:port to ask");
  command->add_option("--port", health.port, "Port on 127.0.0.1 (default: PORT, else 3000)")
      ->check(whole(0, 65535))
      ->excludes(url);
  command->add_flag("--ready", health.ready,
                    "Whether it takes requests, not only whether it lives");
}

}  // namespace

base::Result<CommandLine> parse_command_line(int argc, const char* const* argv) {
  CommandLine line;
  Parsed parsed;
  bool version = false;
  CLI::App app("Runs WASI HTTP components.", "mik");
  app.add_flag("-V,--version", version, "Print the version");
  app.add_flag("-v,--verbose", line.verbose, "More log lines, unless RUST_LOG says otherwise");
  app.fallthrough();
  add_run(app, line.run, parsed);
  add_health(app, line.health);
  add_config(app, line.run, parsed);
  app.add_subcommand("version", "Print the version; with --verbose the engine's too");
  app.footer("Example:\n  mik run --port 3000 app.wasm");
  if (std::optional<base::Error> error = empty_value(argc, argv); error.has_value()) {
    return std::move(*error);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const CLI::App& at = deepest(app);
    line.help = at.help(at.get_parent() == nullptr ? "" : path_of(*at.get_parent()));
    return line;
  } catch (const CLI::ParseError& error) {
    return usage_error(app, error);
  }
  for (const std::string& pair : parsed.env) {
    const std::size_t equals = pair.find('=');
    if (equals == 0 || equals == std::string::npos) {
      return base::Error(base::ErrorCode::kUsage,
                         fmt::format("--env '{}' has no name or no '='", pair))
          .with_help("write it as --env NAME=VALUE");
    }
    line.run.env.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
  }
  if (version || app.got_subcommand("version")) {
    line.command = CommandLine::Command::kVersion;
  } else if (app.got_subcommand("run")) {
    line.command = CommandLine::Command::kRun;
  } else if (app.got_subcommand("config")) {
    line.command = app.get_subcommand("config")->got_subcommand("check")
                       ? CommandLine::Command::kConfigCheck
                       : CommandLine::Command::kConfigShow;
  } else if (app.got_subcommand("health")) {
    line.command = CommandLine::Command::kHealth;
  } else {
    return base::Error(base::ErrorCode::kUsage, "a command is needed")
        .with_help("'mik --help' lists them");
  }
  return line;
}

void wipe_secrets(int argc, char** argv) noexcept {
  constexpr std::string_view kFlag = "--api-key";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == kFlag && i + 1 < argc) {
      std::memset(argv[i + 1], '*', std::strlen(argv[i + 1]));
    } else if (argument.starts_with(kFlag) && argument.substr(kFlag.size()).starts_with('=')) {
      std::memset(argv[i] + kFlag.size() + 1, '*', argument.size() - kFlag.size() - 1);
    }
  }
}

}  // namespace mik::cli
