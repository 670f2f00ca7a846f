// Where a request leads: from authority and path to a built-in endpoint, a module or an answer.
// Pure: immutable once made, so thread-safe; looks at no file and no table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings.hpp"

namespace mik::runtime {

inline constexpr std::size_t kPathBytesMax = 4096;  // without the query; 414

struct Routed {
  enum class To : std::uint8_t {
    kModule,   // tenant, module, rest
    kProblem,  // status, text
    kHealth,
    kLive,
    kReady,
    kMetrics,
    kGateway,  // "/_mik/..."
    kOpenApi,  // "/openapi/..."
    kStatic,   // "/static/..."
    kServer,   // "*": OPTIONS of the server itself
  };
  To to = To::kProblem;
  std::string_view tenant;  // empty: a platform module
  std::string_view module;  // a valid name (base/names.hpp); whether it exists is not known here
  std::string_view rest;    // path and query for the guest: raw, begins with '/'
  int status = 0;           // of kProblem
  std::string_view text;    // for the client; nothing of what it sent is in it
};

// What a Routed may point into besides the request and the router. Keep one per loop: once it has
// grown, routing allocates nothing.
struct RouteBuffer {
  std::string tenant;
  std::string module;
  std::string rest;
};

class Router {
 public:
  // `settings` are copied from. Of two routes with the same host and path the first counts.
  explicit Router(const config::Settings& settings);

  // In this order: built-in paths; "/run/" and "/tenant/"; [[routes]]; the root (in
  // single-component mode the component). Of the routes those with the most special host that fits
  // win (exact, then "*.x" with the longest x, then any), among them the longest path that is a
  // prefix up to a segment's border; a host without a fitting path leaves it to the next.
  // `authority` as in http::RequestHead, may be empty; `path_query` likewise, empty for CONNECT.
  // Valid until the arguments or the router go or `buffer` is used again.
  Routed route(std::string_view authority, std::string_view path_query, RouteBuffer& buffer) const;

 private:
  struct PathRule {
    std::string path;  // without the '/' at its end; "" fits all
    std::string tenant;
    std::string module;
    bool strip_prefix = false;
  };
  struct HostRules {
    std::string host;             // lower case; of "*.x" the x; empty for any
    std::vector<PathRule> paths;  // sorted by path
    std::size_t path_bytes_max = 0;
  };

  void add(const config::RouteSettings& route);
  static const PathRule* match(const HostRules& rules, std::string_view path);
  const PathRule* find(std::string_view authority, std::string_view path) const;
  Routed run(std::string_view path_query, RouteBuffer& buffer) const;
  Routed tenant(std::string_view path_query, RouteBuffer& buffer) const;

  bool single_ = false;
  bool tenants_ = false;
  bool static_ = false;
  std::string root_;              // empty: nothing answers what no rule claims
  std::vector<HostRules> exact_;  // sorted by host
  std::vector<HostRules> wild_;   // sorted by host
  HostRules any_;
};

}  // namespace mik::runtime
