#include "cli/command_line.hpp"

#include <gtest/gtest.h>

namespace mik::cli {
namespace {

base::Result<CommandLine> parse(std::vector<const char*> words) {
  words.insert(words.begin(), "mik");
  return parse_command_line(static_cast<int>(words.size()), words.data());
}

TEST(CommandLine, ReadsEveryOptionOfRun) {
  const CommandLine line =
      parse({"run",       "--port",       "8080",    "--host",         "::1",     "-w",
             "2",         "--timeout",    "5",       "--memory-limit", "2097152", "--allow-host",
             "a.example", "--allow-host", "*",       "--env",          "A=1=2",   "--env",
             "B=",        "--reuse",      "7",       "--api-key",      "k",       "--lb",
             "-c",        "m.toml",       "app.wasm"})
          .value();
  EXPECT_EQ(line.command, CommandLine::Command::kRun);
  EXPECT_EQ(line.run.path, "app.wasm");
  EXPECT_EQ(line.run.port, 8080);
  EXPECT_EQ(line.run.host, "::1");
  EXPECT_EQ(line.run.workers, 2u);
  EXPECT_EQ(line.run.timeout_secs, 5u);
  EXPECT_EQ(line.run.memory_limit_bytes, 2097152u);
  EXPECT_EQ(line.run.allow_hosts, (std::vector<std::string>{"a.example", "*"}));
  EXPECT_EQ(line.run.env,
            (std::vector<std::pair<std::string, std::string>>{{"A", "1=2"}, {"B", ""}}));
  EXPECT_EQ(line.run.reuse, 7u);
  EXPECT_EQ(line.run.api_key, "k");
  EXPECT_EQ(line.run.config, "m.toml");
}

TEST(CommandLine, TheGuidesInvocations) {
  EXPECT_EQ(parse({"run", "--port", "3000", "/var/lib/mik/app.wasm"}).value().run.port, 3000);
  EXPECT_EQ(parse({"run", "--port", "3001", "app.wasm"}).value().run.path, "app.wasm");
  EXPECT_EQ(parse({"--version"}).value().command, CommandLine::Command::kVersion);
  EXPECT_EQ(parse({"-V"}).value().command, CommandLine::Command::kVersion);
  EXPECT_EQ(parse({"health", "--port", "1"}).value().command, CommandLine::Command::kHealth);
}

TEST(CommandLine, UnknownOptionsAreErrorsWithASuggestion) {
  const auto unknown = parse({"run", "--prot", "3000", "app.wasm"});
  ASSERT_FALSE(unknown.has_value());
  EXPECT_EQ(unknown.error().code(), base::ErrorCode::kUsage);
  EXPECT_NE(unknown.error().message().find("--prot"), std::string::npos);
  EXPECT_EQ(unknown.error().help(), "did you mean '--port'?");
  EXPECT_EQ(parse({"run", "--zzz"}).error().help(), "'mik run --help' lists what there is");
  const auto command = parse({"rum"});
  ASSERT_FALSE(command.has_value());
  EXPECT_EQ(command.error().help(), "did you mean 'run'?");
}

TEST(CommandLine, RefusesBadValues) {
  for (const std::vector<const char*>& words :
       std::vector<std::vector<const char*>>{{"run", "--port", "70000"},
                                             {"run", "--port", "x"},
                                             {"run", "--timeout", "0"},
                                             {"run", "--timeout", "301"},
                                             {"run", "--memory-limit", "1000"},
                                             {"run", "--memory-limit", "8589934592"},
                                             {"run", "--env", "novalue"},
                                             {"run", "--env", "=x"},
                                             {"run", "--reuse", "0"},
                                             {"run", "--workers", "1000"},
                                             {"run", "--local", "--host", "0.0.0.0"},
                                             {"run", "a.wasm", "b.wasm"},
                                             {"run", "--port"},
                                             {}}) {
    const auto line = parse(words);
    ASSERT_FALSE(line.has_value()) << (words.empty() ? "" : words.back());
    EXPECT_EQ(line.error().code(), base::ErrorCode::kUsage);
    EXPECT_FALSE(line.error().help().empty());
  }
}

TEST(CommandLine, WhatIsWrongIsSaidInASentence) {
  const std::vector<std::pair<std::vector<const char*>, std::string>> cases = {
      {{"run", "--port", "70000"}, "--port '70000' is not a number from 0 to 65535"},
      {{"run", "-p", "x"}, "--port 'x' is not a number from 0 to 65535"},
      {{"run", "--timeout", "0"}, "--timeout '0' is not a number from 1 to 300"},
      {{"run", "--memory-limit", "1000"},
       "--memory-limit '1000' is not a number from 1048576 to 4294967296"},
      {{"health", "--port", "-1"}, "--port '-1' is not a number from 0 to 65535"},
      {{"run", "--api-key="}, "--api-key has no value"},
      {{"run", "--api-key=", "app.wasm"}, "--api-key has no value"},
      {{"run", "--port"}, "--port has no value"},
      {{"run", "--env"}, "--env has no value"},
      {{"run", "--host", "::1", "--host", "::1"}, "--host is given more than once"},
      {{"run", "--lb=maybe"}, "--lb takes no value"},
      {{"run", "--local", "--host", "0.0.0.0"}, "--host and --local exclude each other"},
      {{"config"}, "mik config needs a command"},
      {{}, "a command is needed"},
  };
  for (const auto& [words, message] : cases) {
    const auto line = parse(words);
    ASSERT_FALSE(line.has_value()) << message;
    EXPECT_EQ(line.error().message(), message);
    EXPECT_EQ(line.error().code(), base::ErrorCode::kUsage);
    EXPECT_FALSE(line.error().help().empty()) << message;
  }
  EXPECT_EQ(parse({"run", "--", "--odd="}).value().run.path, "--odd=");
}

TEST(CommandLine, HelpSaysHowItIsCalled) {
  EXPECT_NE(parse({"--help"}).value().help.find("Usage: mik [OPTIONS]"), std::string::npos);
  EXPECT_NE(parse({"run", "--help"}).value().help.find("Usage: mik run [OPTIONS] [PATH]"),
            std::string::npos);
  EXPECT_NE(parse({"config", "show", "-h"}).value().help.find("Usage: mik config show"),
            std::string::npos);
}

TEST(CommandLine, HelpNamesTheOptions) {
  const CommandLine line = parse({"run", "--help"}).value();
  EXPECT_EQ(line.command, CommandLine::Command::kHelp);
  for (const char* option :
       {"--port", "--host", "--local", "--workers", "--timeout", "--memory-limit", "--allow-host",
        "--env", "--reuse", "--config", "--api-key"}) {
    EXPECT_NE(line.help.find(option), std::string::npos) << option;
  }
}

TEST(CommandLine, SecretsAreWiped) {
  std::string program = "mik";
  std::string run = "run";
  std::string flag = "--api-key";
  std::string apart = "s3cret";
  std::string joined = "--api-key=s3cret";
  std::string path = "s3cret.wasm";
  std::vector<char*> words = {program.data(), run.data(),    flag.data(),
                              apart.data(),   joined.data(), path.data()};
  wipe_secrets(static_cast<int>(words.size()), words.data());
  EXPECT_EQ(apart, "******");
  EXPECT_EQ(joined, "--api-key=******");
  EXPECT_EQ(path, "s3cret.wasm");
}

TEST(CommandLine, ConfigTakesTheOptionsOfRun) {
  const CommandLine check = parse({"config", "check", "/etc/mik/mik.toml"}).value();
  EXPECT_EQ(check.command, CommandLine::Command::kConfigCheck);
  EXPECT_EQ(check.run.config, "/etc/mik/mik.toml");
  const CommandLine show = parse({"config", "show", "--port", "4000"}).value();
  EXPECT_EQ(show.command, CommandLine::Command::kConfigShow);
  EXPECT_EQ(show.run.port, 4000);
  EXPECT_EQ(parse({"config"}).error().code(), base::ErrorCode::kUsage);
  EXPECT_EQ(parse({"config", "chekc"}).error().help(), "did you mean 'check'?");
}

}  // namespace
}  // namespace mik::cli
