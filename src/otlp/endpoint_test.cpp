#include "otlp/endpoint.hpp"

#include <gtest/gtest.h>

namespace mik::otlp {
namespace {

Endpoint endpoint(std::string_view url, std::string_view protocol = "auto") {
  auto parsed = Endpoint::parse(url, protocol);
  EXPECT_TRUE(parsed.has_value()) << url;
  return parsed.has_value() ? *parsed : Endpoint();
}

TEST(OtlpEndpoint, AutoGoesByPortAndPath) {
  EXPECT_EQ(endpoint("http://tempo:4317").protocol, Protocol::kGrpc);
  EXPECT_EQ(endpoint("http://tempo:4318").protocol, Protocol::kHttp);
  EXPECT_EQ(endpoint("http://tempo:4318/").protocol, Protocol::kHttp);
  EXPECT_EQ(endpoint("https://tempo").protocol, Protocol::kGrpc);
  EXPECT_EQ(endpoint("https://vendor.example.com/otlp").protocol, Protocol::kHttp);
  EXPECT_EQ(endpoint("http://tempo:4317", "http/protobuf").protocol, Protocol::kHttp);
  EXPECT_EQ(endpoint("http://tempo:4318", "grpc").protocol, Protocol::kGrpc);
}

TEST(OtlpEndpoint, ThePathIsThatOfTheCall) {
  EXPECT_EQ(endpoint("http://tempo:4317").url.path_query,
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
  EXPECT_EQ(endpoint("http://tempo:4318").url.path_query, "/v1/traces");
  EXPECT_EQ(endpoint("http://tempo:4318/v1/traces").url.path_query, "/v1/traces");
  EXPECT_EQ(endpoint("https://vendor.example.com/otlp").url.path_query, "/otlp/v1/traces");
  EXPECT_EQ(endpoint("https://vendor.example.com/otlp/?key=1").url.path_query,
            "/otlp/v1/traces?key=1");
}

TEST(OtlpEndpoint, ANameAndPasswordBecomeAFieldAndAreNotShown) {
  const Endpoint with = endpoint("https://Aladdin:open%20sesame@tempo:4318/?token=s3cret");
  EXPECT_EQ(with.authorization, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
  EXPECT_EQ(with.url.authority, "tempo:4318");
  EXPECT_EQ(with.shown, "https://tempo:4318/");
  EXPECT_EQ(endpoint("http://tempo:4317").authorization, "");
}

TEST(OtlpEndpoint, WhatIsNoUrlIsSaidWithoutItsPassword) {
  for (const char* url : {"http://me:s3cret@tem po:4317", "http://me:s3cret@:4317",
                          "http://me:s3cret@tempo:99999", "ftp://me:s3cret@tempo", "tempo:4317"}) {
    const auto parsed = Endpoint::parse(url, "auto");
    ASSERT_FALSE(parsed.has_value()) << url;
    EXPECT_EQ(parsed.error().code(), base::ErrorCode::kConfig);
    EXPECT_EQ(parsed.error().to_string().find("s3cret"), std::string::npos);
    EXPECT_NE(parsed.error().message().find("tracing.otlp_endpoint"), std::string::npos);
  }
}

}  // namespace
}  // namespace mik::otlp
