#include "engine/stack_pool.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>

namespace mik::engine {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kStack = 1 << 20;
constexpr std::size_t kStride = kStack + kPage;
constexpr std::size_t kCount = 300;  // more than one call has room for

// What the engine does with its pool.
class StackPool : public testing::Test {
 protected:
  void TearDown() override {
    forget_stacks(this);
    if (start_ != nullptr) {
      ::munmap(start_, kCount * kStride);
    }
  }
  void map() {
    void* const mapped = ::mmap64(nullptr, kCount * kStride, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(mapped, MAP_FAILED);
    start_ = static_cast<std::byte*>(mapped);
  }
  void protect() {
    for (std::size_t i = 0; i < kCount; ++i) {
      ASSERT_EQ(::mprotect(guard(i), kPage, PROT_NONE), 0);
    }
  }
  void make() {
    expect_stacks(kCount, kStack);
    map();
    protect();
    const auto made = stacks_made(this);
    ASSERT_TRUE(made.has_value()) << made.error().to_string();
    ASSERT_TRUE(*made);
  }

  std::byte* guard(std::size_t i) const { return start_ + i * kStride; }
  std::byte* stack(std::size_t i) const { return guard(i) + kPage; }
  // As a guest does that comes so far down.
  void use(std::size_t i, std::size_t bytes) const {
    for (std::size_t at = 16; at <= bytes; at += 48) {
      *(stack(i) + kStack - at) = std::byte{1};
    }
  }
  std::size_t mappings() const {
    std::ifstream maps("/proc/self/maps");
    std::size_t count = 0;
    for (std::string line; std::getline(maps, line);) {
      const auto at = std::stoull(line, nullptr, 16);
      const auto first = reinterpret_cast<std::uintptr_t>(start_);
      count += at >= first && at < first + kCount * kStride ? 1 : 0;
    }
    return count;
  }

  std::byte* start_ = nullptr;
};

// Asked of the kernel, which says EFAULT where we would be killed.
bool is_readable(const std::byte* page) {
  int ends[2];
  EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const bool readable = ::write(ends[1], page, 1) == 1;
  EXPECT_TRUE(readable || errno == EFAULT);
  ::close(ends[0]);
  ::close(ends[1]);
  return readable;
}

// Asked of the kernel itself, so that a fault of ours is not taken for one of its.
bool kernel_has_guards() {
  void* const page =
      ::mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  const int self = static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0));
  const iovec one{.iov_base = page, .iov_len = kPage};
  const bool has = ::process_madvise(self, &one, 1, 102, 0) == static_cast<ssize_t>(kPage);
  ::close(self);
  ::munmap(page, kPage);
  return has;
}

TEST_F(StackPool, EachStackHasItsGuard) {
  make();
  for (std::size_t i = 0; i < kCount; ++i) {
    ASSERT_FALSE(is_readable(guard(i))) << i;
    ASSERT_TRUE(is_readable(stack(i))) << i;
    ASSERT_TRUE(is_readable(stack(i) + kStack - 1)) << i;
  }
}

TEST_F(StackPool, GuardsAreInOneMappingWhereTheKernelHasThem) {
  if (!kernel_has_guards()) {
    GTEST_SKIP() << "this kernel does not install guards by process_madvise";
  }
  make();
  EXPECT_LE(mappings(), 2u);
}

// An older kernel, a sandbox: here a process that may open nothing more, not even itself.
TEST_F(StackPool, WhereTheyCannotBeMadeTogetherEachIsAMapping) {
  ASSERT_TRUE(expect_stacks(kCount, kStack));
  map();
  protect();
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  const rlimit none{.rlim_cur = 0, .rlim_max = files.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto made = stacks_made(this);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  ASSERT_TRUE(made.has_value() && *made);
  EXPECT_GE(mappings(), kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    ASSERT_FALSE(is_readable(guard(i))) << i;
    ASSERT_TRUE(is_readable(stack(i))) << i;
  }
}

TEST_F(StackPool, AStackThatWasUsedDeeplyGoesBackButForItsTop) {
  make();
  use(7, 400 << 10);
  use(8, kStackKept);
  EXPECT_EQ(stack_bytes_to_drop(stack(7), kStack), kStack - kStackKept);
  EXPECT_EQ(stack_bytes_to_drop(stack(8), kStack), 0u);
  EXPECT_EQ(stack_bytes_to_drop(stack(9), kStack), 0u);

  for (const std::size_t i : {7u, 8u}) {
    ASSERT_EQ(::madvise(stack(i), kStack, MADV_DONTNEED), 0);
    EXPECT_EQ(*(stack(i) + kStack - 16), std::byte{1}) << "what the next guest needs stays";
  }
  EXPECT_EQ(*(stack(7) + kStack - (300 << 10)), std::byte{0});
  EXPECT_EQ(stack_bytes_to_drop(stack(7), kStack), 0u);
}

TEST_F(StackPool, OneThatIsUsedAgainAndAgainIsLookedAtEachTime) {
  make();
  EXPECT_EQ(stack_bytes_to_drop(stack(7), kStack), 0u);
  use(7, 400 << 10);
  EXPECT_EQ(stack_bytes_to_drop(stack(7), kStack), kStack - kStackKept);
}

TEST_F(StackPool, WhatIsNoStackOfItGoesBackWhole) {
  make();
  use(1, 400 << 10);
  EXPECT_EQ(stack_bytes_to_drop(stack(1), kStack - kPage), std::nullopt);
  EXPECT_EQ(stack_bytes_to_drop(stack(1) + kPage, kStack), std::nullopt);
  EXPECT_EQ(stack_bytes_to_drop(guard(1), kStack), std::nullopt);
  EXPECT_EQ(stack_bytes_to_drop(start_ + kCount * kStride + kPage, kStack), std::nullopt);
  EXPECT_EQ(stack_bytes_to_drop(start_ - kStack, kStack), std::nullopt);
  forget_stacks(nullptr);  // somebody else's
  EXPECT_NE(stack_bytes_to_drop(stack(1), kStack), std::nullopt);
  forget_stacks(this);
  EXPECT_EQ(stack_bytes_to_drop(stack(1), kStack), std::nullopt);
  ASSERT_EQ(::madvise(stack(1), kStack, MADV_DONTNEED), 0);
  EXPECT_EQ(*(stack(1) + kStack - 16), std::byte{0});
}

TEST_F(StackPool, ASecondPoolIsLeftAlone) {
  make();
  std::byte* const first = start_;
  EXPECT_FALSE(expect_stacks(kCount, kStack));
  map();
  protect();
  const auto made = stacks_made(this + 1);
  ASSERT_TRUE(made.has_value());
  EXPECT_FALSE(*made);
  EXPECT_FALSE(is_readable(guard(0)));
  EXPECT_EQ(stack_bytes_to_drop(stack(0), kStack), std::nullopt);
  ::munmap(start_, kCount * kStride);
  start_ = first;
}

// Whatever the engine does otherwise than we think: what it asked for is done.
TEST_F(StackPool, AGuardThatWasAskedForIsInPlace) {
  ASSERT_TRUE(expect_stacks(kCount, kStack));
  map();
  for (const std::size_t i : {0u, 1u, 3u, 2u}) {
    ASSERT_EQ(::mprotect(guard(i), kPage, PROT_NONE), 0);
  }
  const auto made = stacks_made(this);
  ASSERT_TRUE(made.has_value());
  EXPECT_FALSE(*made);
  for (std::size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(is_readable(guard(i)), i == 4) << i;
  }
}

TEST_F(StackPool, AnEngineThatFailedHasNone) {
  ASSERT_TRUE(expect_stacks(kCount, kStack));
  map();
  protect();
  const auto made = stacks_made(nullptr);
  ASSERT_TRUE(made.has_value());
  EXPECT_FALSE(*made);
  EXPECT_EQ(stack_bytes_to_drop(stack(1), kStack), std::nullopt);
}

TEST_F(StackPool, NothingIsSeenWhereNoPoolIsMade) {
  ASSERT_TRUE(expect_stacks(kCount, kStack));
  void* const other = ::mmap64(nullptr, kStack, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_EQ(::mprotect(other, kPage, PROT_NONE), 0);
  EXPECT_FALSE(is_readable(static_cast<std::byte*>(other)));
  ::munmap(other, kStack);
  const auto made = stacks_made(this);
  ASSERT_TRUE(made.has_value());
  EXPECT_FALSE(*made);
}

}  // namespace
}  // namespace mik::engine
