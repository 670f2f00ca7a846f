#include "cli/served.hpp"

#include <algorithm>
#include <array>
#include <filesystem>

#include <fmt/format.h>

#include "cli/component_path.hpp"

namespace mik::cli {

namespace {

using base::Error;
using base::ErrorCode;
namespace fs = std::filesystem;

std::string without_slash(const fs::path& path) {
  const fs::path normal = path.lexically_normal();
  return (normal.has_filename() || !normal.has_relative_path() ? normal : normal.parent_path())
      .string();
}

base::Result<Served> component(const std::optional<std::string>& path) {
  MIK_TRY_ASSIGN(ComponentFile file, find_component(path));
  Served served;
  served.component_path = std::move(file.path);
  served.component_name = std::move(file.name);
  if (!file.warning.empty()) {
    served.warnings.push_back(std::move(file.warning));
  }
  return served;
}

bool module_is_there(const config::Settings& settings, const std::string& tenant,
                     const std::string& module) {
  if (tenant.empty() && settings.single_component()) {
    return module == settings.component_name;
  }
  std::error_code ignored;
  const fs::path folder = tenant.empty() ? fs::path(settings.modules_dir)
                                         : fs::path(settings.user_modules_dir) / tenant;
  return fs::exists(folder / (module + ".wasm"), ignored);
}

}  // namespace

base::Result<Served> find_served(const std::optional<std::string>& path,
                                 const config::Document& document) {
  std::error_code error;
  if (path.has_value() && !path->empty()) {
    if (!fs::is_directory(*path, error)) {
      return component(path);
    }
    Served served;
    served.modules_dir = without_slash(fs::absolute(*path, error));
    return served;
  }
  if (document.file.empty()) {
    return component(std::nullopt);
  }
  const config::Value& modules = *document.find(config::SectionId::kServer, "modules");
  Served served;
  if (fs::is_directory(modules.text(), error)) {
    served.modules_dir = modules.text();
    return served;
  }
  if (fs::exists(modules.text(), error)) {
    return component(modules.text());
  }
  if (modules.origin.kind == config::Origin::Kind::kDefault &&
      document.find(config::SectionId::kServer, "user_modules") != nullptr) {
    return served;
  }
  const std::string at = modules.origin.kind == config::Origin::Kind::kDefault
                             ? document.file
                             : modules.origin.to_string();
  return Error(ErrorCode::kNotFound,
               fmt::format("{}: server.modules: no such folder or file: {}", at, modules.text()))
      .with_help(
          "make the folder, which may be empty, or name another: [server] modules = \"...\"");
}

namespace {

// What wins before any route: docs/reference/http.md.
bool is_built_in(std::string_view path) {
  constexpr std::array<std::string_view, 5> kExactly = {"/health", "/health/live", "/health/ready",
                                                        "/metrics", "/openapi"};
  constexpr std::array<std::string_view, 4> kBelow = {"/run", "/tenant", "/_mik", "/openapi"};
  return std::ranges::find(kExactly, path) != kExactly.end() ||
         std::ranges::any_of(kBelow, [path](std::string_view below) {
           return path.starts_with(below) &&
                  (path.size() == below.size() || path[below.size()] == '/');
         });
}

}  // namespace

std::vector<std::string> missing_names(const config::Settings& settings) {
  std::vector<std::string> out;
  std::error_code ignored;
  const auto missing = [&](std::string_view key, const std::string& tenant,
                           const std::string& module) {
    if (!module_is_there(settings, tenant, module)) {
      out.push_back(
          fmt::format("{}: there is no module {} yet", key,
                      config::in_quotes(tenant.empty() ? module : tenant + "/" + module)));
    }
  };
  for (const config::ModuleSettings& module : settings.modules) {
    missing("modules." + config::key_text(module.name), {}, module.name);
  }
  for (const config::RouteSettings& route : settings.routes) {
    missing(fmt::format("routes: path {}", config::in_quotes(route.path)), route.tenant,
            route.module);
    if (is_built_in(route.path)) {
      out.push_back(fmt::format("routes: path {} is never reached: it is built in",
                                config::in_quotes(route.path)));
    }
  }
  if (!settings.root.empty()) {
    missing("server.root", {}, settings.root);
  }
  if (!settings.user_modules_dir.empty() && !fs::is_directory(settings.user_modules_dir, ignored)) {
    out.push_back(
        fmt::format("server.user_modules: no such folder yet: {}", settings.user_modules_dir));
  }
  if (!settings.static_dir.empty() && !fs::is_directory(settings.static_dir, ignored)) {
    out.push_back(fmt::format("server.static: no such folder yet: {}", settings.static_dir));
  }
  const fs::path log_folder = fs::path(settings.log_file).parent_path();
  const bool ours =
      settings.log_file.starts_with(settings.state_dir + "/");  // is made at the start
  if (!log_folder.empty() && !ours && !fs::is_directory(log_folder, ignored)) {
    out.push_back(fmt::format("server.log_file: no such folder yet: {}", log_folder.string()));
  }
  for (const std::string& bind : settings.binds) {
    if (bind == settings.admin) {
      out.push_back(fmt::format(
          "server.admin: {} is a bind of the server itself; give it another port", bind));
    }
  }
  return out;
}

}  // namespace mik::cli
