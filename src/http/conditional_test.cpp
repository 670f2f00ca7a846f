#include "http/conditional.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "http/http_date.hpp"

namespace mik::http {
namespace {

constexpr std::int64_t kNow = 1'700'000'000;
constexpr std::int64_t kModified = 784111777;  // Sun, 06 Nov 1994 08:49:37 GMT
constexpr std::string_view kDate = "Sun, 06 Nov 1994 08:49:37 GMT";
constexpr std::string_view kBefore = "Sun, 06 Nov 1994 08:49:36 GMT";
constexpr Validators kFile{.etag = "\"x\"", .modified = kModified};

Precondition check(std::vector<Field> fields, std::string_view method = "GET",
                   const Validators& validators = kFile) {
  return check_preconditions(method, fields, validators, kNow);
}

TEST(HttpDate, AllThreeForms) {
  for (const std::string_view text : {kDate, std::string_view("Sunday, 06-Nov-94 08:49:37 GMT"),
                                      std::string_view("Sun Nov  6 08:49:37 1994"),
                                      std::string_view("Mon, 06 Nov 1994 08:49:37 GMT")}) {
    EXPECT_EQ(parse_http_date(text, kNow), kModified) << text;
  }
  EXPECT_EQ(parse_http_date("Thu, 01 Jan 1970 00:00:00 GMT", kNow), 0);
  EXPECT_EQ(parse_http_date("Thu, 29 Feb 2024 23:59:60 GMT", kNow), 1709251199);
}

TEST(HttpDate, TwoDigitsAreNotFarInTheFuture) {
  EXPECT_EQ(parse_http_date("Sunday, 06-Nov-73 08:49:37 GMT", kNow),
            parse_http_date("Sun, 06 Nov 2073 08:49:37 GMT", kNow));
  EXPECT_EQ(parse_http_date("Sunday, 06-Nov-74 08:49:37 GMT", kNow),
            parse_http_date("Sun, 06 Nov 1974 08:49:37 GMT", kNow));
}

TEST(HttpDate, WhatIsNoDate) {
  for (const std::string_view text :
       {"", "0", "now", "Sun, 06 Nov 1994 08:49:37", "Sun, 06 Nov 1994 08:49:37 CET",
        "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT ", "Sun Nov 6 08:49:37 1994", "1994-11-06T08:49:37Z"}) {
    EXPECT_EQ(parse_http_date(text, kNow), std::nullopt) << text;
  }
}

TEST(Conditional, NothingAsked) { EXPECT_EQ(check({}), Precondition::kHolds); }

// Field case 41: a proxy that compresses makes tags weak.
TEST(Conditional, NoneMatchComparesWeakly) {
  for (const std::string_view tag : {"\"x\"", "W/\"x\"", "\"a\", W/\"x\"", "*",
                                     "\"a\",\"b\" ,, \"x\"", "  \"x\"  ", "\"a,b\", \"x\""}) {
    EXPECT_EQ(check({{"If-None-Match", tag}}), Precondition::kNotModified) << tag;
    EXPECT_EQ(check({{"If-None-Match", tag}}, "HEAD"), Precondition::kNotModified) << tag;
    EXPECT_EQ(check({{"If-None-Match", tag}}, "PUT"), Precondition::kFailed) << tag;
  }
  for (const std::string_view tag :
       {"\"y\"", "x", "\"x", "w/\"x\"", "", "\"a\" \"x\"", "\"a\";\"x\""}) {
    EXPECT_EQ(check({{"If-None-Match", tag}}), Precondition::kHolds) << tag;
  }
  EXPECT_EQ(check({{"If-None-Match", "\"a\""}, {"if-none-match", "\"x\""}}),
            Precondition::kNotModified);
  EXPECT_EQ(check({{"If-None-Match", "\"x\""}}, "GET", {.etag = "W/\"x\"", .modified = {}}),
            Precondition::kNotModified);
}

TEST(Conditional, MatchComparesStrongly) {
  EXPECT_EQ(check({{"If-Match", "\"x\""}}), Precondition::kHolds);
  EXPECT_EQ(check({{"If-Match", "\"a\", \"x\""}}), Precondition::kHolds);
  EXPECT_EQ(check({{"If-Match", "*"}}), Precondition::kHolds);
  EXPECT_EQ(check({{"If-Match", "W/\"x\""}}), Precondition::kFailed);
  EXPECT_EQ(check({{"If-Match", "\"y\""}}), Precondition::kFailed);
  EXPECT_EQ(check({{"If-Match", "\"x\""}}, "GET", {.etag = "W/\"x\"", .modified = {}}),
            Precondition::kFailed);
}

TEST(Conditional, Dates) {
  EXPECT_EQ(check({{"If-Modified-Since", kDate}}), Precondition::kNotModified);
  EXPECT_EQ(check({{"If-Modified-Since", kBefore}}), Precondition::kHolds);
  EXPECT_EQ(check({{"If-Modified-Since", kDate}}, "POST"), Precondition::kHolds);
  EXPECT_EQ(check({{"If-Modified-Since", "yesterday"}}), Precondition::kHolds);
  EXPECT_EQ(check({{"If-Unmodified-Since", kDate}}), Precondition::kHolds);
  EXPECT_EQ(check({{"If-Unmodified-Since", kBefore}}), Precondition::kFailed);
  EXPECT_EQ(check({{"If-Unmodified-Since", "yesterday"}}), Precondition::kHolds);
}

TEST(Conditional, TagsWinOverDates) {
  EXPECT_EQ(check({{"If-None-Match", "\"y\""}, {"If-Modified-Since", kDate}}),
            Precondition::kHolds);
  EXPECT_EQ(check({{"If-Match", "\"x\""}, {"If-Unmodified-Since", kBefore}}), Precondition::kHolds);
  EXPECT_EQ(check({{"If-Match", "\"y\""}, {"If-None-Match", "\"x\""}}), Precondition::kFailed);
}

TEST(Conditional, IfRange) {
  const auto holds = [](std::string_view value, std::int64_t now = kNow) {
    const std::vector<Field> fields = {{"If-Range", value}};
    return if_range_holds(fields, kFile, now);
  };
  EXPECT_TRUE(if_range_holds({}, kFile, kNow));
  EXPECT_TRUE(holds("\"x\""));
  EXPECT_TRUE(holds(kDate));
  for (const std::string_view value : {"W/\"x\"", "\"y\"", "\"x\", \"x\"", "*", "", "x"}) {
    EXPECT_FALSE(holds(value)) << value;
  }
  EXPECT_FALSE(holds(kBefore));
  EXPECT_FALSE(holds(kDate, kModified + 1)) << "it may still be written in the same second";
  const std::vector<Field> two = {{"If-Range", "\"x\""}, {"If-Range", "\"x\""}};
  EXPECT_FALSE(if_range_holds(two, kFile, kNow));
}

}  // namespace
}  // namespace mik::http
