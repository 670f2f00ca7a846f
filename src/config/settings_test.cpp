#include "config/settings.hpp"

#include <gtest/gtest.h>

namespace mik::config {
namespace {

Settings sample() {
  Settings s;
  s.binds = {"127.0.0.1:3000", "[::1]:3000"};
  s.component_path = "/a/b.wasm";
  s.component_name = "b";
  s.env = {{"A", "1"}, {"B", ""}};
  s.http_allowed = {"*.example.com"};
  s.log_level = LogLevel::kDebug;
  s.shutdown_timeout = std::chrono::seconds(7);
  return s;
}

TEST(Settings, SurviveTheTripToAWorker) {
  const std::string bytes = serialize(sample());
  const Settings back = deserialize(bytes).value();
  EXPECT_EQ(serialize(back), bytes);
  EXPECT_EQ(back.env, sample().env);
  EXPECT_EQ(back.shutdown_timeout, std::chrono::seconds(7));
}

TEST(Settings, EveryTruncationIsRefused) {
  const std::string bytes = serialize(sample());
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(deserialize(std::string_view(bytes).substr(0, n)).has_value()) << n;
  }
  EXPECT_FALSE(deserialize(bytes + "x").has_value());
}

}  // namespace
}  // namespace mik::config
