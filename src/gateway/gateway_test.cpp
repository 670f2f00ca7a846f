#include "gateway/gateway.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "gateway/json.hpp"
#include "gateway/merge.hpp"

namespace mik::gateway {
namespace {

namespace fs = std::filesystem;

class GatewayTest : public testing::Test {
 protected:
  GatewayTest() {
    std::string name = "/tmp/mik-gateway-XXXXXX";
    root_ = ::mkdtemp(name.data());
    settings_.modules_dir = root_ / "modules";
    settings_.user_modules_dir = root_ / "tenants";
    fs::create_directories(root_ / "modules");
    fs::create_directories(root_ / "tenants" / "acme");
  }
  ~GatewayTest() override { fs::remove_all(root_); }

  void write(const std::string& path, std::string_view text) {
    // A file of its own, as a deployment's rename makes it.
    const fs::path next = root_ / "next";
    std::ofstream(next) << text;
    fs::rename(next, root_ / path);
  }
  void module(const std::string& path, std::string_view paths = {}) {
    write(path + ".wasm", "1234");
    if (!paths.empty()) {
      write(path + ".openapi.json",
            R"({"openapi":"3.0.3","info":{},"paths":)" + std::string(paths) + "}");
    }
  }
  runtime::Document ask(std::string_view path) {
    runtime::Document found = gateway_.find_blocking(path);
    EXPECT_NE(found.body, nullptr);
    return found;
  }
  std::string body(std::string_view path) { return *ask(path).body; }

  fs::path root_;
  config::Settings settings_;
  Gateway gateway_{settings_};
};

TEST_F(GatewayTest, HandlersAreThoseThatCanBeAsked) {
  module("modules/b");
  module("modules/a b", "{}");
  module("tenants/acme/web", "{}");
  write("modules/note.txt", "");
  fs::create_directory(root_ / "modules" / "folder.wasm");
  write("outside.wasm", "secret");
  fs::create_symlink(root_ / "outside.wasm", root_ / "modules" / "out.wasm");
  fs::create_symlink("b.wasm", root_ / "modules" / "c.wasm");
  const std::string text = body("/_mik/handlers");
  EXPECT_EQ(
      text.substr(0, text.find(",\"timestamp\"")),
      R"({"data":[{"id":"a b","type":"wasm","attributes":{"name":"a b","size_bytes":4,)"
      R"("has_openapi":true},"links":{"self":"/run/a%20b/","openapi":"/_mik/openapi/platform"}},)"
      R"({"id":"b","type":"wasm","attributes":{"name":"b","size_bytes":4,"has_openapi":false},)"
      R"("links":{"self":"/run/b/"}},)"
      R"({"id":"c","type":"wasm","attributes":{"name":"c","size_bytes":4,"has_openapi":false},)"
      R"("links":{"self":"/run/c/"}},)"
      R"({"id":"acme/web","type":"wasm","attributes":{"name":"web","size_bytes":4,)"
      R"("has_openapi":true,"tenant_id":"acme"},"links":{"self":"/tenant/acme/web/",)"
      R"("openapi":"/_mik/openapi/tenant/acme"}}],)"
      R"("meta":{"total":4,"platform_count":3,"tenant_count":1)");
  EXPECT_TRUE(parse_json(text).has_value());
}

TEST_F(GatewayTest, NoFoldersAreNoHandlers) {
  settings_.modules_dir.clear();
  settings_.user_modules_dir = root_ / "nothing";
  EXPECT_TRUE(body("/_mik/handlers").starts_with("{\"data\":[],\"meta\":{\"total\":0,"));
  EXPECT_TRUE(body("/_mik/openapi/platform").find("\"paths\":{}") != std::string::npos);
  EXPECT_EQ(ask("/openapi/a").status, 404);
}

TEST_F(GatewayTest, ASingleComponentIsListedAlone) {
  module("modules/api-composed");
  module("modules/other", "{}");
  write("modules/api.openapi.json", R"({"openapi":"3.0.3","paths":{"/x":{}}})");
  settings_.component_path = root_ / "modules" / "api-composed.wasm";
  settings_.component_name = "api";
  settings_.modules_dir.clear();
  const std::string text = body("/_mik/handlers");
  EXPECT_NE(text.find(R"("id":"api")"), std::string::npos) << text;
  EXPECT_NE(text.find(R"("total":1)"), std::string::npos) << text;
  EXPECT_NE(body("/_mik/openapi/platform").find("/run/api/x"), std::string::npos);
  EXPECT_EQ(ask("/openapi/api").status, 200);
}

TEST_F(GatewayTest, DocumentsAreMergedOnceUntilOneChanges) {
  module("modules/a", R"({"/x":{}})");
  module("tenants/acme/web", R"({"/y":{}})");
  write("modules/alone.openapi.json", R"({"openapi":"3.0.3","paths":{"/z":{}}})");
  const runtime::Document first = ask("/_mik/openapi/platform");
  EXPECT_NE(first.body->find("\"/run/a/x\""), std::string::npos);
  EXPECT_EQ(first.body->find("/z"), std::string::npos) << "of no module";
  EXPECT_EQ(ask("/_mik/openapi/platform").body, first.body) << "the same bytes";
  const std::string tenant = body("/_mik/openapi/tenant/acme");
  EXPECT_NE(tenant.find("\"/web/y\""), std::string::npos) << tenant;
  EXPECT_NE(tenant.find(R"("servers":[{"url":"/tenant/acme"}])"), std::string::npos) << tenant;
  EXPECT_NE(tenant.find("Tenant acme API"), std::string::npos);
  module("modules/a", R"({"/w":{}})");
  EXPECT_NE(body("/_mik/openapi/platform").find("\"/run/a/w\""), std::string::npos);
  fs::remove(root_ / "modules" / "a.wasm");
  EXPECT_EQ(body("/_mik/openapi/platform").find("/run/a"), std::string::npos);
}

TEST_F(GatewayTest, WhatCannotBeMergedIsSaidOnce) {
  module("modules/a", R"({"/x":{}})");
  module("modules/b");
  write("modules/b.openapi.json", "{");
  module("modules/large");
  write("modules/large.openapi.json", std::string(kDocumentBytesMax + 1, ' '));
  const runtime::Document first = ask("/_mik/openapi/platform");
  ASSERT_EQ(first.warnings.size(), 2u);
  EXPECT_NE(first.warnings[0].find("modules/b.openapi.json: no JSON"), std::string::npos);
  EXPECT_NE(first.warnings[1].find("more than the 1 MiB"), std::string::npos);
  EXPECT_NE(first.body->find("/run/a/x"), std::string::npos);
  EXPECT_TRUE(ask("/_mik/openapi/platform").warnings.empty());
}

TEST_F(GatewayTest, TenantsAreAskedForByTheirNames) {
  fs::create_directory(root_ / "tenants" / "a b");
  write("tenants/file", "");
  fs::create_directory_symlink(root_ / "modules", root_ / "tenants" / "link");
  const auto answer = [&](const char* id) {
    const runtime::Document found = ask(std::string("/_mik/openapi/tenant/") + id);
    return std::to_string(found.status) + " " + *found.body;
  };
  EXPECT_TRUE(answer("acme").starts_with("200 "));
  EXPECT_TRUE(answer("a%20b").starts_with("200 "));
  EXPECT_EQ(answer(""), R"(400 {"error":"invalid_request","message":"Tenant ID is required"})");
  for (const char* id : {"..", "a/b", "%2e%2e", "a%2fb", "a%00", "acme/"}) {
    EXPECT_EQ(answer(id), R"(400 {"error":"invalid_request","message":"Invalid tenant ID format"})")
        << id;
  }
  EXPECT_EQ(answer("nobody"), R"(404 {"error":"not_found","message":"Tenant not found: nobody"})");
  EXPECT_TRUE(answer("file").starts_with("404 "));
  EXPECT_TRUE(answer("link").starts_with("404 ")) << "it leads out of the folder";
  settings_.user_modules_dir.clear();
  EXPECT_TRUE(answer("acme").starts_with("404 "));
}

TEST_F(GatewayTest, ASchemaIsTheFileOfAModuleAndNoOther) {
  module("modules/a", "{}");
  write("secret.openapi.json", "secret");
  module("tenants/acme/web", "{}");
  fs::create_symlink(root_ / "secret.openapi.json", root_ / "modules" / "link.openapi.json");
  const runtime::Document found = ask("/openapi/a");
  EXPECT_EQ(found.status, 200);
  EXPECT_TRUE(found.schema);
  EXPECT_EQ(*found.body, R"({"openapi":"3.0.3","info":{},"paths":{}})");
  EXPECT_EQ(ask("/openapi/a//").status, 200);
  EXPECT_EQ(ask("/openapi/%61").status, 200);
  for (const std::string& name :
       {std::string("../secret"), std::string("..%2fsecret"), std::string("../tenants/acme/web"),
        (root_ / "secret").string(), std::string("link"), std::string("b"), std::string("a%00")}) {
    const runtime::Document missing = ask("/openapi/" + name);
    EXPECT_EQ(missing.status, 404) << name;
    EXPECT_TRUE(missing.schema);
    EXPECT_EQ(*missing.body, R"({"error":"Schema not available"})") << name;
  }
  EXPECT_EQ(body("/openapi/"),
            R"({"error":"not_found","message":"No module specified. Use /openapi/<module>"})");
}

TEST_F(GatewayTest, AllElseIsUnknown) {
  for (const char* path : {"/_mik/", "/_mik/handlers/", "/_mik/openapi", "/_mik/openapi/tenant"}) {
    EXPECT_EQ(ask(path).status, 404) << path;
  }
  EXPECT_EQ(body("/_mik/\"\x01"),
            R"({"error":"not_found","message":"Unknown gateway endpoint: \"\u0001"})");
}

}  // namespace
}  // namespace mik::gateway
