#include "cli/machine.hpp"

#include <filesystem>
#include <system_error>

#include "supervisor/cpus.hpp"

namespace mik::cli {

config::Machine this_machine(const std::string& state_dir) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path folder = state_dir;
  while (!fs::exists(folder, error) && folder.has_parent_path() && folder != folder.parent_path()) {
    folder = folder.parent_path();
  }
  const fs::space_info disk = fs::space(folder, error);
  return {.memory_bytes = supervisor::memory_budget(),
          .disk_bytes = error ? 0 : static_cast<std::uint64_t>(disk.capacity),
          .cpus = supervisor::cpu_budget().count};
}

}  // namespace mik::cli
