#include "shared/modules.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "shared/segment.hpp"

namespace mik::shared {
namespace {

Digest digest_of(std::uint64_t number) {
  Digest digest{};
  for (std::size_t i = 0; i < digest.size(); ++i) {
    digest[i] = static_cast<std::uint8_t>(number >> (8 * (i % 8)));
  }
  return digest;
}

TEST(Modules, ARowTellsWhatWasSaidOfIt) {
  auto segment = Segment::create(2, 10, 4).value();
  ModuleTable& table = segment.modules();
  EXPECT_EQ(table.rows(), 0u);
  const std::uint32_t row = table.add("", "api").value();
  const std::uint32_t other = table.add("acme", "api").value();
  EXPECT_NE(row, other);
  EXPECT_EQ(table.add("", "api"), row);
  EXPECT_EQ(table.rows(), 2u);
  EXPECT_EQ(table.tenants(), 1u);
  EXPECT_EQ(table.read(row).tenant_row, kNoRow);
  EXPECT_EQ(table.read(other).tenant, "acme");
  EXPECT_EQ(table.read(other).tenant_row, 0u);

  ModuleRow read = table.read(row);
  EXPECT_EQ(read.name, "api");
  EXPECT_EQ(read.state, RowState::kIdle);
  EXPECT_EQ(read.incarnation, 1u);
  EXPECT_FALSE(read.digest.has_value());

  table.set_state(row, RowState::kBroken, "no import");
  EXPECT_EQ(table.read(row).error, "no import");
  table.publish(row, digest_of(7), 1234);
  read = table.read(row);
  EXPECT_EQ(read.state, RowState::kReady);
  EXPECT_EQ(read.digest, digest_of(7));
  EXPECT_EQ(read.artefact_bytes, 1234u);
  EXPECT_EQ(read.version, 1u);
  EXPECT_EQ(table.version(row), 1u);
  EXPECT_EQ(read.error, "");

  table.set_pending(row, "the new one imports the moon", true);
  read = table.read(row);
  EXPECT_EQ(read.pending_error, "the new one imports the moon");
  EXPECT_TRUE(read.changed);
  EXPECT_EQ(read.digest, digest_of(7));
  table.publish(row, digest_of(8), 1);
  read = table.read(row);
  EXPECT_EQ(read.pending_error, "");
  EXPECT_FALSE(read.changed);
  EXPECT_EQ(read.version, 2u);
}

TEST(Modules, EveryChangeMovesTheGeneration) {
  auto segment = Segment::create(1, 2, 1).value();
  ModuleTable& table = segment.modules();
  std::uint64_t before = table.generation();
  const auto moved = [&] { return std::exchange(before, table.generation()) != before; };
  const std::uint32_t row = table.add("", "a").value();
  EXPECT_TRUE(moved());
  table.set_state(row, RowState::kCompiling);
  EXPECT_TRUE(moved());
  table.set_pending(row, "", true);
  EXPECT_TRUE(moved());
  table.publish(row, digest_of(1), 1);
  EXPECT_TRUE(moved());
  EXPECT_EQ(table.add("", "a"), row);
  EXPECT_FALSE(moved()) << "it was there already";
}

TEST(Modules, ABreakerIsResetWithAnotherArtefactOnly) {
  auto segment = Segment::create(1, 1, 1).value();
  ModuleTable& table = segment.modules();
  const std::uint32_t row = table.add("", "a").value();
  const std::uint64_t at_first = table.breaker(row).load();
  table.publish(row, digest_of(1), 1);
  EXPECT_EQ(table.breaker(row).load(), at_first) << "who waited for it counts";
  table.breaker(row).store(at_first + 3);
  table.publish(row, digest_of(1), 1);
  EXPECT_EQ(table.breaker(row).load(), at_first + 3) << "it is the same";
  table.publish(row, digest_of(2), 1);
  EXPECT_EQ(table.breaker(row).load() << 10, 0u);
  EXPECT_NE(table.breaker(row).load(), at_first) << "an epoch of its own";
}

TEST(Modules, AModuleThatComesBackIsAnotherIncarnationInItsOldRow) {
  auto segment = Segment::create(1, 2, 1).value();
  ModuleTable& table = segment.modules();
  const std::uint32_t row = table.add("", "a").value();
  table.publish(row, digest_of(1), 1);
  table.breaker(row).store(99);
  table.cells(row, 0).requests.store(5);
  table.set_state(row, RowState::kGone);
  EXPECT_EQ(table.read(row).state, RowState::kGone);
  EXPECT_EQ(table.add("", "a"), row);
  const ModuleRow back = table.read(row);
  EXPECT_EQ(back.state, RowState::kIdle);
  EXPECT_EQ(back.incarnation, 2u);
  EXPECT_EQ(back.version, 1u) << "never goes back";
  EXPECT_FALSE(back.digest.has_value());
  EXPECT_EQ(table.breaker(row).load() << 10, 0u) << "new, but for its epoch";
  EXPECT_EQ(table.cells(row, 0).requests.load(), 5u);
}

TEST(Modules, AFullTableTakesRowsOfModulesThatAreGone) {
  auto segment = Segment::create(2, 3, 1).value();
  ModuleTable& table = segment.modules();
  const std::uint32_t a = table.add("t1", "a").value();
  const std::uint32_t b = table.add("", "b").value();
  const std::uint32_t c = table.add("", "c").value();
  EXPECT_EQ(table.add("", "d"), std::nullopt);
  EXPECT_EQ(table.add("t2", "b"), std::nullopt);
  table.publish(a, digest_of(1), 1);
  table.cells(a, 1).requests.store(9);
  table.set_state(a, RowState::kGone);
  table.set_state(b, RowState::kGone);
  table.cells(b, 0).active.store(1);  // a request of it is in flight
  const std::uint32_t d = table.add("t2", "d").value();
  EXPECT_EQ(d, a);
  const ModuleRow read = table.read(d);
  EXPECT_EQ(read.name, "d");
  EXPECT_EQ(read.tenant, "t2") << "the tenant's row was free too";
  EXPECT_EQ(read.incarnation, 2u);
  EXPECT_EQ(table.cells(d, 1).requests.load(), 0u);
  EXPECT_FALSE(read.digest.has_value());
  EXPECT_EQ(table.add("", "e"), std::nullopt) << "b is held, c is there";
  table.bury(0);
  EXPECT_EQ(table.add("", "e"), b);
  EXPECT_EQ(table.read(c).name, "c");
}

TEST(Modules, NamesAndErrorsHaveALimit) {
  auto segment = Segment::create(1, 4, 2).value();
  ModuleTable& table = segment.modules();
  const std::string longest(kNameMax, 'n');
  EXPECT_EQ(table.add("", longest + "n"), std::nullopt);
  EXPECT_EQ(table.add(longest + "n", "a"), std::nullopt);
  const std::uint32_t row = table.add(longest, longest).value();
  EXPECT_EQ(table.read(row).name, longest);
  EXPECT_EQ(table.read(row).tenant, longest);
  table.set_state(row, RowState::kBroken, std::string(1000, 'e'));
  EXPECT_EQ(table.read(row).error, std::string(kTextBytes, 'e'));
  table.set_state(row, RowState::kBroken, "short");
  EXPECT_EQ(table.read(row).error, "short");
}

TEST(Modules, CellsAreEachOnesOwnAndBuryGivesBackWhatWasHeld) {
  constexpr std::size_t kSlots = 3;
  auto segment = Segment::create(kSlots, 5, 2).value();
  ModuleTable& table = segment.modules();
  for (std::uint32_t i = 0; i < 5; ++i) {
    ASSERT_TRUE(table.add(i < 2 ? "t" + std::to_string(i) : "", "m" + std::to_string(i)));
  }
  std::uint64_t value = 1;
  for (std::uint32_t row = 0; row < 5; ++row) {
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      table.cells(row, slot).active.store(value);
      table.cells(row, slot).memory_bytes.store(value + 1);
      table.cells(row, slot).hits.store(value + 2);
      value += 3;
    }
  }
  table.tenant_cells(1, 2).active.store(value);
  table.tenant_cells(1, 1).memory_bytes.store(value);
  segment.bury(1);
  value = 1;
  for (std::uint32_t row = 0; row < 5; ++row) {
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      EXPECT_EQ(table.cells(row, slot).active.load(), slot == 1 ? 0 : value);
      EXPECT_EQ(table.cells(row, slot).memory_bytes.load(), slot == 1 ? 0 : value + 1);
      EXPECT_EQ(table.cells(row, slot).hits.load(), value + 2);
      value += 3;
    }
  }
  EXPECT_EQ(table.tenant_cells(1, 2).active.load(), value);
  EXPECT_EQ(table.tenant_cells(1, 1).memory_bytes.load(), 0u);
  EXPECT_EQ(table.read(4).name, "m4") << "rows and cells do not overlap";
}

TEST(Modules, WhoAttachesSeesTheSameTable) {
  auto made = Segment::create(2, 100, 10).value();
  const std::uint32_t row = made.modules().add("acme", "shop").value();
  auto attached = Segment::attach(made.fd()).value();
  EXPECT_EQ(attached.modules().read(row).name, "shop");
  attached.modules().cells(row, 1).requests.fetch_add(3);
  EXPECT_EQ(made.modules().cells(row, 1).requests.load(), 3u);
  made.modules().publish(row, digest_of(5), 6);
  EXPECT_EQ(attached.modules().version(row), 1u);
}

// Readers never see half of a change, whatever the writer is at.
TEST(Modules, AReaderSeesOneMomentsTruth) {
  auto segment = Segment::create(1, 1, 1).value();
  ModuleTable& table = segment.modules();
  const std::uint32_t row = table.add("", "m").value();
  table.publish(row, digest_of(1), 1);
  std::atomic<bool> stop = false;
  std::atomic<int> torn = 0;
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      std::uint64_t last = 0;
      while (!stop.load()) {
        const std::uint64_t version = table.version(row);
        const ModuleRow read = table.read(row);
        const bool whole =
            read.digest == digest_of(read.version) && read.artefact_bytes == read.version &&
            read.version >= version &&
            (read.pending_error.empty() ||
             read.pending_error == std::string(100, static_cast<char>('a' + read.version % 26)));
        torn += whole && read.version >= last ? 0 : 1;
        last = read.version;
      }
    });
  }
  for (std::uint64_t version = 2; version < 20'000; ++version) {
    table.publish(row, digest_of(version), version);
    table.set_pending(row, std::string(100, static_cast<char>('a' + version % 26)), false);
  }
  stop.store(true);
  for (std::thread& reader : readers) {
    reader.join();
  }
  EXPECT_EQ(torn.load(), 0);
}

// A plain model of the table.
struct Model {
  struct Row {
    std::uint32_t row = 0;
    std::uint64_t incarnation = 0;
    std::uint64_t version = 0;
    RowState state = RowState::kIdle;
    std::optional<std::uint64_t> digest;
    std::string error;
    std::string pending;
    bool changed = false;
  };
  std::map<std::pair<std::string, std::string>, Row> rows;
};

class ModelTest : public testing::TestWithParam<std::uint32_t> {
 protected:
  static constexpr std::size_t kSlots = 3;
  static constexpr std::size_t kRows = 8;
  static constexpr std::size_t kTenants = 3;

  std::uint32_t pick(std::uint32_t below) { return static_cast<std::uint32_t>(random_() % below); }

  void add() {
    static const std::array<std::string, 4> kTenantNames = {"", "t1", "t2", "t3"};
    const std::string tenant = kTenantNames[pick(4)];
    const std::string name = "m" + std::to_string(pick(4));
    const auto row = table_.add(tenant, name);
    if (!row) {
      full_ += 1;
      std::size_t there = 0;
      for (const auto& [key, known] : model_.rows) {
        there += known.state != RowState::kGone || held_row(known.row) ? 1 : 0;
      }
      ASSERT_EQ(there, kRows) << "a row was free";
      return;
    }
    // Rows that were reclaimed are nobody's any more.
    std::erase_if(model_.rows, [&](const auto& entry) {
      return table_.read(entry.second.row).incarnation != entry.second.incarnation &&
             entry.second.state == RowState::kGone && entry.first != std::pair(tenant, name);
    });
    std::erase_if(model_.rows, [&](const auto& entry) {
      return entry.second.state == RowState::kGone &&
             table_.read(entry.second.row).state == RowState::kFree;
    });
    Model::Row& known = model_.rows[{tenant, name}];
    const ModuleRow read = table_.read(*row);
    if (known.incarnation == 0 || known.state == RowState::kGone) {
      known = {.row = *row, .incarnation = read.incarnation, .version = read.version};
    }
    EXPECT_EQ(known.row, *row);
  }

  bool held_row(std::uint32_t row) const {
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      if (held_[slot].contains(row)) {
        return true;
      }
    }
    return false;
  }

  void change() {
    if (model_.rows.empty()) {
      return;
    }
    auto entry = model_.rows.begin();
    std::advance(entry, pick(static_cast<std::uint32_t>(model_.rows.size())));
    Model::Row& row = entry->second;
    if (row.state == RowState::kGone) {
      return;
    }
    const std::string text(pick(300), 'x');
    switch (pick(4)) {
      case 0:
        row.state = pick(2) == 0 ? RowState::kBroken : RowState::kCompiling;
        row.error = text.substr(0, kTextBytes);
        table_.set_state(row.row, row.state, text);
        break;
      case 1:
        row.pending = text.substr(0, kTextBytes);
        row.changed = pick(2) == 0;
        table_.set_pending(row.row, text, row.changed);
        break;
      case 2:
        row.digest = random_();
        row.version += 1;
        row.state = RowState::kReady;
        row.error.clear();
        row.pending.clear();
        row.changed = false;
        table_.publish(row.row, digest_of(*row.digest), *row.digest);
        break;
      default:
        row.state = RowState::kGone;
        row.error.clear();
        row.pending.clear();
        row.digest.reset();
        row.changed = false;
        table_.set_state(row.row, RowState::kGone);
        break;
    }
  }

  void hold_or_die() {
    const std::size_t slot = pick(kSlots);
    if (pick(4) == 0) {
      table_.bury(slot);  // whatever it was at
      held_[slot].clear();
      return;
    }
    if (model_.rows.empty()) {
      return;
    }
    auto entry = model_.rows.begin();
    std::advance(entry, pick(static_cast<std::uint32_t>(model_.rows.size())));
    const std::uint32_t row = entry->second.row;
    table_.cells(row, slot).active.fetch_add(1);
    held_[slot][row] += 1;
  }

  void check() {
    for (const auto& [key, known] : model_.rows) {
      const ModuleRow read = table_.read(known.row);
      ASSERT_EQ(read.tenant, key.first);
      ASSERT_EQ(read.name, key.second);
      ASSERT_EQ(read.state, known.state);
      ASSERT_EQ(read.incarnation, known.incarnation);
      ASSERT_EQ(read.version, known.version);
      ASSERT_EQ(read.digest.has_value(), known.digest.has_value());
      if (known.digest) {
        ASSERT_EQ(read.digest, digest_of(*known.digest));
      }
      ASSERT_EQ(read.error, known.error);
      ASSERT_EQ(read.pending_error, known.pending);
      ASSERT_EQ(read.changed, known.changed);
      for (std::size_t slot = 0; slot < kSlots; ++slot) {
        const auto held = held_[slot].find(known.row);
        ASSERT_EQ(table_.cells(known.row, slot).active.load(),
                  held == held_[slot].end() ? 0 : held->second);
      }
    }
  }

  std::mt19937_64 random_{GetParam()};
  Segment segment_ = Segment::create(kSlots, kRows, kTenants).value();
  ModuleTable& table_ = segment_.modules();
  Model model_;
  std::array<std::map<std::uint32_t, std::uint64_t>, kSlots> held_;
  int full_ = 0;
};

TEST_P(ModelTest, HistoriesAgreeWithAPlainModel) {
  SCOPED_TRACE("seed " + std::to_string(GetParam()));
  for (int step = 0; step < 3000 && !HasFatalFailure(); ++step) {
    switch (pick(4)) {
      case 0:
        add();
        break;
      case 1:
      case 2:
        change();
        break;
      default:
        hold_or_die();
        break;
    }
    check();
  }
  EXPECT_GT(full_, 0) << "the history never filled the table";
}

INSTANTIATE_TEST_SUITE_P(Seeds, ModelTest, testing::Range(1u, 21u));

}  // namespace
}  // namespace mik::shared
