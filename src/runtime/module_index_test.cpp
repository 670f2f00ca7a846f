#include "runtime/module_index.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "runtime/test_allocations.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {
namespace {

using shared::RowState;

class ModuleIndexTest : public ::testing::Test, public ModuleIndex::Events {
 protected:
  ModuleIndex& index() {
    if (!index_.has_value()) {
      index_.emplace(settings_, segment_, 0, *this);
      EXPECT_TRUE(index_->start().has_value());
    }
    index_->refresh();
    return *index_;
  }
  const ModuleEntry* find(std::string_view tenant, std::string_view name) {
    const auto* found = index().find(tenant, name);
    return found == nullptr ? nullptr : found->get();
  }
  std::uint32_t add(std::string_view tenant, std::string_view name) {
    return table().add(tenant, name).value();
  }
  shared::ModuleTable& table() { return segment_.modules(); }

  void on_changed(ModuleEntry& entry) override { changed_.push_back(entry.label); }
  void on_removed(ModuleEntry& entry) override { removed_.push_back(entry.label); }

  static constexpr std::size_t kModulesMax = 1200;
  config::Settings settings_;
  shared::Segment segment_ = shared::Segment::create(1, kModulesMax, 8).value();
  std::vector<std::string> changed_;
  std::vector<std::string> removed_;
  std::optional<ModuleIndex> index_;
};

TEST_F(ModuleIndexTest, FindsByTenantAndName) {
  add("", "api");
  add("acme", "api");
  ASSERT_NE(find("", "api"), nullptr);
  EXPECT_EQ(find("", "api")->label, "api");
  EXPECT_EQ(find("acme", "api")->label, "acme/api");
  EXPECT_EQ(find("acme", "other"), nullptr);
  EXPECT_EQ(find("other", "api"), nullptr);
  EXPECT_EQ(find("api", ""), nullptr);
  EXPECT_EQ(changed_, (std::vector<std::string>{"api", "acme/api"}));
}

TEST_F(ModuleIndexTest, FollowsTheTable) {
  EXPECT_EQ(find("", "late"), nullptr);
  const std::uint32_t row = add("", "late");
  ASSERT_NE(find("", "late"), nullptr);
  EXPECT_EQ(find("", "late")->state, RowState::kIdle);
  table().publish(row, shared::Digest{7}, 123);
  EXPECT_EQ(find("", "late")->state, RowState::kReady);
  EXPECT_EQ(find("", "late")->version, 1u);
  EXPECT_EQ(find("", "late")->digest, shared::Digest{7});
  table().set_pending(row, "the new one is bad", false);
  EXPECT_TRUE(find("", "late")->pending);
  table().set_state(row, RowState::kGone);
  EXPECT_EQ(find("", "late"), nullptr);
  EXPECT_EQ(removed_, std::vector<std::string>{"late"});
}

// What a request holds outlives the module; who comes back under the name is another.
TEST_F(ModuleIndexTest, AModuleThatComesBackIsAnother) {
  const std::uint32_t row = add("", "app");
  index();
  const std::shared_ptr<ModuleEntry> held = *index_->find("", "app");
  const std::uint64_t before = held->incarnation;
  table().set_state(row, RowState::kGone);
  add("", "app");
  ASSERT_NE(find("", "app"), nullptr);
  EXPECT_NE(find("", "app"), held.get());
  EXPECT_EQ(held->label, "app");
  EXPECT_EQ(index_->at(row, before), nullptr);
  ASSERT_NE(index_->at(row, find("", "app")->incarnation), nullptr);
  EXPECT_EQ(removed_, std::vector<std::string>{"app"});
}

TEST_F(ModuleIndexTest, EachModuleHasItsOwnSettings) {
  settings_.max_concurrent_requests = 100;
  settings_.guest.max_requests = 10;
  settings_.modules.push_back({"api", settings_.guest});
  settings_.modules[0].guest.http_allowed = {"example.com"};
  settings_.modules[0].guest.max_requests = 3;
  settings_.tenants.push_back({"acme", settings_.guest, 20, 4096});
  settings_.tenants[0].guest.http_allowed = {"example.com"};
  add("", "api");
  add("", "web");
  add("acme", "api");
  EXPECT_EQ(find("", "api")->target.module_max, 3u);
  EXPECT_EQ(find("", "web")->target.module_max, 10u);
  EXPECT_EQ(find("", "api")->target.tenant_max, 0u);
  EXPECT_EQ(find("acme", "api")->target.tenant_max, 20u);
  EXPECT_EQ(find("acme", "api")->target.tenant_memory_max, 4096u);
  EXPECT_TRUE(find("", "web")->allowed.empty());
  EXPECT_FALSE(find("", "api")->allowed.empty());
  // One list for all that have the same.
  EXPECT_EQ(&find("", "api")->allowed, &find("acme", "api")->allowed);
}

TEST_F(ModuleIndexTest, ALimitBeyondTheGlobalOneIsNone) {
  settings_.max_concurrent_requests = 10;
  settings_.guest.max_requests = 10;
  add("", "api");
  EXPECT_EQ(find("", "api")->target.module_max, 0u);
}

TEST_F(ModuleIndexTest, ABadAllowListIsAnError) {
  settings_.modules.push_back({"api", settings_.guest});
  settings_.modules[0].guest.http_allowed = {"api.*.com"};
  ModuleIndex index(settings_, segment_, 0, *this);
  EXPECT_EQ(index.start().error().code(), base::ErrorCode::kConfig);
}

// runtime.md 9.1: X-Mik-Handler is omitted if it is not printable ASCII.
TEST_F(ModuleIndexTest, OnlyPrintableNamesAreFieldValues) {
  add("", "caf\xc3\xa9");
  add("", "a b");
  add("", "a.b-c_d");
  EXPECT_EQ(find("", "caf\xc3\xa9")->handler, "");
  EXPECT_EQ(find("", "a b")->handler, "");
  EXPECT_EQ(find("", "a.b-c_d")->handler, "a.b-c_d");
}

// The bar of issue 5: a lookup among 1,000 modules allocates nothing.
TEST_F(ModuleIndexTest, ALookupAllocatesNothing) {
  std::vector<std::string> names;
  for (int i = 0; i < 1000; ++i) {
    names.push_back("module-with-a-name-that-fits-nowhere-inline-" + std::to_string(i));
    add("", names.back());
  }
  ModuleIndex& found = index();
  const std::size_t before = test_allocations();
  std::size_t hits = 0;
  for (const std::string& name : names) {
    found.refresh();
    hits += found.find("", name) != nullptr ? 1 : 0;
    hits += found.find("nobody", name) != nullptr ? 1 : 0;
  }
  EXPECT_EQ(test_allocations(), before);
  EXPECT_EQ(hits, names.size());
}

// Random histories of the table against a plain model.
TEST_F(ModuleIndexTest, StaysWithTheTable) {
  const unsigned seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  std::map<std::string, std::uint64_t> model;  // label -> version
  std::map<std::string, std::uint32_t> rows;
  const auto pick = [&](unsigned count) { return random() % count; };
  for (int step = 0; step < 2000; ++step) {
    const std::string tenant = pick(2) == 0 ? "" : "t" + std::to_string(pick(3));
    const std::string name = "m" + std::to_string(pick(12));
    const std::string label = tenant.empty() ? name : tenant + "/" + name;
    switch (pick(4)) {
      case 0:
        rows[label] = add(tenant, name);
        model.try_emplace(label, table().version(rows[label]));
        break;
      case 1:
        if (model.contains(label)) {
          table().publish(rows[label], shared::Digest{static_cast<std::uint8_t>(step)}, 1);
          ++model[label];
        }
        break;
      case 2:
        if (model.erase(label) > 0) {
          table().set_state(rows[label], RowState::kGone);
        }
        break;
      default:
        index();
        break;
    }
    if (pick(5) == 0) {
      ModuleIndex& now = index();
      ASSERT_EQ(now.size(), model.size()) << step;
      now.each([&](const ModuleEntry& entry) {
        ASSERT_TRUE(model.contains(entry.label)) << entry.label;
        ASSERT_EQ(entry.version, model[entry.label]) << entry.label;
        ASSERT_EQ(find(entry.tenant.id, entry.name), &entry);
      });
    }
  }
}

}  // namespace
}  // namespace mik::runtime
