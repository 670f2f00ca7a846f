// What a run serves: one component, or a folder of modules and of tenants. Reads the file system.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "config/document.hpp"
#include "config/settings.hpp"

namespace mik::cli {

struct Served {
  std::string component_path;  // absolute; empty: modules
  std::string component_name;
  std::string modules_dir;  // absolute; empty: only tenants
  std::vector<std::string> warnings;
};

// PATH of the command line (a component, a glob, a folder of modules), else `server.modules` of a
// document that has a file, else what a build leaves below target/.
base::Result<Served> find_served(const std::optional<std::string>& path,
                                 const config::Document& document);

// What the settings name and nobody finds: modules of routes, of sections, of `root`; folders.
std::vector<std::string> missing_names(const config::Settings& settings);

}  // namespace mik::cli
