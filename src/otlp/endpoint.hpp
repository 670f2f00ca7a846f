// Where spans go: what [tracing] otlp_endpoint and protocol mean. A value type.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "http/url.hpp"

namespace mik::otlp {

enum class Protocol : std::uint8_t { kGrpc, kHttp };

struct Endpoint {
  Protocol protocol = Protocol::kGrpc;
  http::Url url;              // path_query: that of the call
  std::string authorization;  // of "user:password@" in the URL: "Basic ..."; else empty
  std::string shown;          // for logs: the URL without what is secret

  // `protocol` is "auto", "grpc" or "http/protobuf". auto: http/protobuf for port 4318 and for a
  // URL with a path; else grpc. The path of http/protobuf gets "/v1/traces" unless it ends so.
  // kConfig for what is no URL; the message quotes nothing secret.
  static base::Result<Endpoint> parse(std::string_view url, std::string_view protocol);
};

}  // namespace mik::otlp
