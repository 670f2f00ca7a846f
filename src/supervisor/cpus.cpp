#include "supervisor/cpus.hpp"

#include <sched.h>
#include <sys/resource.h>

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

bool names_cpu(std::string_view controllers) {
  while (!controllers.empty()) {
    const std::size_t comma = controllers.find(',');
    if (controllers.substr(0, comma) == "cpu") {
      return true;
    }
    controllers.remove_prefix(comma == std::string_view::npos ? controllers.size() : comma + 1);
  }
  return false;
}

}  // namespace

std::optional<double> cgroup_cpu_quota(const std::string& root) {
  const std::string mount = root + "/sys/fs/cgroup";
  std::optional<double> quota;
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
      quota = tighter(quota, tightest(mount, path, quota_v2));
      quota = tighter(quota, tightest(mount + "/unified", path, quota_v2));
    } else if (names_cpu(controllers)) {
      // In a container the path is the host's while the mount shows the container's own group at
      // its root: both are read.
      quota = tighter(quota, tightest(mount + "/" + controllers, path, quota_v1));
      quota = tighter(quota, tightest(mount + "/cpu", path, quota_v1));
    }
  }
  return quota;
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

}  // namespace mik::supervisor
