#include "cli/config_command.hpp"

#include <gtest/gtest.h>

#include "cli/test_folder.hpp"

namespace mik::cli {
namespace {

class ShowTest : public FolderTest {
 protected:
  std::string shown() {
    auto result = resolved({.find_served = false});
    EXPECT_TRUE(result.has_value()) << result.error().to_string();
    return result.has_value() ? show(*result) : "";
  }
  // The line that begins with `start`, blanks squeezed.
  std::string line(const std::string& start) {
    const std::string text = "\n" + shown();
    const std::size_t at = text.find("\n" + start);
    EXPECT_NE(at, std::string::npos) << start << " in " << text;
    if (at == std::string::npos) {
      return "";
    }
    std::string out;
    for (const char c : text.substr(at + 1, text.find('\n', at + 1) - at - 1)) {
      if (c != ' ' || (!out.empty() && out.back() != ' ')) {
        out += c;
      }
    }
    return out;
  }
};

TEST_F(ShowTest, EachValueSaysWhereItComesFrom) {
  arguments.config =
      write("mik.toml", "[server]\nport = 4000\nreuse = 2\n[modules.\"a b\"]\nreuse = 3\n");
  make_folder("modules");
  environment["HOST"] = "127.0.0.2";
  arguments.timeout_secs = 5;
  EXPECT_EQ(line("port"), "port = 4000 # " + folder + "/mik.toml:2:8");
  EXPECT_EQ(line("bind"), "bind = [\"127.0.0.2:4000\"] # env HOST");
  EXPECT_EQ(line("execution_timeout_secs"), "execution_timeout_secs = 5 # flag --timeout");
  EXPECT_EQ(line("cpu_ms"), "cpu_ms = 5000 # automatic");
  EXPECT_EQ(line("idle_timeout_secs"), "idle_timeout_secs = 130 # default");
  EXPECT_EQ(line("modules ="), "modules = \"" + folder + "/modules\" # default");
  EXPECT_EQ(line("# file"), "# file: " + folder + "/mik.toml");
  EXPECT_EQ(line("# served"), "# served: " + folder + "/modules");
  EXPECT_EQ(line("# state folder"), "# state folder: " + folder + "/state # env MIK_HOME");
  EXPECT_NE(shown().find("[modules.\"a b\"]\nreuse = 3"), std::string::npos);
}

TEST_F(ShowTest, SecretsAreMasked) {
  arguments.config =
      write("mik.toml",
            "[server]\nenv = { A = \"s3cret\", B = \"${TOKEN}\", C = \"x${TOKEN}\" }\n"
            "[tracing]\notlp_endpoint = \"http://me:s3cret@tempo:4317/a\"\n");
  environment["TOKEN"] = "s3cret";
  arguments.api_key = "s3cret";
  arguments.env = {{"D", "s3cret"}};
  EXPECT_EQ(shown().find("s3cret"), std::string::npos) << shown();
  EXPECT_EQ(line("env"),
            "env = { A = \"***\", B = \"${TOKEN}\", C = \"***\", D = \"***\" } # flag --env");
  EXPECT_EQ(line("otlp_endpoint"),
            "otlp_endpoint = \"http://***@tempo:4317/a\" # " + folder + "/mik.toml:4:17");
  EXPECT_EQ(line("# api key"), "# api key: *** # flag --api-key");
}

TEST_F(ShowTest, WhatIsShownMeansTheSameWhenRead) {
  arguments.config =
      write("mik.toml",
            "[project]\nname = \"p\"\n[server]\nport = 4000\nmodules = \"m\"\n"
            "max_concurrent_requests = 50\n[breaker]\nfailures = 9\n"
            "[[routes]]\nhost = \"a.example\"\nmodule = \"x\"\n[lb]\nenabled = true\n");
  make_folder("m");
  config::Settings first = resolved().value().settings;
  const std::string text = shown();
  arguments.config = write("again.toml", text);
  auto second = resolved();
  ASSERT_TRUE(second.has_value()) << second.error().to_string() << text;
  second->settings.config_file = first.config_file;
  EXPECT_EQ(serialize(second->settings), serialize(first)) << text;
}

TEST_F(ShowTest, ALogFileThatComesOfItselfIsTold) {
  arguments.config = write("mik.toml",
                           "[project]\nname = \"p\"\n[server]\nport = 4000\nmodules = \"m\"\n"
                           "log_max_files = 7\n");
  make_folder("m");
  EXPECT_NE(line("# log file").find("/logs/p-4000.log\" # automatic"), std::string::npos);
  const config::Settings first = resolved().value().settings;
  EXPECT_TRUE(first.log_stdout);
  EXPECT_TRUE(first.log_file.ends_with("/logs/p-4000.log"));
  arguments.config = write("again.toml", shown());
  const config::Settings second = resolved().value().settings;
  EXPECT_EQ(second.log_file, first.log_file);
  EXPECT_TRUE(second.log_stdout);
}

}  // namespace
}  // namespace mik::cli
