#include "runtime/artefact_store.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <array>
#include <csignal>
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
    return ArtefactStore::name_of(wasm, engine_key_);
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

// --- Beside its module ---

class BesideTest : public ArtefactStoreTest {
 protected:
  void SetUp() override {
    ArtefactStoreTest::SetUp();
    fs::create_directory(folder_ + "/modules");
    beside_ = folder_ + "/modules/api.wasm.aot";
  }
  void put(std::string_view wasm) {
    auto writer = open().create(name(wasm), beside_).value();
    ASSERT_TRUE(writer.append("native code").has_value());
    ASSERT_TRUE(writer.commit().has_value());
  }
  base::ErrorCode failure(std::string_view wasm) {
    const auto result = open().open_verified(name(wasm), beside_);
    return result.has_value() ? base::ErrorCode{} : result.error().code();
  }
  std::string beside_;
};

TEST_F(BesideTest, IsWhereItIsWrittenAndFound) {
  put("one");
  EXPECT_TRUE(fs::exists(beside_));
  EXPECT_FALSE(fs::exists(open().path_of(name("one"))));
  EXPECT_EQ(failure("one"), base::ErrorCode{});
  struct stat info{};
  ASSERT_EQ(::stat(beside_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(BesideTest, WhatIsOfAnotherVersionIsNotThere) {
  put("one");
  EXPECT_EQ(failure("two"), base::ErrorCode::kNotFound);
}

TEST_F(BesideTest, AnOlderVersionIsKeptForThoseWhoServeIt) {
  put("one");
  put("two");
  EXPECT_EQ(failure("two"), base::ErrorCode{});
  EXPECT_EQ(failure("one"), base::ErrorCode{});
  put("two");
  EXPECT_EQ(failure("two"), base::ErrorCode{});
}

TEST_F(BesideTest, AForgedOneIsRefusedAndTheOneInOurFolderServes) {
  put("one");
  {
    std::fstream file(beside_, std::ios::in | std::ios::out | std::ios::binary);
    file.put('X');
  }
  EXPECT_EQ(failure("one"), base::ErrorCode::kUntrusted);
  std::ofstream(beside_) << "not an artefact at all, and no trailer";
  EXPECT_EQ(failure("one"), base::ErrorCode::kUntrusted);
  write("native code", "one");
  EXPECT_EQ(failure("one"), base::ErrorCode{});
}

TEST_F(BesideTest, AFolderThatIsNotOursToWriteIsNoObstacle) {
  beside_ = folder_ + "/missing/api.wasm.aot";
  put("one");
  EXPECT_TRUE(fs::exists(open().path_of(name("one"))));
  EXPECT_EQ(failure("one"), base::ErrorCode{});
}

TEST_F(BesideTest, OnlyWhatKilledWritersLeftIsRemoved) {
  std::ofstream(beside_ + ".4000000") << "half";
  std::ofstream(beside_ + ".backup") << "a person's";
  put("one");
  EXPECT_FALSE(fs::exists(beside_ + ".4000000"));
  EXPECT_TRUE(fs::exists(beside_ + ".backup"));
}

TEST_F(BesideTest, WhatIsUsedIsSeenByItsTime) {
  put("one");
  const std::array<timespec, 2> old = {timespec{100, 0}, timespec{100, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, beside_.c_str(), old.data(), 0), 0);
  ASSERT_EQ(failure("one"), base::ErrorCode{});
  struct stat info{};
  ASSERT_EQ(::stat(beside_.c_str(), &info), 0);
  EXPECT_GT(info.st_mtim.tv_sec, 100);
}

TEST_F(BesideTest, ATrialReadsWhatWasWrittenAndLeavesNothing) {
  {
    auto writer = open().create(name("one"), beside_).value();
    ASSERT_TRUE(writer.append("native").has_value());
    const auto trial = writer.reopen();
    ASSERT_TRUE(trial.has_value());
    std::array<char, 6> bytes{};
    EXPECT_EQ(::read(trial->get(), bytes.data(), bytes.size()), 6);
  }
  EXPECT_TRUE(fs::is_empty(folder_ + "/modules"));
}

TEST_F(ArtefactStoreTest, AFullDiskLeavesNothing) {
  const auto other = ArtefactStore::name_of("full", engine_key_);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 100;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  {
    auto writer = open().create(other).value();
    const auto written = writer.append(std::string(1000, 'x'));
    ASSERT_FALSE(written.has_value());
    EXPECT_EQ(written.error().code(), base::ErrorCode::kSystem);
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, ignored);
  EXPECT_TRUE(fs::is_empty(folder_ + "/cache/aot"));
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
