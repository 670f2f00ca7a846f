#include "files/path.hpp"

#include <gtest/gtest.h>

namespace mik::files {
namespace {

std::string path_of(std::string_view raw) {
  FilePath out;
  switch (parse_path(raw, out)) {
    case PathProblem::kMalformed:
      return "400";
    case PathProblem::kAbsent:
      return "404";
    case PathProblem::kNone:
      break;
  }
  return out.path + (out.folder ? "/" : "");
}

TEST(StaticPath, IsDecodedOnce) {
  EXPECT_EQ(path_of("a.html"), "a.html");
  EXPECT_EQ(path_of("caf%C3%A9%20au%20lait"), "caf\xc3\xa9 au lait");
  EXPECT_EQ(path_of("100%25"), "100%");
  EXPECT_EQ(path_of("a%252Fb"), "a%2Fb");
  EXPECT_EQ(path_of("a+b:c"), "a+b:c");
  for (const std::string_view bad : {"%", "a%2", "a%zz", "a%00b", "%/41", "a/%4"}) {
    EXPECT_EQ(path_of(bad), "400") << bad;
  }
}

TEST(StaticPath, FoldersAndEmptyNames) {
  EXPECT_EQ(path_of(""), "/");
  EXPECT_EQ(path_of("/"), "/");
  EXPECT_EQ(path_of("a/"), "a/");
  EXPECT_EQ(path_of("a//b"), "a/b");
  EXPECT_EQ(path_of("/evil.example"), "evil.example");
  EXPECT_EQ(path_of("a/."), "a/");
  EXPECT_EQ(path_of("a/b/.."), "a/");
}

TEST(StaticPath, DotSegmentsStayBelow) {
  EXPECT_EQ(path_of("a/../b"), "b");
  EXPECT_EQ(path_of("a/%2e%2E/b"), "b");
  EXPECT_EQ(path_of("./a/./b"), "a/b");
  for (const std::string_view bad : {"..", "../a", "a/../../b", "%2e%2e/a", "..//evil.example"}) {
    EXPECT_EQ(path_of(bad), "404") << bad;
  }
}

TEST(StaticPath, HiddenNamesAndEscapedSlashesAreNotThere) {
  for (const std::string_view bad : {".env", "a/.git/config", "%2Eenv", "..foo", "...", "a/.b/c",
                                     "%2F%2Fevil.example", "a%2Fb", "%2e%2e%2fetc"}) {
    EXPECT_EQ(path_of(bad), "404") << bad;
  }
  EXPECT_EQ(path_of("a.b/..c/../d"), "404");
}

TEST(StaticPath, UrlsOfFolders) {
  EXPECT_EQ(folder_url(""), "/static/");
  EXPECT_EQ(folder_url("evil.example"), "/static/evil.example/");
  EXPECT_EQ(folder_url("a/b c\r\n%?#\"\xc3\xa9"), "/static/a/b%20c%0D%0A%25%3F%23%22%C3%A9/");
}

TEST(StaticPath, Types) {
  EXPECT_EQ(content_type("a.html"), "text/html; charset=utf-8");
  EXPECT_EQ(content_type("dir.js/A.HTM"), "text/html; charset=utf-8");
  EXPECT_EQ(content_type("x.tar.gz"), "application/gzip");
  EXPECT_EQ(content_type("logo.svg"), "image/svg+xml");
  EXPECT_EQ(content_type("app.js"), "text/javascript; charset=utf-8");
  EXPECT_EQ(content_type("app.mjs"), "application/javascript; charset=utf-8");
  EXPECT_EQ(content_type("a.json"), "application/json; charset=utf-8");
  EXPECT_EQ(content_type("site.WebManifest"), "application/manifest+json; charset=utf-8");
  for (const std::string_view unknown :
       {"", "README", "dir.html/file", "a.", "a.averylongextension"}) {
    EXPECT_EQ(content_type(unknown), "application/octet-stream") << unknown;
  }
}

}  // namespace
}  // namespace mik::files
