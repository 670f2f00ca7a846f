// The binary: commands for people, and the hidden entries by which a supervisor starts its
// children.
#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>

#include <fmt/format.h>

#include "cli/command_line.hpp"
#include "cli/config_command.hpp"
#include "cli/health.hpp"
#include "cli/run.hpp"
#include "engine/engine.hpp"
#include "gateway/gateway.hpp"
#include "runtime/compile_child.hpp"
#include "runtime/worker.hpp"
#include "shared/boot.hpp"

namespace {

using mik::base::Error;
using mik::base::ErrorCode;

// `error: what`, then `cause:` lines, then `help: what to do`. 1 failed, 2 wrong usage.
int report(const Error& error) {
  std::string text = fmt::format("error: {}\n", error.message());
  for (const std::string& cause : error.causes()) {
    text += fmt::format("cause: {}\n", cause);
  }
  if (!error.help().empty()) {
    text += fmt::format("help: {}\n", error.help());
  }
  std::fputs(text.c_str(), stderr);  // fmt::print would throw when nobody takes it
  return error.code() == ErrorCode::kUsage ? 2 : 1;
}

int command(int argc, char** argv) {
  const auto parsed = mik::cli::parse_command_line(argc, argv);
  mik::cli::wipe_secrets(argc, argv);
  if (!parsed.has_value()) {
    return report(parsed.error());
  }
  mik::base::Result<void> outcome;
  switch (parsed->command) {
    case mik::cli::CommandLine::Command::kRun:
      outcome = mik::cli::run(parsed->run, parsed->verbose);
      break;
    case mik::cli::CommandLine::Command::kHealth:
      outcome = mik::cli::health(parsed->health);
      break;
    case mik::cli::CommandLine::Command::kConfigCheck:
      outcome = mik::cli::config_check(parsed->run);
      break;
    case mik::cli::CommandLine::Command::kConfigShow:
      outcome = mik::cli::config_show(parsed->run, parsed->verbose);
      break;
    case mik::cli::CommandLine::Command::kVersion:
      fmt::print("mik {}\n", MIK_VERSION);
      if (parsed->verbose) {
        fmt::print("engine: {}\n", mik::engine::engine_version());
      }
      break;
    case mik::cli::CommandLine::Command::kHelp:
      fmt::print("{}", parsed->help);
      break;
  }
  return outcome.has_value() ? 0 : report(outcome.error());
}

// Some launchers close them. What was opened next would be standard output then: a log line would
// go to a client.
void open_standard_streams() noexcept {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) < 0) {
      [[maybe_unused]] const int opened =
          ::open("/dev/null", O_RDWR);  // the lowest that is free: fd
    }
  }
}

std::unique_ptr<mik::runtime::Documents> make_documents(const mik::config::Settings& settings) {
  return std::make_unique<mik::gateway::Gateway>(settings);
}

int enter(int argc, char** argv) {
  open_standard_streams();
  std::signal(SIGPIPE, SIG_IGN);
  if (mik::shared::is_worker(argc, argv)) {
    auto boot = mik::shared::enter_worker(argc, argv);
    return boot.has_value() ? mik::runtime::run_worker(std::move(*boot), make_documents)
                            : report(boot.error());
  }
  if (mik::shared::is_compile_child(argc, argv)) {
    auto boot = mik::shared::enter_compile_child(argc, argv);
    return boot.has_value() ? mik::runtime::run_compile_child(std::move(*boot))
                            : report(boot.error());
  }
  return command(argc, argv);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return enter(argc, argv);
  } catch (const std::exception& problem) {
    return report(Error(ErrorCode::kInternal, problem.what()));
  }
}
