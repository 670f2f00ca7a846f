#include "gateway/merge.hpp"

#include <sys/resource.h>

#include <gtest/gtest.h>

#include <string>

namespace mik::gateway {
namespace {

std::string with(std::string_view members) {
  return R"({"openapi":"3.0.3","info":{"title":"t","version":"1"},)" + std::string(members) + "}";
}

Json finished(const OpenApiMerge& merge) {
  auto value = parse_json(merge.finish("Platform API", {}));
  EXPECT_TRUE(value.has_value());
  return value.has_value() ? std::move(*value) : Json();
}

// By names of members and numbers of items, between '|'.
std::string at(const Json& document, std::string_view way) {
  const Json* here = &document;
  while (!way.empty() && here != nullptr) {
    const std::string_view step = way.substr(0, way.find('|'));
    way.remove_prefix(std::min(way.size(), step.size() + 1));
    if (here->is_array()) {
      const std::size_t index = std::stoul(std::string(step));
      here = index < here->items.size() ? &here->items[index] : nullptr;
    } else {
      here = here->find(step);
    }
  }
  if (here == nullptr) {
    return "nothing";
  }
  std::string out;
  append_json(out, *here);
  return out;
}

TEST(Merge, OfNothingIsADocument) {
  EXPECT_EQ(OpenApiMerge("/run").finish("Platform API", {}),
            R"({"components":{"schemas":{}},"info":{"title":"Platform API","version":"1.0.0"},)"
            R"("openapi":"3.0.3","paths":{}})");
  EXPECT_EQ(OpenApiMerge("").finish("Tenant \"a\" API", "/tenant/a"),
            R"({"components":{"schemas":{}},"info":{"title":"Tenant \"a\" API","version":"1.0.0"},)"
            R"("openapi":"3.0.3","paths":{},"servers":[{"url":"/tenant/a"}]})");
}

TEST(Merge, PathsGetTheirPlaceAndComponentsTheirModule) {
  OpenApiMerge merge("/run");
  ASSERT_TRUE(merge
                  .add("api", with(R"("paths":{"/users/{id}":{"get":{"operationId":"one",
      "tags":["people"],"parameters":[{"$ref":"#/components/parameters/id"}],
      "responses":{"default":{"$ref":"#/components/responses/bad"},
        "200":{"description":"d","content":{"application/json":{"schema":
          {"$ref":"#/components/schemas/User"}}}}}}},"bare":{}, "x-note":{}},
      "tags":[{"name":"people","description":"who"}],
      "components":{"schemas":{"User":{"type":"object","properties":{
          "$ref":{"$ref":"#/components/schemas/User"},"example":{"$ref":"#/components/schemas/User"}},
          "example":{"$ref":"#/components/schemas/User"}}},
        "parameters":{"id":{"name":"id","in":"path","required":true,"schema":{"type":"string"}}},
        "responses":{"bad":{"description":"b"}}})"))
                  .has_value());
  const Json document = finished(merge);
  const std::string op = "paths|/run/api/users/{id}|get|";
  EXPECT_EQ(at(document, op + "operationId"), "\"api_one\"");
  EXPECT_EQ(at(document, op + "tags"), "[\"api_people\"]");
  EXPECT_EQ(at(document, op + "parameters|0|$ref"), "\"#/components/parameters/api_id\"");
  EXPECT_EQ(at(document, op + "responses|default|$ref"), "\"#/components/responses/api_bad\"");
  EXPECT_EQ(at(document, op + "responses|200|content|application/json|schema|$ref"),
            "\"#/components/schemas/api_User\"");
  EXPECT_EQ(at(document, "paths|/run/api/bare"), "{}") << "a '/' that was missing";
  EXPECT_EQ(at(document, "paths|x-note"), "nothing");
  EXPECT_EQ(at(document, "tags"), R"([{"description":"who","name":"api_people"}])");
  const std::string user = "components|schemas|api_User|";
  EXPECT_EQ(at(document, user + "properties|$ref|$ref"), "\"#/components/schemas/api_User\"");
  EXPECT_EQ(at(document, user + "properties|example|$ref"), "\"#/components/schemas/api_User\"");
  EXPECT_EQ(at(document, user + "example|$ref"), "\"#/components/schemas/User\"") << "data";
  EXPECT_EQ(at(document, "components|parameters|api_id|name"), "\"id\"");
}

TEST(Merge, SecurityOfADocumentIsThatOfItsOperations) {
  OpenApiMerge merge("/run");
  ASSERT_TRUE(merge
                  .add("api", with(R"("security":[{"key":[]}],"servers":[{"url":"http://else"}],
      "paths":{"/a":{"servers":[],"get":{"servers":[],"responses":{}},
        "put":{"security":[],"responses":{}}}},
      "components":{"securitySchemes":{"key":{"type":"apiKey","in":"header","name":"K"}}})"))
                  .has_value());
  ASSERT_TRUE(merge.add("other", with(R"("paths":{"/a":{"get":{"responses":{}}}})")).has_value());
  const Json document = finished(merge);
  EXPECT_EQ(at(document, "paths|/run/api/a"),
            R"({"get":{"responses":{},"security":[{"api_key":[]}]},)"
            R"("put":{"responses":{},"security":[]}})");
  EXPECT_EQ(at(document, "paths|/run/other/a"), R"({"get":{"responses":{}}})");
  EXPECT_EQ(at(document, "components|securitySchemes|api_key|name"), "\"K\"");
  EXPECT_EQ(at(document, "security"), "nothing");
  EXPECT_EQ(at(document, "servers"), "nothing");
}

TEST(Merge, NamesThatMeetAreKeptApart) {
  OpenApiMerge merge("/run");
  ASSERT_TRUE(
      merge.add("a", with(R"("paths":{},"components":{"schemas":{"b_X":{"type":"string"}}})"))
          .has_value());
  ASSERT_TRUE(merge
                  .add("a_b", with(R"("paths":{},"components":{"schemas":{"X":{"type":"number"},
      "Y":{"$ref":"#/components/schemas/X"}}})"))
                  .has_value());
  const Json document = finished(merge);
  EXPECT_EQ(at(document, "components|schemas|a_b_X|type"), "\"string\"");
  EXPECT_EQ(at(document, "components|schemas|a_b_X_2|type"), "\"number\"");
  EXPECT_EQ(at(document, "components|schemas|a_b_Y|$ref"), "\"#/components/schemas/a_b_X_2\"");
}

TEST(Merge, OddNamesOfModulesFitUrlsAndComponents) {
  OpenApiMerge merge("");
  ASSERT_TRUE(merge
                  .add("a b%", with(R"("paths":{"/x":{"get":{"responses":{"200":{"description":"d",
      "links":{"self":{"operationRef":"#/paths/~1x/get"}}}}}}},
      "components":{"schemas":{"X":{}}})"))
                  .has_value());
  const Json document = finished(merge);
  EXPECT_EQ(at(document, "paths|/a%20b%25/x|get|responses|200|links|self|operationRef"),
            "\"#/paths/~1a%2520b%2525~1x/get\"");
  EXPECT_EQ(at(document, "components|schemas|a_b__X"), "{}");
}

TEST(Merge, DiscriminatorsNameTheirSchemas) {
  OpenApiMerge merge("/run");
  ASSERT_TRUE(merge
                  .add("pets", with(R"("paths":{},"components":{"schemas":{"Dog":{},"Pet":{
      "discriminator":{"propertyName":"kind","mapping":{"dog":"Dog",
        "cat":"#/components/schemas/Cat","far":"http://x/y.json"}}}}})"))
                  .has_value());
  EXPECT_EQ(at(finished(merge), "components|schemas|pets_Pet|discriminator|mapping"),
            R"({"cat":"#/components/schemas/pets_Cat","dog":"#/components/schemas/pets_Dog",)"
            R"("far":"http://x/y.json"})");
}

TEST(Merge, WhatIsNoOpenApiIsLeftOut) {
  OpenApiMerge merge("/run");
  for (const char* wrong : {"", "[]", "{}", R"({"swagger":"2.0"})", R"({"openapi":3})",
                            R"({"openapi":"2.0.0"})", R"({"openapi":"3.0.3")"}) {
    EXPECT_FALSE(merge.add("m", wrong).has_value()) << wrong;
  }
  EXPECT_TRUE(merge.add("m", R"({"openapi":"3.0.0","paths":[],"components":[],"tags":{}})"));
  EXPECT_EQ(at(finished(merge), "paths"), "{}");
  EXPECT_EQ(at(finished(merge), "openapi"), "\"3.0.3\"");
  EXPECT_TRUE(merge.add("n", R"({"openapi":"3.1.0","paths":{}})"));
  EXPECT_EQ(at(finished(merge), "openapi"), "\"3.1.0\"");
}

// A megabyte of security and thousands of operations that inherit it would be gigabytes.
TEST(Merge, WhatEachOperationInheritsIsBounded) {
  std::string text = R"("security":[{"key":[")" + std::string(1 << 19, 's') + R"("]}],"paths":{)";
  for (int i = 0; i < 5000; ++i) {
    text += (i == 0 ? "\"/" : ",\"/") + std::to_string(i) + R"(":{"get":{}})";
  }
  OpenApiMerge merge("/run");
  EXPECT_FALSE(merge.add("m", with(text + "}")).has_value());
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  EXPECT_LT(usage.ru_maxrss, 512 << 10) << "KiB";
}

TEST(Merge, TheWholeIsBounded) {
  OpenApiMerge merge("/run");
  const std::string large =
      with(R"("paths":{"/x":{"description":")" + std::string(1 << 20, 'x') + "\"}}");
  int taken = 0;
  while (taken < 100 && merge.add("m" + std::to_string(taken), large).has_value()) {
    ++taken;
  }
  EXPECT_EQ(taken, (kMergedBytesMax >> 20) - 1);
  EXPECT_LT(merge.finish("t", {}).size(), kMergedBytesMax);
  EXPECT_TRUE(merge.add("small", with(R"("paths":{"/x":{}})")).has_value()) << "still fits";
}

}  // namespace
}  // namespace mik::gateway
