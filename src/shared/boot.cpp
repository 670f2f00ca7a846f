#include "shared/boot.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>

namespace mik::shared {

namespace {

constexpr std::uint64_t kBootVersion = 1;
constexpr std::size_t kBootNumbers = 5;
constexpr std::uint64_t kCountMax = 4096;
constexpr std::array kFamilySignals = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
constexpr std::size_t kBlockMax = 64u << 20;

base::Error not_for_people() {
  return base::Error(base::ErrorCode::kUsage, "this argument is for mik's own child processes")
      .with_help("start the server with `mik run`");
}

template <class T>
std::optional<T> parse(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

std::optional<std::array<std::uint64_t, kBootNumbers>> parse_numbers(std::string_view text) {
  std::array<std::uint64_t, kBootNumbers> numbers{};
  for (std::size_t i = 0; i < kBootNumbers; ++i) {
    const std::size_t dot = text.find('.');
    if ((dot == std::string_view::npos) != (i + 1 == kBootNumbers)) {
      return std::nullopt;
    }
    const auto value = parse<std::uint64_t>(text.substr(0, dot));
    if (!value) {
      return std::nullopt;
    }
    numbers[i] = *value;
    text.remove_prefix(dot == std::string_view::npos ? text.size() : dot + 1);
  }
  return numbers;
}

// Takes an inherited descriptor over; an invalid Fd when it is not open.
base::Fd adopt(int fd) noexcept {
  const int flags = ::fcntl(fd, F_GETFD);
  if (flags < 0 || ::fcntl(fd, F_SETFD, flags | FD_CLOEXEC) != 0) {
    return {};
  }
  return base::Fd(fd);
}

bool has_argument(int argc, char** argv, std::string_view argument) noexcept {
  return argc >= 2 && argument == argv[1];
}

}  // namespace

ChildPlan plan_worker(const WorkerPlan& plan) {
  ChildPlan child;
  child.arguments = {"mik: worker " + std::to_string(plan.slot), std::string(kWorkerArgument),
                     std::to_string(kBootVersion) + "." + std::to_string(plan.slot) + "." +
                         std::to_string(plan.slots) + "." + std::to_string(plan.generation) + "." +
                         std::to_string(plan.listeners.size())};
  child.descriptors = {plan.control, plan.segment, plan.settings, plan.inbox};
  child.descriptors.insert(child.descriptors.end(), plan.peers.begin(), plan.peers.end());
  child.descriptors.insert(child.descriptors.end(), plan.listeners.begin(), plan.listeners.end());
  return child;
}

ChildPlan plan_compile(std::string component, int result, int settings) {
  return {.arguments = {"mik: compile", std::string(kCompileArgument), std::move(component),
                        std::to_string(kFirstFd), std::to_string(kFirstFd + 1)},
          .descriptors = {result, settings}};
}

bool is_worker(int argc, char** argv) noexcept { return has_argument(argc, argv, kWorkerArgument); }

bool is_compile_child(int argc, char** argv) noexcept {
  return has_argument(argc, argv, kCompileArgument);
}

base::Result<WorkerBoot> enter_worker(int argc, char** argv) {
  if (!is_worker(argc, argv) || argc != 3) {
    return not_for_people();
  }
  const auto numbers = parse_numbers(argv[2]);
  if (!numbers) {
    return not_for_people();
  }
  const auto [version, slot, slots, generation, listeners] = *numbers;
  if (version != kBootVersion || slots == 0 || slots > kCountMax || slot >= slots ||
      listeners > kCountMax) {
    return not_for_people();
  }
  WorkerBoot boot;
  boot.slot = static_cast<std::uint32_t>(slot);
  boot.slots = static_cast<std::uint32_t>(slots);
  boot.generation = generation;
  int next = kFirstFd;
  bool all = true;
  const auto take = [&next, &all] {
    base::Fd fd = adopt(next++);
    all = all && fd.valid();
    return fd;
  };
  boot.control = take();
  boot.segment = take();
  boot.settings = take();
  boot.inbox = take();
  for (std::uint64_t i = 0; i < slots && all; ++i) {
    boot.peers.push_back(take());
  }
  for (std::uint64_t i = 0; i < listeners && all; ++i) {
    boot.listeners.push_back(take());
  }
  if (!all) {
    return not_for_people();
  }
  name_process(argv[0]);
  ignore_family_signals();
  return boot;
}

base::Result<CompileBoot> enter_compile_child(int argc, char** argv) {
  if (!is_compile_child(argc, argv) || argc != 5) {
    return not_for_people();
  }
  const auto result = parse<int>(argv[3]);
  const auto settings = parse<int>(argv[4]);
  if (!result || !settings || *result < kFirstFd || *settings < kFirstFd || *result == *settings) {
    return not_for_people();
  }
  CompileBoot boot;
  boot.component = argv[2];
  boot.result = adopt(*result);
  boot.settings = adopt(*settings);
  if (!boot.result.valid() || !boot.settings.valid()) {
    return not_for_people();
  }
  name_process(argv[0]);
  ignore_family_signals();
  return boot;
}

void ignore_family_signals() noexcept {
  for (const int signal : kFamilySignals) {
    std::signal(signal, SIG_IGN);
  }
  std::signal(SIGPIPE, SIG_IGN);
}

void restore_family_signals() noexcept {
  for (const int signal : kFamilySignals) {
    std::signal(signal, SIG_DFL);
  }
}

void name_process(const std::string& name) noexcept { ::prctl(PR_SET_NAME, name.c_str()); }

base::Result<base::Fd> write_block(std::string_view bytes) {
  base::Fd fd(::memfd_create("mik-block", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) {
    return base::Error::from_errno("memfd_create", errno);
  }
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t wrote = ::write(fd.get(), bytes.data() + done, bytes.size() - done);
    if (wrote < 0 && errno != EINTR) {
      return base::Error::from_errno("cannot write to a memory file", errno);
    }
    done += wrote > 0 ? static_cast<std::size_t>(wrote) : 0;
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) !=
      0) {
    return base::Error::from_errno("cannot seal a memory file", errno);
  }
  return fd;
}

base::Result<std::string> read_block(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) {
    return base::Error::from_errno("cannot look at a memory file", errno);
  }
  if (status.st_size < 0 || static_cast<std::uint64_t>(status.st_size) > kBlockMax) {
    return base::Error(base::ErrorCode::kBadMessage, "a memory file that is too large");
  }
  std::string bytes(static_cast<std::size_t>(status.st_size), '\0');
  std::size_t done = 0;
  while (done < bytes.size()) {
    // By offset: the descriptor, and its position, are shared with the whole family.
    const ssize_t got =
        ::pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (got == 0 || (got < 0 && errno != EINTR)) {
      return base::Error::from_errno("cannot read a memory file", got == 0 ? EIO : errno);
    }
    done += got > 0 ? static_cast<std::size_t>(got) : 0;
  }
  return bytes;
}

}  // namespace mik::shared
