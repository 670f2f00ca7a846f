// Each key of mik.toml changes what it says it changes: one case a key, and a key without a case
// fails. The whole way, from a file to Settings.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>
#include <string>

#include "cli/resolve.hpp"
#include "cli/test_folder.hpp"

namespace mik::cli {
namespace {

using config::Settings;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Holds = std::function<bool(const Settings&)>;
using Strings = std::vector<std::string>;

constexpr std::uint64_t kMiB = 1ull << 20;

struct Case {
  std::string toml;
  Holds holds;  // of the settings with the key and not of those without; null: nothing may change
};

// "section.key" to its case.
using Cases = std::map<std::string, Case>;

// `key = value` in a section.
void add(Cases& cases, const std::string& section, const std::string& key, const std::string& value,
         Holds holds) {
  const std::string header =
      section == "modules" || section == "tenants" ? section + ".m" : section;
  cases[section + "." + key] = {"[" + header + "]\n" + key + " = " + value + "\n",
                                std::move(holds)};
}

void add_server(Cases& cases) {
  const auto server = [&](const std::string& key, const std::string& value, Holds holds) {
    add(cases, "server", key, value, std::move(holds));
  };
  server("auto", "false", [](const Settings& s) { return s.max_concurrent_requests == 1000; });
  server("port", "4000", [](const Settings& s) { return s.binds == Strings{"127.0.0.1:4000"}; });
  server("bind", "[\"[::1]:1\", \"unix:/s\"]",
         [](const Settings& s) { return s.binds == Strings{"[::1]:1", "unix:/s"}; });
  server("admin", "\"127.0.0.1:3900\"",
         [](const Settings& s) { return s.admin == "127.0.0.1:3900"; });
  server("trusted_proxies", "[\"10.0.0.0/8\"]",
         [](const Settings& s) { return s.trusted_proxies == Strings{"10.0.0.0/8"}; });
  server("workers", "37", [](const Settings& s) { return s.workers == 37; });
  server("modules", "\"other\"",
         [](const Settings& s) { return s.modules_dir.ends_with("/other"); });
  server("user_modules", "\"users\"",
         [](const Settings& s) { return s.user_modules_dir.ends_with("/users"); });
  server("static", "\"web\"", [](const Settings& s) { return s.static_dir.ends_with("/web"); });
  server("compression", "false", [](const Settings& s) { return !s.compression; });
  server("scripts", "\"js\"", [](const Settings& s) { return s.scripts_dir.ends_with("/js"); });
  server("root", "\"api\"", [](const Settings& s) { return s.root == "api"; });
  server("cache_size", "7", [](const Settings& s) { return s.cache_size == 7; });
  server("max_cache_mb", "3", [](const Settings& s) { return s.max_cache_bytes == 3 * kMiB; });
  server("aot_max_mb", "5", [](const Settings& s) { return s.aot_max_bytes == 5 * kMiB; });
  server("memory_budget_mb", "9",
         [](const Settings& s) { return s.memory_budget_bytes == 9 * kMiB; });
  server("max_body_size_mb", "0", [](const Settings& s) { return s.max_body_bytes == 0; });
  server("execution_timeout_secs", "7", [](const Settings& s) {
    return s.guest.execution_timeout == seconds(7) && s.guest.cpu_budget == seconds(7);
  });
  server("cpu_ms", "50", [](const Settings& s) { return s.guest.cpu_budget == milliseconds(50); });
  server("memory_limit_bytes", "1048576",
         [](const Settings& s) { return s.guest.memory_limit_bytes == kMiB; });
  server("reuse", "8", [](const Settings& s) { return s.guest.reuse == 8; });
}

void add_limits(Cases& cases) {
  const auto server = [&](const std::string& key, const std::string& value, Holds holds) {
    add(cases, "server", key, value, std::move(holds));
  };
  server("max_concurrent_requests", "33",
         [](const Settings& s) { return s.max_concurrent_requests == 33; });
  server("max_per_module_requests", "3",
         [](const Settings& s) { return s.guest.max_requests == 3; });
  server("queue_ms", "20", [](const Settings& s) { return s.queue == milliseconds(20); });
  server("adaptive_limit", "true", [](const Settings& s) { return s.adaptive_limit; });
  server("shutdown_timeout_secs", "0",
         [](const Settings& s) { return s.shutdown_timeout == seconds(0); });
  server("http_allowed", "[\"*\"]",
         [](const Settings& s) { return s.guest.http_allowed == Strings{"*"}; });
  server("http_private", "\"deny\"",
         [](const Settings& s) { return s.http_private == config::HttpPrivate::kDeny; });
  server("http_ca_file", "\"a.pem\"",
         [](const Settings& s) { return s.http_ca_file.ends_with("/a.pem"); });
  server("env", "{ A = \"b\" }",
         [](const Settings& s) { return s.guest.env == config::Pairs{{"A", "b"}}; });
  server("services", "[\"kv\"]",
         [](const Settings& s) { return s.guest.services == Strings{"kv"}; });
  server("header_timeout_secs", "3",
         [](const Settings& s) { return s.header_timeout == seconds(3); });
  server("idle_timeout_secs", "3", [](const Settings& s) { return s.idle_timeout == seconds(3); });
  server("body_timeout_secs", "3", [](const Settings& s) { return s.body_timeout == seconds(3); });
  server("stream_idle_secs", "3", [](const Settings& s) { return s.stream_idle == seconds(3); });
  server("stream_max_secs", "3", [](const Settings& s) { return s.stream_max == seconds(3); });
  server("max_connections", "3", [](const Settings& s) { return s.max_connections == 3; });
  server("max_header_kb", "3", [](const Settings& s) { return s.max_header_bytes == 3 * 1024; });
}

void add_files_and_logs(Cases& cases) {
  const auto server = [&](const std::string& key, const std::string& value, Holds holds) {
    add(cases, "server", key, value, std::move(holds));
  };
  server("watch_debounce_ms", "3",
         [](const Settings& s) { return s.watch_debounce == milliseconds(3); });
  server("logging", "true", [](const Settings& s) { return s.guest_logging; });
  server("log_file", "\"mik.log\"",
         [](const Settings& s) { return s.log_file.ends_with("/mik.log"); });
  server("log_format", "\"text\"",
         [](const Settings& s) { return s.log_format == config::LogFormat::kText; });
  server("log_max_size_mb", "3", [](const Settings& s) { return s.log_max_bytes == 3 * kMiB; });
  server("log_max_files", "3", [](const Settings& s) { return s.log_max_files == 3; });
  const std::string tls = "[server]\ntls_cert = \"a.pem\"\ntls_key = \"b.pem\"\n";
  cases["server.tls_cert"] = {tls,
                              [](const Settings& s) { return s.tls_cert.ends_with("/a.pem"); }};
  cases["server.tls_key"] = {tls, [](const Settings& s) { return s.tls_key.ends_with("/b.pem"); }};
}

// Of `m`, whether as a module or as a tenant.
void add_guest(Cases& cases, const std::string& section) {
  const auto guest = [&](const std::string& key, const std::string& value,
                         std::function<bool(const config::GuestSettings&)> holds) {
    const bool module = section == "modules";
    add(cases, section, key, value, [holds, module](const Settings& s) {
      return holds(config::guest_settings(s, module ? "" : "m", module ? "m" : "any"));
    });
  };
  using Guest = const config::GuestSettings&;
  guest("env", "{ A = \"b\" }", [](Guest g) { return g.env == config::Pairs{{"A", "b"}}; });
  guest("http_allowed", "[\"*\"]", [](Guest g) { return g.http_allowed == Strings{"*"}; });
  guest("execution_timeout_secs", "7", [](Guest g) { return g.execution_timeout == seconds(7); });
  guest("memory_limit_bytes", "1048576", [](Guest g) { return g.memory_limit_bytes == kMiB; });
  guest("cpu_ms", "50", [](Guest g) { return g.cpu_budget == milliseconds(50); });
  guest("cpu_share", "5", [](Guest g) { return g.cpu_share == 5; });
  guest("reuse", "8", [](Guest g) { return g.reuse == 8; });
  guest("services", "[\"sql\"]", [](Guest g) { return g.services == Strings{"sql"}; });
  guest("max_requests", "2", [](Guest g) { return g.max_requests == 2; });
}

void add_tenant(Cases& cases) {
  const auto tenant = [&](const std::string& key, const std::string& value,
                          std::function<bool(const config::TenantSettings&)> holds) {
    add(cases, "tenants", key, value, [holds](const Settings& s) {
      const config::TenantSettings* found = config::tenant_settings(s, "m");
      return found != nullptr && holds(*found);
    });
  };
  using Tenant = const config::TenantSettings&;
  tenant("max_requests", "2", [](Tenant t) { return t.max_requests == 2; });
  tenant("memory_bytes", "1048576", [](Tenant t) { return t.memory_bytes == kMiB; });
  tenant("kv_max_mb", "2", [](Tenant t) { return t.kv_bytes_max == 2 * kMiB; });
  tenant("sql_max_mb", "2", [](Tenant t) { return t.sql_bytes_max == 2 * kMiB; });
  tenant("storage_max_mb", "2", [](Tenant t) { return t.storage_bytes_max == 2 * kMiB; });
}

void add_routes(Cases& cases) {
  const auto route = [&](const std::string& key, const std::string& lines,
                         std::function<bool(const config::RouteSettings&)> holds) {
    cases["routes." + key] = {"[[routes]]\n" + lines, [holds](const Settings& s) {
                                return s.routes.size() == 1 && holds(s.routes[0]);
                              }};
  };
  using Route = const config::RouteSettings&;
  const std::string module = "module = \"a\"\n";
  route("host", module + "host = \"*.X.example\"\n",
        [](Route r) { return r.host == "*.x.example"; });
  route("path", module + "path = \"/v1/\"\n", [](Route r) { return r.path == "/v1/"; });
  route("module", module, [](Route r) { return r.module == "a"; });
  route("strip_prefix", module + "strip_prefix = true\n", [](Route r) { return r.strip_prefix; });
  route("tenant", module + "tenant = \"t\"\n[server]\nuser_modules = \"users\"\n",
        [](Route r) { return r.tenant == "t"; });
}

void add_rest(Cases& cases) {
  add(cases, "breaker", "failures", "9", [](const Settings& s) { return s.breaker.failures == 9; });
  add(cases, "breaker", "open_secs", "9",
      [](const Settings& s) { return s.breaker.open == seconds(9); });
  add(cases, "breaker", "probes", "9", [](const Settings& s) { return s.breaker.probes == 9; });
  add(cases, "breaker", "guest_5xx", "true", [](const Settings& s) { return s.breaker.guest_5xx; });
  add(cases, "tracing", "enabled", "false", [](const Settings& s) { return !s.tracing.enabled; });
  add(cases, "tracing", "otlp_endpoint", "\"http://tempo:4317\"",
      [](const Settings& s) { return s.tracing.otlp_endpoint == "http://tempo:4317"; });
  add(cases, "tracing", "service_name", "\"x\"",
      [](const Settings& s) { return s.tracing.service_name == "x"; });
  add(cases, "tracing", "protocol", "\"grpc\"",
      [](const Settings& s) { return s.tracing.protocol == "grpc"; });
  add(cases, "tracing", "sample_ratio", "0.25",
      [](const Settings& s) { return s.tracing.sample_ratio == 0.25; });
  add(cases, "project", "name", "\"shop\"", [](const Settings& s) {
    return s.project_name == "shop" && s.tracing.service_name == "shop";
  });
  cases["project.version"] = {"[project]\nname = \"shop\"\nversion = \"2.0.0\"\n",
                              [](const Settings& s) { return s.project_version == "2.0.0"; }};
}

// Read and checked, without effect on a server: a good value is taken, and changes nothing.
void add_without_effect(Cases& cases) {
  for (const auto& [key, value] :
       std::map<std::string, std::string>{{"http_handler", "false"}, {"bridge", "\"b\""}}) {
    add(cases, "composition", key, value, nullptr);
  }
  for (const char* key :
       {"health_check_interval_ms", "health_check_timeout_ms", "unhealthy_threshold",
        "healthy_threshold", "request_timeout_secs", "max_connections_per_backend",
        "pool_idle_timeout_secs", "tcp_keepalive_secs"}) {
    add(cases, "lb", key, "7", nullptr);
  }
  add(cases, "lb", "enabled", "true", nullptr);
  add(cases, "lb", "health_check_type", "\"tcp\"", nullptr);
  add(cases, "lb", "health_check_path", "\"/x\"", nullptr);
  add(cases, "lb", "http2_only", "true", nullptr);
  for (const std::string section : {"dependencies", "dev-dependencies"}) {
    for (const auto& [key, table] : std::map<std::string, std::string>{
             {"version", "version = \"1\""},
             {"git", "git = \"https://h/p\""},
             {"branch", "git = \"https://h/p\", branch = \"b\""},
             {"tag", "git = \"https://h/p\", tag = \"b\""},
             {"rev", "git = \"https://h/p\", rev = \"b\""},
             {"path", "path = \"users\""},
             {"registry", "version = \"1\", registry = \"https://r\""}}) {
      cases[section + "." + key] = {"[" + section + "]\nauth = { " + table + " }\n", nullptr};
    }
  }
  const std::string schedule =
      "[[schedules]]\nname = \"n\"\nmodule = \"m\"\ncron = \"0 0 * * * *\"\n";
  for (const auto& [key, line] :
       std::map<std::string, std::string>{{"name", ""},
                                          {"module", ""},
                                          {"cron", ""},
                                          {"method", "method = \"POST\"\n"},
                                          {"path", "path = \"/x\"\n"},
                                          {"enabled", "enabled = false\n"},
                                          {"port", "port = 4000\n"},
                                          {"body", "body = \"b\"\n"},
                                          {"headers", "headers = { A = \"b\" }\n"},
                                          {"health_path", "health_path = \"/h\"\n"}}) {
    cases["schedules." + key] = {schedule + line, nullptr};
  }
  // A project with a name and without one differ by the name; so both have one.
  cases["project.description"] = {"[project]\nname = \"base\"\ndescription = \"d\"\n", nullptr};
  cases["project.authors"] = {"[project]\nname = \"base\"\nauthors = [{ name = \"A\" }]\n",
                              nullptr};
  cases["project.language"] = {"[project]\nname = \"base\"\nlanguage = \"rust\"\n", nullptr};
}

Cases all_cases() {
  Cases cases;
  add_server(cases);
  add_limits(cases);
  add_files_and_logs(cases);
  add_guest(cases, "modules");
  add_guest(cases, "tenants");
  add_tenant(cases);
  add_routes(cases);
  add_rest(cases);
  add_without_effect(cases);
  return cases;
}

// A pair made for this test: the files must belong together.
constexpr const char* kCertificate =
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBfzCCASWgAwIBAgIUGzNoeCnqR8QtHyZQvNHSvRH2CLkwCgYIKoZIzj0EAwIw\n"
    "FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyOTA3MDIzMloYDzIxMjYxMTA1\n"
    "MDcwMjMyWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO\n"
    "PQMBBwNCAAS7p2U+vBmzx4O1xmTMWkiAlIDgWrWLm8ozoUYf9ufkM+hIUO4RHGGz\n"
    "jR4cCKwqg55SSHgH9FGJ81PnaWDmNZcko1MwUTAdBgNVHQ4EFgQUoEyaBdr7PYL/\n"
    "4zAUxjGsdWc6kG0wHwYDVR0jBBgwFoAUoEyaBdr7PYL/4zAUxjGsdWc6kG0wDwYD\n"
    "VR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAkOIijGaLU6Gr1fw7dRDf\n"
    "Uxna8Id/rQYiswrEcHYuvzoCIEUIBt2JL/0OjnYgz+3ABBOHHcn9A9yArphtOzXB\n"
    "28RJ\n"
    "-----END CERTIFICATE-----\n";
constexpr const char* kKey =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgq+NWtLLgkFnY4j+N\n"
    "nkjIM1xFntJySX6CwNcvINTAW3+hRANCAAS7p2U+vBmzx4O1xmTMWkiAlIDgWrWL\n"
    "m8ozoUYf9ufkM+hIUO4RHGGzjR4cCKwqg55SSHgH9FGJ81PnaWDmNZck\n"
    "-----END PRIVATE KEY-----\n";

class KeysTest : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    for (const char* name : {"modules", "other", "users"}) {
      make_folder(name);
    }
    write("a.pem", kCertificate);
    write("b.pem", kKey);
  }
  Settings of(const std::string& toml) {
    arguments.config = write("mik.toml", toml);
    auto result = resolved();
    if (!result.has_value()) {
      ADD_FAILURE() << result.error().to_string() << "\n" << toml;
      return {};
    }
    return std::move(result->settings);
  }
};

TEST_F(KeysTest, EachChangesWhatItSays) {
  const Settings plain = of("");
  Settings named = of("[project]\nname = \"base\"\n");
  for (const auto& [name, one] : all_cases()) {
    SCOPED_TRACE(name);
    const Settings with = of(one.toml);
    if (one.holds != nullptr) {
      EXPECT_FALSE(one.holds(plain));
      EXPECT_TRUE(one.holds(with));
      EXPECT_TRUE(one.holds(config::deserialize(serialize(with)).value())) << "not in a worker";
    } else {
      EXPECT_EQ(serialize(with), serialize(name.starts_with("project.") ? named : plain));
    }
  }
}

TEST_F(KeysTest, EachHasACaseAndNoCaseIsStale) {
  std::set<std::string> keys;
  for (const config::Key& key : config::keys()) {
    keys.insert(std::string(config::section(key.section).name) + "." + std::string(key.name));
  }
  std::set<std::string> cases;
  for (const auto& [name, one] : all_cases()) {
    cases.insert(name);
    const std::size_t dot = name.find('.');
    const config::Section* section = config::find_section(name.substr(0, dot));
    ASSERT_NE(section, nullptr) << name;
    const config::Key* key = config::find_key(section->id, name.substr(dot + 1));
    ASSERT_NE(key, nullptr) << name;
    EXPECT_EQ(key->apply == nullptr, one.holds == nullptr) << name;
  }
  EXPECT_EQ(cases, keys);
}

}  // namespace
}  // namespace mik::cli
