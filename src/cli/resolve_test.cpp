#include "cli/resolve.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "cli/state_folder.hpp"
#include "cli/test_folder.hpp"

namespace mik::cli {
namespace {

bool mentions(const std::vector<std::string>& texts, std::string_view what) {
  return std::ranges::any_of(
      texts, [&](const std::string& text) { return text.find(what) != std::string::npos; });
}

class ResolveTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    arguments.path = write_module("app.wasm");
  }
  std::string bind() { return resolved().value().settings.binds.at(0); }
  // A manifest, and nothing else said.
  void manifest(const std::string& text, const std::string& name = "mik.toml") {
    arguments.config = write(name, text);
    arguments.path.reset();
  }
  config::Settings settings() { return resolved().value().settings; }
  std::string refused() {
    auto result = resolved();
    EXPECT_FALSE(result.has_value());
    return result.has_value() ? "" : result.error().to_string();
  }
};

TEST_F(ResolveTest, FlagBeatsEnvironmentBeatsFileBeatsDefault) {
  EXPECT_EQ(bind(), "127.0.0.1:3000");
  arguments.config = write("mik.toml", "[server]\nport = 3500\n");
  EXPECT_EQ(bind(), "127.0.0.1:3500");
  environment["HOST"] = "0.0.0.0";
  EXPECT_EQ(bind(), "0.0.0.0:3500");
  environment["PORT"] = "4000";
  EXPECT_EQ(bind(), "0.0.0.0:4000");
  arguments.port = 5000;
  EXPECT_EQ(bind(), "0.0.0.0:5000");
  arguments.local = true;
  EXPECT_EQ(bind(), "127.0.0.1:5000");
  arguments.local = false;
  arguments.host = "::1";
  EXPECT_EQ(bind(), "[::1]:5000");
}

TEST_F(ResolveTest, TheListOfTheFileUnlessSomebodySaysOtherwise) {
  arguments.config = write(
      "mik.toml", "[server]\nport = 1\nbind = [\"127.0.0.1:0\", \"[::1]:0\", \"unix:/x/s\"]\n");
  EXPECT_EQ(settings().binds, (std::vector<std::string>{"127.0.0.1:0", "[::1]:0", "unix:/x/s"}));
  EXPECT_TRUE(resolved().value().warnings.empty());
  environment["HOST"] = "127.0.0.2";
  EXPECT_EQ(settings().binds, (std::vector<std::string>{"127.0.0.2:1"}));
  EXPECT_TRUE(mentions(resolved().value().warnings, "server.bind is not used: env HOST"));
  environment.clear();
  environment["MIK_HOME"] = folder;
  arguments.port = 0;
  EXPECT_EQ(settings().binds, (std::vector<std::string>{"127.0.0.1:0"}));
}

TEST_F(ResolveTest, LocalOfTheEnvironmentCountsEvenEmpty) {
  environment["HOST"] = "0.0.0.0";
  environment["MIK_LOCAL"] = "";
  EXPECT_EQ(bind(), "127.0.0.1:3000");
}

TEST_F(ResolveTest, HostMayBeANameOrBracketed) {
  environment["HOST"] = "[::1]";
  EXPECT_EQ(bind(), "[::1]:3000");
  environment["HOST"] = "localhost";
  EXPECT_TRUE(bind() == "127.0.0.1:3000" || bind() == "[::1]:3000") << bind();
}

TEST_F(ResolveTest, BadEnvironmentIsAnErrorThatNamesIt) {
  environment["PORT"] = "http";
  EXPECT_NE(refused().find("PORT"), std::string::npos);
  environment.erase("PORT");
  environment["HOST"] = "not a host";
  EXPECT_NE(refused().find("HOST"), std::string::npos);
}

TEST_F(ResolveTest, LogLevelAndFormat) {
  EXPECT_EQ(resolved({.terminal = true}).value().settings.log_format, config::LogFormat::kText);
  EXPECT_EQ(settings().log_format, config::LogFormat::kJson);
  EXPECT_EQ(resolved({.verbose = true}).value().settings.log_level, config::LogLevel::kDebug);
  environment["RUST_LOG"] = "warn";
  EXPECT_EQ(resolved({.verbose = true}).value().settings.log_level, config::LogLevel::kWarn);
  environment["RUST_LOG"] = "nonsense!";
  EXPECT_EQ(settings().log_level, config::LogLevel::kInfo);
  EXPECT_TRUE(mentions(resolved().value().warnings, "RUST_LOG 'nonsense!' is not understood"));
}

TEST_F(ResolveTest, HotReload) {  // G36
  EXPECT_EQ(settings().hot_reload, config::HotReload::kSwap);
  for (const char* off : {"0", "false", ""}) {
    environment["MIK_HOT_RELOAD"] = off;
    EXPECT_EQ(settings().hot_reload, config::HotReload::kReport) << off;
  }
  for (const char* on : {"1", "true"}) {
    environment["MIK_HOT_RELOAD"] = on;
    EXPECT_EQ(settings().hot_reload, config::HotReload::kEager) << on;
  }
  environment["MIK_HOT_RELOAD"] = "maybe";
  EXPECT_EQ(settings().hot_reload, config::HotReload::kSwap);
  EXPECT_TRUE(mentions(resolved().value().warnings, "MIK_HOT_RELOAD \"maybe\""));
}

TEST_F(ResolveTest, ApiKey) {
  EXPECT_EQ(settings().api_key, "");
  environment["MIK_API_KEY"] = "";
  EXPECT_EQ(settings().api_key, "");
  environment["MIK_API_KEY"] = "env";
  EXPECT_EQ(settings().api_key, "env");
  arguments.api_key = "flag";
  EXPECT_EQ(settings().api_key, "flag");
  arguments.api_key = "";  // --api-key "$MIK_API_KEY" without the variable
  EXPECT_NE(refused().find("--api-key is empty"), std::string::npos);
}

TEST_F(ResolveTest, FlagsReachTheSettings) {
  arguments.config = write("mik.toml",
                           "[server]\nreuse = 2\nenv = { A = \"file\", B = \"${HOME}\" }\n"
                           "http_allowed = [\"x.example\"]\nworkers = 1\n");
  environment["HOME"] = "/h";
  arguments.timeout_secs = 5;
  arguments.memory_limit_bytes = 1 << 21;
  arguments.reuse = 9;
  arguments.workers = 3;
  arguments.env = {{"A", "flag"}, {"C", "${HOME}"}};
  arguments.allow_hosts = {"127.0.0.1:9001"};
  const config::Settings s = settings();
  EXPECT_EQ(s.guest.execution_timeout, std::chrono::seconds(5));
  EXPECT_EQ(s.guest.cpu_budget, std::chrono::seconds(5));
  EXPECT_EQ(s.guest.memory_limit_bytes, 1u << 21);
  EXPECT_EQ(s.guest.reuse, 9u);
  EXPECT_EQ(s.workers, 3u);
  EXPECT_EQ(s.guest.http_allowed, (std::vector<std::string>{"127.0.0.1:9001"}));
  EXPECT_EQ(s.guest.env, (config::Pairs{{"A", "flag"}, {"B", "/h"}, {"C", "${HOME}"}}));
  EXPECT_EQ(s.state_dir, folder + "/state");
}

TEST_F(ResolveTest, APatternThatCanNeverMatchIsAnError) {
  arguments.allow_hosts = {"api.*.com"};
  manifest("[server]\nprot = 1\n");  // of the file nothing is said before the flags are right
  const auto result = resolved();
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), base::ErrorCode::kUsage);
  EXPECT_TRUE(result.error().message().starts_with("--allow-host: \"api.*.com\": can never match"))
      << result.error().to_string();
  EXPECT_TRUE(result.error().causes().empty());
}

TEST_F(ResolveTest, AFolderIsServedAsModules) {
  write_module("mods/a.wasm");
  arguments.path = folder + "/mods/";
  const config::Settings s = settings();
  EXPECT_FALSE(s.single_component());
  EXPECT_EQ(s.modules_dir, folder + "/mods");
  EXPECT_TRUE(s.root.empty());
  EXPECT_TRUE(s.component_name.empty());
}

TEST_F(ResolveTest, ModulesOfTheFile) {
  manifest("[server]\n");
  EXPECT_NE(refused().find("server.modules: no such folder or file: " + folder + "/modules"),
            std::string::npos)
      << refused();
  make_folder("modules");  // G38: it may be empty
  EXPECT_EQ(settings().modules_dir, folder + "/modules");
  manifest("[server]\nmodules = \"none\"\n");
  EXPECT_NE(refused().find("mik.toml:2:11: server.modules: no such folder or file"),
            std::string::npos);
  manifest("[server]\nmodules = \"app.wasm\"\nroot = \"other\"\n");
  const Resolved single = resolved().value();
  EXPECT_EQ(single.settings.component_path, folder + "/app.wasm");
  EXPECT_EQ(single.settings.component_name, "app");
  EXPECT_EQ(single.settings.root, "app");
  EXPECT_TRUE(single.settings.modules_dir.empty());
  EXPECT_TRUE(mentions(single.warnings, "server.root = \"other\" is not used"));
}

TEST_F(ResolveTest, TheGuidesManifest) {
  const char* root = std::getenv("MIK_SOURCE_DIR");
  ASSERT_NE(root, nullptr);
  std::ifstream file(std::string(root) + "/tests/guide/guide.md");
  const std::string guide((std::istreambuf_iterator<char>(file)), {});
  const std::size_t start = guide.find("    [project]\n    name = \"production-api\"");
  ASSERT_NE(start, std::string::npos);
  make_folder("modules");
  manifest(guide.substr(start, guide.find("\n###", start) - start));
  const Resolved guides = resolved().value();
  EXPECT_TRUE(guides.warnings.empty());
  EXPECT_EQ(guides.settings.binds, (std::vector<std::string>{"127.0.0.1:3000"}));
  EXPECT_EQ(guides.settings.modules_dir, folder + "/modules");
  EXPECT_EQ(guides.settings.max_concurrent_requests, 2000u);
  EXPECT_EQ(guides.settings.guest.max_requests, 50u);
}

TEST_F(ResolveTest, TenantsAloneNeedNoModules) {  // G38
  make_folder("tenants");
  manifest("[server]\nuser_modules = \"tenants\"\n");
  EXPECT_EQ(settings().modules_dir, "");
  EXPECT_EQ(settings().user_modules_dir, folder + "/tenants");
  manifest("[server]\nuser_modules = \"tenants\"\nmodules = \"none\"\n");
  EXPECT_NE(refused().find("server.modules"), std::string::npos);
}

TEST_F(ResolveTest, APathWinsAndTheFileSuppliesTheRest) {
  arguments.config = write("mik.toml", "[server]\nmodules = \"none\"\nreuse = 4\n");
  EXPECT_EQ(settings().component_name, "app");
  EXPECT_EQ(settings().guest.reuse, 4u);
}

TEST_F(ResolveTest, WhatIsNamedAndNotThereYetIsAWarning) {
  write_module("modules/a.wasm");
  manifest(
      "[server]\nroot = \"r\"\nuser_modules = \"t\"\n[modules.m]\nreuse = 2\n"
      "[[routes]]\npath = \"/x\"\nmodule = \"n\"\n[[routes]]\nmodule = \"a\"\n"
      "[[routes]]\npath = \"/y\"\ntenant = \"acme\"\nmodule = \"w\"\n");
  const std::vector<std::string> warnings = resolved().value().warnings;
  EXPECT_EQ(warnings.size(), 5u);
  EXPECT_TRUE(mentions(warnings, "modules.m: there is no module \"m\" yet"));
  EXPECT_TRUE(mentions(warnings, "\"acme/w\" yet"));
  EXPECT_TRUE(mentions(warnings, "server.root: there is no module \"r\" yet"));
  EXPECT_TRUE(mentions(warnings, "server.user_modules: no such folder yet"));
}

TEST_F(ResolveTest, WhatCouldNotServeIsAWarning) {
  write_module("modules/a.wasm");
  manifest(
      "[server]\nbind = [\"127.0.0.1:3421\"]\nadmin = \"127.0.0.1:3421\"\n"
      "log_file = \"/nonexistent/x.log\"\n"
      "[[routes]]\npath = \"/health\"\nmodule = \"a\"\n"
      "[[routes]]\npath = \"/run/x\"\nmodule = \"a\"\n"
      "[[routes]]\npath = \"/running\"\nmodule = \"a\"\n");
  const std::vector<std::string> warnings = resolved().value().warnings;
  EXPECT_EQ(warnings.size(), 4u);
  EXPECT_TRUE(mentions(warnings, "\"/health\" is never reached"));
  EXPECT_TRUE(mentions(warnings, "\"/run/x\" is never reached"));
  EXPECT_TRUE(mentions(warnings, "server.log_file: no such folder yet: /nonexistent"));
  EXPECT_TRUE(mentions(warnings, "server.admin: 127.0.0.1:3421 is a bind"));
}

TEST_F(ResolveTest, FilesOfKeysMustBeThere) {
  make_folder("modules");
  manifest("[server]\ntls_cert = \"c.pem\"\ntls_key = \"k.pem\"\nhttp_ca_file = \"modules\"\n");
  write("k.pem", "no certificate");
  const std::string said = refused();
  EXPECT_NE(said.find("3 problems"), std::string::npos) << said;
  EXPECT_NE(said.find("mik.toml:2:12: server.tls_cert: cannot open " + folder + "/c.pem"),
            std::string::npos)
      << said;
  EXPECT_NE(said.find("k.pem holds no PEM"), std::string::npos);
  EXPECT_NE(said.find("modules is not a regular file"), std::string::npos);
}

TEST_F(ResolveTest, AllProblemsOfReaderAndChecksTogether) {
  make_folder("modules");
  manifest(
      "[server]\nprot = 1\nbind = [\"localhost:3000\"]\ntrusted_proxies = [\"10.0.0.1/8\"]\n"
      "http_allowed = [\"https://x\"]\nenv = { A = \"${GONE}\" }\n[project]\nname = \"9\"\n");
  const auto result = resolved();
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), base::ErrorCode::kConfig);
  EXPECT_EQ(result.error().message(), folder + "/mik.toml cannot be used: 6 problems");
  ASSERT_EQ(result.error().causes().size(), 6u);
  EXPECT_NE(result.error().causes()[0].find(":2:1: server: unknown key \"prot\""),
            std::string::npos);
  EXPECT_NE(result.error().causes()[1].find(":3:9: server.bind: \"localhost:3000\": must be"),
            std::string::npos);
  EXPECT_NE(result.error().causes()[2].find("10.0.0.1/8"), std::string::npos);
  EXPECT_NE(result.error().causes()[4].find("no variable \"GONE\""), std::string::npos);
  EXPECT_NE(result.error().causes()[5].find("Invalid project name"), std::string::npos);
}

TEST_F(ResolveTest, AManifestThatIsNotThereOrNoFile) {
  arguments.config = folder + "/none.toml";
  EXPECT_NE(refused().find("no such file: " + folder + "/none.toml"), std::string::npos);
  arguments.config = folder;
  EXPECT_NE(refused().find("is not a regular file"), std::string::npos);
  ASSERT_EQ(::mkfifo((folder + "/fifo").c_str(), 0600), 0);
  arguments.config = folder + "/fifo";  // must not hang
  EXPECT_NE(refused().find("is not a regular file"), std::string::npos);
}

TEST_F(ResolveTest, TheSameAgainAfterTheFileChanged) {  // SIGHUP
  make_folder("modules");
  manifest("[server]\nreuse = 2\n");
  arguments.timeout_secs = 7;
  EXPECT_EQ(settings().guest.reuse, 2u);
  manifest("[server]\nreuse = 3\nexecution_timeout_secs = 9\n");
  EXPECT_EQ(settings().guest.reuse, 3u);
  EXPECT_EQ(settings().guest.execution_timeout, std::chrono::seconds(7));
  manifest("[server]\nreuse = 0\n");
  EXPECT_NE(refused().find("server.reuse = 0"), std::string::npos);
}

TEST_F(ResolveTest, StateFolder) {
  namespace fs = std::filesystem;
  const auto of = [](const std::map<std::string, std::string>& variables) {
    return state_dir([&variables](std::string_view name) -> std::optional<std::string> {
      const auto found = variables.find(std::string(name));
      return found == variables.end() ? std::nullopt : std::optional(found->second);
    });
  };
  EXPECT_EQ(of({{"MIK_HOME", "/a/b"}, {"HOME", "/h"}}).value(), "/a/b");
  EXPECT_EQ(of({{"MIK_HOME", "rel"}}).value(), fs::current_path().string() + "/rel");
  if (!fs::is_directory("/var/lib/mik")) {
    EXPECT_EQ(of({{"HOME", "/h"}, {"MIK_HOME", ""}}).value(), "/h/.mik");
    EXPECT_FALSE(of({}).has_value());
  }
}

TEST_F(ResolveTest, TheStateFolderIsMadeForItsOwnerAlone) {
  namespace fs = std::filesystem;
  const std::string path = folder + "/a/state";
  fs::create_directories(path + "/modules");
  constexpr fs::perms kOwner = fs::perms::owner_all;
  constexpr fs::perms kGroup = kOwner | fs::perms::group_read | fs::perms::group_exec;
  fs::permissions(path + "/modules", kGroup);
  fs::permissions(path, kGroup);
  make_state_dir(path);
  EXPECT_EQ(fs::status(path).permissions(), kGroup);  // what is there is not touched
  EXPECT_EQ(fs::status(path + "/modules").permissions(), kGroup);
  for (const char* name : {"data", "cache", "logs"}) {
    EXPECT_EQ(fs::status(path + "/" + name).permissions(), kOwner) << name;
  }
  make_state_dir(folder + "/b/c/state");
  EXPECT_EQ(fs::status(folder + "/b/c/state").permissions(), kOwner);
}

}  // namespace
}  // namespace mik::cli
