// mik.toml with what flags say over it: found, read, completed and checked.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "cli/command_line.hpp"
#include "config/build.hpp"
#include "config/check.hpp"
#include "config/document.hpp"

namespace mik::cli {

struct Manifest {
  config::Document document;
  std::vector<config::Problem> problems;  // errors and warnings
};

// `file` as the user named it, else mik.toml in the working directory when there is one, else none.
// Absolute; kNotFound when a file that was named is not there.
base::Result<std::string> find_manifest(const std::optional<std::string>& file);

// An error when the file cannot be read at all.
base::Result<Manifest> load_manifest(const std::string& file, const RunArguments& flags,
                                     const config::Folders& folders, config::Purpose purpose);

// By their place in the file.
void sort_problems(std::vector<config::Problem>& problems);

// One error with a cause for each problem that is no warning; the file's name is in each.
base::Result<void> refuse_problems(const std::vector<config::Problem>& problems,
                                   const std::string& file);

}  // namespace mik::cli
