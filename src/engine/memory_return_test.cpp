#include "engine/memory_return.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>

namespace mik::engine {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMiB = 1 << 20;

// A memory as the engine has them: a readable part of a larger reservation.
class Memory {
 public:
  explicit Memory(std::size_t bytes)
      : bytes_(bytes),
        start_(static_cast<char*>(::mmap(nullptr, 2 * bytes, PROT_NONE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))) {
    ::mprotect(start_, bytes_, PROT_READ | PROT_WRITE);
    write();
  }
  ~Memory() { ::munmap(start_, 2 * bytes_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  void write() {
    for (std::size_t i = 0; i < bytes_; i += kPage) {
      start_[i] = 1;
    }
  }
  std::size_t pages_written() const {
    std::size_t count = 0;
    for (std::size_t i = 0; i < bytes_; i += kPage) {
      count += start_[i] != 0 ? 1 : 0;
    }
    return count;
  }
  char* start() const { return start_; }
  std::size_t bytes() const { return bytes_; }

 private:
  std::size_t bytes_;
  char* start_;
};

// Exactly, unlike statm.
std::size_t resident_bytes() {
  std::ifstream rollup("/proc/self/smaps_rollup");
  std::string word;
  std::size_t kib = 0;
  while (rollup >> word && word != "Rss:") {
  }
  rollup >> kib;
  return kib * 1024;
}

// Asked of the kernel itself, so that a fault of ours is not taken for one of its.
bool kernel_can_move() {
  void* const from = ::mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* const to = ::mremap(from, kPage, kPage, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  if (to != MAP_FAILED) {
    ::munmap(to, kPage);
  }
  ::munmap(from, kPage);
  return to != MAP_FAILED;
}

class MemoryReturn : public testing::Test {
 protected:
  void SetUp() override {
    if (!kernel_can_move()) {
      GTEST_SKIP() << "this kernel has no MREMAP_DONTUNMAP";
    }
  }
  void TearDown() override {
    return_in_pieces(0);
    while (return_some()) {
    }
  }
};

TEST_F(MemoryReturn, ALargeMemoryReadsAsDroppedAtOnceAndIsFreedInPieces) {
  return_in_pieces(256 * kMiB);
  Memory memory(60 * kMiB);
  const std::size_t with_it = resident_bytes();
  ASSERT_EQ(::madvise(memory.start(), memory.bytes(), MADV_DONTNEED), 0);
  EXPECT_EQ(take_bytes_moved(), memory.bytes());
  EXPECT_EQ(take_bytes_moved(), 0u);
  ASSERT_EQ(bytes_to_return(), memory.bytes());
  EXPECT_GT(resident_bytes() + 8 * kMiB, with_it) << "nothing is freed yet";
  EXPECT_EQ(memory.pages_written(), 0u);
  std::uint64_t left = bytes_to_return();
  int pieces = 0;
  while (return_some()) {
    ++pieces;
    ASSERT_LT(bytes_to_return(), left);
    ASSERT_LE(left - bytes_to_return(), 60 * kMiB / 32 + kPage);
    left = bytes_to_return();
  }
  EXPECT_GE(pieces, 30);
  EXPECT_EQ(bytes_to_return(), 0u);
  EXPECT_LT(resident_bytes() + 50 * kMiB, with_it);
  memory.write();  // and the memory is as good as before
  EXPECT_EQ(memory.pages_written(), memory.bytes() / kPage);
}

// An image of some pages is a mapping of its own at the memory's start. Linux moves both from 6.17
// on, before that the second.
TEST_F(MemoryReturn, AMemoryOfTwoMappingsReadsAsDropped) {
  return_in_pieces(256 * kMiB);
  Memory memory(16 * kMiB);
  ASSERT_NE(::mmap(memory.start(), kMiB, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0),
            MAP_FAILED);
  ::mprotect(memory.start(), kMiB, PROT_READ);  // not to be merged with the rest
  ASSERT_EQ(::madvise(memory.start(), memory.bytes(), MADV_DONTNEED), 0);
  EXPECT_GE(bytes_to_return(), memory.bytes() / 2);
  EXPECT_EQ(memory.pages_written(), 0u);
}

TEST_F(MemoryReturn, NoMoreWaitsThanMayAndOfALargerOneAPart) {
  return_in_pieces(20 * kMiB);
  Memory first(16 * kMiB);
  Memory second(16 * kMiB);
  Memory third(16 * kMiB);
  ASSERT_EQ(::madvise(first.start(), first.bytes(), MADV_DONTNEED), 0);
  EXPECT_EQ(bytes_to_return(), 16 * kMiB);
  ASSERT_EQ(::madvise(second.start(), second.bytes(), MADV_DONTNEED), 0);
  EXPECT_EQ(bytes_to_return(), 20 * kMiB);
  ASSERT_EQ(::madvise(third.start(), third.bytes(), MADV_DONTNEED), 0);
  EXPECT_EQ(bytes_to_return(), 20 * kMiB);
  EXPECT_EQ(first.pages_written() + second.pages_written() + third.pages_written(), 0u);
}

TEST_F(MemoryReturn, SmallOnesAndThreadsThatDidNotAskAreServedAtOnce) {
  Memory large(16 * kMiB);
  ASSERT_EQ(::madvise(large.start(), large.bytes(), MADV_DONTNEED), 0);
  EXPECT_EQ(large.pages_written(), 0u);
  return_in_pieces(256 * kMiB);
  Memory small(2 * kMiB);
  ASSERT_EQ(::madvise(small.start(), small.bytes(), MADV_DONTNEED), 0);
  EXPECT_EQ(small.pages_written(), 0u);
  EXPECT_EQ(bytes_to_return(), 0u);
  EXPECT_FALSE(return_some());
}

TEST_F(MemoryReturn, ErrorsAreTheKernels) {
  return_in_pieces(256 * kMiB);
  Memory memory(16 * kMiB);
  EXPECT_EQ(::madvise(memory.start() + 1, memory.bytes() - 1, MADV_DONTNEED), -1);
  EXPECT_EQ(memory.pages_written(), memory.bytes() / kPage);
  EXPECT_EQ(bytes_to_return(), 0u);
}

}  // namespace
}  // namespace mik::engine
