#include "runtime/artefact_store.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace mik::runtime {
namespace {

namespace fs = std::filesystem;

class ArtefactStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mik-aot-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  ArtefactStore open() { return ArtefactStore::open(folder_).value(); }
  ArtefactStore::Name name(std::string_view wasm = "wasm") {
    return open().name_of(wasm, engine_key_).value();
  }
  void write(std::string_view bytes, std::string_view wasm = "wasm") {
    auto writer = open().create(name(wasm)).value();
    ASSERT_TRUE(writer.append(bytes).has_value());
    ASSERT_TRUE(writer.commit().has_value());
  }
  base::ErrorCode failure(std::string_view wasm = "wasm") {
    const auto result = open().open_verified(name(wasm));
    return result.has_value() ? base::ErrorCode{} : result.error().code();
  }

  std::string folder_;
  std::array<std::uint8_t, 32> engine_key_{1, 2, 3};
};

TEST_F(ArtefactStoreTest, WhatKilledWritersLeftIsRemovedByTheNext) {
  const std::string left = open().path_of(name()) + ".4000000";
  const std::string other = open().path_of(name("other")) + ".4000000";
  std::ofstream(left) << "half";
  std::ofstream(other) << "half";
  write("native code");
  EXPECT_FALSE(fs::exists(left));
  EXPECT_TRUE(fs::exists(other)) << "its lock is not held";
  EXPECT_TRUE(open().open_verified(name()).has_value());
}

TEST_F(ArtefactStoreTest, GivesBackWhatWasWritten) {
  EXPECT_EQ(failure(), base::ErrorCode::kNotFound);
  write("native code");
  EXPECT_TRUE(open().open_verified(name()).has_value());
}

TEST_F(ArtefactStoreTest, EveryFlippedBitIsRefused) {
  write("native code");
  const std::string path = open().path_of(name());
  const auto size = fs::file_size(path);
  for (std::uintmax_t i = 0; i < size; ++i) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(i));
    const char byte = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(i));
    file.put(static_cast<char>(byte ^ 1));
    file.flush();
    EXPECT_EQ(failure(), base::ErrorCode::kUntrusted) << i;
    file.seekp(static_cast<std::streamoff>(i));
    file.put(byte);
  }
  EXPECT_TRUE(open().open_verified(name()).has_value());
}

TEST_F(ArtefactStoreTest, AnArtefactUnderAnotherNameIsRefused) {
  write("native code");
  fs::copy(open().path_of(name()), open().path_of(name("other")));
  fs::permissions(open().path_of(name("other")), fs::perms::owner_read | fs::perms::owner_write);
  EXPECT_EQ(failure("other"), base::ErrorCode::kUntrusted);
}

TEST_F(ArtefactStoreTest, AFileThatOthersMayWriteIsRefused) {
  write("native code");
  ASSERT_EQ(::chmod(open().path_of(name()).c_str(), 0622), 0);
  EXPECT_EQ(failure(), base::ErrorCode::kUntrusted);
}

TEST_F(ArtefactStoreTest, ALinkIsNotFollowed) {
  write("native code");
  const std::string path = open().path_of(name());
  fs::rename(path, path + ".real");
  fs::create_symlink(path + ".real", path);
  EXPECT_NE(failure(), base::ErrorCode{});
}

TEST_F(ArtefactStoreTest, WithoutCommitNothingStays) {
  {
    auto writer = open().create(name()).value();
    ASSERT_TRUE(writer.append("half").has_value());
  }
  EXPECT_EQ(failure(), base::ErrorCode::kNotFound);
  EXPECT_TRUE(fs::is_empty(folder_ + "/cache/aot"));
}

TEST_F(ArtefactStoreTest, AKeyThatOthersCanReadIsRefused) {
  write("native code");
  ASSERT_EQ(::chmod((folder_ + "/cache/key").c_str(), 0644), 0);
  const auto again = ArtefactStore::open(folder_);
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code(), base::ErrorCode::kUntrusted);
}

TEST_F(ArtefactStoreTest, AnotherKeyMakesOldArtefactsUntrusted) {
  write("native code");
  fs::remove(folder_ + "/cache/key");
  EXPECT_EQ(failure(), base::ErrorCode::kUntrusted);
}

TEST_F(ArtefactStoreTest, NameDependsOnBytesAndEngine) {
  const auto first = name();
  engine_key_[0] = 9;
  EXPECT_NE(first.hex, name().hex);
  EXPECT_NE(name("a").hex, name("b").hex);
  EXPECT_EQ(name("a").hex.size(), 64u);
}

TEST_F(ArtefactStoreTest, CacheFoldersArePrivate) {
  open();
  struct stat info{};
  ASSERT_EQ(::stat((folder_ + "/cache/aot").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
  ASSERT_EQ(::stat((folder_ + "/cache/key").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

}  // namespace
}  // namespace mik::runtime
