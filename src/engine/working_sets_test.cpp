#include "engine/working_sets.hpp"

#include <gtest/gtest.h>

namespace mik::engine {
namespace {

constexpr std::uint64_t kStride = (std::uint64_t{1} << 32) + (32 << 20);  // as Wasmtime's pool
constexpr std::uint64_t kLarge = WorkingSets::kSmallPages + 1;

TEST(WorkingSets, AMemoryIsOldAfterSoManyResetsOfAll) {
  WorkingSets sets;
  const auto reset_all = [&](std::uint64_t pages) {
    int old = 0;
    for (std::uint64_t memory = 1; memory <= 4; ++memory) {
      old += sets.is_old(memory * kStride, pages) ? 1 : 0;
    }
    return old;
  };
  for (std::uint32_t round = 0; round < WorkingSets::kResets / 4; ++round) {
    ASSERT_EQ(reset_all(kLarge), 0) << round;
  }
  EXPECT_EQ(reset_all(kLarge), 4);
  EXPECT_EQ(reset_all(kLarge), 0) << "they begin anew";
}

TEST(WorkingSets, OneThatIsSeldomUsedIsOldWhenItIsUsedAgain) {
  WorkingSets sets;
  ASSERT_FALSE(sets.is_old(kStride, kLarge));
  for (std::uint32_t i = 0; i < WorkingSets::kResets; ++i) {
    (void)sets.is_old(2 * kStride, kLarge);
  }
  EXPECT_TRUE(sets.is_old(kStride, kLarge));
}

TEST(WorkingSets, SmallOnesAreLeftAlone) {
  WorkingSets sets;
  for (std::uint32_t i = 0; i < 3 * WorkingSets::kResets; ++i) {
    ASSERT_FALSE(sets.is_old(kStride, WorkingSets::kSmallPages));
  }
}

// A table of fixed size with a hash that suited another distance took hundreds of memories for one.
TEST(WorkingSets, AThousandMemoriesAreToldApart) {
  WorkingSets sets;
  int old = 0;
  for (std::uint32_t round = 0; round < 2 * WorkingSets::kResets / 1000; ++round) {
    for (std::uint64_t memory = 1; memory <= 1000; ++memory) {
      old += sets.is_old(memory * kStride, kLarge) ? 1 : 0;
    }
  }
  EXPECT_EQ(old, 1000) << "each of them once";
}

}  // namespace
}  // namespace mik::engine
