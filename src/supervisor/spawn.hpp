// Starting a child: this binary again, with exactly the descriptors, limits and CPUs that are
// named. For the supervisor's thread, which must be the only one of its process.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.hpp"

namespace mik::supervisor {

struct ResourceLimit {
  int resource = 0;  // RLIMIT_...
  rlimit limit{};
};

struct SpawnPlan {
  std::string
      executable;  // "/proc/self/exe": the same build, even when the file was replaced since
  std::vector<std::string> arguments;  // argv, its name first
  std::vector<int> descriptors;        // become shared::kFirstFd and on; all others are closed
  std::vector<int> cpus;               // affinity; empty: as ours
  int nice = 0;                        // added to ours
  std::vector<ResourceLimit> limits;
  // Variables and values, beside ours; those that we have stay as they are.
  std::vector<std::pair<std::string, std::string>> environment;
  bool dies_with_parent = false;
};

// Returns when the child executes the binary, or kSystem when it cannot. Standard input is
// /dev/null; the family's signals are ignored from before exec on.
base::Result<pid_t> spawn(const SpawnPlan& plan);

// "was killed by signal 9 (Killed)", "exited with code 1".
std::string describe_exit(int wait_status);

}  // namespace mik::supervisor
