#include "cli/resolve.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

namespace mik::cli {
namespace {

namespace fs = std::filesystem;

class ResolveTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mik-resolve-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    const std::string path = folder_ + "/app.wasm";
    std::ofstream(path, std::ios::binary) << std::string_view("\0asm\x0d\0\1\0", 8);
    arguments_.path = path;
    environment_["MIK_HOME"] = folder_;
  }
  void TearDown() override { fs::remove_all(folder_); }

  base::Result<Resolved> resolved(bool terminal = false, bool verbose = false) {
    return resolve(arguments_,
                   [this](std::string_view name) -> std::optional<std::string> {
                     const auto found = environment_.find(std::string(name));
                     return found == environment_.end() ? std::nullopt
                                                        : std::optional(found->second);
                   },
                   {.verbose = verbose, .terminal = terminal});
  }
  std::string bind() { return resolved().value().settings.binds.at(0); }

  std::string folder_;
  RunArguments arguments_;
  std::map<std::string, std::string> environment_;
};

TEST_F(ResolveTest, FlagBeatsEnvironmentBeatsDefault) {
  EXPECT_EQ(bind(), "127.0.0.1:3000");
  environment_["PORT"] = "4000";
  environment_["HOST"] = "0.0.0.0";
  EXPECT_EQ(bind(), "0.0.0.0:4000");
  arguments_.port = 5000;
  EXPECT_EQ(bind(), "0.0.0.0:5000");
  arguments_.local = true;
  EXPECT_EQ(bind(), "127.0.0.1:5000");
  arguments_.local = false;
  arguments_.host = "::1";
  EXPECT_EQ(bind(), "[::1]:5000");
}

TEST_F(ResolveTest, HostMayBeANameOrBracketed) {
  environment_["HOST"] = "[::1]";
  EXPECT_EQ(bind(), "[::1]:3000");
  environment_["HOST"] = "localhost";
  EXPECT_TRUE(bind() == "127.0.0.1:3000" || bind() == "[::1]:3000") << bind();
}

TEST_F(ResolveTest, BadEnvironmentIsAnErrorThatNamesIt) {
  environment_["PORT"] = "http";
  EXPECT_NE(resolved().error().message().find("PORT"), std::string::npos);
  environment_.erase("PORT");
  environment_["HOST"] = "not a host";
  EXPECT_NE(resolved().error().message().find("HOST"), std::string::npos);
}

TEST_F(ResolveTest, LogLevelAndFormat) {
  EXPECT_EQ(resolved(true).value().settings.log_format, config::LogFormat::kText);
  EXPECT_EQ(resolved(false).value().settings.log_format, config::LogFormat::kJson);
  EXPECT_EQ(resolved(false, true).value().settings.log_level, config::LogLevel::kDebug);
  environment_["RUST_LOG"] = "warn";
  EXPECT_EQ(resolved(false, true).value().settings.log_level, config::LogLevel::kWarn);
  environment_["RUST_LOG"] = "nonsense!";
  EXPECT_EQ(resolved().value().warnings.size(), 1u);
}

TEST_F(ResolveTest, LimitsReachTheSettings) {
  arguments_.timeout_secs = 5;
  arguments_.memory_limit_bytes = 1 << 21;
  arguments_.reuse = 9;
  arguments_.workers = 3;
  arguments_.env = {{"A", "b"}};
  arguments_.allow_hosts = {"127.0.0.1:9001"};
  const config::Settings settings = resolved().value().settings;
  EXPECT_EQ(settings.guest.execution_timeout, std::chrono::seconds(5));
  EXPECT_EQ(settings.guest.cpu_budget, std::chrono::seconds(5));
  EXPECT_EQ(settings.guest.memory_limit_bytes, 1u << 21);
  EXPECT_EQ(settings.guest.reuse, 9u);
  EXPECT_EQ(settings.workers, 3u);
  EXPECT_EQ(settings.guest.env.size(), 1u);
  EXPECT_EQ(settings.state_dir, folder_);
}

TEST_F(ResolveTest, APatternThatCanNeverMatchIsAnError) {
  arguments_.allow_hosts = {"api.*.com"};
  EXPECT_FALSE(resolved().has_value());
}

}  // namespace
}  // namespace mik::cli
