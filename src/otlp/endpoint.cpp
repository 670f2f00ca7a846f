#include "otlp/endpoint.hpp"

#include <fmt/format.h>

namespace mik::otlp {

namespace {

constexpr std::string_view kTracesPath = "/v1/traces";
constexpr std::string_view kGrpcPath =
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
constexpr std::uint16_t kHttpPort = 4318;

int hex_digit(char c) noexcept {
  return c >= '0' && c <= '9'                 ? c - '0'
         : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                              : -1;
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
        hex_digit(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 1]) << 4 | hex_digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// RFC 4648 section 4.
std::string base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      out += i + j <= bytes.size() ? kAlphabet[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return out;
}

}  // namespace

base::Result<Endpoint> Endpoint::parse(std::string_view url, std::string_view protocol) {
  Endpoint endpoint;
  std::string bare(url);
  const std::size_t host = url.find("://") == std::string_view::npos ? 0 : url.find("://") + 3;
  const std::size_t end = std::min(url.find_first_of("/?#", host), url.size());
  if (const std::size_t at = url.substr(0, end).rfind('@');
      at != std::string_view::npos && at >= host) {
    endpoint.authorization = "Basic " + base64(percent_decoded(url.substr(host, at - host)));
    bare.erase(host, at + 1 - host);
  }
  endpoint.shown = bare.substr(0, bare.find('?'));
  auto parsed = http::parse_url(bare);
  if (!parsed.has_value()) {
    return base::Error(base::ErrorCode::kConfig,
                       fmt::format("tracing.otlp_endpoint: {}", parsed.error().message()))
        .with_help("write http://HOST:4317 (gRPC) or http://HOST:4318 (HTTP)");
  }
  endpoint.url = std::move(*parsed);
  std::string& path = endpoint.url.path_query;
  const bool has_path = path != "/";
  endpoint.protocol = protocol == "grpc"                           ? Protocol::kGrpc
                      : protocol == "http/protobuf"                ? Protocol::kHttp
                      : endpoint.url.port == kHttpPort || has_path ? Protocol::kHttp
                                                                   : Protocol::kGrpc;
  if (endpoint.protocol == Protocol::kGrpc) {
    path = kGrpcPath;
    return endpoint;
  }
  const std::size_t query = std::min(path.find('?'), path.size());
  if (!std::string_view(path).substr(0, query).ends_with(kTracesPath)) {
    const bool slash = query > 0 && path[query - 1] == '/';
    path.insert(query, slash ? kTracesPath.substr(1) : kTracesPath);
  }
  return endpoint;
}

}  // namespace mik::otlp
