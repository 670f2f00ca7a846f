#include "runtime/router.hpp"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "runtime/test_allocations.hpp"

namespace mik::runtime {
namespace {

using To = Routed::To;

config::Settings single() {
  config::Settings settings;
  settings.component_path = "/srv/app.wasm";
  settings.component_name = "app";
  return settings;
}

config::Settings folder() {
  config::Settings settings;
  settings.modules_dir = "/srv/modules";
  settings.user_modules_dir = "/srv/tenants";
  return settings;
}

// Owns what a Routed points into.
struct Found {
  RouteBuffer buffer;
  Routed routed;
  Found(const config::Settings& settings, std::string_view path, std::string_view authority = {}) {
    const Router router(settings);
    routed = router.route(authority, path, buffer);
    tenant = routed.tenant;
    module = routed.module;
    rest = routed.rest;
    text = routed.text;
  }
  std::string tenant, module, rest, text;
  std::string target() const { return tenant.empty() ? module : tenant + "/" + module; }
};

TEST(Router, BuiltInPathsWin) {
  config::Settings settings = single();
  settings.routes.push_back({.host = "", .path = "/", .tenant = "", .module = "other"});
  const std::map<std::string, To> expected = {{"/health", To::kHealth},
                                              {"/health?verbose=1", To::kHealth},
                                              {"/health/live", To::kLive},
                                              {"/health/ready", To::kReady},
                                              {"/metrics", To::kMetrics},
                                              {"/metrics?x", To::kMetrics},
                                              {"*", To::kServer},
                                              {"/_mik/handlers", To::kGateway},
                                              {"/openapi/app", To::kOpenApi}};
  for (const auto& [path, to] : expected) {
    EXPECT_EQ(Found(settings, path, "any.host").routed.to, to) << path;
  }
}

TEST(Router, StaticFilesWhereTheyAreConfigured) {
  for (config::Settings settings : {single(), folder()}) {
    settings.root = "root";
    settings.routes.push_back({.host = "", .path = "/static/", .tenant = "", .module = "other"});
    EXPECT_EQ(Found(settings, "/static/a").target(), "other");
    settings.static_dir = "/srv/web";
    EXPECT_EQ(Found(settings, "/static/a?b").routed.to, To::kStatic);
    EXPECT_EQ(Found(settings, "/static/").routed.to, To::kStatic);
    EXPECT_EQ(Found(settings, "/statics/a").routed.to, To::kModule);
    EXPECT_EQ(Found(settings, "/static").target(), "other");
  }
  const Found none(folder(), "/static/a");
  EXPECT_EQ(none.routed.status, 404);
  EXPECT_EQ(none.text, "Static file serving not enabled");
}

TEST(Router, ASingleComponentAnswersTheRest) {
  for (const char* path : {"/", "/health/", "/healthy", "/metrics/", "/runs", "//health",
                           "/a?/health", "/tenant/a/b/c", "/tenant", "/static/x", "/_mik"}) {
    const Found found(single(), path);
    EXPECT_EQ(found.routed.to, To::kModule) << path;
    EXPECT_EQ(found.target(), "app") << path;
    EXPECT_EQ(found.rest, path);
  }
}

// G1, G3: the rest and the query reach the guest as they came.
TEST(Router, TheRestIsUntouched) {
  const std::map<std::string, std::string> expected = {{"", "/"},
                                                       {"/", "/"},
                                                       {"?x=1", "/?x=1"},
                                                       {"/a/b?x=1", "/a/b?x=1"},
                                                       {"////", "////"},
                                                       {"/a//b/", "/a//b/"},
                                                       {"/a%2Fb", "/a%2Fb"},
                                                       {"/a/../b", "/a/../b"},
                                                       {"/a%20b?c%20d", "/a%20b?c%20d"},
                                                       {"?", "/?"},
                                                       {"?/x", "/?/x"}};
  for (const auto& [behind, rest] : expected) {
    for (const std::string prefix : {"/run/app", "/run/%61pp", "/tenant/t/app"}) {
      const Found found(folder(), prefix + behind);
      EXPECT_EQ(found.routed.to, To::kModule) << prefix << behind;
      EXPECT_EQ(found.module, "app");
      EXPECT_EQ(found.tenant, prefix.starts_with("/tenant") ? "t" : "");
      EXPECT_EQ(found.rest, rest) << prefix << behind;
    }
  }
}

TEST(Router, NamesAreDecodedOnce) {
  EXPECT_EQ(Found(folder(), "/run/a%20b").module, "a b");
  EXPECT_EQ(Found(folder(), "/run/a%252Fb").module, "a%2Fb");
  EXPECT_EQ(Found(folder(), "/run/caf%C3%A9/x").module, "caf\xc3\xa9");
  EXPECT_EQ(Found(folder(), "/run/100%").module, "100%");
  EXPECT_EQ(Found(folder(), "/run/%zz%4").module, "%zz%4");
  EXPECT_EQ(Found(folder(), "/run/App").module, "App");
  const Found tenant(folder(), "/tenant/a%2Eb/%6Dain?q");
  EXPECT_EQ(tenant.target(), "a.b/main");
  EXPECT_EQ(tenant.rest, "/?q");
}

// G11: a name that cannot be is 400, and the answer repeats nothing of it.
TEST(Router, BadNamesAre400) {
  for (const char* name : {"..", ".", "a%2Fb", "a%5Cb", "%00", "%0a", "a%7F", "%FF", "%C3",
                           "%2e%2e", "%c2%85", "%ED%A0%80"}) {
    for (const std::string prefix : {"/run/", "/tenant/t/", "/tenant/"}) {
      const Found found(folder(), prefix + name + "/x");
      EXPECT_EQ(found.routed.to, To::kProblem) << prefix << name;
      EXPECT_EQ(found.routed.status, 400) << prefix << name;
      EXPECT_EQ(found.text.find(name), std::string::npos);
      EXPECT_TRUE(found.text.starts_with("invalid request: the ")) << found.text;
    }
  }
  EXPECT_EQ(Found(folder(), "/tenant/a%2Fb/x").text,
            "invalid request: the tenant's name holds a path separator");
  EXPECT_EQ(Found(folder(), "/run/" + std::string(255, 'a')).routed.to, To::kModule);
  EXPECT_EQ(Found(folder(), "/run/" + std::string(256, 'a')).routed.status, 400);
}

TEST(Router, IncompletePathsAre404) {
  for (const char* path : {"/run", "/run/", "/run//x", "/run?x=/run/app"}) {
    EXPECT_EQ(Found(folder(), path).routed.status, 404) << path;
    EXPECT_EQ(Found(folder(), path).text, "No module specified. Use /run/<module>/");
    EXPECT_EQ(Found(single(), path).routed.status, 404) << path;
  }
  for (const char* path : {"/tenant", "/tenant/", "/tenant/x", "/tenant/x/", "/tenant//x/y",
                           "/tenant/x//y", "/tenant/x?y/z"}) {
    EXPECT_EQ(Found(folder(), path).routed.status, 404) << path;
    EXPECT_EQ(Found(folder(), path).text, "Invalid tenant path. Use /tenant/<tenant-id>/<module>/");
  }
  EXPECT_EQ(Found(folder(), "/").routed.status, 404);
  EXPECT_EQ(Found(folder(), "/").text,
            "Not found. Platform modules: /run/<module>/, Tenant modules: "
            "/tenant/<tenant-id>/<module>/");
}

TEST(Router, TenantsThatAreNotConfiguredAre400) {
  config::Settings settings = folder();
  settings.user_modules_dir.clear();
  for (const char* path : {"/tenant/a/b", "/tenant/", "/tenant/a", "/tenant/%00/x"}) {
    EXPECT_EQ(Found(settings, path).routed.status, 400) << path;
    EXPECT_EQ(Found(settings, path).text, "invalid request: Tenant modules not configured");
  }
  config::Settings one = single();
  one.user_modules_dir = "/srv/tenants";
  EXPECT_EQ(Found(one, "/tenant/a/b/c").target(), "a/b");
}

TEST(Router, TheRootAnswersWhatNothingElseClaims) {
  config::Settings settings = folder();
  settings.root = "api";
  EXPECT_EQ(Found(settings, "/x/y?z").target(), "api");
  EXPECT_EQ(Found(settings, "/x/y?z").rest, "/x/y?z");
  EXPECT_EQ(Found(settings, "/run/other").target(), "other");
  EXPECT_EQ(Found(settings, "/tenant/a").routed.status, 404);
}

TEST(Router, LimitsAndConnect) {
  EXPECT_EQ(Found(single(), "").routed.status, 405);
  EXPECT_EQ(Found(single(), "/" + std::string(4095, 'a') + "?" + std::string(4000, 'q')).routed.to,
            To::kModule);
  EXPECT_EQ(Found(single(), "/" + std::string(4096, 'a')).routed.status, 414);
}

config::Settings routed() {
  config::Settings settings = folder();
  settings.root = "root";
  settings.routes = {
      {.host = "api.example.com",
       .path = "/v1/",
       .tenant = "",
       .module = "v1",
       .strip_prefix = true},
      {.host = "api.example.com", .path = "/v1/deep", .tenant = "", .module = "deep"},
      {.host = "*.example.com", .path = "/", .tenant = "acme", .module = "wild"},
      {.host = "*.b.example.com", .path = "/only", .tenant = "", .module = "wilder"},
      {.host = "", .path = "/any", .tenant = "", .module = "any", .strip_prefix = true},
      {.host = "[::1]", .path = "/", .tenant = "", .module = "v6"},
      {.host = "", .path = "/any/", .tenant = "", .module = "second"}};
  return settings;
}

TEST(Router, HostsFromTheMostSpecialOn) {
  const std::map<std::string, std::string> expected = {{"api.example.com /v1", "v1"},
                                                       {"API.Example.COM.:443 /v1/x", "v1"},
                                                       {"api.example.com /v1/deep", "deep"},
                                                       {"api.example.com /v1/deeper", "v1"},
                                                       {"api.example.com /v2", "acme/wild"},
                                                       {"www.example.com:8080 /v1", "acme/wild"},
                                                       {"a.b.example.com /only/x", "wilder"},
                                                       {"a.b.example.com /any", "acme/wild"},
                                                       {"b.example.com /only", "acme/wild"},
                                                       {"example.com /", "root"},
                                                       {".example.com /", "root"},
                                                       {"notexample.com /any", "any"},
                                                       {" /any/x", "any"},
                                                       {" /anything", "root"},
                                                       {"[::1]:3000 /x", "v6"},
                                                       {"[::1] /any", "v6"},
                                                       {"[::2] /any", "any"},
                                                       {"api.example.com /run/m", "m"}};
  for (const auto& [request, target] : expected) {
    const std::size_t space = request.find(' ');
    EXPECT_EQ(Found(routed(), request.substr(space + 1), request.substr(0, space)).target(), target)
        << request;
  }
}

TEST(Router, PrefixesAreCutOffWhereTheRouteSaysSo) {
  const std::string host = "api.example.com";
  EXPECT_EQ(Found(routed(), "/v1", host).rest, "/");
  EXPECT_EQ(Found(routed(), "/v1/", host).rest, "/");
  EXPECT_EQ(Found(routed(), "/v1?q", host).rest, "/?q");
  EXPECT_EQ(Found(routed(), "/v1//x%2F?q", host).rest, "//x%2F?q");
  EXPECT_EQ(Found(routed(), "/v1/deep/x", host).rest, "/v1/deep/x");
}

TEST(Router, AHostWithoutAPathLeavesItToTheNext) {
  config::Settings settings = folder();
  settings.routes = {{.host = "a.test", .path = "/x", .tenant = "", .module = "x"},
                     {.host = "", .path = "/y", .tenant = "", .module = "y"},
                     {.host = "*.", .path = "/z", .tenant = "", .module = "z"}};
  EXPECT_EQ(Found(settings, "/y", "a.test").target(), "y");
  EXPECT_EQ(Found(settings, "/z", "a.test").routed.status, 404);
}

TEST(Router, RoutingAllocatesNothingOnceTheBufferHasGrown) {
  config::Settings settings = routed();
  for (int i = 0; i < 1000; ++i) {
    settings.routes.push_back({.host = "h" + std::to_string(i) + ".test",
                               .path = "/p" + std::to_string(i),
                               .tenant = "",
                               .module = "m" + std::to_string(i)});
  }
  const Router router(settings);
  RouteBuffer buffer;
  const std::string longish = "/run/" + std::string(60, 'm') + "%20x?query=" + std::string(60, 'q');
  const auto all = [&] {
    std::size_t modules = 0;
    for (const std::string_view path :
         {std::string_view("/run/some-module-with-a-long-name/rest?query"),
          std::string_view("/tenant/some-tenant-with-a-long-name/another-module?query"),
          std::string_view(longish), std::string_view("/p999/x"), std::string_view("/health")}) {
      modules += router.route("h999.test:80", path, buffer).to == To::kModule ? 1 : 0;
    }
    return modules;
  };
  EXPECT_EQ(all(), 4u);
  const std::size_t before = test_allocations();
  EXPECT_EQ(all(), 4u);
  EXPECT_EQ(test_allocations(), before);
}

}  // namespace
}  // namespace mik::runtime
