#include "telemetry/directives.hpp"

#include <gtest/gtest.h>

namespace mik::telemetry {
namespace {

LogFilter parse(std::string_view text, bool bad_expected = false) {
  bool bad = !bad_expected;
  const LogFilter filter = LogFilter::parse(text, bad);
  EXPECT_EQ(bad, bad_expected) << text;
  return filter;
}

TEST(Directives, ALevelIsForAll) {
  for (std::size_t i = 0; i < kTargets; ++i) {
    EXPECT_EQ(parse("debug").level(static_cast<Target>(i)), Level::kDebug);
    EXPECT_EQ(parse("off").level(static_cast<Target>(i)), Level::kOff);
    EXPECT_EQ(parse("").level(static_cast<Target>(i)), Level::kInfo);
  }
  EXPECT_EQ(parse("4").level(Target::kHttp), Level::kDebug);
  EXPECT_FALSE(parse("off").passes(Level::kError, Target::kServer));
}

TEST(Directives, TheLongestTargetCounts) {
  const LogFilter filter = parse("mik::http=debug, info,mik_guest=WARN,mik::mod=trace");
  EXPECT_EQ(filter.level(Target::kServer), Level::kInfo);
  EXPECT_EQ(filter.level(Target::kHttp), Level::kDebug);
  EXPECT_EQ(filter.level(Target::kGuest), Level::kWarn);
  EXPECT_EQ(filter.level(Target::kModules), Level::kTrace);
  EXPECT_TRUE(filter.passes(Level::kDebug, Target::kHttp));
  EXPECT_FALSE(filter.passes(Level::kTrace, Target::kHttp));
  EXPECT_FALSE(filter.passes(Level::kInfo, Target::kGuest));
}

TEST(Directives, AsTheReferenceReadsThem) {
  EXPECT_EQ(parse("warn,mik=TRACE").level(Target::kServer), Level::kTrace);
  EXPECT_EQ(parse("warn,mik=TRACE").level(Target::kGuest), Level::kTrace) << "it begins so";
  EXPECT_EQ(parse("mik::http").level(Target::kHttp), Level::kTrace);
  EXPECT_EQ(parse("mik::http").level(Target::kServer), Level::kInfo);
  EXPECT_EQ(parse("hyper=debug").level(Target::kServer), Level::kInfo);
  EXPECT_EQ(parse("debug,info").level(Target::kServer), Level::kInfo);
}

TEST(Directives, WhatIsNotUnderstoodMeansInfo) {
  for (const std::string_view text : {"loud", "mik=loud", "=debug", ",", "[span]"}) {
    EXPECT_EQ(parse(text, true).level(Target::kServer), Level::kInfo) << text;
  }
  EXPECT_EQ(parse("loud,warn").level(Target::kServer), Level::kWarn);
}

}  // namespace
}  // namespace mik::telemetry
