#include "supervisor/spawn.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "base/fd.hpp"
#include "shared/boot.hpp"

namespace mik::supervisor {

namespace {

constexpr int kExecFailed = 127;

// Where a child runs and how politely, once it has become the new program: a child that had to wait
// for a busy CPU, or behind everybody, before its exec would hold up whoever starts it.
void place(pid_t pid, const std::vector<int>& cpus, int nice) {
  if (nice != 0) {
    const int ours = ::getpriority(PRIO_PROCESS, 0);
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(pid), std::min(ours + nice, 19));
  }
  if (cpus.empty()) {
    return;
  }
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) {
    if (cpu >= 0 && cpu < CPU_SETSIZE) {
      CPU_SET(static_cast<std::size_t>(cpu), &set);
    }
  }
  // A CPU that went offline since: unpinned is better than not at all.
  ::sched_setaffinity(pid, sizeof set, &set);
}

// Puts descriptors[i] at kFirstFd + i and the pipe after them. False: errno says why.
bool place_descriptors(const std::vector<int>& descriptors, int error_pipe) {
  const int end = shared::kFirstFd + static_cast<int>(descriptors.size());
  // First above all targets, so that no target is overwritten before it was moved.
  std::vector<int> high;
  for (const int fd : descriptors) {
    high.push_back(::fcntl(fd, F_DUPFD_CLOEXEC, end + 1));
    if (high.back() < 0) {
      return false;
    }
  }
  const int high_pipe = ::fcntl(error_pipe, F_DUPFD_CLOEXEC, end + 1);
  if (high_pipe < 0) {
    return false;
  }
  for (std::size_t i = 0; i < high.size(); ++i) {
    if (::dup2(high[i], shared::kFirstFd + static_cast<int>(i)) < 0) {
      return false;
    }
  }
  if (::dup3(high_pipe, end, O_CLOEXEC) < 0) {
    return false;
  }
  // Ours are all close-on-exec; this is for what we were given without it. Absent before Linux 5.9.
  ::close_range(static_cast<unsigned>(end + 1), ~0u, 0);
  return true;
}

[[noreturn]] void fail(int pipe) {
  const int error = errno;
  [[maybe_unused]] const ssize_t wrote = ::write(pipe, &error, sizeof error);
  ::_exit(kExecFailed);
}

[[noreturn]] void become(const SpawnPlan& plan, const std::vector<char*>& argv, int pipe,
                         pid_t parent) {
  if (plan.dies_with_parent) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) {
      ::_exit(kExecFailed);
    }
  }
  shared::ignore_family_signals();
  std::signal(SIGCHLD, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (null < 0 || ::dup2(null, STDIN_FILENO) < 0) {
    fail(pipe);
  }
  if (!place_descriptors(plan.descriptors, pipe)) {
    fail(pipe);
  }
  pipe = shared::kFirstFd + static_cast<int>(plan.descriptors.size());
  for (const ResourceLimit& limit : plan.limits) {
    if (::setrlimit(static_cast<__rlimit_resource_t>(limit.resource), &limit.limit) != 0) {
      fail(pipe);
    }
  }
  for (const auto& [name, value] : plan.environment) {
    if (::setenv(name.c_str(), value.c_str(), 0) != 0) {
      fail(pipe);
    }
  }
  ::execv(plan.executable.c_str(), argv.data());
  fail(pipe);
}

}  // namespace

base::Result<pid_t> spawn(const SpawnPlan& plan) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return base::Error::from_errno("pipe2", errno);
  }
  base::Fd reading(ends[0]);
  base::Fd writing(ends[1]);
  std::vector<char*> argv;
  for (const std::string& argument : plan.arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));  // execv's signature; it changes nothing
  }
  argv.push_back(nullptr);

  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) {
    return base::Error::from_errno("cannot start a process", errno);
  }
  if (pid == 0) {
    become(plan, argv, writing.get(), parent);
  }
  writing.reset();
  // End of file comes with exec, which takes a fraction of a millisecond.
  int error = 0;
  ssize_t got = 0;
  do {
    got = ::read(reading.get(), &error, sizeof error);
  } while (got < 0 && errno == EINTR);
  if (got == sizeof error) {
    ::waitpid(pid, nullptr, 0);
    return base::Error::from_errno("cannot execute " + plan.executable, error);
  }
  place(pid, plan.cpus, plan.nice);
  return pid;
}

std::string describe_exit(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    const int signal = WTERMSIG(wait_status);
    const char* name = ::sigdescr_np(signal);
    return "was killed by signal " + std::to_string(signal) + " (" +
           (name != nullptr ? name : "unknown") + ")";
  }
  return "exited with code " + std::to_string(WEXITSTATUS(wait_status));
}

}  // namespace mik::supervisor
