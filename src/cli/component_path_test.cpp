#include "cli/component_path.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace mik::cli {
namespace {

namespace fs = std::filesystem;

class ComponentPathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mik-path-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    before_ = fs::current_path();
    fs::current_path(folder_);
  }
  void TearDown() override {
    fs::current_path(before_);
    fs::remove_all(folder_);
  }
  void file(const std::string& path,
            std::string_view bytes = std::string_view("\0asm\x0d\0\1\0", 8)) {
    fs::create_directories(fs::path(folder_ / path).parent_path());
    std::ofstream(folder_ / path, std::ios::binary) << bytes;
  }
  fs::path folder_;
  fs::path before_;
};

TEST_F(ComponentPathTest, NamesTheComponentByItsStem) {
  file("api-composed.wasm");
  const auto found = find_component("api-composed.wasm");
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->name, "api");
  EXPECT_TRUE(fs::path(found->path).is_absolute());
  EXPECT_EQ(found->warning, "");
}

TEST_F(ComponentPathTest, TakesTheFirstMatchOfAGlob) {
  file("b.wasm");
  file("a.wasm");
  EXPECT_EQ(find_component("*.wasm").value().name, "a");
  EXPECT_FALSE(find_component("*.none").has_value());
}

TEST_F(ComponentPathTest, LooksBelowTargetWhenNoneIsGiven) {
  EXPECT_FALSE(find_component(std::nullopt).has_value());
  file("target/wasm32-wasip2/debug/d.wasm");
  EXPECT_EQ(find_component(std::nullopt).value().name, "d");
  file("target/wasm32-wasip2/release/r.wasm");
  EXPECT_EQ(find_component("").value().name, "r");
  file("target/composed.wasm");
  EXPECT_EQ(find_component(std::nullopt).value().name, "composed");
}

TEST_F(ComponentPathTest, SaysWhatIsWrong) {
  fs::create_directory("dir.wasm");
  file("text.wasm", "hello");
  file("short.wasm", std::string_view("\0a", 2));
  file("odd.bin");
  EXPECT_EQ(find_component("none.wasm").error().code(), base::ErrorCode::kNotFound);
  EXPECT_NE(find_component("dir.wasm").error().message().find("directory"), std::string::npos);
  EXPECT_EQ(find_component("text.wasm").error().code(), base::ErrorCode::kNotComponent);
  EXPECT_EQ(find_component("short.wasm").error().code(), base::ErrorCode::kNotComponent);
  EXPECT_NE(find_component("odd.bin").value().warning, "");
}

}  // namespace
}  // namespace mik::cli
