#include "base/names.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mik::base {
namespace {

using Problem = NameProblem;

TEST(Names, RulesAreThoseOfTheContractInItsOrder) {
  EXPECT_EQ(name_problem(""), Problem::kEmpty);
  EXPECT_EQ(name_problem(std::string_view("a\0b", 3)), Problem::kNullByte);
  EXPECT_EQ(name_problem(std::string_view("/\0", 2)), Problem::kNullByte);
  EXPECT_EQ(name_problem("a/b"), Problem::kPathSeparator);
  EXPECT_EQ(name_problem("a\\b"), Problem::kPathSeparator);
  EXPECT_EQ(name_problem("../x"), Problem::kPathSeparator);
  EXPECT_EQ(name_problem("."), Problem::kSpecialDirectory);
  EXPECT_EQ(name_problem(".."), Problem::kSpecialDirectory);
  EXPECT_EQ(name_problem("a\nb"), Problem::kControlCharacter);
  EXPECT_EQ(name_problem("a\x7f"), Problem::kControlCharacter);
  EXPECT_EQ(name_problem("a\xc2\x85"), Problem::kControlCharacter);
  EXPECT_EQ(name_problem("\x1b[31m"), Problem::kControlCharacter);
}

TEST(Names, TheLimitCountsBytes) {
  EXPECT_EQ(name_problem(std::string(255, 'a')), Problem::kNone);
  EXPECT_EQ(name_problem(std::string(256, 'a')), Problem::kTooLong);
  std::string wide;
  for (int i = 0; i < 127; ++i) {
    wide += "\xc3\xa9";
  }
  EXPECT_EQ(name_problem(wide + "a"), Problem::kNone);
  EXPECT_EQ(name_problem(wide + "\xc3\xa9"), Problem::kTooLong);
}

TEST(Names, EverythingElsePasses) {
  for (const char* name : {"api", ".hidden", "...", "a.wasm", "a b", "a:b;c$", "CON", "caf\xc3\xa9",
                           "\xf0\x9f\x98\x80", "a%2Fb", "\xc2\xa0", "-", "*"}) {
    EXPECT_TRUE(valid_module_name(name)) << name;
  }
}

TEST(Names, NamesAreText) {
  for (const char* name :
       {"\xff", "a\x80", "\xc3", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80",
        "\xf0\x8f\xbf\xbf", "\xe2\x82", "\xf5\x80\x80\x80"}) {
    EXPECT_EQ(name_problem(name), Problem::kNotUtf8) << name;
  }
  EXPECT_TRUE(is_utf8("\xef\xbf\xbf\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80"));
}

TEST(Names, EveryProblemHasItsSentence) {
  for (int i = 1; i <= static_cast<int>(Problem::kNotUtf8); ++i) {
    EXPECT_FALSE(describe(static_cast<Problem>(i)).empty()) << i;
  }
  EXPECT_TRUE(describe(Problem::kNone).empty());
}

TEST(Names, StandInUrls) {
  std::string buffer;
  for (const char* name : {"api", "a b", "caf\xc3\xa9", "100%", "a/b?c#d", "-._~"}) {
    EXPECT_EQ(percent_decode(percent_encode(name), buffer), name);
  }
  EXPECT_EQ(percent_encode("a b/\xc3~"), "a%20b%2F%C3~");
  EXPECT_EQ(percent_decode("%41%6a%zz%4", buffer), "Aj%zz%4");
  EXPECT_EQ(percent_decode("%2541", buffer), "%41") << "once";
}

}  // namespace
}  // namespace mik::base
