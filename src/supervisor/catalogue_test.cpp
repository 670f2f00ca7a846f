#include "supervisor/catalogue.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "shared/boot.hpp"
#include "supervisor/test_family.hpp"

namespace mik::supervisor {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;
using shared::RowState;

shared::Digest digest_of(int number) {
  shared::Digest digest;
  digest.fill(static_cast<std::uint8_t>(number));
  return digest;
}

// A catalogue over real files and real compile children (fake_worker.hpp says what files say);
// workers are slots with a pid, for which the test answers.
class CatalogueTest : public testing::Test, public CatalogueHost {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "mik-catalogue-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    settings_.modules_dir = folder_ + "/modules";
    settings_.user_modules_dir = folder_ + "/users";
    settings_.state_dir = folder_ + "/state";
    settings_.watch_debounce = 20ms;
    fs::create_directories(settings_.modules_dir);
    fs::create_directories(settings_.user_modules_dir + "/acme");
  }
  void TearDown() override {
    if (catalogue_) {
      catalogue_->stop();
      until([&] { return !catalogue_->compiling(); });
    }
    fs::remove_all(folder_);
  }

  std::string path(const std::string& module) const {
    return (module.find('/') == std::string::npos ? settings_.modules_dir
                                                  : settings_.user_modules_dir) +
           "/" + module + ".wasm";
  }
  // In one step, as deploy tools do.
  void put(const std::string& module, const std::string& text) {
    std::ofstream(folder_ + "/new") << text;
    fs::rename(folder_ + "/new", path(module));
  }
  void start() {
    block_ = shared::write_block(config::serialize(settings_)).value();
    CompileLimits limits;
    limits.data_floor = kDataFloor;
    catalogue_ = std::make_unique<Catalogue>(*loop_, segment_, *this, "/proc/self/exe", limits);
    ASSERT_TRUE(catalogue_->start(settings_, block_.get()).has_value());
  }
  template <class Condition>
  bool until(Condition&& condition) {
    const base::Time limit = base::Clock::now() + 20s;
    while (!condition() && base::Clock::now() < limit) {
      loop_->run_once(5ms);
      catalogue_->reap();
    }
    return condition();
  }
  std::uint32_t row_of(const std::string& module) {
    for (std::uint32_t row = 0; row < table_.rows(); ++row) {
      const shared::ModuleRow read = table_.read(row);
      if ((read.tenant.empty() ? "" : read.tenant + "/") + read.name == module) {
        return row;
      }
    }
    ADD_FAILURE() << "no row for " << module;
    return 0;
  }
  shared::ModuleRow read(const std::string& module) { return table_.read(row_of(module)); }
  bool has_row(const std::string& module) {
    for (std::uint32_t row = 0; row < table_.rows(); ++row) {
      const shared::ModuleRow read = table_.read(row);
      if ((read.tenant.empty() ? "" : read.tenant + "/") + read.name == module) {
        return true;
      }
    }
    return false;
  }
  bool await_state(const std::string& module, RowState state) {
    return until([&] { return has_row(module) && read(module).state == state; });
  }
  void need(const std::string& module) {
    catalogue_->on_worker_message(0,
                                  shared::NeedArtefact{row_of(module), read(module).incarnation});
  }
  // Serves this: asked for, compiled, published.
  void serve(const std::string& module) {
    need(module);
    ASSERT_TRUE(await_state(module, RowState::kReady));
  }
  void live(std::uint32_t slot, int pid = 1000) {
    segment_.set_pid(slot, pid + static_cast<int>(slot));
  }
  template <class M>
  std::vector<M> told() const {
    std::vector<M> messages;
    for (const shared::Message& message : told_) {
      if (const auto* one = std::get_if<M>(&message)) {
        messages.push_back(*one);
      }
    }
    return messages;
  }
  bool said(const std::string& text) const { return log_.find(text) != std::string::npos; }
  int times_said(const std::string& text) const {
    int count = 0;
    for (std::size_t at = log_.find(text); at != std::string::npos; at = log_.find(text, at + 1)) {
      count += 1;
    }
    return count;
  }
  void answer(std::uint32_t slot, const shared::Prepare& order, bool ok = true) {
    catalogue_->on_worker_message(
        slot, shared::Prepared{order.row, order.version, ok, ok ? "" : "no room"});
  }

  void tell_workers(const shared::Message& message) override { told_.push_back(message); }
  void on_module_event(Severity severity, const std::string& text) override {
    log_ += (severity == Severity::kInfo ? "info " : "problem ") + text + "\n";
  }
  bool serving() const override { return true; }

  std::string folder_;
  config::Settings settings_;
  std::unique_ptr<net::Loop> loop_ = net::Loop::create().value();
  shared::Segment segment_ = shared::Segment::create(3, 16, 4).value();
  shared::ModuleTable& table_ = segment_.modules();
  base::Fd block_;
  std::vector<shared::Message> told_;
  std::string log_;
  std::unique_ptr<Catalogue> catalogue_;
};

TEST_F(CatalogueTest, WhatIsThereHasARowAndIsCompiledWhenItIsAskedFor) {
  put("api", "ok 7");
  put("acme/shop", "ok 8");
  start();
  EXPECT_EQ(read("api").state, RowState::kIdle);
  EXPECT_EQ(read("acme/shop").tenant, "acme");
  need("acme/shop");
  need("acme/shop");
  EXPECT_EQ(read("acme/shop").state, RowState::kCompiling);
  ASSERT_TRUE(await_state("acme/shop", RowState::kReady));
  EXPECT_EQ(read("acme/shop").digest, digest_of(8));
  EXPECT_EQ(read("acme/shop").artefact_bytes, 80u);
  ASSERT_EQ(told<shared::ArtefactReady>().size(), 1u);
  EXPECT_EQ(told<shared::ArtefactReady>()[0].digest, digest_of(8));
  EXPECT_EQ(read("api").state, RowState::kIdle);
  EXPECT_TRUE(said("info module acme/shop is ready after "));
}

TEST_F(CatalogueTest, AnArtefactThatAWorkerFoundIsPublishedOnce) {
  put("api", "ok 7");
  start();
  const std::uint64_t incarnation = read("api").incarnation;
  catalogue_->on_worker_message(0,
                                shared::Resolved{row_of("api"), incarnation + 1, digest_of(6), 60});
  EXPECT_FALSE(read("api").digest.has_value()) << "said of another module";
  catalogue_->on_worker_message(0, shared::Resolved{row_of("api"), incarnation, digest_of(7), 70});
  catalogue_->on_worker_message(1, shared::Resolved{row_of("api"), incarnation, digest_of(9), 90});
  EXPECT_EQ(read("api").digest, digest_of(7));
  EXPECT_EQ(read("api").version, 1u);
}

TEST_F(CatalogueTest, LargeOnesAreCompiledAtTheStart) {
  put("big", "ok 7 " + std::string(5 << 20, ' '));
  start();
  EXPECT_EQ(read("big").state, RowState::kCompiling);
  EXPECT_TRUE(await_state("big", RowState::kReady));
  put("large", "ok 8 " + std::string(5 << 20, ' '));
  EXPECT_TRUE(await_state("large", RowState::kReady)) << "and on arrival";
}

TEST_F(CatalogueTest, ABrokenModuleSaysWhyOnceAndStaysBrokenUntilItsFileChanges) {
  put("api", "bad it imports the moon");
  start();
  need("api");
  ASSERT_TRUE(await_state("api", RowState::kBroken));
  EXPECT_EQ(read("api").error, "it imports the moon");
  const std::size_t children = static_cast<std::size_t>(times_said("compiling module api"));
  for (int i = 0; i < 5; ++i) {
    need("api");
  }
  EXPECT_EQ(told<shared::ArtefactFailed>().size(), 6u) << "each who asks is told";
  EXPECT_EQ(told<shared::ArtefactFailed>()[5].help, "mend it");
  EXPECT_EQ(times_said("api is broken: it imports the moon"), 1);
  EXPECT_EQ(times_said("compiling module api"), static_cast<int>(children));
  put("api", "ok 7");
  EXPECT_TRUE(await_state("api", RowState::kReady));
  EXPECT_EQ(read("api").error, "");
}

TEST_F(CatalogueTest, WhatMayPassIsTriedAgain) {
  put("api", "full");
  start();
  need("api");
  ASSERT_TRUE(await_state("api", RowState::kBroken));
  EXPECT_EQ(told<shared::ArtefactFailed>()[0].code, base::ErrorCode::kSystem);
  ASSERT_TRUE(await_state("api", RowState::kIdle)) << "so that the next request asks";
  need("api");
  EXPECT_TRUE(await_state("api", RowState::kBroken));
}

TEST_F(CatalogueTest, FilesComeAndGo) {
  start();
  put("api", "ok 7");
  ASSERT_TRUE(await_state("api", RowState::kIdle));
  const std::uint32_t row = row_of("api");
  serve("api");
  fs::remove(path("api"));
  ASSERT_TRUE(await_state("api", RowState::kGone));
  put("api", "ok 8");
  ASSERT_TRUE(await_state("api", RowState::kIdle));
  EXPECT_EQ(row_of("api"), row);
  EXPECT_FALSE(read("api").digest.has_value());
  serve("api");
  EXPECT_EQ(read("api").digest, digest_of(8));
  fs::create_directory(settings_.user_modules_dir + "/beta");
  put("beta/x", "ok 9");
  EXPECT_TRUE(await_state("beta/x", RowState::kIdle));
}

TEST_F(CatalogueTest, AWorkerOfAnotherGenerationIsNotWaitedForAndNotBelieved) {
  put("api", "ok 1");
  start();
  live(0);
  live(1);
  serve("api");
  segment_.header().generation.store(2);
  segment_.row(0).gauges.generation.store(1);  // drains, with another configuration
  segment_.row(1).gauges.generation.store(2);
  const std::uint64_t before = read("api").version;
  put("api", "ok 2");
  ASSERT_TRUE(until([&] { return !told<shared::Prepare>().empty(); }));
  answer(0, told<shared::Prepare>()[0], false);
  EXPECT_EQ(read("api").version, before);
  answer(1, told<shared::Prepare>()[0]);
  EXPECT_EQ(read("api").version, before + 1);
}

TEST_F(CatalogueTest, ANewVersionServesOnceEveryWorkerIsPrepared) {
  put("api", "ok 1");
  start();
  serve("api");
  live(0);
  live(2);
  put("api", "ok 2");
  ASSERT_TRUE(until([&] { return !told<shared::Prepare>().empty(); }));
  const shared::Prepare order = told<shared::Prepare>()[0];
  EXPECT_EQ(order.digest, digest_of(2));
  EXPECT_EQ(order.version, 2u);
  answer(1, order);  // nobody
  answer(0, order);
  answer(0, order);  // twice counts once
  EXPECT_EQ(read("api").digest, digest_of(1));
  answer(2, order);
  EXPECT_EQ(read("api").digest, digest_of(2));
  EXPECT_EQ(read("api").version, 2u);
  EXPECT_TRUE(said("info module api: a new version serves"));
}

TEST_F(CatalogueTest, AVersionThatAWorkerCannotLoadIsNotServed) {
  put("api", "ok 1");
  start();
  serve("api");
  live(0);
  live(1);
  put("api", "ok 2");
  ASSERT_TRUE(until([&] { return !told<shared::Prepare>().empty(); }));
  answer(0, told<shared::Prepare>()[0], false);
  answer(1, told<shared::Prepare>()[0]);
  EXPECT_EQ(read("api").digest, digest_of(1));
  EXPECT_EQ(read("api").state, RowState::kReady);
  EXPECT_EQ(read("api").pending_error, "no room");
  put("api", "ok 3");
  ASSERT_TRUE(until([&] { return told<shared::Prepare>().size() == 2; }));
  answer(0, told<shared::Prepare>()[1]);
  answer(1, told<shared::Prepare>()[1]);
  EXPECT_EQ(read("api").digest, digest_of(3));
  EXPECT_EQ(read("api").pending_error, "");
}

TEST_F(CatalogueTest, ABrokenNewVersionLeavesTheOldOneServing) {
  put("api", "ok 1");
  start();
  serve("api");
  put("api", "bad it is half a file");
  ASSERT_TRUE(until([&] { return !read("api").pending_error.empty(); }));
  EXPECT_EQ(read("api").state, RowState::kReady);
  EXPECT_EQ(read("api").digest, digest_of(1));
  EXPECT_EQ(read("api").pending_error, "it is half a file");
  EXPECT_TRUE(said("its new version cannot serve, so the one before serves on"));
  put("api", "ok 1");
  EXPECT_TRUE(until([&] { return read("api").pending_error.empty(); })) << "the old one is back";
  EXPECT_EQ(read("api").version, 1u);
}

TEST_F(CatalogueTest, ADeadWorkerIsNotWaitedFor) {
  put("api", "ok 1");
  start();
  serve("api");
  live(0);
  live(1);
  put("api", "ok 2");
  ASSERT_TRUE(until([&] { return !told<shared::Prepare>().empty(); }));
  answer(0, told<shared::Prepare>()[0]);
  live(1, 2000);  // its successor has not been told, and reads the table
  catalogue_->reap();
  EXPECT_EQ(read("api").digest, digest_of(2));
}

TEST_F(CatalogueTest, AFileThatChangesDuringItsCompilationIsLookedAtAgain) {
  put("api", "ok 1");
  start();
  serve("api");
  put("api", "wait 2");
  ASSERT_TRUE(until([&] { return times_said("compiling module api") == 2; }));
  put("api", "ok 3");
  std::ofstream(path("api") + ".go");
  ASSERT_TRUE(until([&] { return read("api").version == 2; }));
  EXPECT_EQ(read("api").digest, digest_of(3)) << "2 was no finished version any more";
}

TEST_F(CatalogueTest, AFileThatChangesDuringItsSwapIsSwappedInAfterwards) {
  put("api", "ok 1");
  start();
  serve("api");
  live(0);
  put("api", "ok 2");
  ASSERT_TRUE(until([&] { return !told<shared::Prepare>().empty(); }));
  put("api", "ok 3");
  // Heard of, and put off.
  std::ofstream(path("other")) << "ok 9";
  ASSERT_TRUE(await_state("other", RowState::kIdle));
  answer(0, told<shared::Prepare>()[0]);
  EXPECT_EQ(read("api").digest, digest_of(2));
  ASSERT_TRUE(until([&] { return told<shared::Prepare>().size() == 2; }));
  answer(0, told<shared::Prepare>()[1]);
  EXPECT_EQ(read("api").digest, digest_of(3));
}

TEST_F(CatalogueTest, ATornReadIsNoVerdict) {
  put("api", "torn");
  start();
  need("api");
  ASSERT_TRUE(until([&] { return times_said("compiling module api") >= 2; }));
  EXPECT_EQ(read("api").state, RowState::kCompiling);
  EXPECT_TRUE(told<shared::ArtefactFailed>().empty());
  put("api", "ok 7");
  EXPECT_TRUE(await_state("api", RowState::kReady)) << "whoever asked is answered";
}

TEST_F(CatalogueTest, WhatIsRemovedWhileItIsCompiledIsGone) {
  put("api", "wait 1");
  start();
  need("api");
  fs::remove(path("api"));
  ASSERT_TRUE(await_state("api", RowState::kGone));
  ASSERT_EQ(told<shared::ArtefactFailed>().size(), 1u);
  EXPECT_EQ(told<shared::ArtefactFailed>()[0].code, base::ErrorCode::kNotFound);
  std::ofstream(path("api") + ".go");
  ASSERT_TRUE(until([&] { return !catalogue_->compiling(); }));
  EXPECT_EQ(read("api").state, RowState::kGone);
}

TEST_F(CatalogueTest, WithHotReloadOffAChangeIsReportedUntilItIsApplied) {
  settings_.hot_reload = config::HotReload::kReport;
  put("api", "ok 1");
  put("gone", "ok 1");
  start();
  serve("api");
  serve("gone");
  put("api", "ok 2");
  ASSERT_TRUE(until([&] { return read("api").changed; }));
  fs::remove(path("gone"));
  ASSERT_TRUE(until([&] { return read("gone").changed; }));
  put("new", "ok 3");
  ASSERT_TRUE(until([&] { return said("module new is new; SIGHUP adds it"); }));
  EXPECT_EQ(read("api").digest, digest_of(1));
  EXPECT_EQ(read("gone").state, RowState::kReady);
  EXPECT_FALSE(has_row("new"));
  EXPECT_TRUE(said("module api has changed; SIGHUP applies it"));
  catalogue_->reconfigure(settings_, block_.get());
  EXPECT_EQ(read("gone").state, RowState::kGone);
  EXPECT_TRUE(has_row("new"));
  ASSERT_TRUE(until([&] { return read("api").digest == digest_of(2); }));
  EXPECT_FALSE(read("api").changed);
}

TEST_F(CatalogueTest, NewSettingsGiveBrokenModulesAnotherChance) {
  put("api", "bad it wants too much memory");
  start();
  need("api");
  ASSERT_TRUE(await_state("api", RowState::kBroken));
  catalogue_->reconfigure(settings_, block_.get());
  EXPECT_EQ(read("api").state, RowState::kIdle);
}

TEST_F(CatalogueTest, OnlyTheSameKindOfRunTakesNewSettings) {
  start();
  EXPECT_TRUE(catalogue_->accepts(settings_).has_value());
  config::Settings single;
  single.component_path = "/app.wasm";
  single.component_name = "app";
  EXPECT_EQ(catalogue_->accepts(single).error().code(), base::ErrorCode::kConfig);
}

TEST_F(CatalogueTest, ATableThatIsFullIsSaidOnce) {
  for (int i = 0; i < 20; ++i) {
    put("m" + std::to_string(i), "ok 1");
  }
  start();
  EXPECT_EQ(table_.rows(), 16u);
  EXPECT_EQ(times_said("are not served"), 1);
}

TEST_F(CatalogueTest, ASingleComponentKeepsServingWhenItsFileGoes) {
  config::Settings settings;
  settings.component_path = path("app");
  settings.component_name = "app";
  settings.watch_debounce = 20ms;
  settings.state_dir = settings_.state_dir;
  put("app", "x");
  settings_ = settings;
  start();
  catalogue_->on_worker_message(0, shared::Resolved{0, read("app").incarnation, digest_of(1), 1});
  ASSERT_EQ(read("app").state, RowState::kReady);
  fs::remove(settings.component_path);
  ASSERT_TRUE(until([&] { return !read("app").pending_error.empty(); }));
  EXPECT_EQ(read("app").state, RowState::kReady);
}

// Workers that die at any step of a swap, and versions that come at any time: in the end what was
// put in place last serves, and no version that is broken ever does.
class SwapHistory : public CatalogueTest, public testing::WithParamInterface<std::uint32_t> {};

TEST_P(SwapHistory, EndsWithTheLastVersionThatCouldServe) {
  SCOPED_TRACE("seed " + std::to_string(GetParam()));
  std::mt19937 random(GetParam());
  const auto pick = [&](std::uint32_t below) { return static_cast<int>(random() % below); };
  put("api", "ok 1");
  start();
  serve("api");
  int pid = 1000;
  std::size_t answered = 0;
  int last = 1;
  for (int step = 0; step < 40; ++step) {
    switch (pick(5)) {
      case 0: {
        last = 2 + pick(200);
        put("api", "ok " + std::to_string(last));
        break;
      }
      case 1: {
        put("api", "bad not this one");
        last = 0;
        break;
      }
      case 2:
        live(static_cast<std::uint32_t>(pick(3)), pid += 10);  // killed and started again
        break;
      case 3:
        segment_.bury(static_cast<std::size_t>(pick(3)));
        break;
      default:
        for (; answered < told<shared::Prepare>().size(); ++answered) {
          for (std::uint32_t slot = 0; slot < 3; ++slot) {
            if (pick(3) != 0) {
              answer(slot, told<shared::Prepare>()[answered]);
            }
          }
        }
        break;
    }
    for (int turn = 0; turn < pick(30); ++turn) {
      loop_->run_once(2ms);
      catalogue_->reap();
    }
    ASSERT_EQ(read("api").state, RowState::kReady);
  }
  // The last word, and workers that answer whatever they are told.
  last = 250 - pick(5);
  put("api", "ok " + std::to_string(last));
  EXPECT_TRUE(until([&] {
    for (const shared::Prepare& order : told<shared::Prepare>()) {
      for (std::uint32_t slot = 0; slot < 3; ++slot) {
        answer(slot, order);
      }
    }
    return read("api").digest == digest_of(last);
  }));
  EXPECT_EQ(read("api").pending_error, "");
}

INSTANTIATE_TEST_SUITE_P(Seeds, SwapHistory, testing::Range(1u, 9u));

}  // namespace
}  // namespace mik::supervisor
