#include "supervisor/cpus.hpp"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string_view>
#include <thread>

namespace mik::supervisor {

namespace {

constexpr int kCpusMax = 8192;

std::vector<int> affinity() {
  std::vector<int> cpus;
  cpu_set_t* set = CPU_ALLOC(kCpusMax);
  const std::size_t size = CPU_ALLOC_SIZE(kCpusMax);
  CPU_ZERO_S(size, set);
  if (::sched_getaffinity(0, size, set) == 0) {
    for (int cpu = 0; cpu < kCpusMax; ++cpu) {
      if (CPU_ISSET_S(static_cast<std::size_t>(cpu), size, set)) {
        cpus.push_back(cpu);
      }
    }
  }
  CPU_FREE(set);
  return cpus;
}

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) {
    return std::nullopt;
  }
  return line;
}

std::optional<double> ratio(const std::string& quota, const std::string& period) {
  // "max" (v2) and -1 (v1) are no limit.
  const double q = std::strtod(quota.c_str(), nullptr);
  const double p = std::strtod(period.c_str(), nullptr);
  if (quota == "max" || q <= 0 || p <= 0) {
    return std::nullopt;
  }
  return q / p;
}

// cgroup v2, cpu.max: "150000 100000" or "max 100000".
std::optional<double> quota_v2(const std::string& folder) {
  const auto line = first_line(folder + "/cpu.max");
  if (!line) {
    return std::nullopt;
  }
  std::istringstream words(*line);
  std::string quota;
  std::string period = "100000";
  words >> quota >> period;
  return ratio(quota, period);
}

std::optional<double> quota_v1(const std::string& folder) {
  const auto quota = first_line(folder + "/cpu.cfs_quota_us");
  const auto period = first_line(folder + "/cpu.cfs_period_us");
  return quota && period ? ratio(*quota, *period) : std::nullopt;
}

std::optional<double> tighter(std::optional<double> a, std::optional<double> b) {
  return a && b ? std::min(*a, *b) : (a ? a : b);
}

// Of the group and all its parents up to the mount: each limits.
template <class Read>
std::optional<double> tightest(const std::string& mount, std::string path, Read read) {
  std::optional<double> quota = read(mount);
  while (path.size() > 1) {
    quota = tighter(quota, read(mount + path));
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
  return quota;
}

// cgroup v2, memory.max: "536870912" or "max"; v1 has a number of nine exabytes for no limit.
std::optional<double> bytes_of(const std::string& path) {
  const auto line = first_line(path);
  const double bytes = line ? std::strtod(line->c_str(), nullptr) : 0;
  return bytes > 0 && bytes < 1e18 ? std::optional(bytes) : std::nullopt;
}
std::optional<double> memory_v2(const std::string& folder) {
  return bytes_of(folder + "/memory.max");
}
std::optional<double> memory_v1(const std::string& folder) {
  return bytes_of(folder + "/memory.limit_in_bytes");
}

bool names(std::string_view controllers, std::string_view wanted) {
  while (!controllers.empty()) {
    const std::size_t comma = controllers.find(',');
    if (controllers.substr(0, comma) == wanted) {
      return true;
    }
    controllers.remove_prefix(comma == std::string_view::npos ? controllers.size() : comma + 1);
  }
  return false;
}

// The tightest limit of one controller over all hierarchies that this process is in.
template <class ReadV2, class ReadV1>
std::optional<double> tightest_of_groups(const std::string& root, const std::string& controller,
                                         ReadV2 read_v2, ReadV1 read_v1) {
  const std::string mount = root + "/sys/fs/cgroup";
  std::optional<double> limit;
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;  // "0::/path" (v2), "4:cpu,cpuacct:/path" (v1)
  while (std::getline(groups, line)) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) {
      continue;
    }
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      limit = tighter(limit, tightest(mount, path, read_v2));
      limit = tighter(limit, tightest(mount + "/unified", path, read_v2));
    } else if (names(controllers, controller)) {
      // In a container the path is the host's while the mount shows the container's own group at
      // its root: both are read.
      limit = tighter(limit,
                      tightest(std::string(mount).append("/").append(controllers), path, read_v1));
      if (controllers != controller) {
        limit = tighter(limit,
                        tightest(std::string(mount).append("/").append(controller), path, read_v1));
      }
    }
  }
  return limit;
}

}  // namespace

std::optional<double> cgroup_cpu_quota(const std::string& root) {
  return tightest_of_groups(root, "cpu", quota_v2, quota_v1);
}

std::optional<std::uint64_t> cgroup_memory_limit(const std::string& root) {
  const auto bytes = tightest_of_groups(root, "memory", memory_v2, memory_v1);
  return bytes ? std::optional(static_cast<std::uint64_t>(*bytes)) : std::nullopt;
}

std::uint64_t memory_budget() {
  const auto pages = static_cast<std::uint64_t>(std::max(0L, ::sysconf(_SC_PHYS_PAGES)));
  const std::uint64_t machine =
      pages * static_cast<std::uint64_t>(std::max(0L, ::sysconf(_SC_PAGESIZE)));
  return std::min(machine, cgroup_memory_limit("").value_or(machine));
}

CpuBudget combine(std::vector<int> cpus, std::optional<double> quota) {
  CpuBudget budget;
  if (cpus.empty()) {
    for (unsigned cpu = 0; cpu < std::max(1u, std::thread::hardware_concurrency()); ++cpu) {
      cpus.push_back(static_cast<int>(cpu));
    }
  }
  budget.cpus = std::move(cpus);
  budget.count = static_cast<std::uint32_t>(budget.cpus.size());
  if (quota && *quota < static_cast<double>(budget.cpus.size())) {
    budget.quota = quota;
    budget.count = static_cast<std::uint32_t>(std::max(1.0, std::ceil(*quota - 1e-9)));
  }
  return budget;
}

std::vector<int> usable_cpus() { return combine(affinity(), std::nullopt).cpus; }

CpuBudget cpu_budget() { return combine(affinity(), cgroup_cpu_quota("")); }

std::uint64_t raise_descriptor_limit() noexcept {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    return 0;
  }
  if (limit.rlim_cur < limit.rlim_max) {
    rlimit raised = limit;
    raised.rlim_cur = limit.rlim_max;
    if (::setrlimit(RLIMIT_NOFILE, &raised) == 0) {
      limit = raised;
    }
  }
  return limit.rlim_cur;
}

std::uint64_t connections_within(std::uint64_t descriptors, std::uint64_t workers,
                                 std::uint64_t others) noexcept {
  constexpr std::uint64_t kOfAProcess = 64;  // standard streams, epoll, the engine's, artefacts
  constexpr std::uint64_t kLeast = 4;
  const std::uint64_t taken = kOfAProcess + others;
  const std::uint64_t free = descriptors > taken ? descriptors - taken : 0;
  return std::max(kLeast, free - free / 4) * workers;
}

}  // namespace mik::supervisor
