#include "supervisor/watch.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

namespace mik::supervisor {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

class WatchTest : public testing::Test, public WatchEvents {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "mik-watch-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    fs::create_directories(modules());
    fs::create_directories(users() + "/acme");
    settings_.modules_dir = modules();
    settings_.user_modules_dir = users();
    settings_.watch_debounce = 20ms;
  }
  void TearDown() override {
    watch_.stop();
    fs::remove_all(folder_);
  }
  std::string modules() const { return folder_ + "/modules"; }
  std::string users() const { return folder_ + "/users"; }
  static void write(const std::string& path, const std::string& text = "x") {
    std::ofstream(path) << text;
  }
  void start() {
    watch_.start(settings_);
    watch_.take_inventory();
  }
  // Turns until the condition holds; false after 20 s.
  template <class Condition>
  bool until(Condition&& condition) {
    const base::Time limit = base::Clock::now() + 20s;
    while (!condition() && base::Clock::now() < limit) {
      loop_->run_once(20ms);
    }
    return condition();
  }
  bool heard(const ModuleKey& key) {
    return until([&] { return std::ranges::find(quiet_, key) != quiet_.end(); });
  }

  void on_quiet(const std::vector<ModuleKey>& modules) override {
    quiet_.insert(quiet_.end(), modules.begin(), modules.end());
  }
  void on_rescan() override { rescans_ += 1; }
  void on_watch_trouble(const std::string& text) override { trouble_ += text + "\n"; }

  std::string folder_;
  config::Settings settings_;
  std::unique_ptr<net::Loop> loop_ = net::Loop::create().value();
  Watch watch_{*loop_, *this};
  std::vector<ModuleKey> quiet_;
  int rescans_ = 0;
  std::string trouble_;
};

TEST_F(WatchTest, AnInventoryHasWhatCanBeServed) {
  write(modules() + "/api.wasm");
  write(modules() + "/api.wasm.aot");
  write(modules() + "/gone.wasm.aot");
  write(modules() + "/notes.txt");
  write(modules() + "/..wasm");
  write(modules() + "/bad\\name.wasm");
  fs::create_directory(modules() + "/folder.wasm");
  write(users() + "/acme/shop.wasm");
  fs::create_directory(users() + "/bad\x01tenant");
  write(users() + "/stray.wasm");
  fs::create_symlink("api.wasm", modules() + "/link.wasm");
  watch_.start(settings_);
  const Inventory inventory = watch_.take_inventory();
  std::string names;
  for (const auto& [key, id] : inventory.modules) {
    names += key.text() + " ";
  }
  EXPECT_EQ(names, "api link acme/shop ");
  EXPECT_EQ(inventory.refused.size(), 3u);
  EXPECT_EQ(inventory.orphans, std::vector<std::string>{modules() + "/gone.wasm.aot"});
  EXPECT_EQ(watch_.path_of({"acme", "shop"}), users() + "/acme/shop.wasm");
}

TEST_F(WatchTest, EveryWayOfPuttingAFileInPlaceIsHeard) {
  start();
  write(modules() + "/a.wasm");
  EXPECT_TRUE(heard({"", "a"}));
  quiet_.clear();
  write(folder_ + "/new");
  fs::rename(folder_ + "/new", modules() + "/a.wasm");
  EXPECT_TRUE(heard({"", "a"})) << "renamed over it";
  quiet_.clear();
  fs::remove(modules() + "/a.wasm");
  EXPECT_TRUE(heard({"", "a"})) << "removed";
  quiet_.clear();
  write(folder_ + "/new");
  fs::create_hard_link(folder_ + "/new", modules() + "/b.wasm");
  EXPECT_TRUE(heard({"", "b"})) << "linked";
  fs::create_symlink("b.wasm", modules() + "/c.wasm");
  EXPECT_TRUE(heard({"", "c"}));
  write(users() + "/acme/shop.wasm");
  EXPECT_TRUE(heard({"acme", "shop"}));
  write(modules() + "/a.wasm.aot");
  quiet_.clear();
  write(modules() + "/last.wasm");
  EXPECT_TRUE(heard({"", "last"}));
  EXPECT_EQ(quiet_.size(), 1u) << "artefacts are our own doing";
}

TEST_F(WatchTest, WhoeverStillWritesIsWaitedFor) {
  start();
  {
    std::ofstream file(modules() + "/slow.wasm");
    file << "half" << std::flush;
    write(modules() + "/other.wasm");
    EXPECT_TRUE(heard({"", "other"}));
    EXPECT_EQ(quiet_.size(), 1u) << "the file that is open was taken for whole";
    file << "the rest";
  }
  EXPECT_TRUE(heard({"", "slow"}));
}

TEST_F(WatchTest, ATenantThatArrivesIsScannedAndWatched) {
  start();
  fs::create_directory(users() + "/beta");
  EXPECT_TRUE(until([&] { return rescans_ > 0; }));
  watch_.take_inventory();
  write(users() + "/beta/x.wasm");
  EXPECT_TRUE(heard({"beta", "x"}));
}

TEST_F(WatchTest, AFolderThatWasReplacedIsFoundAgain) {
  start();
  fs::rename(modules(), folder_ + "/old");
  fs::create_directory(modules());
  EXPECT_TRUE(until([&] { return rescans_ > 0; }));
  quiet_.clear();
  // Polling finds the new folder; what lands in it before is found by the rescan that follows.
  const int before = rescans_;
  write(modules() + "/a.wasm");
  EXPECT_TRUE(until([&] { return rescans_ > before || !quiet_.empty(); }));
  write(modules() + "/b.wasm");
  EXPECT_TRUE(heard({"", "b"}));
}

TEST_F(WatchTest, AReleaseFolderPutInPlaceByRenameMakesItLookAtAll) {
  fs::create_directory(modules() + "/one");
  fs::create_symlink("one", modules() + "/current");
  start();
  fs::create_symlink("one", modules() + "/next");
  fs::rename(modules() + "/next", modules() + "/current");
  EXPECT_TRUE(until([&] { return rescans_ > 0; }));
}

TEST_F(WatchTest, TheFolderOfASingleComponentIsWatchedForItAlone) {
  config::Settings settings;
  settings.component_path = modules() + "/app.wasm";
  settings.component_name = "app";
  settings.watch_debounce = 20ms;
  write(settings.component_path);
  watch_.start(settings);
  EXPECT_EQ(watch_.take_inventory().modules.size(), 1u);
  write(folder_ + "/new", "other");
  fs::rename(folder_ + "/new", settings.component_path);
  EXPECT_TRUE(heard({"", "app"}));
  fs::remove(settings.component_path);
  EXPECT_TRUE(watch_.take_inventory().modules.empty());
}

TEST_F(WatchTest, AnotherFileIsAnotherIdentity) {
  const std::string path = modules() + "/a.wasm";
  EXPECT_EQ(identify(path), std::nullopt);
  write(path, "one");
  const auto one = identify(path);
  EXPECT_EQ(identify(path), one);
  write(folder_ + "/new", "two");
  fs::rename(folder_ + "/new", path);
  EXPECT_NE(identify(path), one);
  EXPECT_EQ(identify(modules()), std::nullopt);
}

}  // namespace
}  // namespace mik::supervisor
