#include "supervisor/artefact_limit.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>

namespace mik::supervisor {
namespace {

namespace fs = std::filesystem;

class ArtefactLimitTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "mik-aot-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    artefacts_.folder = pattern;
  }
  void TearDown() override { fs::remove_all(artefacts_.folder); }

  std::string path(const std::string& name) const { return artefacts_.folder + "/" + name; }
  static std::string cached(int number) {
    std::string name;
    for (int i = 0; i < 32; ++i) {
      name += "0" + std::to_string(number);
    }
    return name + ".aot";
  }
  // 64 KiB, last used so many seconds after the epoch.
  void make(const std::string& name, std::int64_t used_s) {
    std::ofstream(path(name)) << std::string(64 * 1024, 'x');
    const std::array<timespec, 2> times = {timespec{used_s, 0}, timespec{used_s, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, path(name).c_str(), times.data(), 0), 0);
  }
  bool there(const std::string& name) const { return fs::exists(path(name)); }
  void use(int number) {
    shared::Digest digest;
    digest.fill(static_cast<std::uint8_t>(number));
    artefacts_.used.insert(digest);
  }

  Artefacts artefacts_;
  static constexpr std::uint64_t kOne = 64 * 1024;
};

TEST_F(ArtefactLimitTest, TheLeastRecentlyUsedGoesFirst) {
  make(cached(1), 300);
  make(cached(2), 100);
  make(cached(3), 200);
  std::ofstream(path(cached(2).substr(0, 64) + ".lock"));
  EXPECT_EQ(limit_artefacts(artefacts_, 3 * kOne), 3 * kOne);
  EXPECT_TRUE(there(cached(2))) << "at the limit nothing goes";
  EXPECT_EQ(limit_artefacts(artefacts_, 3 * kOne - 1), 2 * kOne);
  EXPECT_FALSE(there(cached(2)));
  EXPECT_FALSE(there(cached(2).substr(0, 64) + ".lock"));
  EXPECT_TRUE(there(cached(3)));
  EXPECT_EQ(limit_artefacts(artefacts_, kOne), kOne);
  EXPECT_TRUE(there(cached(1)));
}

TEST_F(ArtefactLimitTest, WhatARowNamesStaysAndWhatLiesBesideItsModule) {
  make(cached(1), 100);
  make(cached(2), 200);
  make("a.wasm.aot", 50);
  make("gone.wasm.aot", 60);
  std::ofstream(path("gone.wasm.lock"));
  use(1);
  artefacts_.beside = {path("a.wasm.aot"), path("never.wasm.aot")};
  artefacts_.orphans = {path("gone.wasm.aot")};
  // The folder of the test is both: what is beside must not be counted twice.
  fs::create_directory(path("aot"));
  fs::rename(path(cached(1)), path("aot/" + cached(1)));
  fs::rename(path(cached(2)), path("aot/" + cached(2)));
  artefacts_.folder = path("aot");
  EXPECT_EQ(limit_artefacts(artefacts_, 0), 2 * kOne);
  artefacts_.folder = fs::path(artefacts_.folder).parent_path();
  EXPECT_TRUE(there("aot/" + cached(1)));
  EXPECT_FALSE(there("aot/" + cached(2)));
  EXPECT_TRUE(there("a.wasm.aot"));
  EXPECT_FALSE(there("gone.wasm.aot"));
  EXPECT_TRUE(there("gone.wasm.lock")) << "not ours";
}

TEST_F(ArtefactLimitTest, WhatAKilledChildLeftGoesOnceItIsOld) {
  make(cached(1) + ".4242", 100);
  make(cached(2) + ".4243", std::time(nullptr));
  EXPECT_EQ(limit_artefacts(artefacts_, 0), kOne);
  EXPECT_FALSE(there(cached(1) + ".4242"));
  EXPECT_TRUE(there(cached(2) + ".4243"));
}

TEST_F(ArtefactLimitTest, NoFolderIsNothing) {
  artefacts_.folder += "/none";
  EXPECT_EQ(limit_artefacts(artefacts_, 0), 0u);
  artefacts_.folder = fs::path(artefacts_.folder).parent_path();
}

}  // namespace
}  // namespace mik::supervisor
