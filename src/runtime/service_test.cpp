#include "runtime/service.hpp"

#include <gtest/gtest.h>

#include "runtime/test_worker.hpp"

namespace mik::runtime {
namespace {

class ServiceTest : public TestWorker {
 protected:
  Service service_{context_, pool_};
  void SetUp() override { ASSERT_TRUE(load(module())); }
  TestExchange& ask(TestExchange& exchange) {
    service_.on_request(exchange);
    turn(2);
    if (exchange.head().path_query == "/metrics") {
      EXPECT_TRUE(wait(exchange));
    }
    return exchange;
  }
};

TEST_F(ServiceTest, HealthIsTheGuidesDocument) {
  TestExchange exchange("/health");
  ask(exchange);
  EXPECT_EQ(exchange.status, 200);
  EXPECT_EQ(exchange.fields["Content-Type"], "application/json");
  for (const char* member : {"\"status\": \"ready\"", "\"cache_size\": 1",
                             "\"cache_capacity\": 100", "\"total_requests\": 1"}) {
    EXPECT_NE(exchange.body.find(member), std::string::npos) << member << exchange.body;
  }
  EXPECT_EQ(exchange.body.find("loaded_modules"), std::string::npos);
  TestExchange verbose("/health?verbose=true");
  EXPECT_NE(ask(verbose).body.find("\"loaded_modules\": [\"app\"]"), std::string::npos);
}

TEST_F(ServiceTest, ReadinessFollowsTheComponentAndTheDrain) {
  context_.ready = false;
  TestExchange starting("/health");
  EXPECT_EQ(ask(starting).status, 503);
  EXPECT_NE(starting.body.find("\"starting\""), std::string::npos);
  TestExchange live("/health/live");
  EXPECT_EQ(ask(live).status, 200);
  context_.ready = true;
  segment_.set_draining();
  TestExchange draining("/health/ready");
  EXPECT_EQ(ask(draining).status, 503);
  EXPECT_NE(draining.body.find("\"draining\""), std::string::npos);
  TestExchange still("/health/live");
  EXPECT_EQ(ask(still).status, 200);
}

// What a proxy in front passes on is not for its clients.
TEST_F(ServiceTest, ForwardedRequestsSeeMetricsAndModulesWithTheKeyOnly) {
  const std::vector<std::string> proxies = {"203.0.113.0/24"};  // TestExchange's
  context_.trusted = *http::TrustedProxies::compile(proxies);
  const auto status = [&](const char* path, bool forwarded, const char* key) {
    TestExchange exchange(path);
    if (forwarded) {
      exchange.add_field("X-Forwarded-For", "198.51.100.1");
    }
    if (key != nullptr) {
      exchange.add_field("X-API-Key", key);
    }
    ask(exchange);
    const bool verbose = exchange.body.find("loaded_modules") != std::string::npos;
    return verbose ? 1000 : exchange.status;
  };
  EXPECT_EQ(status("/metrics", false, nullptr), 200);
  EXPECT_EQ(status("/metrics", true, nullptr), 404);
  EXPECT_EQ(status("/metrics", true, ""), 404);
  EXPECT_EQ(status("/health", true, nullptr), 200);
  EXPECT_EQ(status("/health?verbose=true", false, nullptr), 1000);
  EXPECT_EQ(status("/health?verbose=true", true, nullptr), 200);

  settings_.api_key = "secret";
  for (const char* wrong : {"", "secre", "secreT", "secret "}) {
    EXPECT_EQ(status("/metrics", true, wrong), 404) << wrong;
    EXPECT_EQ(status("/health?verbose=true", false, wrong), 200) << wrong;
  }
  EXPECT_EQ(status("/metrics", true, "secret"), 200);
  EXPECT_EQ(status("/metrics", false, nullptr), 200);
  EXPECT_EQ(status("/health?verbose=true", true, "secret"), 1000);
  EXPECT_EQ(status("/health?verbose=true", false, nullptr), 200);

  // Of a stranger it is a field like any other.
  settings_.api_key.clear();
  context_.trusted = {};
  EXPECT_EQ(status("/metrics", true, nullptr), 200);
}

TEST_F(ServiceTest, TheClientBehindAProxyIsWhoIsLogged) {
  const std::vector<std::string> proxies = {"203.0.113.0/24"};
  context_.trusted = *http::TrustedProxies::compile(proxies);
  TestExchange exchange("/scheme");
  exchange.add_field("X-Forwarded-For", "198.51.100.1");
  exchange.add_field("X-Forwarded-Proto", "https");
  EXPECT_EQ(ask(exchange).status, 200);
  EXPECT_EQ(exchange.body, "https");
  TestExchange plain("/scheme");
  EXPECT_EQ(ask(plain).body, "http");
  TestExchange direct("/scheme");
  direct.https = true;
  EXPECT_EQ(ask(direct).body, "https");
  TestExchange ended("/scheme");  // TLS ends at a proxy that spoke without it to its client
  ended.https = true;
  ended.add_field("X-Forwarded-Proto", "http");
  EXPECT_EQ(ask(ended).body, "http");
}

// Field case 17: HAProxy's bare check.
TEST_F(ServiceTest, OptionsIsAnsweredWithAllow) {
  for (const char* path : {"/health", "*"}) {
    TestExchange exchange(path, http::BodyKind::kNone, "OPTIONS");
    ask(exchange);
    EXPECT_EQ(exchange.status, 200) << path;
    EXPECT_EQ(exchange.fields["Allow"], "GET, HEAD, OPTIONS");
  }
}

TEST_F(ServiceTest, OtherMethodsOnBuiltInPathsAre405) {
  TestExchange exchange("/metrics", http::BodyKind::kNone, "POST");
  ask(exchange);
  EXPECT_EQ(exchange.status, 405);
  EXPECT_EQ(exchange.fields["Allow"], "GET, HEAD, OPTIONS");
}

TEST_F(ServiceTest, UnknownModulesAre404WithTheReferencesText) {
  TestExchange exchange("/run/other/x");
  ask(exchange);
  EXPECT_EQ(exchange.status, 404);
  EXPECT_NE(exchange.body.find("\"error\":\"module not found: other\""), std::string::npos);
}

TEST_F(ServiceTest, TheGlobalLimitIsA503WithRetryAfterAndHealthIsExempt) {
  settings_.max_concurrent_requests = 1;
  make_gate();
  TestExchange first("/sleep?100000");
  ask(first);
  TestExchange second("/hello");
  ask(second);
  EXPECT_EQ(second.status, 503);
  EXPECT_EQ(second.fields["Retry-After"], "1");
  TestExchange health("/health");
  EXPECT_EQ(ask(health).status, 200);
  first.close(http::Outcome::kClientGone);
  TestExchange third("/hello");
  EXPECT_EQ(ask(third).status, 200);
}

// risks.md 7: slow uploads do not take all permits.
TEST_F(ServiceTest, BodiesThatAreOpenHoldHalfOfThePermitsAtMost) {
  settings_.max_concurrent_requests = 4;
  make_gate();
  std::vector<std::unique_ptr<TestExchange>> slow;
  for (int i = 0; i < 3; ++i) {
    slow.push_back(std::make_unique<TestExchange>("/echo", http::BodyKind::kChunked));
    ask(*slow.back());
  }
  EXPECT_EQ(active(), 2u);
  TestExchange quick("/hello");
  EXPECT_EQ(ask(quick).status, 200);
  EXPECT_EQ(slow[2]->send_body("all of it"), http::Flow::kGoOn);
  EXPECT_EQ(active(), 2u);
  slow[2]->end_body();
  turn(2);
  EXPECT_TRUE(slow[2]->complete());
  EXPECT_EQ(slow[2]->body, "all of it");
  TestExchange large("/echo", http::BodyKind::kChunked);
  ask(large);
  large.send_body(std::string(64 * 1024, 'x'));
  turn(2);
  EXPECT_EQ(large.body.size(), 64u * 1024);
  EXPECT_EQ(active(), 3u);
  slow[0]->close(http::Outcome::kClientGone);
  slow[1]->close(http::Outcome::kClientGone);
  large.close(http::Outcome::kClientGone);
  EXPECT_EQ(context_.open_bodies + context_.waiting_bodies, 0u);
  EXPECT_EQ(active(), 0u);
}

TEST_F(ServiceTest, ABodyThatWasWaitedForMayFindNoPermit) {
  settings_.max_concurrent_requests = 1;
  make_gate();
  TestExchange first("/echo", http::BodyKind::kChunked);
  ask(first);
  TestExchange second("/echo", http::BodyKind::kChunked);
  ask(second);
  EXPECT_EQ(second.status, 0);
  second.end_body();
  EXPECT_EQ(second.status, 503);
  TestExchange third("/echo", http::BodyKind::kChunked);
  ask(third);
  third.close(http::Outcome::kClientGone);
  first.close(http::Outcome::kClientGone);
  EXPECT_EQ(context_.open_bodies + context_.waiting_bodies, 0u);
}

TEST_F(ServiceTest, MetricsCountWhatHappened) {
  TestExchange good("/hello");
  ask(good);
  TestExchange bad("/trap");
  ask(bad);
  TestExchange metrics("/metrics");
  ask(metrics);
  EXPECT_EQ(metrics.fields["Content-Type"], "text/plain; version=0.0.4; charset=utf-8");
  for (const char* sample :
       {"mik_http_requests_total{status=\"2xx\"} 1\n",
        "mik_http_requests_total{status=\"5xx\"} 1\n",
        "mik_guest_failures_total{reason=\"trap\"} 1\n", "mik_requests_total 3\n",
        "mik_guest_requests_total 2\n", "mik_active_requests 0\n",
        "mik_http_request_duration_seconds_bucket{le=\"+Inf\"} 2\n"}) {
    EXPECT_NE(metrics.body.find(sample), std::string::npos) << sample << "\n" << metrics.body;
  }
}

TEST_F(ServiceTest, FailuresOfTheConnectionAreProblemsToo) {
  std::string fields;
  std::string body;
  service_.describe_failure(431, "too many \"fields\"", fields, body);
  EXPECT_NE(fields.find("Content-Type: application/problem+json\r\n"), std::string::npos);
  EXPECT_NE(body.find(R"("detail":"too many \"fields\"")"), std::string::npos);
}

}  // namespace
}  // namespace mik::runtime
