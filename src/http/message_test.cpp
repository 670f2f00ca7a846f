// Field look-up, case, reason phrases.
#include "http/message.hpp"

#include <gtest/gtest.h>

#include <array>

namespace mik::http {
namespace {

TEST(Message, FindsTheFirstFieldWithoutCase) {
  const std::array<Field, 3> fields = {{{"X-A", "1"}, {"x-b", "2"}, {"X-B", "3"}}};
  ASSERT_NE(find_field(fields, "x-b"), nullptr);
  EXPECT_EQ(find_field(fields, "x-b")->value, "2");
  EXPECT_EQ(find_field(fields, "x-a")->value, "1");
  EXPECT_EQ(find_field(fields, "x-"), nullptr);
  EXPECT_EQ(find_field({}, "x"), nullptr);
}

TEST(Message, ComparesAsciiLettersOnly) {
  EXPECT_TRUE(equals_lower("Content-LENGTH", "content-length"));
  EXPECT_FALSE(equals_lower("content-lengt", "content-length"));
  EXPECT_FALSE(equals_lower("@", "`"));
  EXPECT_FALSE(equals_lower("[", "{"));
  EXPECT_FALSE(equals_lower("\xc9", "\xe9"));
}

TEST(Message, KnowsReasonPhrases) {
  EXPECT_EQ(reason_phrase(200), "OK");
  EXPECT_EQ(reason_phrase(431), "Request Header Fields Too Large");
  EXPECT_EQ(reason_phrase(299), "");
  EXPECT_EQ(reason_phrase(-1), "");
}

}  // namespace
}  // namespace mik::http
