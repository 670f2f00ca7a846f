// A folder of its own for a test, with an environment that names it as the state folder.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "cli/resolve.hpp"

namespace mik::cli {

class FolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "mik-cli-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder = std::filesystem::canonical(pattern).string();
    environment["MIK_HOME"] = folder + "/state";
  }
  void TearDown() override { std::filesystem::remove_all(folder); }

  // Parents are made; the path.
  std::string write(const std::string& name, std::string_view text) {
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
    return path.string();
  }
  std::string write_module(const std::string& name) {
    return write(name, std::string_view("\0asm\x0d\0\1\0", 8));
  }
  std::string make_folder(const std::string& name) {
    const std::filesystem::path path = std::filesystem::path(folder) / name;
    std::filesystem::create_directories(path);
    return path.string();
  }

  base::Result<Resolved> resolved(const ResolveOptions& options = {}) {
    return resolve(
        arguments,
        [this](std::string_view name) -> std::optional<std::string> {
          const auto found = environment.find(std::string(name));
          return found == environment.end() ? std::nullopt : std::optional(found->second);
        },
        options);
  }

  std::string folder;
  RunArguments arguments;
  std::map<std::string, std::string> environment;
};

}  // namespace mik::cli
