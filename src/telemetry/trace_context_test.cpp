#include "telemetry/trace_context.hpp"

#include <gtest/gtest.h>

#include <regex>
#include <string>

namespace mik::telemetry {
namespace {

constexpr std::string_view kParent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

TEST(TraceContext, ReadsAndWritesTheSpecificationsExample) {
  const auto context = parse_traceparent(kParent);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(view(format_traceparent(*context)), kParent);
}

TEST(TraceContext, RefusesWhatIsNone) {
  for (const char* text : {"", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
                           "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                           "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
                           "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-01",
                           "00-4bf92f3577b34da6a3ce929d0e0e473x-00f067aa0ba902b7-01"}) {
    EXPECT_FALSE(parse_traceparent(text).has_value()) << text;
  }
}

TEST(TraceContext, AChildKeepsTheTraceAndTheDecisionAndHasItsOwnSpan) {
  Random random(1);
  const auto parent = parse_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00");
  const TraceContext child = child_of(parent, random);
  EXPECT_EQ(child.trace_high, parent->trace_high);
  EXPECT_EQ(child.trace_low, parent->trace_low);
  EXPECT_NE(child.span, parent->span);
  EXPECT_FALSE(child.sampled);
}

TEST(Uuid, IsOfVersionFour) {
  Random random;
  const auto id = make_uuid(random);
  EXPECT_TRUE(std::regex_match(
      std::string(view(id)),
      std::regex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")));
  EXPECT_NE(view(id), view(make_uuid(random)));
}

}  // namespace
}  // namespace mik::telemetry
