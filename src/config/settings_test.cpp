#include "config/settings.hpp"

#include <gtest/gtest.h>

namespace mik::config {
namespace {

Settings sample() {
  Settings s;
  s.binds = {"127.0.0.1:3000", "[::1]:3000"};
  s.component_path = "/a/b.wasm";
  s.component_name = "b";
  s.guest.env = {{"A", "1"}, {"B", ""}};
  s.guest.http_allowed = {"*.example.com"};
  s.modules = {{"a", {}}, {"b", {}}};
  s.modules[1].guest.reuse = 7;
  s.modules[1].guest.env = {{"K", "v"}};
  s.tenants = {{"t", {}, 9, 1 << 20}};
  s.tenants[0].guest.cpu_share = 3;
  s.routes = {{"api.example.com", "/v1/", "", "b", true}};
  s.log_level = LogLevel::kDebug;
  s.shutdown_timeout = std::chrono::seconds(7);
  return s;
}

TEST(Settings, SurviveTheTripToAWorker) {
  const std::string bytes = serialize(sample());
  const Settings back = deserialize(bytes).value();
  EXPECT_EQ(serialize(back), bytes);
  EXPECT_EQ(back.guest.env, sample().guest.env);
  EXPECT_EQ(back.modules[1].guest, sample().modules[1].guest);
  EXPECT_EQ(back.tenants[0].guest, sample().tenants[0].guest);
  EXPECT_EQ(back.routes[0].path, "/v1/");
  EXPECT_EQ(back.shutdown_timeout, std::chrono::seconds(7));
}

TEST(Settings, OfAModuleAndOfATenant) {
  const Settings s = sample();
  EXPECT_EQ(&guest_settings(s, "", "b"), &s.modules[1].guest);
  EXPECT_EQ(&guest_settings(s, "", "c"), &s.guest);
  EXPECT_EQ(&guest_settings(s, "t", "b"), &s.tenants[0].guest);
  EXPECT_EQ(&guest_settings(s, "u", "b"), &s.guest);
  EXPECT_EQ(tenant_settings(s, "u"), nullptr);
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
