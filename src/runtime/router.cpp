#include "runtime/router.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/names.hpp"

namespace mik::runtime {

namespace {

using To = Routed::To;

constexpr std::string_view kNothingHere =
    "Not found. Platform modules: /run/<module>/, Tenant modules: /tenant/<tenant-id>/<module>/";

Routed problem(int status, std::string_view text) noexcept {
  Routed routed;
  routed.status = status;
  routed.text = text;
  return routed;
}

Routed built_in(To to) noexcept {
  Routed routed;
  routed.to = to;
  return routed;
}

char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c; }

// Order of `host` (any case) and `known` (lower case).
int compare_host(std::string_view host, std::string_view known) noexcept {
  const std::size_t common = std::min(host.size(), known.size());
  for (std::size_t i = 0; i < common; ++i) {
    const auto ours = static_cast<unsigned char>(lower(host[i]));
    const auto theirs = static_cast<unsigned char>(known[i]);
    if (ours != theirs) {
      return ours < theirs ? -1 : 1;
    }
  }
  return host.size() < known.size() ? -1 : host.size() > known.size() ? 1 : 0;
}

// Without the port and the dot that ends a fully qualified name; IPv6 keeps its brackets.
std::string_view host_of(std::string_view authority) noexcept {
  if (authority.starts_with('[')) {
    const std::size_t end = authority.find(']');
    return authority.substr(0, end == std::string_view::npos ? 0 : end + 1);
  }
  std::string_view host = authority.substr(0, authority.find(':'));
  if (host.ends_with('.')) {
    host.remove_suffix(1);
  }
  return host;
}

// Of a host in the configuration: as host_of, in lower case, IPv6 in its brackets.
std::string host_key(std::string_view host) {
  const bool bare_ipv6 = !host.starts_with('[') && host.find(':') != host.rfind(':');
  std::string key = bare_ipv6 ? "[" + std::string(host) + "]" : std::string(host_of(host));
  std::transform(key.begin(), key.end(), key.begin(), lower);
  return key;
}

// What is left of a path and query once its prefix is off begins with '/' again.
std::string_view as_path(std::string_view rest, RouteBuffer& buffer) {
  if (rest.starts_with('/')) {
    return rest;
  }
  if (rest.empty()) {
    return "/";
  }
  buffer.rest = "/";
  buffer.rest += rest;
  return buffer.rest;
}

std::string_view path_of(std::string_view path_query) noexcept {
  return path_query.substr(0, path_query.find('?'));
}

// The paths that are compared whole, and the limit on the length of the others.
std::optional<Routed> fixed(std::string_view path_query, std::string_view path) noexcept {
  if (path == "/health") {
    return built_in(To::kHealth);
  }
  if (path == "/metrics") {
    return built_in(To::kMetrics);
  }
  if (path == "/health/live") {
    return built_in(To::kLive);
  }
  if (path == "/health/ready") {
    return built_in(To::kReady);
  }
  if (path_query == "*") {
    return built_in(To::kServer);
  }
  if (path_query.empty()) {
    return problem(405, "CONNECT is not served here");
  }
  if (path.size() > kPathBytesMax) {
    return problem(414, "URI too long: the path has more than 4096 bytes");
  }
  return std::nullopt;
}

// Nothing when the name may be used.
std::optional<Routed> refused_name(std::string_view what, std::string_view name,
                                   RouteBuffer& buffer) {
  const base::NameProblem bad = base::name_problem(name);
  if (bad == base::NameProblem::kNone) {
    return std::nullopt;
  }
  buffer.rest = "invalid request: the ";
  buffer.rest += what;
  buffer.rest += "'s name ";
  buffer.rest += base::describe(bad);
  return problem(400, buffer.rest);
}

}  // namespace

Router::Router(const config::Settings& settings)
    : single_(settings.single_component()),
      tenants_(!settings.user_modules_dir.empty()),
      static_(!settings.static_dir.empty()),
      root_(single_ ? settings.component_name : settings.root) {
  for (const config::RouteSettings& route : settings.routes) {
    add(route);
  }
  for (std::vector<HostRules>* hosts : {&exact_, &wild_}) {
    std::sort(hosts->begin(), hosts->end(),
              [](const HostRules& a, const HostRules& b) { return a.host < b.host; });
  }
}

void Router::add(const config::RouteSettings& route) {
  const bool wild = route.host.starts_with("*.");
  const std::string key = host_key(wild ? std::string_view(route.host).substr(2) : route.host);
  if (key.empty() && !route.host.empty()) {
    return;  // a pattern without a name fits no host
  }
  HostRules* rules = &any_;
  if (!key.empty()) {
    std::vector<HostRules>& hosts = wild ? wild_ : exact_;
    auto known = std::find_if(hosts.begin(), hosts.end(),
                              [&](const HostRules& entry) { return entry.host == key; });
    if (known == hosts.end()) {
      known = hosts.insert(known, HostRules{.host = key, .paths = {}});
    }
    rules = &*known;
  }
  PathRule rule{route.path, route.tenant, route.module, route.strip_prefix};
  while (rule.path.ends_with('/')) {
    rule.path.pop_back();
  }
  const auto at = std::lower_bound(
      rules->paths.begin(), rules->paths.end(), rule.path,
      [](const PathRule& entry, std::string_view path) { return entry.path < path; });
  if (at != rules->paths.end() && at->path == rule.path) {
    return;
  }
  rules->path_bytes_max = std::max(rules->path_bytes_max, rule.path.size());
  rules->paths.insert(at, std::move(rule));
}

const Router::PathRule* Router::match(const HostRules& rules, std::string_view path) {
  if (rules.paths.empty()) {
    return nullptr;
  }
  // Longest first: the whole path, then what stands before each of its slashes from the right.
  std::size_t length = path.size();
  while (true) {
    if (length <= rules.path_bytes_max) {
      const std::string_view prefix = path.substr(0, length);
      const auto at = std::lower_bound(
          rules.paths.begin(), rules.paths.end(), prefix,
          [](const PathRule& entry, std::string_view text) { return entry.path < text; });
      if (at != rules.paths.end() && at->path == prefix) {
        return &*at;
      }
    }
    if (length == 0) {
      return nullptr;
    }
    length = path.rfind('/', std::min(length - 1, rules.path_bytes_max));
    if (length == std::string_view::npos) {
      return nullptr;
    }
  }
}

const Router::PathRule* Router::find(std::string_view authority, std::string_view path) const {
  const std::string_view host = host_of(authority);
  const auto lookup = [&](const std::vector<HostRules>& hosts,
                          std::string_view key) -> const PathRule* {
    const auto at = std::lower_bound(hosts.begin(), hosts.end(), key,
                                     [](const HostRules& entry, std::string_view text) {
                                       return compare_host(text, entry.host) > 0;
                                     });
    return at != hosts.end() && compare_host(key, at->host) == 0 ? match(*at, path) : nullptr;
  };
  if (!host.empty()) {
    if (const PathRule* rule = lookup(exact_, host); rule != nullptr) {
      return rule;
    }
    for (std::size_t dot = wild_.empty() ? std::string_view::npos : host.find('.', 1);
         dot != std::string_view::npos; dot = host.find('.', dot + 1)) {
      if (const PathRule* rule = lookup(wild_, host.substr(dot + 1)); rule != nullptr) {
        return rule;
      }
    }
  }
  return match(any_, path);
}

Routed Router::route(std::string_view authority, std::string_view path_query,
                     RouteBuffer& buffer) const {
  const std::string_view path = path_of(path_query);
  if (const auto routed = fixed(path_query, path); routed.has_value()) {
    return *routed;
  }
  if (path == "/run" || path.starts_with("/run/")) {
    return run(path_query, buffer);
  }
  // Where tenants are not configured, a single component has these paths.
  if ((path == "/tenant" || path.starts_with("/tenant/")) && (tenants_ || !single_)) {
    return tenant(path_query, buffer);
  }
  const bool in_static = path.starts_with("/static/");
  if (in_static && static_) {
    return built_in(To::kStatic);
  }
  if (path.starts_with("/_mik/")) {
    return built_in(To::kGateway);
  }
  if (path.starts_with("/openapi/")) {
    return built_in(To::kOpenApi);
  }
  Routed routed;
  routed.to = To::kModule;
  routed.rest = as_path(path_query, buffer);
  if (const PathRule* rule = find(authority, path); rule != nullptr) {
    routed.tenant = rule->tenant;
    routed.module = rule->module;
    if (rule->strip_prefix) {
      routed.rest = as_path(path_query.substr(rule->path.size()), buffer);
    }
    return routed;
  }
  if (root_.empty()) {
    return problem(404, in_static ? "Static file serving not enabled" : kNothingHere);
  }
  routed.module = root_;
  return routed;
}

Routed Router::run(std::string_view path_query, RouteBuffer& buffer) const {
  constexpr std::size_t kPrefix = std::string_view("/run/").size();
  const std::string_view path = path_of(path_query);
  const std::string_view after = path.substr(std::min(path.size(), kPrefix));
  const std::string_view raw = after.substr(0, after.find('/'));
  if (raw.empty()) {
    return problem(404, "No module specified. Use /run/<module>/");
  }
  Routed routed;
  routed.to = To::kModule;
  routed.module = base::percent_decode(raw, buffer.module);
  if (const auto refused = refused_name("module", routed.module, buffer); refused.has_value()) {
    return *refused;
  }
  routed.rest = as_path(path_query.substr(kPrefix + raw.size()), buffer);
  return routed;
}

Routed Router::tenant(std::string_view path_query, RouteBuffer& buffer) const {
  if (!tenants_) {
    return problem(400, "invalid request: Tenant modules not configured");
  }
  constexpr std::size_t kPrefix = std::string_view("/tenant/").size();
  const std::string_view path = path_of(path_query);
  const std::string_view after = path.substr(std::min(path.size(), kPrefix));
  const std::string_view raw_tenant = after.substr(0, after.find('/'));
  const std::string_view behind = after.substr(std::min(after.size(), raw_tenant.size() + 1));
  const std::string_view raw_module = behind.substr(0, behind.find('/'));
  if (raw_tenant.empty() || raw_module.empty()) {
    return problem(404, "Invalid tenant path. Use /tenant/<tenant-id>/<module>/");
  }
  Routed routed;
  routed.to = To::kModule;
  routed.tenant = base::percent_decode(raw_tenant, buffer.tenant);
  routed.module = base::percent_decode(raw_module, buffer.module);
  if (const auto refused = refused_name("tenant", routed.tenant, buffer); refused.has_value()) {
    return *refused;
  }
  if (const auto refused = refused_name("module", routed.module, buffer); refused.has_value()) {
    return *refused;
  }
  routed.rest =
      as_path(path_query.substr(kPrefix + raw_tenant.size() + 1 + raw_module.size()), buffer);
  return routed;
}

}  // namespace mik::runtime
