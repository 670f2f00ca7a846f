#include "cli/state_folder.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

namespace mik::cli {

using base::Error;
using base::ErrorCode;
namespace fs = std::filesystem;

base::Result<std::string> state_dir(const config::Environment& environment) {
  std::error_code ignored;
  if (const auto home = environment("MIK_HOME"); home.has_value() && !home->empty()) {
    return fs::absolute(*home, ignored).string();
  }
  constexpr const char* kSystem = "/var/lib/mik";
  if (fs::is_directory(kSystem, ignored) && ::access(kSystem, W_OK) == 0) {
    return std::string(kSystem);
  }
  const auto home = environment("HOME");
  if (!home.has_value() || home->empty()) {
    return Error(ErrorCode::kConfig,
                 "neither MIK_HOME nor HOME says where to keep compiled components")
        .with_help("set MIK_HOME to a folder that this user can write");
  }
  return fs::absolute(*home, ignored).string() + "/.mik";
}

void make_state_dir(const std::string& path) {
  std::error_code ignored;
  if (const fs::path parent = fs::path(path).parent_path(); !parent.empty()) {
    fs::create_directories(parent, ignored);
  }
  ::mkdir(path.c_str(), 0700);
  for (const char* name : {"modules", "data", "cache", "logs"}) {
    ::mkdir((path + "/" + name).c_str(), 0700);
  }
}

}  // namespace mik::cli
