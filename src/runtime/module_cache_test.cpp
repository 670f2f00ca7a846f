#include "runtime/module_cache.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <random>
#include <thread>

#include "runtime/test_worker.hpp"

namespace mik::runtime {
namespace {

using base::ErrorCode;
using shared::RowState;
using Entry = std::shared_ptr<ModuleEntry>;

class TestWaiter final : public ModuleWaiter {
 public:
  void on_module(ModuleTrouble trouble) override {
    told.push_back(trouble);
    if (then) {
      then();
    }
  }
  std::vector<ModuleTrouble> told;
  std::function<void()> then;
};

class ModuleCacheTest : public TestWorker {
 protected:
  ModuleCacheTest() {
    settings_.component_path.clear();
    settings_.modules_dir = "/modules";
    settings_.cache_size = 3;
  }
  Entry add(std::string_view name, std::string_view tenant = "") {
    add_module(tenant, name);
    return module(name, tenant);
  }
  ModuleCache::Wait wait_for(const Entry& entry, TestWaiter& waiter) {
    return modules_.wait(entry, waiter);
  }
  bool told(const TestWaiter& waiter) {
    return turn_until([&] { return !waiter.told.empty(); });
  }
  void publish(const Entry& entry, std::uint8_t digest) {
    segment_.modules().publish(entry->row, shared::Digest{digest}, 4096);
    modules_.index().refresh();
  }
  using TestWorker::told;
};

TEST_F(ModuleCacheTest, ManyWhoWaitMakeOneLoad) {
  const Entry entry = add("api");
  std::vector<TestWaiter> waiters(20);
  for (TestWaiter& waiter : waiters) {
    EXPECT_EQ(wait_for(entry, waiter), ModuleCache::Wait::kWaiting);
    EXPECT_TRUE(waiter.told.empty());
  }
  ASSERT_TRUE(told(waiters.back()));
  for (const TestWaiter& waiter : waiters) {
    EXPECT_EQ(waiter.told, std::vector{ModuleTrouble::kNone});
  }
  EXPECT_EQ(loader_.loads(), 1u);
  EXPECT_EQ(modules_.waiting(), 0u);
  EXPECT_NE(modules_.use(*entry), nullptr);
  EXPECT_EQ(entry->cells.loaded.load(), 1u);
  EXPECT_EQ(entry->cells.loads.load(), 1u);
}

TEST_F(ModuleCacheTest, WhatIsFoundOnDiskIsToldTheSupervisorOnce) {
  const std::uint32_t row = segment_.modules().add("", "fresh").value();
  const Entry entry = module("fresh");
  ASSERT_TRUE(load(entry));
  ASSERT_EQ(told<shared::Resolved>().size(), 1u);
  EXPECT_EQ(told<shared::Resolved>()[0].row, row);
  EXPECT_EQ(told<shared::Resolved>()[0].artefact_bytes, 4096u);
  EXPECT_EQ(loaded_bytes_, 4096u) << "known before the table says it";
  // The supervisor says the same: nothing is loaded again.
  segment_.modules().publish(row, shared::Digest{}, 4096);
  modules_.index().refresh();
  EXPECT_TRUE(modules_.loaded(*entry));
  EXPECT_EQ(loader_.loads(), 1u);
}

TEST_F(ModuleCacheTest, WithoutAnArtefactTheSupervisorIsAskedOnce) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kArtefact, ""));
  TestWaiter first;
  TestWaiter second;
  wait_for(entry, first);
  ASSERT_TRUE(turn_until([&] { return !told<shared::NeedArtefact>().empty(); }));
  wait_for(entry, second);
  turn(3);
  EXPECT_EQ(told<shared::NeedArtefact>().size(), 1u);
  EXPECT_EQ(told<shared::NeedArtefact>()[0].incarnation, entry->incarnation);
  EXPECT_EQ(refused_, 0u);
  loader_.heal("api");
  modules_.on_message(shared::ArtefactReady{entry->row, entry->incarnation, {}, 0});
  ASSERT_TRUE(told(second));
  EXPECT_EQ(first.told, std::vector{ModuleTrouble::kNone});
  EXPECT_EQ(second.told, std::vector{ModuleTrouble::kNone});
}

TEST_F(ModuleCacheTest, AnArtefactThatIsNoneIsSaidAndMadeAgain) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kArtefact, "carries no valid signature"));
  TestWaiter waiter;
  wait_for(entry, waiter);
  ASSERT_TRUE(turn_until([&] { return refused_ == 1; }));
  EXPECT_EQ(told<shared::NeedArtefact>().size(), 1u);
}

// A supervisor that calls ready what this worker cannot use would be asked for ever.
TEST_F(ModuleCacheTest, ArtefactsThatAreNeverUsableAreGivenUp) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kArtefact, "another CPU"));
  TestWaiter waiter;
  wait_for(entry, waiter);
  for (std::size_t i = 1; waiter.told.empty(); ++i) {
    ASSERT_LE(i, 10u);
    ASSERT_TRUE(turn_until(
        [&] { return told<shared::NeedArtefact>().size() >= i || !waiter.told.empty(); }));
    modules_.on_message(shared::ArtefactReady{entry->row, entry->incarnation, {}, 0});
  }
  EXPECT_EQ(waiter.told, std::vector{ModuleTrouble::kFailed});
  // For a moment nobody tries again.
  TestWaiter next;
  EXPECT_EQ(wait_for(entry, next), ModuleCache::Wait::kUnavailable);
}

TEST_F(ModuleCacheTest, ABrokenModuleIsToldToAllWhoWait) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kArtefact, ""));
  TestWaiter waiter;
  wait_for(entry, waiter);
  ASSERT_TRUE(turn_until([&] { return !told<shared::NeedArtefact>().empty(); }));
  segment_.modules().set_state(entry->row, RowState::kBroken, "it is bad");
  modules_.on_message(
      shared::ArtefactFailed{entry->row, entry->incarnation, ErrorCode::kCompile, "bad", ""});
  EXPECT_EQ(waiter.told, std::vector{ModuleTrouble::kBroken});
  EXPECT_EQ(failures_.size(), 1u);
}

// The message may be lost: the table says it, too.
TEST_F(ModuleCacheTest, TheTableAloneIsEnough) {
  const Entry broken = add("broken");
  const Entry ready = add("ready");
  for (const char* name : {"broken", "ready"}) {
    loader_.fail(name, base::Error(ErrorCode::kArtefact, ""));
  }
  TestWaiter waits_for_broken;
  TestWaiter waits_for_ready;
  wait_for(broken, waits_for_broken);
  wait_for(ready, waits_for_ready);
  ASSERT_TRUE(turn_until([&] { return told<shared::NeedArtefact>().size() == 2; }));
  loader_.heal("ready");
  segment_.modules().set_state(broken->row, RowState::kBroken, "it is bad");
  segment_.modules().publish(ready->row, shared::Digest{9}, 4096);
  ASSERT_TRUE(told(waits_for_broken));
  ASSERT_TRUE(told(waits_for_ready));
  EXPECT_EQ(waits_for_broken.told, std::vector{ModuleTrouble::kBroken});
  EXPECT_EQ(waits_for_ready.told, std::vector{ModuleTrouble::kNone});
}

TEST_F(ModuleCacheTest, WhatCanNeverRunIsBrokenUntilItChanges) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kStaticLimit, "wants 125 MiB, may have 64"));
  TestWaiter waiter;
  wait_for(entry, waiter);
  ASSERT_TRUE(told(waiter));
  EXPECT_EQ(waiter.told, std::vector{ModuleTrouble::kBroken});
  EXPECT_TRUE(entry->cached.broken);
  loader_.heal("api");
  publish(entry, 2);
  EXPECT_FALSE(entry->cached.broken);
  EXPECT_TRUE(load(entry));
}

TEST_F(ModuleCacheTest, AModuleThatGoesIsToldToThoseWhoWait) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kArtefact, ""));
  TestWaiter waiter;
  wait_for(entry, waiter);
  ASSERT_TRUE(turn_until([&] { return !told<shared::NeedArtefact>().empty(); }));
  segment_.modules().set_state(entry->row, RowState::kGone);
  modules_.index().refresh();
  EXPECT_EQ(waiter.told, std::vector{ModuleTrouble::kGone});
  EXPECT_EQ(module("api"), nullptr);
}

TEST_F(ModuleCacheTest, WithoutTheSupervisorNobodyWaits) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kArtefact, ""));
  reachable_ = false;
  TestWaiter waiter;
  wait_for(entry, waiter);
  ASSERT_TRUE(told(waiter));
  EXPECT_EQ(waiter.told, std::vector{ModuleTrouble::kUnavailable});
}

// A load that failed counts once, however many waited for it.
TEST_F(ModuleCacheTest, OneOfThoseWhoWaitIsToldThatItFailed) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kSystem, "too many open files"));
  std::vector<TestWaiter> waiters(3);
  for (TestWaiter& waiter : waiters) {
    wait_for(entry, waiter);
  }
  ASSERT_TRUE(told(waiters.back()));
  EXPECT_EQ(waiters[0].told, std::vector{ModuleTrouble::kFailed});
  EXPECT_EQ(waiters[1].told, std::vector{ModuleTrouble::kUnavailable});
  EXPECT_EQ(waiters[2].told, std::vector{ModuleTrouble::kUnavailable});
}

// G50: files are read on the pool.
TEST_F(ModuleCacheTest, NothingIsLoadedOnTheLoop) {
  ASSERT_TRUE(load(add("api")));
  EXPECT_NE(loader_.thread(), std::this_thread::get_id());
}

// Who held it before it went and comes to need it then.
TEST_F(ModuleCacheTest, NothingIsLoadedForAModuleThatIsGone) {
  const Entry entry = add("api");
  segment_.modules().set_state(entry->row, RowState::kGone);
  const Entry next = add("api");
  EXPECT_NE(next, entry);
  TestWaiter waiter;
  EXPECT_EQ(wait_for(entry, waiter), ModuleCache::Wait::kGone);
  EXPECT_TRUE(load(next));
  EXPECT_EQ(modules_.size(), 1u);
}

TEST_F(ModuleCacheTest, WhoWaitIsBounded) {
  settings_.guest.max_requests = 2;
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kArtefact, ""));
  std::vector<TestWaiter> waiters(3);
  EXPECT_EQ(wait_for(entry, waiters[0]), ModuleCache::Wait::kWaiting);
  EXPECT_EQ(wait_for(entry, waiters[1]), ModuleCache::Wait::kWaiting);
  EXPECT_EQ(wait_for(entry, waiters[2]), ModuleCache::Wait::kFull);
  modules_.stop_waiting(*entry, waiters[0]);
  EXPECT_EQ(wait_for(entry, waiters[2]), ModuleCache::Wait::kWaiting);
  settings_.guest.max_requests = 0;
  std::vector<TestWaiter> many(ModuleCache::kWaitingDefault);
  const auto taken = std::ranges::count_if(many, [&](TestWaiter& waiter) {
    return wait_for(entry, waiter) == ModuleCache::Wait::kWaiting;
  });
  EXPECT_EQ(static_cast<std::size_t>(taken), ModuleCache::kWaitingDefault - 2);
}

// The next request of a connection may come while those who wait are told.
TEST_F(ModuleCacheTest, WhoIsToldMayWaitAgainOrEndOthers) {
  const Entry entry = add("api");
  loader_.fail("api", base::Error(ErrorCode::kSystem, "too many open files"));
  TestWaiter first;
  TestWaiter second;
  TestWaiter again;
  ModuleCache::Wait waits = ModuleCache::Wait::kWaiting;
  first.then = [&] {
    modules_.stop_waiting(*entry, second);
    waits = wait_for(entry, again);
  };
  wait_for(entry, first);
  wait_for(entry, second);
  ASSERT_TRUE(told(first));
  EXPECT_EQ(first.told, std::vector{ModuleTrouble::kFailed});
  EXPECT_TRUE(second.told.empty());
  EXPECT_EQ(waits, ModuleCache::Wait::kUnavailable);
}

// --- Limits ---

TEST_F(ModuleCacheTest, TheLeastRecentlyUsedGoesFirst) {
  std::vector<Entry> entries;
  for (const char* name : {"a", "b", "c"}) {
    entries.push_back(add(name));
    ASSERT_TRUE(load(entries.back()));
  }
  EXPECT_NE(modules_.use(*entries[0]), nullptr);
  const Entry fourth = add("d");
  ASSERT_TRUE(load(fourth));
  EXPECT_EQ(modules_.size(), 3u);
  EXPECT_TRUE(modules_.loaded(*entries[0]));
  EXPECT_FALSE(modules_.loaded(*entries[1]));
  EXPECT_EQ(entries[1]->cells.loaded.load(), 0u);
}

TEST_F(ModuleCacheTest, BytesAreBoundedAndTheNewestStays) {
  settings_.cache_size = 100;
  settings_.max_cache_bytes = 2 * 4096;
  std::vector<Entry> entries;
  for (const char* name : {"a", "b", "c"}) {
    entries.push_back(add(name));
    ASSERT_TRUE(load(entries.back()));
  }
  EXPECT_EQ(modules_.bytes(), 2u * 4096);
  EXPECT_FALSE(modules_.loaded(*entries[0]));
  settings_.max_cache_bytes = 100;  // less than any: served all the same
  const Entry large = add("d");
  ASSERT_TRUE(load(large));
  EXPECT_EQ(modules_.size(), 1u);
  EXPECT_TRUE(modules_.loaded(*large));
}

// One tenant's many modules turn out its own.
TEST_F(ModuleCacheTest, ATenantsFloodLeavesTheOthersTheirs) {
  settings_.cache_size = 4;
  const Entry quiet = add("quiet", "small");
  ASSERT_TRUE(load(quiet));
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(load(add("m" + std::to_string(i), "large")));
  }
  EXPECT_TRUE(modules_.loaded(*quiet));
  EXPECT_EQ(modules_.size(), 4u);
  EXPECT_TRUE(modules_.loaded(*module("m9", "large")));
  EXPECT_FALSE(modules_.loaded(*module("m6", "large")));
}

// A request in flight keeps its component.
TEST_F(ModuleCacheTest, EvictionForgetsAndDoesNotEnd) {
  const Entry entry = add("a");
  ASSERT_TRUE(load(entry));
  const std::shared_ptr<LoadedModule> held = modules_.use(*entry);
  for (const char* name : {"b", "c", "d"}) {
    ASSERT_TRUE(load(add(name)));
  }
  EXPECT_FALSE(modules_.loaded(*entry));
  EXPECT_EQ(held->component.bytes(), 4096u);
}

// Random uses against a plain LRU of three.
TEST_F(ModuleCacheTest, IsALeastRecentlyUsedCache) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::vector<Entry> entries;
  for (int i = 0; i < 8; ++i) {
    entries.push_back(add("m" + std::to_string(i)));
  }
  std::list<std::size_t> model;
  for (int step = 0; step < 300; ++step) {
    const std::size_t which = random() % entries.size();
    if (!modules_.loaded(*entries[which])) {
      ASSERT_TRUE(load(entries[which]));
    }
    ASSERT_NE(modules_.use(*entries[which]), nullptr);
    model.remove(which);
    model.push_front(which);
    if (model.size() > settings_.cache_size) {
      model.pop_back();
    }
    for (std::size_t i = 0; i < entries.size(); ++i) {
      ASSERT_EQ(modules_.loaded(*entries[i]), std::ranges::find(model, i) != model.end()) << step;
    }
  }
}

// --- Swap ---

TEST_F(ModuleCacheTest, ASwapIsPreparedAndThenTakenAtOnce) {
  const Entry entry = add("api");
  ASSERT_TRUE(load(entry));
  const std::shared_ptr<LoadedModule> old = modules_.use(*entry);
  modules_.on_message(shared::Prepare{entry->row, entry->incarnation, 2, shared::Digest{2}});
  ASSERT_TRUE(turn_until([&] { return !told<shared::Prepared>().empty(); }));
  EXPECT_EQ(told<shared::Prepared>()[0], (shared::Prepared{entry->row, 2, true, ""}));
  EXPECT_EQ(modules_.use(*entry), old);
  publish(entry, 2);
  const std::shared_ptr<LoadedModule> now = modules_.use(*entry);
  ASSERT_NE(now, nullptr);
  EXPECT_EQ(now->digest, shared::Digest{2});
  EXPECT_EQ(loader_.loads(), 2u);
  EXPECT_EQ(modules_.size(), 1u);
  EXPECT_EQ(modules_.bytes(), 4096u);
}

TEST_F(ModuleCacheTest, WhoHasNotLoadedItIsPreparedAtOnce) {
  const Entry entry = add("api");
  modules_.on_message(shared::Prepare{entry->row, entry->incarnation, 2, shared::Digest{2}});
  modules_.on_message(shared::Prepare{entry->row, entry->incarnation + 1, 2, shared::Digest{2}});
  ASSERT_EQ(told<shared::Prepared>().size(), 2u);
  EXPECT_TRUE(told<shared::Prepared>()[0].ok);
  EXPECT_EQ(loader_.loads(), 0u);
}

TEST_F(ModuleCacheTest, ABadNewVersionIsSaidAndTheOldServes) {
  const Entry entry = add("api");
  ASSERT_TRUE(load(entry));
  loader_.fail("api", base::Error(ErrorCode::kStaticLimit, "too large"));
  modules_.on_message(shared::Prepare{entry->row, entry->incarnation, 2, shared::Digest{2}});
  ASSERT_TRUE(turn_until([&] { return !told<shared::Prepared>().empty(); }));
  EXPECT_FALSE(told<shared::Prepared>()[0].ok);
  EXPECT_NE(told<shared::Prepared>()[0].text.find("too large"), std::string::npos);
  segment_.modules().set_pending(entry->row, "too large", false);
  modules_.index().refresh();
  ASSERT_NE(modules_.use(*entry), nullptr);
  EXPECT_EQ(modules_.use(*entry)->digest, shared::Digest{1});
}

TEST_F(ModuleCacheTest, AWorkerThatDrainsServesWithWhatItHas) {
  const Entry entry = add("api");
  ASSERT_TRUE(load(entry));
  modules_.drain();
  modules_.on_message(shared::Prepare{entry->row, entry->incarnation, 2, shared::Digest{2}});
  ASSERT_EQ(told<shared::Prepared>().size(), 1u);
  publish(entry, 2);
  ASSERT_TRUE(modules_.loaded(*entry));
  EXPECT_EQ(modules_.use(*entry)->digest, shared::Digest{1});
  // What it has not is loaded as ever.
  const Entry other = add("other");
  ASSERT_TRUE(load(other));
}

TEST_F(ModuleCacheTest, AtTheEndOfTheFamilyNobodyWaitsForACompilation) {
  const Entry entry = add("api");
  loader_.fail("late", base::Error(ErrorCode::kArtefact, ""));
  loader_.fail("api", base::Error(ErrorCode::kArtefact, ""));
  TestWaiter waiter;
  wait_for(entry, waiter);
  ASSERT_TRUE(turn_until([&] { return !told<shared::NeedArtefact>().empty(); }));
  modules_.drain();
  modules_.abandon();
  EXPECT_EQ(waiter.told, std::vector{ModuleTrouble::kUnavailable});
  const Entry late = add("late");
  TestWaiter other;
  wait_for(late, other);
  ASSERT_TRUE(told(other));
  EXPECT_EQ(other.told, std::vector{ModuleTrouble::kUnavailable});
  EXPECT_EQ(told<shared::NeedArtefact>().size(), 1u);
}

TEST_F(ModuleCacheTest, AVersionThatWasNotPreparedIsLoadedWhenItIsAskedFor) {
  const Entry entry = add("api");
  ASSERT_TRUE(load(entry));
  publish(entry, 2);
  EXPECT_FALSE(modules_.loaded(*entry));
  ASSERT_TRUE(load(entry));
  EXPECT_EQ(modules_.use(*entry)->digest, shared::Digest{2});
}

TEST_F(ModuleCacheTest, AVersionThatComesWhileTheOldIsLoadedWins) {
  const Entry entry = add("api");
  TestWaiter waiter;
  wait_for(entry, waiter);
  segment_.modules().publish(entry->row, shared::Digest{2}, 4096);
  ASSERT_TRUE(told(waiter));
  EXPECT_EQ(waiter.told, std::vector{ModuleTrouble::kNone});
  EXPECT_EQ(modules_.use(*entry)->digest, shared::Digest{2});
}

TEST_F(ModuleCacheTest, PreparedAfterItWasPublishedIsTakenAtOnce) {
  const Entry entry = add("api");
  ASSERT_TRUE(load(entry));
  modules_.on_message(shared::Prepare{entry->row, entry->incarnation, 2, shared::Digest{2}});
  segment_.modules().publish(entry->row, shared::Digest{2}, 4096);  // did not wait for us
  ASSERT_TRUE(turn_until([&] { return !told<shared::Prepared>().empty(); }));
  modules_.index().refresh();
  ASSERT_TRUE(load(entry));
  EXPECT_EQ(modules_.use(*entry)->digest, shared::Digest{2});
  EXPECT_EQ(loader_.loads(), 2u);
}

}  // namespace
}  // namespace mik::runtime
