// Modules and tenants through Service: who answers, who is refused and how, what is counted.
#include <gtest/gtest.h>

#include <optional>

#include "runtime/service.hpp"
#include "runtime/test_allocations.hpp"
#include "runtime/test_worker.hpp"

namespace mik::runtime {
namespace {

using shared::RowState;

class ServiceModulesTest : public TestWorker {
 protected:
  ServiceModulesTest() {
    settings_.component_path.clear();
    settings_.component_name.clear();
    settings_.modules_dir = "/modules";
    settings_.user_modules_dir = "/user";
    settings_.breaker.failures = 3;
    for (const char* name : {"api", "web"}) {
      add_module("", name);
    }
    for (const char* tenant : {"acme", "zeta"}) {
      add_module(tenant, "api");
    }
  }
  // Made at the first request, so that a test can set what it wants before.
  TestExchange& ask(TestExchange& exchange) {
    if (!service_.has_value()) {
      make_gate();
      service_.emplace(context_, pool_);
    }
    service_->on_request(exchange);
    return exchange;
  }
  // To its end.
  int get(const std::string& path) {
    TestExchange exchange(path);
    ask(exchange);
    EXPECT_TRUE(wait(exchange)) << path;
    last_ = exchange.fields;
    body_ = exchange.body;
    return exchange.status;
  }
  // With its component loaded already.
  void warm(std::string_view name, std::string_view tenant = "") {
    ASSERT_TRUE(load(module(name, tenant)));
  }
  const shared::ModuleCells& cells(std::string_view name, std::string_view tenant = "") {
    return module(name, tenant)->cells;
  }

  std::optional<Service> service_;
  std::map<std::string, std::string> last_;
  std::string body_;
};

TEST_F(ServiceModulesTest, EachModuleHasItsPath) {
  EXPECT_EQ(get("/run/api/hello"), 200);
  EXPECT_EQ(last_["X-Mik-Handler"], "api");
  EXPECT_EQ(get("/run/web"), 200);
  EXPECT_EQ(last_["X-Mik-Handler"], "web");
  EXPECT_EQ(get("/tenant/acme/api/hello?x=1"), 200);
  EXPECT_EQ(last_["X-Mik-Handler"], "acme/api");
  EXPECT_EQ(cells("api").requests.load(), 1u);
  EXPECT_EQ(cells("api", "acme").requests.load(), 1u);
  EXPECT_EQ(cells("api", "acme").status[1].load(), 1u);
}

TEST_F(ServiceModulesTest, RootAndRoutesLeadToModules) {
  settings_.root = "web";
  settings_.routes.push_back({"", "/v1", "acme", "api", true});
  EXPECT_EQ(get("/anything"), 200);
  EXPECT_EQ(last_["X-Mik-Handler"], "web");
  EXPECT_EQ(get("/v1/hello"), 200);
  EXPECT_EQ(last_["X-Mik-Handler"], "acme/api");
}

// G11: 404 only for absence, 400 for a name that none can have.
TEST_F(ServiceModulesTest, AbsenceBadNamesAndOtherTenantsModules) {
  EXPECT_EQ(get("/run/none/"), 404);
  EXPECT_NE(body_.find("module not found: none"), std::string::npos);
  EXPECT_EQ(get("/tenant/acme/web/"), 404);
  EXPECT_NE(body_.find("module not found: acme/web"), std::string::npos);
  EXPECT_EQ(get("/tenant/nobody/api/"), 404);
  EXPECT_EQ(get("/run/acme%2Fapi/"), 400);
  EXPECT_EQ(get("/run/../api"), 400);
  EXPECT_EQ(get("/"), 404);
}

TEST_F(ServiceModulesTest, WithoutTenantsTheirPathsAre400) {
  settings_.user_modules_dir.clear();
  EXPECT_EQ(get("/tenant/acme/api/"), 400);
  EXPECT_NE(body_.find("invalid request: Tenant modules not configured"), std::string::npos);
}

TEST_F(ServiceModulesTest, ABrokenModuleIs502AndItsReasonStaysInside) {
  segment_.modules().set_state(module("api")->row, RowState::kBroken, "imports secret:thing");
  EXPECT_EQ(get("/run/api/"), 502);
  EXPECT_NE(body_.find("module is broken"), std::string::npos);
  EXPECT_EQ(body_.find("secret"), std::string::npos);
  EXPECT_EQ(get("/run/web/"), 200);
  EXPECT_EQ(loader_.loads(), 1u);
}

TEST_F(ServiceModulesTest, AModuleThatIsRemovedIs404AndWhoRunsEnds) {
  warm("api");
  TestExchange running("/run/api/sleep?20");
  ask(running);
  turn();
  segment_.modules().set_state(module("api")->row, RowState::kGone);
  EXPECT_EQ(get("/run/api/"), 404);
  ASSERT_TRUE(wait(running));
  EXPECT_EQ(running.status, 200);
  EXPECT_EQ(active(), 0u);
}

TEST_F(ServiceModulesTest, ASwapChangesNewRequestsOnly) {
  warm("api");
  const auto entry = module("api");
  TestExchange running("/run/api/sleep?20");
  ask(running);
  turn();
  modules_.on_message(shared::Prepare{entry->row, entry->incarnation, 2, shared::Digest{2}});
  ASSERT_TRUE(turn_until([&] { return !told<shared::Prepared>().empty(); }));
  segment_.modules().publish(entry->row, shared::Digest{2}, 4096);
  TestExchange next("/run/api/hello");
  ask(next);
  turn(2);
  EXPECT_EQ(next.status, 200);
  EXPECT_EQ(modules_.use(*entry)->digest, shared::Digest{2});
  ASSERT_TRUE(wait(running));
  EXPECT_EQ(running.status, 200);
}

// --- Limits ---

TEST_F(ServiceModulesTest, AModulesLimitIs429AndItsNeighbourIsServed) {
  settings_.guest.max_requests = 1;
  warm("api");
  warm("web");
  TestExchange first("/run/api/sleep?100000");
  ask(first);
  EXPECT_EQ(get("/run/api/hello"), 429);
  EXPECT_EQ(last_["Retry-After"], "1");
  EXPECT_NE(body_.find("rate limit exceeded: Module 'api' overloaded (max 1 concurrent)"),
            std::string::npos);
  EXPECT_NE(body_.find("\"status\":429"), std::string::npos);
  EXPECT_EQ(get("/run/web/hello"), 200);
  EXPECT_EQ(cells("api").refused_module.load(), 1u);
  first.close(http::Outcome::kClientGone);
  EXPECT_EQ(get("/run/api/hello"), 200);
  EXPECT_EQ(active(), 0u);
}

TEST_F(ServiceModulesTest, ATenantsLimitIsOverAllOfItsModules) {
  settings_.tenants.push_back({"late", settings_.guest, 1, 0});
  for (const char* name : {"one", "two"}) {
    add_module("late", name);
    warm(name, "late");
  }
  warm("api", "zeta");
  TestExchange first("/tenant/late/one/sleep?100000");
  ask(first);
  EXPECT_EQ(get("/tenant/late/two/hello"), 429);
  EXPECT_NE(body_.find("rate limit exceeded: Tenant 'late' overloaded (max 1 concurrent)"),
            std::string::npos);
  EXPECT_EQ(cells("two", "late").refused_tenant.load(), 1u);
  EXPECT_EQ(get("/tenant/zeta/api/hello"), 200);
  first.close(http::Outcome::kClientGone);
  EXPECT_EQ(get("/tenant/late/two/hello"), 200);
}

TEST_F(ServiceModulesTest, TheGlobalLimitIs503) {
  settings_.max_concurrent_requests = 1;
  warm("api");
  warm("web");
  TestExchange first("/run/api/sleep?100000");
  ask(first);
  EXPECT_EQ(get("/run/web/hello"), 503);
  EXPECT_EQ(last_["Retry-After"], "1");
  EXPECT_EQ(cells("web").failures[static_cast<std::size_t>(shared::GuestFailure::kOverload)].load(),
            1u);
  first.close(http::Outcome::kClientGone);
}

// queue_ms: who comes over the limit waits for a permit.
TEST_F(ServiceModulesTest, WithAQueueRequestsWaitForAPermit) {
  settings_.guest.max_requests = 1;
  settings_.queue = std::chrono::seconds(100);
  warm("api");
  TestExchange first("/run/api/sleep?100000");
  ask(first);
  TestExchange second("/run/api/hello");
  ask(second);
  turn(3);
  EXPECT_EQ(second.status, 0);
  EXPECT_EQ(active(), 1u);
  first.close(http::Outcome::kClientGone);
  ASSERT_TRUE(wait(second));
  EXPECT_EQ(second.status, 200);
  EXPECT_EQ(active(), 0u);
}

TEST_F(ServiceModulesTest, WhoWaitsTooLongIsRefusedAndWhoLeavesIsForgotten) {
  settings_.guest.max_requests = 1;
  settings_.queue = std::chrono::milliseconds(5);
  warm("api");
  TestExchange first("/run/api/sleep?100000");
  ask(first);
  TestExchange late("/run/api/hello");
  ask(late);
  ASSERT_TRUE(wait(late));
  EXPECT_EQ(late.status, 429);
  TestExchange gone("/run/api/hello");
  ask(gone);
  gone.close(http::Outcome::kClientGone);
  first.close(http::Outcome::kClientGone);
  turn(3);
  EXPECT_EQ(gone.status, 0);
  EXPECT_EQ(active(), 0u);
}

// Compile waits hold no permit of others, and are bounded.
TEST_F(ServiceModulesTest, WhoWaitsForAComponentHoldsNoPermit) {
  settings_.max_concurrent_requests = 2;
  settings_.guest.max_requests = 2;
  loader_.fail("api", base::Error(base::ErrorCode::kArtefact, ""));
  warm("web");
  std::vector<std::unique_ptr<TestExchange>> waiting;
  for (int i = 0; i < 2; ++i) {
    waiting.push_back(std::make_unique<TestExchange>("/run/api/hello"));
    ask(*waiting.back());
  }
  turn(3);
  EXPECT_EQ(active(), 0u);
  EXPECT_EQ(get("/run/web/hello"), 200);
  EXPECT_EQ(get("/run/api/hello"), 503);
  EXPECT_EQ(last_["Retry-After"], "1");
  ASSERT_TRUE(turn_until([&] { return !told<shared::NeedArtefact>().empty(); }));
  loader_.heal("api");
  const auto entry = module("api");
  modules_.on_message(shared::ArtefactReady{entry->row, entry->incarnation, {}, 0});
  for (const auto& exchange : waiting) {
    ASSERT_TRUE(wait(*exchange));
    EXPECT_EQ(exchange->status, 200);
  }
}

// --- The circuit breaker ---

// A slow upload outlives its module.
TEST_F(ServiceModulesTest, WhoseModuleGoesWhileItsBodyComesIsTold) {
  settings_.max_concurrent_requests = 2;
  warm("api");
  TestExchange first("/run/api/echo", http::BodyKind::kChunked);
  ask(first);
  TestExchange second("/run/api/echo", http::BodyKind::kChunked);
  ask(second);
  EXPECT_EQ(context_.waiting_bodies, 1u);
  segment_.modules().set_state(module("api")->row, RowState::kGone);
  modules_.index().refresh();
  add_module("", "api");
  second.end_body();
  EXPECT_EQ(second.status, 404);
  first.end_body();
  ASSERT_TRUE(wait(first));
  EXPECT_EQ(first.status, 200);
  EXPECT_EQ(get("/run/api/hello"), 200);
  EXPECT_EQ(active() + context_.waiting_bodies + context_.open_bodies, 0u);
}

TEST_F(ServiceModulesTest, FailuresOpenTheBreakerOfTheirModuleOnly) {
  for (const char* path : {"/run/api/trap", "/run/api/none", "/run/api/error"}) {
    EXPECT_EQ(get(path), 502) << path;
  }
  EXPECT_EQ(get("/run/api/hello"), 503);
  EXPECT_EQ(last_["Retry-After"], "30");
  EXPECT_NE(body_.find("circuit breaker open for module 'api'"), std::string::npos);
  EXPECT_EQ(get("/run/web/hello"), 200);
  // G20: a tenant's module of that name has a key of its own, the same for check and result.
  EXPECT_EQ(get("/tenant/acme/api/hello"), 200);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(get("/tenant/acme/api/trap"), 502);
  }
  EXPECT_EQ(get("/tenant/acme/api/hello"), 503);
  EXPECT_EQ(get("/tenant/zeta/api/hello"), 200);
  EXPECT_EQ(cells("api").refused_breaker.load(), 1u);
}

TEST_F(ServiceModulesTest, ASuccessBetweenFailuresKeepsItClosed) {
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(get("/run/api/trap"), 502);
    EXPECT_EQ(get("/run/api/trap"), 502);
    EXPECT_EQ(get("/run/api/hello"), 200);
  }
}

// G23: names that are no module are never tracked; G22, G7: what is not the module's doing does not
// count.
TEST_F(ServiceModulesTest, WhatIsNotTheModulesDoingDoesNotCount) {
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(get("/run/none/"), 404);
  }
  warm("api");
  for (int i = 0; i < 10; ++i) {
    TestExchange gone("/run/api/sleep?100000");
    ask(gone);
    turn();
    gone.close(http::Outcome::kClientGone);
    TestExchange large("/run/api/echo", http::BodyKind::kChunked);
    ask(large);
    large.fail_body(http::BodyError::kTooLarge);
    EXPECT_EQ(large.status, 413);
    EXPECT_EQ(get("/run/api/busy"), 503);
  }
  EXPECT_EQ(get("/run/api/hello"), 200);
}

TEST_F(ServiceModulesTest, ANewVersionBeginsWithAClosedBreaker) {
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(get("/run/api/trap"), 502);
  }
  EXPECT_EQ(get("/run/api/hello"), 503);
  segment_.modules().publish(module("api")->row, shared::Digest{2}, 4096);
  EXPECT_EQ(get("/run/api/hello"), 200);
}

// Probes always resolve: one that is refused or whose client leaves is given back.
TEST_F(ServiceModulesTest, AProbeThatComesToNothingIsGivenBack) {
  settings_.breaker.open = std::chrono::milliseconds(1);
  settings_.breaker.probes = 1;
  warm("api");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(get("/run/api/trap"), 502);
  }
  for (int i = 0; i < 3; ++i) {
    std::optional<TestExchange> probe;
    ASSERT_TRUE(turn_until([&] {  // the breaker may be open still
      probe.emplace("/run/api/sleep?100000");
      return ask(*probe).status == 0;
    }));
    probe->close(http::Outcome::kClientGone);
  }
  ASSERT_TRUE(turn_until([&] { return get("/run/api/hello") == 200; }));
  EXPECT_EQ(get("/run/api/hello"), 200);
}

// --- The response as a whole ---

TEST_F(ServiceModulesTest, AStreamEndsVisiblyAtStreamMax) {
  settings_.stream_max = std::chrono::milliseconds(10);
  warm("api");
  TestExchange exchange("/run/api/echo", http::BodyKind::kChunked);
  ask(exchange);
  exchange.send_body("piece");
  ASSERT_TRUE(wait(exchange));
  EXPECT_EQ(exchange.status, 200);
  EXPECT_TRUE(exchange.cut());
  EXPECT_EQ(get("/run/api/hello"), 200);
}

// --- What operators see ---

TEST_F(ServiceModulesTest, HealthCountsModulesAndListsThoseLoaded) {
  warm("api");
  warm("api", "acme");
  segment_.modules().set_state(module("web")->row, RowState::kBroken, "bad");
  segment_.modules().set_pending(module("api")->row, "bad", false);
  EXPECT_EQ(get("/health?verbose=1"), 200);
  for (const char* member :
       {"\"cache_size\": 2", "\"cache_bytes\": 8192", "\"modules\": 5", "\"modules_broken\": 1",
        "\"modules_pending\": 1", "\"status\": \"ready\"", "\"api\"", "\"acme/api\""}) {
    EXPECT_NE(body_.find(member), std::string::npos) << member << body_;
  }
}

// G23: labels are escaped, and modules that nobody asked for have none.
TEST_F(ServiceModulesTest, MetricsHaveALineForEachModuleThatWasAskedFor) {
  add_module("", "a\"b\\");
  EXPECT_EQ(get("/run/a%22b/"), 404);
  EXPECT_EQ(get("/run/api/hello"), 200);
  EXPECT_EQ(get("/run/api/hello"), 200);
  EXPECT_EQ(get("/metrics"), 200);
  for (const char* line :
       {"mik_module_requests_total{module=\"api\"} 2\n",
        "mik_circuit_breaker_state{module=\"api\"} 0\n", "mik_module_cache_hits_total 1\n",
        "mik_module_cache_misses_total 1\n", "mik_module_cache_size_bytes 4096\n",
        "mik_module_refused_total{module=\"api\",by=\"breaker\"} 0\n"}) {
    EXPECT_NE(body_.find(line), std::string::npos) << line << body_;
  }
  EXPECT_EQ(body_.find("module=\"web\""), std::string::npos);
}

// The bar of issue 5: what modules, limits and breakers add to a request allocates nothing.
TEST_F(ServiceModulesTest, AnotherModuleCostsNoAllocation) {
  settings_.cache_size = 60;
  std::vector<std::string> paths;
  for (int i = 0; i < 40; ++i) {
    const std::string name = "module-with-a-long-name-of-its-own-" + std::to_string(i);
    add_module("", name);
    warm(name);
    paths.push_back("/run/" + name + "/hello");
  }
  const auto cost = [&](const std::string& path) {
    TestExchange exchange(path);
    const std::size_t before = test_allocations();
    ask(exchange);
    const std::size_t spent = test_allocations() - before;
    EXPECT_TRUE(wait(exchange));
    return spent;
  };
  for (const std::string& path : paths) {
    cost(path);
  }
  const std::size_t same = cost(paths[0]);
  for (const std::string& path : paths) {
    EXPECT_EQ(cost(path), same) << path;
  }
}

}  // namespace
}  // namespace mik::runtime
