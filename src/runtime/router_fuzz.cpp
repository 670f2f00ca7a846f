// The router against a plain reading of its rules. Input: lines; authority, path and query, then
// what is configured: "s" a single component, "t" tenants, "f" static files, "r" a root, and routes
// as "host path module [strip]".
#include "runtime/router.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "base/names.hpp"

namespace {

using namespace mik;
using runtime::Routed;
using Strings = std::vector<std::string>;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "the router is wrong: %s\n", what);
    std::abort();
  }
}

Strings split(std::string_view text, char at) {
  Strings parts(1);
  for (const char c : text) {
    if (c == at) {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::string lower(std::string text) {
  for (char& c : text) {
    c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  }
  return text;
}

std::string decoded(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() &&
        text.substr(i + 1, 2).find_first_not_of("0123456789abcdefABCDEF") == std::string::npos) {
      out += static_cast<char>(std::stoi(text.substr(i + 1, 2), nullptr, 16));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string host_of(std::string authority) {
  if (authority.starts_with("[")) {
    return lower(authority.substr(0, authority.find(']') + 1));  // none: npos + 1 is 0
  }
  authority = authority.substr(0, authority.find(':'));
  return lower(authority.ends_with(".") ? authority.substr(0, authority.size() - 1) : authority);
}

struct Answer {
  bool module = false;
  int status = 0;
  std::string tenant, name, rest;
};

Answer problem(int status) {
  Answer answer;
  answer.status = status;
  return answer;
}

Answer lead_to(const std::string& tenant, const std::string& name, std::string rest) {
  if (!rest.starts_with("/")) {
    rest = "/" + rest;
  }
  return {true, 0, tenant, name, rest};
}

// How well a route's host fits: 0 not at all, 1 any, then the longer the better.
std::size_t host_rank(const config::RouteSettings& route, const std::string& host) {
  if (route.host.empty()) {
    return 1;
  }
  if (route.host.starts_with("*.")) {
    const std::string rest = host_of(route.host.substr(2));
    const bool fits = !rest.empty() && host.size() > rest.size() + 1 && host.ends_with("." + rest);
    return fits ? 1 + rest.size() : 0;
  }
  const std::string name = host_of(route.host);
  return !name.empty() && name == host ? 1'000'000 : 0;
}

Answer by_routes(const config::Settings& settings, const std::string& host, const std::string& path,
                 const std::string& all) {
  const config::RouteSettings* best = nullptr;
  std::size_t best_host = 0;
  std::size_t best_path = 0;
  for (const config::RouteSettings& route : settings.routes) {
    const std::string prefix = route.path.substr(0, route.path.find_last_not_of('/') + 1);
    const std::size_t rank = host_rank(route, host);
    const bool fits =
        path.starts_with(prefix) && (path.size() == prefix.size() || path[prefix.size()] == '/');
    if (rank == 0 || !fits ||
        (best != nullptr &&
         (rank < best_host || (rank == best_host && prefix.size() <= best_path)))) {
      continue;
    }
    best = &route;
    best_host = rank;
    best_path = prefix.size();
  }
  if (best != nullptr) {
    return lead_to(best->tenant, best->module, best->strip_prefix ? all.substr(best_path) : all);
  }
  const std::string& root = settings.single_component() ? settings.component_name : settings.root;
  return root.empty() ? problem(404) : lead_to("", root, all);
}

Answer expected(const config::Settings& settings, const std::string& host, const std::string& all) {
  const std::string path = all.substr(0, all.find('?'));
  if (path.size() > 4096) {
    return problem(414);
  }
  Strings parts = split(path, '/');  // "", "run", name, ...
  const std::string first = parts.size() > 1 ? parts[1] : "";
  const bool tenants =
      first == "tenant" && (!settings.user_modules_dir.empty() || !settings.single_component());
  if (first != "run" && !tenants) {
    return by_routes(settings, host, path, all);
  }
  if (tenants && settings.user_modules_dir.empty()) {
    return problem(400);
  }
  const std::size_t names = tenants ? 2 : 1;
  parts.resize(std::max(parts.size(), 2 + names));
  std::size_t cut = 1 + first.size();
  Strings found;
  for (std::size_t i = 0; i < names; ++i) {
    if (parts[2 + i].empty()) {
      return problem(404);
    }
    cut += 1 + parts[2 + i].size();
    found.push_back(decoded(parts[2 + i]));
  }
  for (const std::string& name : found) {
    if (!base::valid_module_name(name)) {
      return problem(400);
    }
  }
  return lead_to(tenants ? found[0] : "", found.back(), all.substr(cut));
}

config::Settings configuration(const Strings& lines) {
  config::Settings settings;
  settings.modules_dir = "/m";
  for (std::size_t i = 2; i < lines.size() && i < 40; ++i) {
    const Strings words = split(lines[i], ' ');
    if (lines[i] == "s") {
      settings.component_path = "/m/app.wasm";
      settings.component_name = "app";
    } else if (lines[i] == "t") {
      settings.user_modules_dir = "/t";
    } else if (lines[i] == "f") {
      settings.static_dir = "/f";
    } else if (lines[i] == "r") {
      settings.root = "root";
    } else if (words.size() >= 3 && words[1].starts_with('/') &&
               (words[0].find(':') == std::string::npos || words[0].starts_with('['))) {
      settings.routes.push_back({.host = words[0],
                                 .path = words[1],
                                 .tenant = {},
                                 .module = words[2],
                                 .strip_prefix = words.size() > 3});
    }
  }
  return settings;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Strings lines = split(std::string_view(reinterpret_cast<const char*>(data), size), '\n');
  lines.resize(std::max<std::size_t>(lines.size(), 2));
  const config::Settings settings = configuration(lines);
  const runtime::Router router(settings);
  runtime::RouteBuffer buffer;
  const Routed got = router.route(lines[0], lines[1], buffer);
  switch (got.to) {
    case Routed::To::kModule:
    case Routed::To::kProblem:
      break;
    default:
      require(got.to == Routed::To::kServer
                  ? lines[1] == "*"
                  : lines[1].starts_with("/health") || lines[1].starts_with("/metrics") ||
                        lines[1].starts_with("/_mik/") || lines[1].starts_with("/openapi/") ||
                        (lines[1].starts_with("/static/") && !settings.static_dir.empty()),
              "a built-in endpoint where none is");
      return 0;
  }
  if (!lines[1].starts_with('/')) {  // the parser lets nothing else through but "*" and nothing
    return 0;
  }
  require(settings.static_dir.empty() || !lines[1].starts_with("/static/") ||
              (got.to == Routed::To::kProblem && got.status == 414),
          "static files");
  const Answer want = expected(settings, host_of(lines[0]), lines[1]);
  require((got.to == Routed::To::kModule) == want.module, "module or not");
  if (want.module) {
    require(got.tenant == want.tenant && got.module == want.name, "which module");
    require(got.rest == want.rest, "what the guest sees");
  } else {
    require(got.status == want.status && !got.text.empty(), "status");
  }
  return 0;
}
