#include "files/lookup.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <string>

namespace mik::files {
namespace {

namespace fs = std::filesystem;
using What = Found::What;
using http::Coding;

class Lookup : public ::testing::Test {
 protected:
  Lookup() {
    std::string name = fs::temp_directory_path() / "mik-files-XXXXXX";
    base_ = ::mkdtemp(name.data());
    fs::create_directory(base_ / "web");
    root_.reset(::open((base_ / "web").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  }
  ~Lookup() override { fs::remove_all(base_); }

  void put(const std::string& path, const std::string& text = "x") {
    fs::create_directories((base_ / path).parent_path());
    std::ofstream(base_ / path) << text;
  }
  Found find(const std::string& path, std::initializer_list<Coding> codings = {}) {
    FilePath file;
    EXPECT_EQ(parse_path(path, file), PathProblem::kNone);
    return look_up(root_.get(), file, codings, Wait::kMay);
  }
  std::uint64_t size(const std::string& path, std::initializer_list<Coding> codings = {}) {
    const Found found = find(path, codings);
    EXPECT_EQ(found.what, What::kFile) << path;
    return static_cast<std::uint64_t>(found.info.st_size);
  }

  fs::path base_;
  base::Fd root_;
};

TEST_F(Lookup, FilesFoldersAndTheirIndex) {
  put("web/a.txt", "abc");
  put("web/dir/index.html", "index");
  put("web/none/x", "x");
  EXPECT_EQ(size("a.txt"), 3u);
  EXPECT_EQ(size("dir/"), 5u);
  EXPECT_EQ(find("dir").what, What::kFolder);
  EXPECT_EQ(find("none/").what, What::kAbsent);
  EXPECT_EQ(find("").what, What::kAbsent);
  EXPECT_EQ(find("a.txt/").what, What::kAbsent);
  EXPECT_EQ(find("a.txt/b").what, What::kAbsent);
  EXPECT_EQ(find("nothing").what, What::kAbsent);
  EXPECT_EQ(find(std::string(300, 'x')).what, What::kAbsent);
  put("web/index.html", "root!!");
  EXPECT_EQ(size(""), 6u);
}

TEST_F(Lookup, LinksMayNotLeadOut) {
  put("secret", "secret");
  put("web/in/file", "in");
  fs::create_symlink("../secret", base_ / "web/out");
  fs::create_symlink(base_ / "secret", base_ / "web/absolute");
  fs::create_symlink("..", base_ / "web/up");
  fs::create_symlink("in", base_ / "web/within");
  fs::create_symlink("nothing", base_ / "web/dangling");
  for (const char* path : {"out", "absolute", "up/secret", "up/web/in/file", "dangling"}) {
    EXPECT_EQ(find(path).what, What::kAbsent) << path;
  }
  EXPECT_EQ(size("within/file"), 2u);
}

TEST_F(Lookup, WhatIsNoFileIsNotThere) {
  ASSERT_EQ(::mkfifo((base_ / "web/pipe").c_str(), 0600), 0);
  EXPECT_EQ(find("pipe").what, What::kAbsent);
}

TEST_F(Lookup, SiblingsInTheOrderOfTheCodings) {
  put("web/a.js", "0");
  put("web/a.js.gz", "11");
  put("web/a.js.br", "222");
  EXPECT_EQ(size("a.js"), 1u);
  EXPECT_EQ(size("a.js", {Coding::kGzip}), 2u);
  EXPECT_EQ(size("a.js", {Coding::kBrotli, Coding::kGzip}), 3u);
  EXPECT_EQ(size("a.js", {Coding::kZstd, Coding::kGzip}), 2u);
  EXPECT_EQ(size("a.js", {Coding::kZstd}), 1u);
  EXPECT_EQ(find("a.js", {Coding::kGzip}).coding, Coding::kGzip);
  put("web/p.png", "0");
  put("web/p.png.gz", "11");
  EXPECT_EQ(size("p.png", {Coding::kGzip}), 1u) << "images have none";
}

TEST_F(Lookup, ASiblingThatIsALeftoverIsNone) {
  put("web/a.js", "0");
  put("web/a.js.gz", "11");
  const auto now = fs::file_time_type::clock::now();
  fs::last_write_time(base_ / "web/a.js.gz", now - std::chrono::hours(1));
  EXPECT_EQ(size("a.js", {Coding::kGzip}), 1u);
  fs::last_write_time(base_ / "web/a.js", now - std::chrono::hours(2));
  EXPECT_EQ(size("a.js", {Coding::kGzip}), 2u);
}

TEST_F(Lookup, WithoutWaitingItSaysSoOrFinds) {
  put("web/a.txt", "abc");
  FilePath file;
  ASSERT_EQ(parse_path("a.txt", file), PathProblem::kNone);
  static_cast<void>(look_up(root_.get(), file, {}, Wait::kMay));
  const Found found = look_up(root_.get(), file, {}, Wait::kNever);
  EXPECT_TRUE(found.what == What::kFile || found.what == What::kWouldBlock);
}

}  // namespace
}  // namespace mik::files
