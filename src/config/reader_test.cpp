#include "config/reader.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "config/toml_guard.hpp"

namespace mik::config {
namespace {

std::vector<std::string> problems(std::string_view text) {
  std::vector<std::string> out;
  for (const Problem& problem : read_manifest(text, "/x/mik.toml").problems) {
    out.push_back(problem.to_string());
  }
  return out;
}

// The one problem of a text.
std::string problem(std::string_view text) {
  const std::vector<std::string> all = problems(text);
  EXPECT_EQ(all.size(), 1u) << text;
  return all.empty() ? "" : all[0];
}

TEST(Reader, ValuesHaveThePlaceWhereTheyStand) {
  const ReadResult read = read_manifest(
      "[server]\n  port = 4000\nhttp_allowed = [\"a.example\",\n  \"b.example\"]\n", "/x/mik.toml");
  ASSERT_TRUE(read.problems.empty());
  const Value* port = read.document.find(SectionId::kServer, "port");
  ASSERT_NE(port, nullptr);
  EXPECT_EQ(port->whole(), 4000u);
  EXPECT_EQ(port->origin.to_string(), "/x/mik.toml:2:10");
  const Value* hosts = read.document.find(SectionId::kServer, "http_allowed");
  ASSERT_NE(hosts, nullptr);
  EXPECT_EQ(hosts->element(1).to_string(), "/x/mik.toml:4:3");
}

TEST(Reader, AnEmptyFileIsWell) {
  EXPECT_TRUE(problems("").empty());
  EXPECT_TRUE(problems("# nothing\n").empty());
  EXPECT_TRUE(problems("[server]\n").empty());
  EXPECT_TRUE(problems("\xef\xbb\xbf[server]\r\nport = 1\r\n").empty());
}

TEST(Reader, UnknownNamesAreErrorsWithASuggestion) {
  EXPECT_EQ(problem("[server]\nprot = 3000\n"),
            "/x/mik.toml:2:1: server: unknown key \"prot\"; did you mean port?");
  EXPECT_EQ(problem("[sever]\nport = 3000\n"),
            "/x/mik.toml:1:2: unknown section \"sever\"; did you mean [server]?");
  EXPECT_EQ(problem("port = 3000\n"),
            "/x/mik.toml:1:1: port: stands outside of a section; put it below [server]");
  EXPECT_EQ(problem("[modules.api]\nmax_concurrent_requests = 3\n"),
            "/x/mik.toml:2:1: modules.api: unknown key \"max_concurrent_requests\"; it is a key "
            "of [server]");
  EXPECT_NE(problem("[backends]\n").find("docs/reference/config.md"), std::string::npos);
}

TEST(Reader, AWrongValueIsShownWithTheRule) {
  EXPECT_EQ(problem("[server]\nport = 70000\n"),
            "/x/mik.toml:2:8: server.port = 70000: must be a whole number from 1 to 65535");
  EXPECT_EQ(problem("[server]\nport = \"3000\"\n"),
            "/x/mik.toml:2:8: server.port = \"3000\": must be a whole number from 1 to 65535");
  EXPECT_NE(problem("[server]\nport = 0\n").find("server.port = 0: must be"), std::string::npos);
  EXPECT_NE(problem("[server]\nmax_body_size_mb = -1\n").find("= -1: must be"), std::string::npos);
  EXPECT_NE(problem("[server]\nexecution_timeout_secs = 301\n").find("from 1 to 300"),
            std::string::npos);
  EXPECT_NE(problem("[server]\nmemory_limit_bytes = 1048575\n").find("from 1048576 to 4294967296"),
            std::string::npos);
  EXPECT_NE(problem("[server]\nauto = 1\n").find("must be true or false"), std::string::npos);
  EXPECT_NE(problem("[server]\nmodules = 7\n").find("must be a text in quotes"), std::string::npos);
  EXPECT_NE(problem("[server]\nhttp_allowed = \"*\"\n").find("must be a list of texts"),
            std::string::npos);
  EXPECT_NE(problem("[server]\nhttp_allowed = [1]\n").find("http_allowed[0] = 1"),
            std::string::npos);
  EXPECT_NE(problem("[server]\nenv = { A = 1 }\n").find("server.env.\"A\" = 1: must be a text"),
            std::string::npos);
  EXPECT_NE(problem("[server]\nport = 1979-05-27\n").find("a date or time"), std::string::npos);
  EXPECT_NE(problem("[tracing]\nsample_ratio = 1.5\n").find("a number from 0 to 1"),
            std::string::npos);
  EXPECT_NE(problem("[tracing]\nsample_ratio = nan\n").find("a number from 0 to 1"),
            std::string::npos);
  EXPECT_TRUE(problems("[tracing]\nsample_ratio = 1\n").empty());
}

TEST(Reader, LimitsAreAcceptedAtTheirEdges) {
  EXPECT_TRUE(problems("[server]\nport = 65535\nexecution_timeout_secs = 300\n"
                       "memory_limit_bytes = 4294967296\nmax_body_size_mb = 0\n")
                  .empty());
  EXPECT_TRUE(problems("[server]\nport = 1\nexecution_timeout_secs = 1\n"
                       "memory_limit_bytes = 1048576\nshutdown_timeout_secs = 0\n")
                  .empty());
}

TEST(Reader, AllProblemsAtOnceInTheOrderOfTheFile) {
  const auto all = problems(
      "[server]\nport = 0\nprot = 1\n[modules.a]\nreuse = 0\n[project]\nversion = 1\n[nothing]\n");
  ASSERT_EQ(all.size(), 6u);
  EXPECT_TRUE(std::ranges::is_sorted(all));  // single digits of lines
  EXPECT_NE(all[3].find("project.name is required"), std::string::npos);
}

TEST(Reader, ShapesOfSections) {
  EXPECT_NE(problem("server = 3\n").find("server = 3: must be a section: [server]"),
            std::string::npos);
  EXPECT_NE(problem("[routes]\nmodule = \"a\"\n").find("a list of sections: [[routes]]"),
            std::string::npos);
  EXPECT_NE(problem("routes = [3]\n").find("routes[0] = 3"), std::string::npos);
  EXPECT_NE(problem("[modules]\napi = 3\n").find("modules.api = 3: must be a section"),
            std::string::npos);
  EXPECT_NE(problem("modules = 3\n").find("must be sections: [modules.NAME]"), std::string::npos);
  EXPECT_NE(problem("[[routes]]\nhost = \"a\"\n").find("routes[0].module is required"),
            std::string::npos);
  const ReadResult read =
      read_manifest("[modules.\"a b\"]\nreuse = 2\n[[routes]]\nmodule = \"x\"\n", "");
  ASSERT_TRUE(read.problems.empty());
  EXPECT_EQ(read.document.tables.size(), 2u);
}

TEST(Reader, AuthorsAreTables) {
  EXPECT_TRUE(problems("[project]\nname = \"a\"\nauthors = [{ name = \"A\", email = \"a@b\" }, "
                       "{ name = \"B\" }]\n")
                  .empty());
  EXPECT_NE(problem("[project]\nname = \"a\"\nauthors = [\"A\"]\n").find("must be tables"),
            std::string::npos);
  EXPECT_NE(problem("[project]\nname = \"a\"\nauthors = [{ name = \"A\", mail = \"b\" }]\n")
                .find("must be tables"),
            std::string::npos);
}

TEST(Reader, ADependencyMayBeAText) {
  const ReadResult read = read_manifest("[dependencies]\nauth = \"1.0\"\n", "");
  ASSERT_TRUE(read.problems.empty());
  ASSERT_EQ(read.document.tables.size(), 1u);
  EXPECT_EQ(read.document.tables[0].name, "auth");
  EXPECT_EQ(read.document.tables[0].find("version")->text(), "1.0");
}

TEST(Reader, WhatIsNotTomlHasAPlaceAndNothingRaw) {
  EXPECT_EQ(problem("[server]\nport = = 3\n").rfind("/x/mik.toml:2:", 0), 0u);
  EXPECT_NE(problem("[server]\nport = 3\nport = 4\n").find(":3:"), std::string::npos);
  for (const std::string_view text : {"[ser\x1bver]\n", "[server]\na = \"\x01\"\n", "\xff\xfe"}) {
    for (const char c : problem(text)) {
      EXPECT_GE(static_cast<unsigned char>(c), 0x20) << text;
    }
  }
}

TEST(Reader, TextOfAFileIsShownWithoutControlCharactersAndShort) {
  const std::string text =
      problem("[server]\nport = \"\\u001b[31m" + std::string(5000, 'x') + "\"\n");
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  EXPECT_NE(text.find("\\u001B[31m"), std::string::npos);
  EXPECT_LT(text.size(), 300u);
}

TEST(Reader, BombsAreRefused) {
  EXPECT_NE(problem(std::string(kManifestBytesMax + 1, '#')).find("1048576"), std::string::npos);
  EXPECT_TRUE(problems(std::string(kManifestBytesMax, '#')).empty());
  std::string dotted = "a";
  for (int i = 0; i < 100'000; ++i) {
    dotted += ".a";
  }
  EXPECT_NE(problem(dotted + " = 1\n").find("more than 16 parts"), std::string::npos);
  EXPECT_NE(problem("[" + dotted + "]\n").find("more than 16 parts"), std::string::npos);
  EXPECT_NE(problem("x = { " + dotted + " = 1 }\n").find("more than 16 parts"), std::string::npos);
  EXPECT_FALSE(problems("a = " + std::string(100'000, '[')).empty());
  std::string inline_tables;
  for (int i = 0; i < 1000; ++i) {
    inline_tables += "a = { ";
  }
  EXPECT_FALSE(problems(inline_tables).empty());
}

TEST(TomlGuard, CountsPartsOfKeysOnly) {
  const std::string parts = "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a";  // 16
  EXPECT_FALSE(find_trouble(parts + " = 1").has_value());
  EXPECT_TRUE(find_trouble(parts + ".a = 1").has_value());
  EXPECT_TRUE(find_trouble(parts + " . \"q.q\" . 'z' = 1").has_value());
  EXPECT_FALSE(find_trouble("x = \"" + parts + ".a\"").has_value());
  EXPECT_FALSE(find_trouble("x = '" + parts + ".a'").has_value());
  EXPECT_FALSE(find_trouble("x = \"\"\"\n" + parts + ".a\n\"\"\"").has_value());
  EXPECT_FALSE(find_trouble("x = '''\n" + parts + ".a'\n'''").has_value());
  EXPECT_FALSE(find_trouble("# " + parts + ".a").has_value());
  EXPECT_FALSE(find_trouble("x = \"\\\"" + parts + ".a\"").has_value());
  EXPECT_TRUE(find_trouble("x = \"\"\"a\"\"\"\"\"\n" + parts + ".a = 1").has_value());
  const auto place = find_trouble("[x]\n" + parts + ".a = 1");
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->line, 2u);
}

TEST(TomlGuard, CharactersBeyondAscii) {
  for (const char* good : {"x = \"\xc7\xa8\"", "# \xc7\xa8", "'\xc7\xa8' = 1", "\xef\xbb\xbfx = 1",
                           "x = \"\"\"\\\n  a\xc7\xa8\"\"\"", "x = \"\"\"\xc7\xa8\\\n\"\"\""}) {
    EXPECT_FALSE(find_trouble(good).has_value()) << good;
  }
  for (const char* bad : {"\xc7\xa8 = 1", "[a\xd8\x8f]", "x = \xc7\xa8", "x\xef\xbb\xbf = 1",
                          "x = \"\"\"\\\n \n \xc7\xa8\"\"\"", "x = \"\"\"\\\xc7\xa8\"\"\""}) {
    EXPECT_TRUE(find_trouble(bad).has_value()) << bad;
  }
  EXPECT_EQ(problem("[server]\nport = \xc7\xa8\n"),
            "/x/mik.toml:2:8: not TOML that is read here: a character beyond ASCII stands outside "
            "of quotes");
}

}  // namespace
}  // namespace mik::config
