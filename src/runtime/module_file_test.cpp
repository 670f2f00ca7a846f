#include "runtime/module_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace mik::runtime {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;

class ModuleFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mik-module-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    settings_.modules_dir = folder_ + "/modules";
    settings_.user_modules_dir = folder_ + "/users";
    fs::create_directories(settings_.modules_dir + "/releases");
    fs::create_directories(settings_.user_modules_dir + "/acme");
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void write(const std::string& path, const std::string& text) {
    std::ofstream(path) << text;
  }
  // What is read, or the code of the error in brackets.
  std::string read(const std::string& tenant, const std::string& name) {
    const auto bytes = read_module(settings_, tenant, name);
    return bytes.has_value() ? *bytes
                             : "[" + std::to_string(static_cast<int>(bytes.error().code())) + "]";
  }
  static std::string code(ErrorCode value) {
    return "[" + std::to_string(static_cast<int>(value)) + "]";
  }

  std::string folder_;
  config::Settings settings_;
};

TEST_F(ModuleFileTest, IsFoundByTenantAndName) {
  write(settings_.modules_dir + "/api.wasm", "platform");
  write(settings_.user_modules_dir + "/acme/api.wasm", "tenant");
  EXPECT_EQ(read("", "api"), "platform");
  EXPECT_EQ(read("acme", "api"), "tenant");
  EXPECT_EQ(read("", "none"), code(ErrorCode::kNotFound));
  EXPECT_EQ(read("nobody", "api"), code(ErrorCode::kNotFound));
  EXPECT_EQ(artefact_beside(settings_, "acme", "api"),
            settings_.user_modules_dir + "/acme/api.wasm.aot");
}

TEST_F(ModuleFileTest, ASingleComponentLiesWhereItWasNamed) {
  settings_.component_path = folder_ + "/link.wasm";
  write(folder_ + "/app.wasm", "app");
  fs::create_symlink(folder_ + "/app.wasm", settings_.component_path);
  EXPECT_EQ(read("", "app"), "app");
  EXPECT_EQ(artefact_beside(settings_, "", "app"), "");
}

TEST_F(ModuleFileTest, LinksInsideTheFolderAreFollowedAndOthersAreNot) {
  write(settings_.modules_dir + "/releases/api-1.wasm", "one");
  write(folder_ + "/secret", "secret");
  fs::create_symlink("releases/api-1.wasm", settings_.modules_dir + "/api.wasm");
  fs::create_symlink("../secret", settings_.modules_dir + "/up.wasm");
  fs::create_symlink(folder_ + "/secret", settings_.modules_dir + "/absolute.wasm");
  fs::create_symlink("/proc/self/fd/0", settings_.modules_dir + "/magic.wasm");
  fs::create_symlink("loop.wasm", settings_.modules_dir + "/loop.wasm");
  fs::create_symlink(folder_, settings_.user_modules_dir + "/evil");
  write(folder_ + "/api.wasm", "outside");
  EXPECT_EQ(read("", "api"), "one");
  for (const char* name : {"up", "absolute", "magic", "loop"}) {
    EXPECT_EQ(read("", name), code(ErrorCode::kUntrusted)) << name;
  }
  EXPECT_EQ(read("evil", "api"), code(ErrorCode::kUntrusted)) << "a tenant's folder elsewhere";
}

TEST_F(ModuleFileTest, WhatIsNoFileIsNotReadAndHoldsNobody) {
  fs::create_directory(settings_.modules_dir + "/folder.wasm");
  ASSERT_EQ(::mkfifo((settings_.modules_dir + "/pipe.wasm").c_str(), 0600), 0);
  EXPECT_EQ(read("", "folder"), code(ErrorCode::kNotComponent));
  EXPECT_EQ(read("", "pipe"), code(ErrorCode::kNotComponent));
  ASSERT_EQ(::truncate((write(settings_.modules_dir + "/huge.wasm", ""),
                        settings_.modules_dir + "/huge.wasm")
                           .c_str(),
                       static_cast<off_t>(kModuleBytesMax) + 1),
            0);
  EXPECT_EQ(read("", "huge"), code(ErrorCode::kNotComponent));
}

TEST_F(ModuleFileTest, WithoutOpenat2NoLinkIsFollowedAtAll) {
  write(settings_.modules_dir + "/releases/api-1.wasm", "one");
  fs::create_symlink("releases/api-1.wasm", settings_.modules_dir + "/api.wasm");
  fs::create_symlink("releases", settings_.modules_dir + "/current");
  const base::Fd folder(::open(settings_.modules_dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  EXPECT_TRUE(internal::walk_beneath(folder.get(), "releases/api-1.wasm").has_value());
  for (const char* path : {"api.wasm", "current/api-1.wasm", "../secret", "releases/../releases",
                           "./api.wasm", "", "/etc/passwd"}) {
    const auto opened = internal::walk_beneath(folder.get(), path);
    ASSERT_FALSE(opened.has_value()) << path;
    EXPECT_EQ(opened.error().code(), ErrorCode::kUntrusted) << path;
  }
  EXPECT_EQ(internal::walk_beneath(folder.get(), "none.wasm").error().code(), ErrorCode::kNotFound);
}

}  // namespace
}  // namespace mik::runtime
