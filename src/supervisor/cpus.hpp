// How many CPUs and how much memory this family may use, and how many descriptors. Stateless; any
// thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mik::supervisor {

struct CpuBudget {
  std::vector<int> cpus;        // of the affinity mask, ascending; never empty
  std::optional<double> quota;  // in CPUs; the tightest of the control group and its parents
  // One worker each: the CPUs of the mask, or the quota rounded up when that is less (1.5 gives 2,
  // 0.5 gives 1).
  std::uint32_t count = 1;

  // Pinning pays only when each worker has a CPU for itself and no quota moves them about
  // (docs/design/processes.md).
  bool pins(std::uint32_t workers) const noexcept {
    return !quota.has_value() && workers == cpus.size();
  }
};

CpuBudget cpu_budget();
// CpuBudget::cpus alone, without a look at the control groups.
std::vector<int> usable_cpus();

// The two halves, for tests. `root` is put before /proc/self/cgroup and /sys/fs/cgroup.
std::optional<double> cgroup_cpu_quota(const std::string& root);
CpuBudget combine(std::vector<int> cpus, std::optional<double> quota);

// Bytes that the family may use: the tightest limit of the control group and its parents, or what
// the machine has.
std::uint64_t memory_budget();
// Its first half, for tests; nothing when no group has a limit.
std::optional<std::uint64_t> cgroup_memory_limit(const std::string& root);

// Raises the soft limit of RLIMIT_NOFILE to the hard one; what it is now.
std::uint64_t raise_descriptor_limit() noexcept;

// How many connections a family may have so that none of its workers runs out of descriptors: of
// each worker's a quarter stays for outgoing requests and files. `others`: what a worker holds
// beside that by the shape of the family.
std::uint64_t connections_within(std::uint64_t descriptors, std::uint64_t workers,
                                 std::uint64_t others) noexcept;

}  // namespace mik::supervisor
