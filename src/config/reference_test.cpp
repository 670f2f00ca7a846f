#include "config/reference.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

#include "config/model.hpp"

namespace mik::config {
namespace {

TEST(Reference, ThePageIsTheModels) {
  const char* root = std::getenv("MIK_SOURCE_DIR");
  ASSERT_NE(root, nullptr);
  std::ifstream file(std::string(root) + "/docs/reference/config.md");
  const std::string page((std::istreambuf_iterator<char>(file)), {});
  EXPECT_TRUE(page == reference_page())
      << "docs/reference/config.md is stale: tools/docs/config.py";
}

TEST(Model, NamesAreThereOnceAndAllIsSaid) {
  std::set<std::pair<SectionId, std::string_view>> seen;
  for (const Key& key : keys()) {
    EXPECT_TRUE(seen.insert({key.section, key.name}).second) << key.name;
    EXPECT_FALSE(key.meaning.empty()) << key.name;
    EXPECT_EQ(find_key(key.section, key.name), &key);
    EXPECT_TRUE(key.type != Type::kWhole || key.min < key.max) << key.name;
    EXPECT_TRUE(key.check != Check::kChoice || !key.choices.empty()) << key.name;
    EXPECT_TRUE(!key.later || key.apply != nullptr) << key.name;
  }
  for (const Section& known : sections()) {
    EXPECT_EQ(find_section(known.name), &known);
    EXPECT_EQ(&section(known.id), &known);
  }
  EXPECT_EQ(find_section("nothing"), nullptr);
  EXPECT_EQ(find_key(SectionId::kServer, "nothing"), nullptr);
}

}  // namespace
}  // namespace mik::config
