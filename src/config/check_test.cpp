#include "config/check.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "config/build.hpp"
#include "config/reader.hpp"
#include "config/suggest.hpp"

namespace mik::config {
namespace {

const Syntax kSyntax = {
    .bind = [](const std::string& text) { return text == "bad" ? "is no address" : ""; },
    .network = [](const std::string& text) { return text == "bad" ? "is no network" : ""; },
    .host_pattern =
        [](const std::string& text, HttpPrivate policy) {
          return text == "bad" || (text == "private" && policy == HttpPrivate::kDeny)
                     ? "can never match"
                     : "";
        },
};

std::vector<Problem> problems_of(std::string_view text, Purpose purpose = Purpose::kCheck,
                                 const std::string& file = "/x/mik.toml") {
  ReadResult read = read_manifest(text, file);
  EXPECT_TRUE(read.problems.empty()) << read.problems[0].to_string();
  complete(read.document, {.state = "/state", .working = "/here"});
  return check(read.document, kSyntax, purpose);
}

// "" when all is well; else the one problem.
std::string problem(std::string_view text, Purpose purpose = Purpose::kCheck) {
  const std::vector<Problem> all = problems_of(text, purpose);
  EXPECT_LE(all.size(), 1u) << text << all.back().to_string();
  return all.empty() ? "" : all[0].to_string();
}

TEST(Check, TheDefaultsAreWell) { EXPECT_EQ(problem(""), ""); }

TEST(Check, ProjectNames) {
  const auto of = [](const std::string& name) {
    return problem("[project]\nname = \"" + name + "\"\n");
  };
  for (const std::string& name : {std::string("production-api"), std::string("_x"),
                                  std::string("a1_-"), std::string(64, 'a')}) {
    EXPECT_EQ(of(name), "") << name;
  }
  EXPECT_NE(of("").find("Project name is required"), std::string::npos);
  for (const char* name : {"1a", "-a", "a b", "a/b", "..", "a.b", "\xc3\xa9"}) {
    EXPECT_NE(of(name).find("Invalid project name"), std::string::npos) << name;
  }
  EXPECT_NE(of(std::string(65, 'a')).find("Invalid project name"), std::string::npos);
}

TEST(Check, SemanticVersions) {
  for (const char* good : {"1.0.0", "0.1.0", "1.2.3-alpha.1", "1.0.0+build.01", "10.20.30-rc-1+x",
                           "1.0.0--", "1.0.0-0a"}) {
    EXPECT_TRUE(is_semantic_version(good)) << good;
  }
  for (const char* bad : {"", "1", "1.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.0.0-01", "1.0.0-",
                          "1.0.0+", "1..0", "1.0.x", "1.0.0 ", "1.0.0-a..b"}) {
    EXPECT_FALSE(is_semantic_version(bad)) << bad;
  }
  const std::string said = problem("[project]\nname = \"a\"\nversion = \"1.0\"\n");
  EXPECT_NE(said.find("Invalid version"), std::string::npos);
  EXPECT_NE(said.find("semantic versioning"), std::string::npos);
}

TEST(Check, TextsOfTheServer) {
  EXPECT_NE(problem("[server]\nmodules = \"\"\n").find("modules directory cannot be empty"),
            std::string::npos);
  EXPECT_NE(problem("[server]\nmodules = \"a\\u0000b\"\n").find("holds a NUL"), std::string::npos);
  EXPECT_EQ(problem("[server]\nhttp_private = \"open\"\n"),
            "/x/mik.toml:2:16: server.http_private = \"open\": must be one of \"named\", \"deny\", "
            "\"allow\"");
  EXPECT_NE(
      problem("[server]\nbind = [\"a\", \"bad\"]\n").find("2:14: server.bind: \"bad\": is no"),
      std::string::npos);
  EXPECT_NE(problem("[server]\nbind = [\"a\", \"a\"]\n").find("stands there twice"),
            std::string::npos);
  EXPECT_NE(problem("[server]\ntrusted_proxies = [\"bad\"]\n").find("is no network"),
            std::string::npos);
  EXPECT_NE(problem("[server]\nservices = [\"kv\", \"queue\"]\n").find("must be one of \"kv\""),
            std::string::npos);
  EXPECT_NE(problem("[server]\nroot = \"a/b\"\n").find("separator"), std::string::npos);
  EXPECT_NE(problem("[tracing]\notlp_endpoint = \"tempo:4317\"\n").find("must be a URL"),
            std::string::npos);
  EXPECT_NE(problem("[server]\nenv = { \"A=B\" = \"x\" }\n").find("has no '='"), std::string::npos);
}

TEST(Check, HostPatternsByThePolicy) {
  EXPECT_EQ(problem("[server]\nhttp_allowed = [\"private\"]\n"), "");
  EXPECT_NE(problem("[server]\nhttp_private = \"deny\"\nhttp_allowed = [\"private\"]\n")
                .find("3:17: server.http_allowed: \"private\": can never match"),
            std::string::npos);
  EXPECT_NE(problem("[modules.a]\nhttp_allowed = [\"bad\"]\n").find("modules.a.http_allowed"),
            std::string::npos);
}

TEST(Check, NamesOfModulesAndTenants) {
  EXPECT_NE(problem("[modules.\"a/b\"]\n").find("is no name of a module"), std::string::npos);
  EXPECT_NE(
      problem("[server]\nuser_modules = \"t\"\n[tenants.\"..\"]\n").find("is no name of a tenant"),
      std::string::npos);
  EXPECT_EQ(problem("[modules.\"a b.c\"]\n"), "");
}

TEST(Check, TlsNeedsBoth) {
  EXPECT_NE(problem("[server]\ntls_cert = \"c\"\n").find("server.tls_key belongs to it"),
            std::string::npos);
  EXPECT_NE(problem("[server]\ntls_key = \"k\"\n").find("server.tls_cert belongs to it"),
            std::string::npos);
  EXPECT_EQ(problem("[server]\ntls_key = \"k\"\ntls_cert = \"c\"\n"), "");
}

TEST(Check, PerModuleAboveGlobalIsAnErrorWhenBothAreSaid) {
  EXPECT_NE(problem("[server]\nmax_concurrent_requests = 10\nmax_per_module_requests = 11\n")
                .find("cannot exceed max_concurrent_requests, which is 10"),
            std::string::npos);
  EXPECT_EQ(problem("[server]\nmax_concurrent_requests = 10\nmax_per_module_requests = 10\n"), "");
  EXPECT_EQ(problem("[server]\nmax_per_module_requests = 100000\n"), "");
  EXPECT_NE(problem("[server]\nmax_concurrent_requests = 10\n[modules.a]\nmax_requests = 11\n")
                .find("modules.a.max_requests = 11"),
            std::string::npos);
}

TEST(Check, Routes) {
  EXPECT_NE(problem("[[routes]]\npath = \"/a\"\nmodule = \"a\"\n"
                    "[[routes]]\npath = \"/a/\"\nmodule = \"b\"\n")
                .find("routes[1]: the same host and path as the route in line 1"),
            std::string::npos);
  EXPECT_NE(problem("[[routes]]\nhost = \"A.example\"\nmodule = \"a\"\n"
                    "[[routes]]\nhost = \"a.example\"\nmodule = \"b\"\n")
                .find("routes[1]"),
            std::string::npos);
  EXPECT_EQ(problem("[[routes]]\nhost = \"a.example\"\nmodule = \"a\"\n"
                    "[[routes]]\nmodule = \"b\"\n"),
            "");
  for (const char* host : {"a.example:80", "http://a", "a..b", "*", "*.", "a.", ".a", "a b"}) {
    EXPECT_NE(problem(std::string("[[routes]]\nmodule = \"a\"\nhost = \"") + host + "\"\n")
                  .find("must be a host"),
              std::string::npos)
        << host;
  }
  for (const char* path : {"v1", "", "/a?b", "/a#b"}) {
    EXPECT_NE(problem(std::string("[[routes]]\nmodule = \"a\"\npath = \"") + path + "\"\n")
                  .find("must be a path"),
              std::string::npos)
        << path;
  }
  EXPECT_NE(problem("[[routes]]\nmodule = \"a\"\ntenant = \"t\"\n")
                .find("server.user_modules names no folder"),
            std::string::npos);
}

TEST(Check, TenantsWithoutTheirFolderAreAWarning) {
  const std::vector<Problem> all = problems_of("[tenants.t]\n");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_TRUE(all[0].warning);
}

TEST(Check, Dependencies) {
  const auto of = [](const std::string& table) {
    return problem("[dependencies]\nauth = " + table + "\n");
  };
  EXPECT_EQ(of("\"1.0\""), "");
  EXPECT_EQ(of("{ version = \"1\", registry = \"https://r\" }"), "");
  for (const char* git : {"https://h/p", "http://h/p", "git://h/p", "ssh://git@h/p", "git@h:p"}) {
    EXPECT_EQ(of(std::string("{ git = \"") + git + "\", tag = \"v1\" }"), "") << git;
  }
  for (const char* git : {"h/p", "ftp://h/p", "https:///p", "git@h", "git@h:", "git@:p"}) {
    EXPECT_NE(of(std::string("{ git = \"") + git + "\" }").find("invalid git URL"),
              std::string::npos)
        << git;
  }
  EXPECT_NE(of("\"\"").find("empty version string"), std::string::npos);
  EXPECT_NE(of("{ git = \"\" }").find("empty git URL"), std::string::npos);
  EXPECT_NE(of("{ path = \"\" }").find("empty path"), std::string::npos);
  EXPECT_NE(of("{ version = \"1\", registry = \"\" }").find("empty registry URL"),
            std::string::npos);
  EXPECT_NE(of("{}").find("must specify at least one source"), std::string::npos);
  EXPECT_NE(of("{ tag = \"v1\" }").find("must specify at least one source"), std::string::npos);
  EXPECT_NE(of("{ version = \"1\", git = \"https://h/p\" }").find("multiple sources"),
            std::string::npos);
  EXPECT_NE(of("{ registry = \"https://r\" }").find("must specify a version"), std::string::npos);
  EXPECT_NE(of("{ git = \"https://h/p\", tag = \"a\", rev = \"b\" }").find("multiple git refs"),
            std::string::npos);
  EXPECT_NE(problem("[dependencies]\n\"\" = \"1\"\n").find("Empty dependency name found"),
            std::string::npos);
  EXPECT_NE(problem("[dev-dependencies]\n\"\" = \"1\"\n").find("Empty dev-dependency name found"),
            std::string::npos);
}

TEST(Check, PathsOfDependenciesAreLookedForBesideTheManifest) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(testing::TempDir()) / "mik_check_paths";
  fs::create_directories(folder / "sub");
  std::ofstream(folder / "a.WASM") << "x";
  std::ofstream(folder / "a.txt") << "x";
  const auto of = [&](const std::string& path, Purpose purpose) {
    return problems_of("[dependencies]\na = { path = \"" + path + "\" }\n", purpose,
                       (folder / "mik.toml").string());
  };
  EXPECT_TRUE(of("a.WASM", Purpose::kCheck).empty());
  EXPECT_TRUE(of("sub", Purpose::kCheck).empty());
  ASSERT_EQ(of("a.txt", Purpose::kCheck).size(), 1u);
  EXPECT_NE(of("a.txt", Purpose::kCheck)[0].text.find("should be a .wasm file"), std::string::npos);
  ASSERT_EQ(of("none.wasm", Purpose::kCheck).size(), 1u);
  EXPECT_NE(of("none.wasm", Purpose::kCheck)[0].text.find("non-existent path"), std::string::npos);
  EXPECT_FALSE(of("none.wasm", Purpose::kCheck)[0].warning);
  EXPECT_TRUE(of("none.wasm", Purpose::kRun)[0].warning);  // a server needs none of them
  fs::remove_all(folder);
}

TEST(DidYouMean, IsSilentWhenNothingIsNear) {
  EXPECT_EQ(did_you_mean("--qqqqqqqq", {"--port", "--host"}), std::nullopt);
  EXPECT_EQ(did_you_mean("--hots", {"--port", "--host"}), "--host");
  EXPECT_EQ(did_you_mean(std::string(100'000, 'p'), {"port"}), std::nullopt);
}

}  // namespace
}  // namespace mik::config
