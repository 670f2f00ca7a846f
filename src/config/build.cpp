#include "config/build.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include <fmt/format.h>

#include "base/assert.hpp"
#include "config/reader.hpp"

namespace mik::config {

namespace {

constexpr std::uint64_t kMiB = 1ull << 20;

// The fallbacks of the model, read by the reader itself.
const Document& defaults() {
  static const Document kDocument = [] {
    std::string text;
    for (const Section& section : sections()) {
      if (section.shape == Shape::kNamed || section.id == SectionId::kSchedules) {
        continue;
      }
      text += section.shape == Shape::kList ? fmt::format("[[{}]]\n", section.name)
                                            : fmt::format("[{}]\n", section.name);
      for (const Key& key : keys()) {
        if (key.section == section.id && !key.fallback.empty()) {
          text += fmt::format("{} = {}\n", key.name, key.fallback);
        }
      }
    }
    ReadResult read = read_manifest(text, "");
    for (const Problem& problem : read.problems) {
      // A required key has no fallback, and that is all that may be wrong here.
      MIK_ASSERT(problem.text.find("required") != std::string::npos);
    }
    for (Table& table : read.document.tables) {
      for (auto& [key, value] : table.values) {
        value.origin = {};
        value.elements.clear();
      }
    }
    return std::move(read.document);
  }();
  return kDocument;
}

void add_defaults(Table& table) {
  const Table* from = defaults().find(table.section->id);
  if (from == nullptr) {
    return;
  }
  for (const auto& [key, value] : from->values) {
    if (table.find(key->name) == nullptr) {
      table.set(*key, value);
    }
  }
}

// "${NAME}" replaced; the name that is not there as a problem.
std::string expand(const std::string& text, const Environment& environment, std::string& problem) {
  std::string out;
  std::size_t i = 0;
  while (i < text.size()) {
    if (text.compare(i, 3, "$${") == 0) {
      out += "${";
      i += 3;
      continue;
    }
    const std::size_t end = text.compare(i, 2, "${") == 0 ? text.find('}', i) : std::string::npos;
    if (end == std::string::npos) {
      out += text[i++];
      continue;
    }
    const std::string name = text.substr(i + 2, end - i - 2);
    const auto value = environment(name);
    if (!value.has_value()) {
      problem = fmt::format("the environment of mik has no variable {}", in_quotes(name));
    }
    out += value.value_or("");
    i = end + 1;
  }
  return out;
}

class Builder {
 public:
  Builder(Document& document, const BuildContext& context, const Environment& environment,
          std::vector<Problem>& problems)
      : document_(document), context_(context), environment_(environment), problems_(problems) {}

  Settings build();

 private:
  Table& server() { return document_.at(SectionId::kServer); }
  std::uint64_t whole(std::string_view key) { return server().find(key)->whole(); }
  // A component without a file has fixed sizes, as the reference's has.
  bool sizes_are_automatic() {
    const bool bare = document_.file.empty() && context_.serving == Serving::kComponent;
    return server().find("auto")->flag() && !bare;
  }
  // In place of a 0.
  void automatic(std::string_view key, std::uint64_t value);

  void apply(const Table& table, const Target& target);
  void size_caches();
  void size_requests();
  void add_modules();
  void add_tenants();
  void add_routes();
  // What a section of a module or tenant starts from.
  GuestSettings inherited() const;
  void finish_guest(const Table& table, GuestSettings& guest);

  Document& document_;
  const BuildContext& context_;
  const Environment& environment_;
  std::vector<Problem>& problems_;
  Settings settings_;
  bool cpu_is_automatic_ = false;
};

void Builder::apply(const Table& table, const Target& target) {
  for (const auto& [key, value] : table.values) {
    if (key->apply == nullptr) {
      continue;
    }
    if (key->type != Type::kPairs) {
      key->apply(target, value);
      continue;
    }
    Value expanded = value;
    auto& pairs = std::get<Pairs>(expanded.data);
    for (std::size_t i = 0; i < pairs.size(); ++i) {
      std::string problem;
      pairs[i].second = expand(pairs[i].second, environment_, problem);
      if (!problem.empty()) {
        problems_.push_back({value.element(i), fmt::format("{}.{}.{}: {}", table.path, key->name,
                                                           key_text(pairs[i].first), problem)});
      }
    }
    key->apply(target, expanded);
  }
}

void Builder::automatic(std::string_view key, std::uint64_t value) {
  server().set(*find_key(SectionId::kServer, key),
               {.data = value, .origin = {Origin::Kind::kAutomatic, {}, 0, 0}});
}

void Builder::size_caches() {
  const bool automatic_sizes = sizes_are_automatic();
  const std::uint64_t memory = context_.machine.memory_bytes;
  if (whole("cache_size") == 0) {
    automatic("cache_size",
              automatic_sizes ? std::clamp<std::uint64_t>(memory / (10 * kMiB), 10, 1000) : 100);
  }
  if (whole("max_cache_mb") == 0) {
    automatic("max_cache_mb",
              automatic_sizes ? std::clamp<std::uint64_t>(memory / 10 / kMiB, 64, 1024) : 256);
  }
  if (whole("memory_budget_mb") == 0) {
    automatic("memory_budget_mb", std::max<std::uint64_t>(memory / 10 * 7 / kMiB, 1));
  }
  if (whole("aot_max_mb") == 0) {
    const std::uint64_t quarter = context_.machine.disk_bytes / 4 / kMiB;
    automatic("aot_max_mb", std::clamp<std::uint64_t>(quarter, 1, 1024));
  }
  if (whole("workers") == 0) {
    automatic("workers", context_.machine.cpus);
  }
}

void Builder::size_requests() {
  const bool automatic_sizes = sizes_are_automatic();
  if (whole("max_concurrent_requests") == 0) {
    automatic("max_concurrent_requests",
              automatic_sizes
                  ? std::clamp<std::uint64_t>(context_.machine.cpus * 150ull, 100, 10000)
                  : 1000);
  }
  const std::uint64_t global = whole("max_concurrent_requests");
  if (whole("max_per_module_requests") == 0) {
    std::uint64_t share = automatic_sizes ? std::clamp<std::uint64_t>(global / 10, 10, 500) : 10;
    if (context_.serving == Serving::kComponent) {
      share = global;  // there is no neighbour to leave anything for
    }
    automatic("max_per_module_requests", std::min(share, global));
  } else if (whole("max_per_module_requests") > global) {
    problems_.push_back(
        {server().find("max_per_module_requests")->origin,
         fmt::format("server.max_per_module_requests = {}: max_concurrent_requests is {} on this "
                     "machine: taken as that",
                     whole("max_per_module_requests"), global),
         true});
    Value capped = *server().find("max_per_module_requests");
    capped.data = global;
    server().set(*find_key(SectionId::kServer, "max_per_module_requests"), capped);
  }
}

GuestSettings Builder::inherited() const {
  GuestSettings guest = settings_.guest;
  if (cpu_is_automatic_) {
    guest.cpu_budget = {};
  }
  return guest;
}

void Builder::finish_guest(const Table& table, GuestSettings& guest) {
  if (guest.cpu_budget == base::Duration::zero()) {
    guest.cpu_budget = guest.execution_timeout;
  }
  if (guest.max_requests > settings_.max_concurrent_requests) {
    problems_.push_back(
        {table.origin,
         fmt::format("{}.max_requests = {}: max_concurrent_requests is {} on this "
                     "machine: taken as that",
                     table.path, guest.max_requests, settings_.max_concurrent_requests),
         true});
    guest.max_requests = settings_.max_concurrent_requests;
  }
}

void Builder::add_modules() {
  for (const Table& table : document_.tables) {
    if (table.section->id == SectionId::kModules) {
      ModuleSettings module{.name = table.name, .guest = inherited()};
      apply(table, {.guest = &module.guest});
      finish_guest(table, module.guest);
      settings_.modules.push_back(std::move(module));
    }
  }
  std::ranges::sort(settings_.modules, {}, &ModuleSettings::name);
}

void Builder::add_tenants() {
  for (const Table& table : document_.tables) {
    if (table.section->id == SectionId::kTenants) {
      TenantSettings tenant{.id = table.name, .guest = inherited()};
      tenant.guest.services.clear();  // a grant to a tenant is written down
      apply(table, {.guest = &tenant.guest, .tenant = &tenant});
      if (tenant.max_requests != 0) {
        tenant.guest.max_requests = std::min(tenant.guest.max_requests, tenant.max_requests);
      }
      finish_guest(table, tenant.guest);
      settings_.tenants.push_back(std::move(tenant));
    }
  }
  std::ranges::sort(settings_.tenants, {}, &TenantSettings::id);
}

void Builder::add_routes() {
  for (const Table& table : document_.tables) {
    if (table.section->id == SectionId::kRoutes) {
      RouteSettings route;
      apply(table, {.route = &route});
      std::ranges::transform(route.host, route.host.begin(), [](char c) {
        return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
      });
      settings_.routes.push_back(std::move(route));
    }
  }
}

Settings Builder::build() {
  size_caches();
  size_requests();
  cpu_is_automatic_ = whole("cpu_ms") == 0;
  if (cpu_is_automatic_) {
    automatic("cpu_ms", whole("execution_timeout_secs") * 1000);
  }
  Table& tracing = document_.at(SectionId::kTracing);
  if (tracing.find("service_name") == nullptr) {
    const Value* name = document_.find(SectionId::kProject, "name");
    tracing.set(*find_key(SectionId::kTracing, "service_name"),
                {.data = name == nullptr ? std::string("mik") : name->text(),
                 .origin = {Origin::Kind::kAutomatic, {}, 0, 0}});
  }
  for (const Table& table : document_.tables) {
    if (table.section->shape == Shape::kOne) {
      apply(table, {.settings = &settings_, .guest = &settings_.guest});
    }
  }
  settings_.config_file = document_.file;
  settings_.workers = static_cast<std::uint32_t>(whole("workers"));
  const std::string& format = server().find("log_format")->text();
  settings_.log_stdout = settings_.log_file.empty();
  const bool text = format == "auto" ? context_.terminal && settings_.log_stdout : format == "text";
  settings_.log_format = text ? LogFormat::kText : LogFormat::kJson;
  add_modules();
  add_tenants();
  add_routes();
  if (context_.serving == Serving::kComponent && document_.file.empty()) {
    settings_.breaker.failures = 0;  // no neighbour to protect: every request is tried
  }
  return std::move(settings_);
}

}  // namespace

void complete(Document& document, const Folders& folders) {
  namespace fs = std::filesystem;
  for (const Section& section : sections()) {
    const bool has_no_defaults = section.id == SectionId::kProject;
    if (section.shape == Shape::kOne && !has_no_defaults) {
      document.at(section.id);
    }
  }
  const std::string base = document.file.empty() ? folders.working
                           : document.file.starts_with("/etc/mik/")
                               ? folders.state
                               : fs::path(document.file).parent_path().string();
  for (Table& table : document.tables) {
    if (table.section->shape == Shape::kOne || table.section->id == SectionId::kRoutes) {
      add_defaults(table);
    }
    for (auto& [key, value] : table.values) {
      if (key->type == Type::kPath && !value.text().empty()) {
        const fs::path whole = (fs::path(base) / value.text()).lexically_normal();
        value.data = (whole.has_filename() ? whole : whole.parent_path()).string();
      }
    }
  }
}

Settings build(Document& document, const BuildContext& context, const Environment& environment,
               std::vector<Problem>& problems) {
  return Builder(document, context, environment, problems).build();
}

}  // namespace mik::config
