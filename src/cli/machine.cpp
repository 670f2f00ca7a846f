#include "cli/machine.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
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

base::Result<void> native_code_allowed() {
  const auto bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* page = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    return base::Error::from_errno("mmap", errno);
  }
  const int error = ::mprotect(page, bytes, PROT_READ | PROT_EXEC) == 0 ? 0 : errno;
  ::munmap(page, bytes);
  if (error != 0) {
    return base::Error::from_errno("no memory may be made executable here", error)
        .with_help(
            "components run as native code: leave MemoryDenyWriteExecute= (PR_SET_MDWE, a seccomp "
            "filter on mprotect) out of the unit or container");
  }
  return {};
}

}  // namespace mik::cli
