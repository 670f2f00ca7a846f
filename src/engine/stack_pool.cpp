#include "engine/stack_pool.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <utility>

extern "C" {

// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming): the linker's names for
// --wrap.
void* __real_mmap64(void* start, std::size_t bytes, int protection, int flags, int fd,
                    off64_t offset);
void* __wrap_mmap64(void* start, std::size_t bytes, int protection, int flags, int fd,
                    off64_t offset);
int __real_mprotect(void* start, std::size_t bytes, int protection);
int __wrap_mprotect(void* start, std::size_t bytes, int protection);
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)

}  // extern "C"

namespace mik::engine {

namespace {

constexpr std::size_t kPage = 4096;
constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL, which Debian 12's headers do not have

// `end` is written last, and is 0 while there is none; what is left of an earlier one stays.
struct Pool {
  std::atomic<std::uintptr_t> start = 0;
  std::atomic<std::size_t> stack_bytes = 0;
  std::atomic<std::uintptr_t> end = 0;
  std::atomic<const void*> owner = nullptr;
};
Pool pool;

// Of the thread that makes an engine.
struct Expected {
  std::size_t pool_bytes = 0;  // 0: nothing is expected
  std::size_t stack_bytes = 0;
  std::byte* start = nullptr;
  std::size_t guards = 0;  // asked for, below the first so many stacks

  std::size_t stride() const noexcept { return stack_bytes + kPage; }
  std::byte* guard(std::size_t i) const noexcept { return start + i * stride(); }
};
thread_local Expected expected;

// True: all guards are in place.
bool install_guards(int self, const Expected& made) noexcept {
  std::array<iovec, 256> some{};
  for (std::size_t i = 0; i < made.guards;) {
    std::size_t count = 0;
    for (; count < some.size() && i < made.guards; ++count, ++i) {
      some[count] = {.iov_base = made.guard(i), .iov_len = kPage};
    }
    const auto done = ::process_madvise(self, some.data(), count, kGuardInstall, 0);
    if (done != static_cast<ssize_t>(count * kPage)) {
      return false;
    }
  }
  return true;
}

bool install_guards_at_once(const Expected& made) noexcept {
  const auto self = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
  if (self < 0) {
    return false;
  }
  const bool done = install_guards(self, made);
  ::close(self);
  return done;
}

bool protect_guards(const Expected& made) noexcept {
  for (std::size_t i = 0; i < made.guards; ++i) {
    if (__real_mprotect(made.guard(i), kPage, PROT_NONE) != 0) {
      return false;
    }
  }
  return true;
}

// Frames leave a return address at least; what was never written reads as zeroes. Not asked of the
// kernel, which takes longer, nor of the sanitizer, for which what is left of frames is poison.
__attribute__((no_sanitize("address"))) bool is_written(const std::byte* page) noexcept {
  const auto* const words = reinterpret_cast<const std::uint64_t*>(page);
  std::uint64_t all = 0;
  for (std::size_t i = 0; i < kPage / sizeof(std::uint64_t); ++i) {
    all |= words[i];
  }
  return all != 0;
}

}  // namespace

bool expect_stacks(std::size_t count, std::size_t bytes) noexcept {
  expected = {};
  if (pool.end != 0) {
    return false;
  }
  expected.pool_bytes = count * (bytes + kPage);
  expected.stack_bytes = bytes;
  return true;
}

base::Result<bool> stacks_made(const void* owner) {
  const Expected made = std::exchange(expected, {});
  if (owner == nullptr || made.guards == 0) {
    return false;
  }
  // Those that were asked for, whatever they are.
  if (!install_guards_at_once(made) && !protect_guards(made)) {
    return base::Error::from_errno("cannot protect the guests' stacks", errno);
  }
  if (made.guards * made.stride() != made.pool_bytes) {
    return false;
  }
  pool.start = reinterpret_cast<std::uintptr_t>(made.start);
  pool.stack_bytes = made.stack_bytes;
  pool.owner = owner;
  pool.end = pool.start + made.pool_bytes;
  return true;
}

void forget_stacks(const void* owner) noexcept {
  if (pool.owner == owner) {
    pool.end = 0;
    pool.owner = nullptr;
  }
}

std::optional<std::size_t> stack_bytes_to_drop(const void* start, std::size_t bytes) noexcept {
  const auto at = reinterpret_cast<std::uintptr_t>(start);
  if (at >= pool.end || at < pool.start || bytes != pool.stack_bytes ||
      (at - pool.start) % (bytes + kPage) != kPage) {
    return std::nullopt;
  }
  if (bytes < kStackKept + kPage) {
    return 0;
  }
  const std::size_t rest = bytes - kStackKept;
  return is_written(static_cast<const std::byte*>(start) + rest - kPage) ? rest : 0;
}

}  // namespace mik::engine

// NOLINTNEXTLINE(bugprone-reserved-identifier, readability-identifier-naming)
extern "C" void* __wrap_mmap64(void* start, std::size_t bytes, int protection, int flags, int fd,
                               off64_t offset) {
  void* const mapped = __real_mmap64(start, bytes, protection, flags, fd, offset);
  auto& expected = mik::engine::expected;
  if (bytes == expected.pool_bytes && expected.start == nullptr && mapped != MAP_FAILED) {
    expected.start = static_cast<std::byte*>(mapped);
  }
  return mapped;
}

// NOLINTNEXTLINE(bugprone-reserved-identifier, readability-identifier-naming)
extern "C" int __wrap_mprotect(void* start, std::size_t bytes, int protection) {
  auto& expected = mik::engine::expected;
  if (expected.start != nullptr && protection == PROT_NONE && bytes == mik::engine::kPage &&
      start == expected.guard(expected.guards)) {
    ++expected.guards;  // by stacks_made()
    return 0;
  }
  return __real_mprotect(start, bytes, protection);
}
