#include "config/build.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>

#include "config/reader.hpp"

namespace mik::config {
namespace {

using std::chrono::seconds;

constexpr std::uint64_t kMiB = 1ull << 20;
constexpr std::uint64_t kGiB = 1ull << 30;

struct Built {
  Settings settings;
  Document document;
  std::vector<Problem> problems;
};

class Build : public testing::Test {
 protected:
  Built build(std::string_view text, std::string file = "/x/mik.toml") {
    ReadResult read = read_manifest(text, std::move(file));
    EXPECT_TRUE(read.problems.empty()) << read.problems[0].to_string();
    Built built;
    built.document = std::move(read.document);
    complete(built.document, {.state = "/state", .working = "/here"});
    built.settings = config::build(
        built.document, context_,
        [this](std::string_view name) -> std::optional<std::string> {
          const auto found = environment_.find(std::string(name));
          return found == environment_.end() ? std::nullopt : std::optional(found->second);
        },
        built.problems);
    return built;
  }
  Settings settings(std::string_view text) {
    Built built = build(text);
    EXPECT_TRUE(built.problems.empty()) << built.problems[0].to_string();
    return std::move(built.settings);
  }

  BuildContext context_{.machine = {.memory_bytes = 4 * kGiB, .disk_bytes = 100 * kGiB, .cpus = 4}};
  std::map<std::string, std::string> environment_;
};

TEST_F(Build, TheGuidesManifestToTheLetter) {
  const char* root = std::getenv("MIK_SOURCE_DIR");
  ASSERT_NE(root, nullptr);
  std::ifstream file(std::string(root) + "/tests/guide/guide.md");
  const std::string guide((std::istreambuf_iterator<char>(file)), {});
  const std::size_t start = guide.find("    [project]\n    name = \"production-api\"");
  ASSERT_NE(start, std::string::npos);
  const std::size_t end = guide.find("\n###", start);
  const Settings s = settings(guide.substr(start, end - start));
  EXPECT_EQ(s.project_name, "production-api");
  EXPECT_EQ(s.project_version, "1.0.0");
  EXPECT_EQ(s.cache_size, 100u);
  EXPECT_EQ(s.max_cache_bytes, 512 * kMiB);
  EXPECT_EQ(s.guest.execution_timeout, seconds(30));
  EXPECT_EQ(s.max_concurrent_requests, 2000u);
  EXPECT_EQ(s.guest.max_requests, 50u);
  EXPECT_EQ(s.shutdown_timeout, seconds(60));
  EXPECT_EQ(s.log_max_bytes, 50 * kMiB);
  EXPECT_EQ(s.log_max_files, 10u);
  EXPECT_EQ(s.guest.http_allowed, (Texts{"*.internal.example.com"}));
  EXPECT_EQ(s.tracing.service_name, "production-api");
  EXPECT_EQ(s.tracing.otlp_endpoint, "http://tempo:4317");
  // What port and modules do: src/cli/resolve_test.cpp.
}

TEST_F(Build, WithoutAServerSectionTheDefaultsHold) {  // G34
  const Settings s = settings("[project]\nname = \"a\"\n");
  EXPECT_EQ(s.guest.execution_timeout, seconds(30));
  EXPECT_EQ(s.guest.memory_limit_bytes, 128 * kMiB);
  EXPECT_EQ(s.max_body_bytes, 10 * kMiB);
  EXPECT_EQ(s.tracing.service_name, "a");
  EXPECT_EQ(settings("").tracing.service_name, "mik");
}

TEST_F(Build, DefaultsOfTheModelAreThoseOfTheStruct) {
  const Settings s = settings("");
  const Settings plain;
  EXPECT_EQ(s.header_timeout, plain.header_timeout);
  EXPECT_EQ(s.idle_timeout, plain.idle_timeout);
  EXPECT_EQ(s.body_timeout, plain.body_timeout);
  EXPECT_EQ(s.stream_idle, plain.stream_idle);
  EXPECT_EQ(s.shutdown_timeout, plain.shutdown_timeout);
  EXPECT_EQ(s.watch_debounce, plain.watch_debounce);
  EXPECT_EQ(s.max_connections, plain.max_connections);
  EXPECT_EQ(s.max_header_bytes, plain.max_header_bytes);
  EXPECT_EQ(s.breaker.failures, plain.breaker.failures);
  EXPECT_EQ(s.breaker.open, plain.breaker.open);
  EXPECT_EQ(s.breaker.probes, plain.breaker.probes);
  EXPECT_EQ(s.guest.reuse, plain.guest.reuse);
  EXPECT_EQ(s.guest.cpu_share, plain.guest.cpu_share);
}

TEST_F(Build, SizesFollowTheMachine) {
  Settings s = settings("");
  EXPECT_EQ(s.cache_size, 409u);
  EXPECT_EQ(s.max_cache_bytes, 409 * kMiB);
  EXPECT_EQ(s.max_concurrent_requests, 600u);
  EXPECT_EQ(s.guest.max_requests, 60u);
  EXPECT_EQ(s.workers, 4u);
  EXPECT_EQ(s.aot_max_bytes, kGiB);
  EXPECT_EQ(s.memory_budget_bytes, 2867 * kMiB);
  context_.machine = {.memory_bytes = 64 * kMiB, .disk_bytes = kGiB, .cpus = 0};
  s = settings("[server]\nworkers = 1\n");
  EXPECT_EQ(s.cache_size, 10u);
  EXPECT_EQ(s.max_cache_bytes, 64 * kMiB);
  EXPECT_EQ(s.max_concurrent_requests, 100u);
  EXPECT_EQ(s.guest.max_requests, 10u);
  EXPECT_EQ(s.aot_max_bytes, 256 * kMiB);
  context_.machine = {.memory_bytes = 1024 * kGiB, .disk_bytes = 0, .cpus = 128};
  s = settings("");
  EXPECT_EQ(s.cache_size, 1000u);
  EXPECT_EQ(s.max_cache_bytes, kGiB);
  EXPECT_EQ(s.max_concurrent_requests, 10000u);
  EXPECT_EQ(s.guest.max_requests, 500u);
  EXPECT_EQ(s.aot_max_bytes, kMiB);
}

TEST_F(Build, FixedSizesWithoutAuto) {
  const Settings s = settings("[server]\nauto = false\n");
  EXPECT_EQ(s.cache_size, 100u);
  EXPECT_EQ(s.max_cache_bytes, 256 * kMiB);
  EXPECT_EQ(s.max_concurrent_requests, 1000u);
  EXPECT_EQ(s.guest.max_requests, 10u);
}

TEST_F(Build, WithoutAFileAComponentHasTheReferencesSizesAndAFolderAutomaticOnes) {
  EXPECT_EQ(build("", "").settings.max_concurrent_requests, 600u);
  EXPECT_EQ(build("", "").settings.guest.max_requests, 60u);
  context_.serving = Serving::kComponent;
  EXPECT_EQ(build("", "").settings.max_concurrent_requests, 1000u);
  EXPECT_EQ(build("", "").settings.guest.max_requests, 1000u);
  EXPECT_EQ(build("", "").settings.cache_size, 100u);
  EXPECT_EQ(build("", "").settings.max_cache_bytes, 256 * kMiB);
  EXPECT_EQ(settings("").max_concurrent_requests, 600u);
}

TEST_F(Build, TheAutomaticPerModuleLimitIsCapped) {  // G18
  EXPECT_EQ(settings("[server]\nmax_concurrent_requests = 5\n").guest.max_requests, 5u);
  EXPECT_EQ(settings("[server]\nmax_concurrent_requests = 2000\n").guest.max_requests, 200u);
  EXPECT_EQ(settings("[server]\nauto = false\nmax_concurrent_requests = 3\n").guest.max_requests,
            3u);
}

TEST_F(Build, ASingleComponentMayHaveAllRequests) {
  context_.serving = Serving::kComponent;
  EXPECT_EQ(settings("").guest.max_requests, 600u);
  EXPECT_EQ(settings("[server]\nmax_per_module_requests = 7\n").guest.max_requests, 7u);
}

TEST_F(Build, WhatIsAboveTheMachinesSizeIsCappedAndSaid) {
  const Built built =
      build("[server]\nmax_per_module_requests = 900\n[modules.a]\nmax_requests = 700\n");
  EXPECT_EQ(built.settings.guest.max_requests, 600u);
  EXPECT_EQ(built.settings.modules[0].guest.max_requests, 600u);
  ASSERT_EQ(built.problems.size(), 2u);
  EXPECT_TRUE(built.problems[0].warning);
  EXPECT_NE(built.problems[1].text.find("modules.a.max_requests = 700"), std::string::npos);
}

TEST_F(Build, AutomaticValuesSaySo) {
  const Built built = build("[server]\ncache_size = 7\n");
  EXPECT_EQ(built.document.find(SectionId::kServer, "max_cache_mb")->origin.to_string(),
            "automatic");
  EXPECT_EQ(built.document.find(SectionId::kServer, "cache_size")->origin.to_string(),
            "/x/mik.toml:2:14");
  EXPECT_EQ(built.document.find(SectionId::kServer, "reuse")->origin.to_string(), "default");
}

TEST_F(Build, RelativePathsAreOfTheFilesFolder) {  // field 43
  const std::string text =
      "[server]\nuser_modules = \"t/\"\nlog_file = \"../mik.log\"\nhttp_ca_file = "
      "\"/abs/ca.pem\"\n";
  Built built = build(text, "/srv/app/mik.toml");
  EXPECT_EQ(built.settings.user_modules_dir, "/srv/app/t");
  EXPECT_EQ(built.settings.log_file, "/srv/mik.log");
  EXPECT_EQ(built.settings.http_ca_file, "/abs/ca.pem");
  EXPECT_EQ(built.document.find(SectionId::kServer, "modules")->text(), "/srv/app/modules");
  built = build(text, "/etc/mik/mik.toml");
  EXPECT_EQ(built.settings.user_modules_dir, "/state/t");
  EXPECT_EQ(built.document.find(SectionId::kServer, "modules")->text(), "/state/modules");
  built = build(text, "/etc/mikado/mik.toml");
  EXPECT_EQ(built.settings.user_modules_dir, "/etc/mikado/t");
  EXPECT_EQ(build("", "").document.find(SectionId::kServer, "modules")->text(), "/here/modules");
}

TEST_F(Build, EnvironmentOfGuests) {
  environment_ = {{"APP_TOKEN", "s3cret"}, {"EMPTY", ""}};
  const Settings s = settings(
      "[server]\nenv = { A = \"eu\", B = \"<${APP_TOKEN}|${EMPTY}>\", C = \"$${APP_TOKEN} $5 ${\" "
      "}\n");
  EXPECT_EQ(s.guest.env, (Pairs{{"A", "eu"}, {"B", "<s3cret|>"}, {"C", "${APP_TOKEN} $5 ${"}}));
  const Built built =
      build("[server]\nenv = { A = \"${GONE}\" }\n[modules.m]\nenv = { B = \"${LOST}\" }\n");
  ASSERT_EQ(built.problems.size(), 2u);
  EXPECT_EQ(built.problems[0].to_string(),
            "/x/mik.toml:2:13: server.env.A: the environment of mik has no variable \"GONE\"");
  EXPECT_FALSE(built.problems[0].warning);
}

TEST_F(Build, ModulesStandOverTheServer) {
  const Settings s = settings(
      "[server]\nexecution_timeout_secs = 9\nreuse = 5\nenv = { A = \"1\" }\n"
      "http_allowed = [\"x.example\"]\nmax_per_module_requests = 8\n"
      "[modules.b]\nexecution_timeout_secs = 3\nenv = { B = \"2\" }\n"
      "[modules.a]\nhttp_allowed = []\nmax_requests = 2\ncpu_share = 300\n");
  ASSERT_EQ(s.modules.size(), 2u);
  EXPECT_EQ(s.modules[0].name, "a");  // sorted
  const GuestSettings& a = s.modules[0].guest;
  EXPECT_EQ(a.execution_timeout, seconds(9));
  EXPECT_EQ(a.cpu_budget, seconds(9));
  EXPECT_EQ(a.env, (Pairs{{"A", "1"}}));
  EXPECT_TRUE(a.http_allowed.empty());
  EXPECT_EQ(a.max_requests, 2u);
  EXPECT_EQ(a.cpu_share, 300u);
  EXPECT_EQ(a.reuse, 5u);
  const GuestSettings& b = s.modules[1].guest;
  EXPECT_EQ(b.execution_timeout, seconds(3));
  EXPECT_EQ(b.cpu_budget, seconds(3));  // follows its own timeout
  EXPECT_EQ(b.env, (Pairs{{"B", "2"}}));
  EXPECT_EQ(b.max_requests, 8u);
}

TEST_F(Build, CpuTimeThatIsSaidHoldsForModulesToo) {
  const Settings s = settings(
      "[server]\ncpu_ms = 200\n[modules.a]\nexecution_timeout_secs = 3\n"
      "[modules.b]\ncpu_ms = 50\n");
  EXPECT_EQ(s.guest.cpu_budget, std::chrono::milliseconds(200));
  EXPECT_EQ(s.modules[0].guest.cpu_budget, std::chrono::milliseconds(200));
  EXPECT_EQ(s.modules[1].guest.cpu_budget, std::chrono::milliseconds(50));
}

TEST_F(Build, TenantsHaveQuotasAndNoGrants) {
  const Settings s = settings(
      "[server]\nuser_modules = \"t\"\nservices = [\"kv\"]\nmax_per_module_requests = 50\n"
      "[tenants.acme]\nmax_requests = 20\nmemory_bytes = 536870912\nkv_max_mb = 100\n"
      "[tenants.best]\nservices = [\"sql\"]\n");
  ASSERT_EQ(s.tenants.size(), 2u);
  EXPECT_EQ(s.tenants[0].max_requests, 20u);
  EXPECT_EQ(s.tenants[0].guest.max_requests, 20u);  // one module cannot have more than all
  EXPECT_EQ(s.tenants[0].memory_bytes, 512 * kMiB);
  EXPECT_EQ(s.tenants[0].kv_bytes_max, 100 * kMiB);
  EXPECT_TRUE(s.tenants[0].guest.services.empty());
  EXPECT_EQ(s.tenants[1].guest.services, (Texts{"sql"}));
  EXPECT_EQ(s.tenants[1].max_requests, 0u);
  EXPECT_EQ(s.tenants[1].guest.max_requests, 50u);
}

TEST_F(Build, Routes) {
  const Settings s = settings(
      "[server]\nuser_modules = \"t\"\n"
      "[[routes]]\nhost = \"API.example.com\"\npath = \"/v1/\"\nmodule = \"api\"\nstrip_prefix = "
      "true\n"
      "[[routes]]\ntenant = \"acme\"\nmodule = \"web\"\n");
  ASSERT_EQ(s.routes.size(), 2u);
  EXPECT_EQ(s.routes[0].host, "api.example.com");
  EXPECT_EQ(s.routes[0].path, "/v1/");
  EXPECT_TRUE(s.routes[0].strip_prefix);
  EXPECT_EQ(s.routes[1].path, "/");
  EXPECT_EQ(s.routes[1].tenant, "acme");
  EXPECT_FALSE(s.routes[1].strip_prefix);
}

TEST_F(Build, TheLogsFormIsThatOfTheOutput) {
  EXPECT_EQ(settings("").log_format, LogFormat::kJson);
  context_.terminal = true;
  EXPECT_EQ(settings("").log_format, LogFormat::kText);
  EXPECT_EQ(settings("[server]\nlog_format = \"json\"\n").log_format, LogFormat::kJson);
}

}  // namespace
}  // namespace mik::config
