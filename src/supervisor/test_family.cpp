#include "supervisor/test_family.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "shared/boot.hpp"
#include "supervisor/spawn.hpp"

namespace mik::supervisor {

namespace {

int ms_until(base::Time until) {
  const auto left =
      std::chrono::ceil<std::chrono::milliseconds>(until - base::Clock::now()).count();
  return left > 0 ? static_cast<int>(left) : 0;
}

bool readable(int fd, base::Time until) {
  pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
  int result = 0;
  do {
    result = ::poll(&entry, 1, ms_until(until));
  } while (result < 0 && errno == EINTR);
  return result == 1;
}

// The next line of a descriptor.
std::optional<std::string> next_line(int fd, std::string& input, base::Time until) {
  for (;;) {
    const std::size_t end = input.find('\n');
    if (end != std::string::npos) {
      std::string line = input.substr(0, end);
      input.erase(0, end + 1);
      return line;
    }
    std::array<char, 4096> buffer{};
    if (!readable(fd, until)) {
      return std::nullopt;
    }
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got <= 0) {
      return std::nullopt;
    }
    input.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

config::Settings settings_of(const TestFamily::Plan& setup) {
  config::Settings settings;
  settings.binds = setup.binds;
  settings.workers = setup.workers;
  settings.component_path = setup.mode;
  settings.component_name = "app";
  settings.shutdown_timeout = setup.shutdown_timeout;
  settings.pin_workers = setup.pin;
  return settings;
}

}  // namespace

Client::Client(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  base::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.valid() &&
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    fd_ = std::move(fd);
  }
}

Client::Client(const std::string& unix_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, unix_path.c_str(), unix_path.size());
  base::Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (fd.valid() &&
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    fd_ = std::move(fd);
  }
}

void Client::say(std::string_view line) {
  const std::string bytes = std::string(line) + "\n";
  static_cast<void>(::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
}

std::optional<std::string> Client::hear(base::Duration limit) {
  return connected() ? next_line(fd_.get(), input_, base::Clock::now() + limit) : std::nullopt;
}

pid_t Client::worker() {
  if (!connected()) {
    return 0;
  }
  say("pid");
  return std::atoi(hear().value_or("0").c_str());
}

TestFamily::TestFamily(const Plan& setup) {
  // Orphans come to us, so that their end can be seen where no init reaps them.
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  const base::Fd block = shared::write_block(config::serialize(settings_of(setup))).value();
  if (setup.reloads) {
    std::string name = testing::TempDir() + "mik-settings-XXXXXX";
    const base::Fd file(::mkstemp(name.data()));
    settings_file_ = name;
  }
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    return;
  }
  report_.reset(ends[0]);
  base::Fd writing(ends[1]);
  SpawnPlan plan{
      .executable = "/proc/self/exe",
      .arguments = {"mik", "__supervise", setup.executable, std::to_string(setup.compile_cpu_s),
                    std::to_string(setup.compile_wall_s), settings_file_},
      .descriptors = {block.get(), writing.get()},
      .cpus = {},
      .nice = 0,
      .limits = {},
      .dies_with_parent = true};
  pid_ = spawn(plan).value();
  writing.reset();  // so that its end is the end of the file
  const auto line = await("listening ");
  const std::size_t colon = line ? line->rfind(':') : std::string::npos;
  if (colon != std::string::npos) {
    port_ = static_cast<std::uint16_t>(std::atoi(line->c_str() + colon + 1));
  }
}

TestFamily::~TestFamily() {
  if (!settings_file_.empty()) {
    ::unlink(settings_file_.c_str());
  }
  if (pid_ <= 0) {
    return;
  }
  const std::vector<pid_t> left = workers();
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  for (const pid_t worker : left) {
    ::kill(worker, SIGKILL);
    ::waitpid(worker, nullptr, 0);  // ours since its parent died
  }
}

void TestFamily::set(const Plan& plan) {
  std::ofstream(settings_file_, std::ios::binary) << config::serialize(settings_of(plan));
}

void TestFamily::set_garbage() { std::ofstream(settings_file_) << "[server"; }

bool TestFamily::await_workers(std::size_t count, base::Duration limit) {
  const base::Time until = base::Clock::now() + limit;
  while (workers().size() != count) {
    if (base::Clock::now() > until) {
      return false;
    }
    ::poll(nullptr, 0, 2);
  }
  return true;
}

void TestFamily::signal(int number) const { ::kill(pid_, number); }

std::optional<std::string> TestFamily::await(std::string_view text, base::Duration limit) {
  const base::Time until = base::Clock::now() + limit;
  for (;;) {
    auto line = next_line(report_.get(), input_, until);
    if (!line) {
      return std::nullopt;
    }
    log_ += *line + "\n";
    if (line->find(text) != std::string::npos) {
      return line;
    }
  }
}

bool TestFamily::await_ready(std::uint32_t workers) {
  for (std::uint32_t i = 0; i < workers; ++i) {
    if (!await(" is ready")) {
      return false;
    }
  }
  return true;
}

int TestFamily::await_exit(base::Duration limit) {
  if (!Watched(pid_).ends_within(limit)) {
    return -1;
  }
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = 0;
  // What it said at the end.
  while (auto line = next_line(report_.get(), input_, base::Clock::now())) {
    log_ += *line + "\n";
  }
  return WIFSIGNALED(status) ? 1000 + WTERMSIG(status) : WEXITSTATUS(status);
}

std::vector<pid_t> TestFamily::workers() const {
  std::istringstream words(proc(pid_, "task/" + std::to_string(pid_) + "/children"));
  std::vector<pid_t> pids;
  pid_t pid = 0;
  while (words >> pid) {
    pids.push_back(pid);
  }
  return pids;
}

Watched::Watched(pid_t pid) : fd_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}

bool Watched::ends_within(base::Duration limit) const {
  return !fd_.valid() || readable(fd_.get(), base::Clock::now() + limit);
}

std::string proc(pid_t pid, const std::string& name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/" + name);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

}  // namespace mik::supervisor
