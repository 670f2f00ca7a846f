#include "config/check.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <map>
#include <set>

#include <fmt/format.h>

#include "base/names.hpp"
#include "config/check_dependency.hpp"

namespace mik::config {

namespace {

bool is_alnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

std::string check_choice(const Key& key, const std::string& text) {
  std::string_view rest = key.choices;
  std::string all;
  while (!rest.empty()) {
    const std::size_t bar = std::min(rest.find('|'), rest.size());
    if (rest.substr(0, bar) == text) {
      return {};
    }
    all += (all.empty() ? "" : ", ") + in_quotes(rest.substr(0, bar));
    rest.remove_prefix(std::min(bar + 1, rest.size()));
  }
  return "must be one of " + all;
}

std::string check_project_name(const std::string& text) {
  if (text.empty()) {
    return "Project name is required";
  }
  const bool fits =
      text.size() <= 64 && (is_alnum(text[0]) || text[0] == '_') &&
      !(text[0] >= '0' && text[0] <= '9') &&
      std::ranges::all_of(text, [](char c) { return is_alnum(c) || c == '-' || c == '_'; });
  return fits ? std::string()
              : "Invalid project name: at most 64 letters, digits, '-' and '_', the first a letter "
                "or '_'";
}

std::string check_version(const std::string& text) {
  return is_semantic_version(text)
             ? std::string()
             : "Invalid version: must be three numbers by semantic versioning, as \"1.0.0\"";
}

std::string check_name(std::string_view what, const std::string& text) {
  const base::NameProblem problem = base::name_problem(text);
  return problem == base::NameProblem::kNone
             ? std::string()
             : fmt::format("is no name of a {}: {}", what, base::describe(problem));
}

bool is_host_label(std::string_view label) {
  return !label.empty() && label.size() <= 63 &&
         std::ranges::all_of(label, [](char c) { return is_alnum(c) || c == '-' || c == '_'; });
}

std::string check_route_host(const std::string& text) {
  std::string_view rest = text;
  if (rest.starts_with("*.")) {
    rest.remove_prefix(2);
  }
  bool fits = !rest.empty() && rest.size() <= 253;
  if (fits && rest.front() == '[' && rest.back() == ']') {
    return {};  // an IPv6 literal
  }
  while (fits && !rest.empty()) {
    const std::size_t dot = std::min(rest.find('.'), rest.size());
    fits = is_host_label(rest.substr(0, dot)) && dot + 1 != rest.size();
    rest.remove_prefix(std::min(dot + 1, rest.size()));
  }
  return fits ? std::string()
              : "must be a host without a port: \"api.example.com\" or \"*.example.com\"";
}

std::string check_path(const std::string& text) {
  if (!text.starts_with('/') || text.find_first_of("?#") != std::string::npos) {
    return "must be a path: it begins with '/' and has no '?' or '#'";
  }
  return {};
}

std::string check_url(const std::string& text) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (text.starts_with(scheme) && text.size() > scheme.size() && text[scheme.size()] != '/' &&
        text.find_first_of(" \t\r\n") == std::string::npos) {
      return {};
    }
  }
  return "must be a URL: http://host:port or https://host:port";
}

class Checker {
 public:
  Checker(const Document& document, const Syntax& syntax, Purpose purpose)
      : document_(document), syntax_(syntax), purpose_(purpose) {}

  std::vector<Problem> run();

 private:
  void problem(const Origin& at, std::string text, bool warning = false) {
    problems_.push_back({at, std::move(text), warning});
  }
  void check_table(const Table& table);
  void check_texts(const Table& table, const Key& key, const Value& value);
  void check_pairs(const Table& table, const Key& key, const Value& value);
  // Empty: right.
  std::string check_text(const Key& key, const std::string& text) const;

  void check_limits();
  void check_routes();
  void check_tls();
  void check_tenants();

  // Of the file, a flag or a variable; nothing for what was left to mik.
  const Value* explicit_number(const Table* table, std::string_view key) const;

  const Document& document_;
  const Syntax& syntax_;
  Purpose purpose_;
  std::vector<Problem> problems_;
};

std::string Checker::check_text(const Key& key, const std::string& text) const {
  if (text.find('\0') != std::string::npos) {
    return "holds a NUL";
  }
  switch (key.check) {
    case Check::kAny:
      return {};
    case Check::kNotEmpty:
      return !text.empty()           ? std::string()
             : key.name == "modules" ? "modules directory cannot be empty"
                                     : "cannot be empty";
    case Check::kChoice:
      return check_choice(key, text);
    case Check::kProjectName:
      return check_project_name(text);
    case Check::kVersion:
      return check_version(text);
    case Check::kModule:
      return check_name("module", text);
    case Check::kTenant:
      return check_name("tenant", text);
    case Check::kBind:
      return syntax_.bind(text);
    case Check::kNetwork:
      return syntax_.network(text);
    case Check::kHostPattern: {
      const Value* policy = document_.find(SectionId::kServer, "http_private");
      return syntax_.host_pattern(text, policy == nullptr           ? HttpPrivate::kNamed
                                        : policy->text() == "deny"  ? HttpPrivate::kDeny
                                        : policy->text() == "allow" ? HttpPrivate::kAllow
                                                                    : HttpPrivate::kNamed);
    }
    case Check::kRouteHost:
      return check_route_host(text);
    case Check::kRoutePath:
      return check_path(text);
    case Check::kUrl:
      return check_url(text);
  }
  return {};
}

void Checker::check_texts(const Table& table, const Key& key, const Value& value) {
  std::set<std::string_view> seen;
  for (std::size_t i = 0; i < value.texts().size(); ++i) {
    const std::string& text = value.texts()[i];
    const std::string what = check_text(key, text);
    if (!what.empty()) {
      problem(value.element(i),
              fmt::format("{}.{}: {}: {}", table.path, key.name, in_quotes(text), what));
    } else if (key.check == Check::kBind && !seen.insert(text).second) {
      problem(value.element(i),
              fmt::format("{}.{}: {}: stands there twice", table.path, key.name, in_quotes(text)));
    }
  }
}

void Checker::check_pairs(const Table& table, const Key& key, const Value& value) {
  for (std::size_t i = 0; i < value.pairs().size(); ++i) {
    const auto& [name, text] = value.pairs()[i];
    const bool fits =
        !name.empty() && name.find_first_of(std::string_view("=\0", 2)) == std::string::npos;
    if (!fits || text.find('\0') != std::string::npos) {
      problem(value.element(i),
              fmt::format("{}.{}: {}: a name is not empty and has no '=', and neither it nor its "
                          "value a NUL",
                          table.path, key.name, in_quotes(name)));
    }
  }
}

void Checker::check_table(const Table& table) {
  const Section& known = *table.section;
  if (known.id == SectionId::kModules || known.id == SectionId::kTenants) {
    const bool module = known.id == SectionId::kModules;
    const std::string what = check_name(module ? "module" : "tenant", table.name);
    if (!what.empty()) {
      problem(table.origin, fmt::format("{}: {}", table.path, what));
    }
  }
  for (const auto& [key, value] : table.values) {
    switch (key->type) {
      case Type::kText:
      case Type::kPath:
        if (const std::string what = check_text(*key, value.text()); !what.empty()) {
          problem(value.origin, fmt::format("{}.{} = {}: {}", table.path, key->name,
                                            in_quotes(value.text()), what));
        }
        break;
      case Type::kTexts:
        check_texts(table, *key, value);
        break;
      case Type::kPairs:
        check_pairs(table, *key, value);
        break;
      default:
        break;
    }
  }
  if (known.id == SectionId::kDependencies || known.id == SectionId::kDevDependencies) {
    check_dependency(document_, table, purpose_, problems_);
  }
}

const Value* Checker::explicit_number(const Table* table, std::string_view key) const {
  const Value* value = table == nullptr ? nullptr : table->find(key);
  return value == nullptr || value->origin.kind == Origin::Kind::kDefault || value->whole() == 0
             ? nullptr
             : value;
}

void Checker::check_limits() {
  const Value* global =
      explicit_number(document_.find(SectionId::kServer), "max_concurrent_requests");
  if (global == nullptr) {
    return;  // sized to the machine: what is above it is capped
  }
  for (const Table& table : document_.tables) {
    const SectionId id = table.section->id;
    if (id != SectionId::kServer && id != SectionId::kModules && id != SectionId::kTenants) {
      continue;
    }
    const std::string_view name =
        id == SectionId::kServer ? "max_per_module_requests" : "max_requests";
    const Value* limit = explicit_number(&table, name);
    if (limit != nullptr && limit->whole() > global->whole()) {
      problem(limit->origin,
              fmt::format("{}.{} = {}: cannot exceed max_concurrent_requests, which is {}",
                          table.path, name, limit->whole(), global->whole()));
    }
  }
}

void Checker::check_routes() {
  std::map<std::pair<std::string, std::string>, Origin> seen;
  for (const Table& table : document_.tables) {
    if (table.section->id != SectionId::kRoutes) {
      continue;
    }
    const Value* host = table.find("host");
    const Value* path = table.find("path");
    std::string name = host == nullptr ? "" : host->text();
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::tolower(c); });
    std::string prefix = path == nullptr ? "/" : path->text();
    if (prefix.ends_with('/')) {
      prefix.pop_back();
    }
    const auto [old, added] = seen.try_emplace({name, prefix}, table.origin);
    if (!added) {
      problem(table.origin, fmt::format("{}: the same host and path as the route in line {}",
                                        table.path, old->second.line));
    }
    if (table.find("tenant") != nullptr &&
        document_.find(SectionId::kServer, "user_modules") == nullptr) {
      problem(table.find("tenant")->origin,
              fmt::format("{}.tenant: server.user_modules names no folder of tenants", table.path));
    }
  }
}

void Checker::check_tls() {
  const Value* cert = document_.find(SectionId::kServer, "tls_cert");
  const Value* key = document_.find(SectionId::kServer, "tls_key");
  if ((cert == nullptr) != (key == nullptr)) {
    const Value& there = cert != nullptr ? *cert : *key;
    problem(there.origin,
            fmt::format("server.{} = {}: server.{} belongs to it and is not set",
                        cert != nullptr ? "tls_cert" : "tls_key", in_quotes(there.text()),
                        cert != nullptr ? "tls_key" : "tls_cert"));
  }
}

void Checker::check_tenants() {
  if (document_.find(SectionId::kServer, "user_modules") != nullptr) {
    return;
  }
  for (const Table& table : document_.tables) {
    if (table.section->id == SectionId::kTenants) {
      problem(table.origin,
              fmt::format("{}: server.user_modules names no folder of tenants", table.path), true);
    }
  }
}

std::vector<Problem> Checker::run() {
  for (const Table& table : document_.tables) {
    check_table(table);
  }
  check_limits();
  check_routes();
  check_tls();
  check_tenants();
  return std::move(problems_);
}

// One dot-separated list of semver.org 2.0.0; numbers have no leading zero where `numeric`.
bool is_identifiers(std::string_view text, bool numeric_without_zero) noexcept {
  while (true) {
    const std::size_t dot = std::min(text.find('.'), text.size());
    const std::string_view part = text.substr(0, dot);
    const bool digits = std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; });
    if (part.empty() ||
        !std::ranges::all_of(part, [](char c) { return is_alnum(c) || c == '-'; }) ||
        (numeric_without_zero && digits && part.size() > 1 && part[0] == '0')) {
      return false;
    }
    if (dot == text.size()) {
      return true;
    }
    text.remove_prefix(dot + 1);
  }
}

}  // namespace

bool is_semantic_version(std::string_view text) noexcept {
  const std::size_t plus = std::min(text.find('+'), text.size());
  if (plus != text.size() && !is_identifiers(text.substr(plus + 1), false)) {
    return false;
  }
  text = text.substr(0, plus);
  const std::size_t minus = std::min(text.find('-'), text.size());
  if (minus != text.size() && !is_identifiers(text.substr(minus + 1), true)) {
    return false;
  }
  text = text.substr(0, minus);
  return std::ranges::count(text, '.') == 2 && is_identifiers(text, true) &&
         std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || c == '.'; });
}

std::vector<Problem> check(const Document& document, const Syntax& syntax, Purpose purpose) {
  return Checker(document, syntax, purpose).run();
}

}  // namespace mik::config
