#include "engine/pagemap_scan.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "engine/pagemap_abi.hpp"
#include "engine/working_sets.hpp"

namespace mik::engine {
namespace {

constexpr std::size_t kPage = 4096;

// A memory whose pages have all been written, and scans of it as Wasmtime 48 asks for them.
class Scanned {
 public:
  explicit Scanned(std::size_t pages)
      : bytes_(pages * kPage),
        memory_(
            ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        pagemap_(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)) {
    ::madvise(memory_, bytes_, MADV_NOHUGEPAGE);
    write_all();
  }
  ~Scanned() { ::munmap(memory_, bytes_); }
  Scanned(const Scanned&) = delete;
  Scanned& operator=(const Scanned&) = delete;

  void write_all() {
    for (std::size_t i = 0; i < bytes_; i += kPage) {
      static_cast<volatile char*>(memory_)[i] = 1;
    }
  }
  void* memory() { return memory_; }
  std::size_t bytes() const { return bytes_; }

  // As Wasmtime asks, but for where the answer goes.
  abi::ScanArgument argument() const {
    abi::ScanArgument scan{};
    scan.size = sizeof scan;
    scan.start = reinterpret_cast<std::uint64_t>(memory_);
    scan.end = scan.start + bytes_;
    scan.category_inverted = abi::kZeroPage | abi::kFile;
    scan.category_mask = abi::kWritten | abi::kPresent | abi::kZeroPage | abi::kFile;
    return scan;
  }

  // Through ours. How many regions were found, or -1; `scan` is what Wasmtime has afterwards.
  int find(abi::ScanArgument& scan, std::span<abi::PageRegion> regions) const {
    scan.vec = reinterpret_cast<std::uint64_t>(regions.data());
    scan.vec_len = regions.size();
    return ::ioctl(pagemap_.get(), abi::kPagemapScan, &scan);
  }

  enum class Through : std::uint8_t { kOurs, kKernel };
  // How many pages the scan reports, or leaves to be given back (behind walk_end).
  std::size_t pages(Through through) {
    std::vector<abi::PageRegion> regions(bytes_ / kPage);
    abi::ScanArgument scan = argument();
    scan.vec = reinterpret_cast<std::uint64_t>(regions.data());
    scan.vec_len = regions.size();
    const long count = through == Through::kOurs
                           ? ::ioctl(pagemap_.get(), abi::kPagemapScan, &scan)
                           : ::syscall(SYS_ioctl, pagemap_.get(), abi::kPagemapScan, &scan);
    std::size_t found = 0;
    for (long i = 0; i < count; ++i) {
      found +=
          (regions[static_cast<std::size_t>(i)].end - regions[static_cast<std::size_t>(i)].start) /
          kPage;
    }
    return found + (count < 0 ? 0 : (scan.end - scan.walk_end) / kPage);
  }

 private:
  std::size_t bytes_;
  void* memory_;
  base::Fd pagemap_;
};

TEST(PagemapScan, ReportsWrittenPagesOnly) {
  if (!pagemap_scan_usable()) {
    GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  }
  Scanned scanned(64);
  EXPECT_EQ(scanned.pages(Scanned::Through::kOurs), 64u);
  ::madvise(scanned.memory(), scanned.bytes(), MADV_DONTNEED);
  EXPECT_EQ(scanned.pages(Scanned::Through::kOurs), 0u);
}

// Wasmtime has room for 32 regions; heavy guests write more.
TEST(PagemapScan, MoreRegionsThanThereIsRoomForAreToldAsFewer) {
  if (!pagemap_scan_usable()) {
    GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  }
  constexpr std::size_t kPages = 400;
  Scanned scanned(kPages);
  ::madvise(scanned.memory(), scanned.bytes(), MADV_DONTNEED);
  for (std::size_t i = 0; i < kPages; i += 4) {
    static_cast<volatile char*>(scanned.memory())[i * kPage] = 1;
  }
  std::array<abi::PageRegion, 32> regions{};
  abi::ScanArgument scan = scanned.argument();
  const int count = scanned.find(scan, regions);
  ASSERT_GT(count, 0);
  ASSERT_LE(count, 32);
  EXPECT_EQ(scan.walk_end, scan.end);
  EXPECT_EQ(regions[0].start, scan.start);
  EXPECT_GE(regions[static_cast<std::size_t>(count) - 1].end, scan.start + (kPages - 3) * kPage);
}

// More than are asked for at first, and as many pages as may be found.
TEST(PagemapScan, ManyRegionsAreFoundInTwoScans) {
  if (!pagemap_scan_usable()) {
    GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  }
  constexpr std::size_t kPages = 1200;
  Scanned scanned(kPages);
  ::madvise(scanned.memory(), scanned.bytes(), MADV_DONTNEED);
  for (std::size_t i = 0; i < kPages; i += 2) {
    static_cast<volatile char*>(scanned.memory())[i * kPage] = 1;
  }
  for (const unsigned most : {0U, 1200U, 601U, 599U, 200U, 171U, 170U, 169U}) {
    std::vector<abi::PageRegion> regions(1000);
    abi::ScanArgument scan = scanned.argument();
    scan.max_pages = most;
    const int count = scanned.find(scan, regions);
    if (most == 0 || most > 600) {
      ASSERT_EQ(count, 600) << most;
      EXPECT_EQ(scan.walk_end, scan.end) << most;
    } else {
      ASSERT_EQ(count, static_cast<int>(std::min(most, 256U))) << "of a hoard 1 MiB is kept";
      EXPECT_EQ(scan.walk_end, regions[static_cast<std::size_t>(count) - 1].end) << most;
    }
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      ASSERT_EQ(regions[i].start, scan.start + 2 * i * kPage) << most;
      ASSERT_EQ(regions[i].end, regions[i].start + kPage) << most;
    }
  }
}

// The soak found it: greedy guests left 50 MiB in each slot that they had used.
TEST(PagemapScan, OfAHoardLittleIsKept) {
  if (!pagemap_scan_usable()) {
    GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  }
  Scanned scanned(4096);
  std::array<abi::PageRegion, 32> regions{};
  abi::ScanArgument scan = scanned.argument();
  scan.max_pages = 2048;
  const int count = scanned.find(scan, regions);
  ASSERT_GE(count, 0);
  std::uint64_t kept = 0;
  for (int i = 0; i < count; ++i) {
    kept += regions[static_cast<std::size_t>(i)].end - regions[static_cast<std::size_t>(i)].start;
  }
  EXPECT_LE(kept, 1u << 20);
  EXPECT_EQ(scan.walk_end, scan.start + kept);
}

// What all slots keep together is bounded; each reset leaves room for others.
TEST(PagemapScan, NoMoreIsKeptThanThereIsRoomFor) {
  if (!pagemap_scan_usable()) {
    GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  }
  Scanned scanned(256);
  std::uint64_t room = 1024 * 1024;
  set_kept_room(room);
  for (int round = 0; round < 12; ++round) {
    std::array<abi::PageRegion, 32> regions{};
    abi::ScanArgument scan = scanned.argument();
    const int count = scanned.find(scan, regions);
    ASSERT_GE(count, 0);
    std::uint64_t kept = 0;
    for (int i = 0; i < count; ++i) {
      kept += regions[static_cast<std::size_t>(i)].end - regions[static_cast<std::size_t>(i)].start;
    }
    EXPECT_EQ(kept, room / 2 / kPage * kPage) << round;
    EXPECT_EQ(scan.walk_end, scan.start + kept);  // the rest is dropped
    room -= kept;
    EXPECT_EQ(kept_room_left(), room);
  }
  EXPECT_LT(room, 2 * kPage);
  set_kept_room(UINT64_MAX);
}

// Pages that one guest touched once were copied and kept for all that came after it.
TEST(PagemapScan, WhatHasCollectedIsGivenBackNowAndThen) {
  if (!pagemap_scan_usable()) {
    GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  }
  std::vector<std::uint32_t> given_back;
  const auto scan_often = [&given_back] {
    Scanned scanned(WorkingSets::kSmallPages + 1);
    std::array<abi::PageRegion, 32> regions{};
    for (std::uint32_t i = 0; i < 2 * WorkingSets::kResets + 10; ++i) {
      abi::ScanArgument scan = scanned.argument();
      const int count = scanned.find(scan, regions);
      ASSERT_GE(count, 0);
      if (count == 0) {
        ASSERT_EQ(scan.walk_end, scan.start) << "all of it, and nothing is copied";
        given_back.push_back(i);
      } else {
        ASSERT_EQ(scan.walk_end, scan.end);
      }
    }
  };
  std::thread(scan_often).join();  // a thread that knows of no memory yet
  EXPECT_EQ(given_back, (std::vector{WorkingSets::kResets, 2 * WorkingSets::kResets}));
}

TEST(MergeRegions, JoinsTheNearestFirst) {
  const auto at = [](std::uint64_t page, std::uint64_t pages) {
    return abi::PageRegion{page * kPage, (page + pages) * kPage, 0};
  };
  std::vector<abi::PageRegion> regions = {at(0, 1), at(2, 1), at(10, 2), at(40, 1), at(42, 1)};
  const Merged merged = merge_regions(regions, 3);
  EXPECT_TRUE(merged.complete);
  ASSERT_EQ(merged.count, 3u);
  EXPECT_EQ(regions[0].end, 3 * kPage);
  EXPECT_EQ(regions[1].start, 10 * kPage);
  EXPECT_EQ(regions[2].start, 40 * kPage);
  EXPECT_EQ(regions[2].end, 43 * kPage);
}

TEST(MergeRegions, OfEqualGapsOnlyAsManyAsMustAreJoined) {
  std::vector<abi::PageRegion> regions;
  for (std::uint64_t i = 0; i < 33; ++i) {
    regions.push_back({i << 22, (i << 22) + kPage, 0});
  }
  const Merged merged = merge_regions(regions, 32);
  EXPECT_TRUE(merged.complete);
  EXPECT_EQ(merged.count, 32u);
}

TEST(MergeRegions, GivesUpWhereTooMuchLiesBetween) {
  std::vector<abi::PageRegion> regions;
  for (std::uint64_t i = 0; i < 64; ++i) {
    regions.push_back({i << 30, (i << 30) + kPage, 0});
  }
  const Merged merged = merge_regions(regions, 32);
  EXPECT_FALSE(merged.complete);
  EXPECT_EQ(merged.count, 32u);
  EXPECT_EQ(regions[31].start, std::uint64_t{31} << 30);
}

// Random sets: what was covered is still covered, in order, by few enough regions.
TEST(MergeRegions, LosesNothing) {
  std::mt19937 random(3);
  for (int round = 0; round < 500; ++round) {
    std::vector<abi::PageRegion> regions;
    std::uint64_t page = 0;
    for (unsigned i = 0; i < 33 + random() % 200; ++i) {
      page += 1 + random() % (round % 2 == 0 ? 4 : 40);
      const std::uint64_t end = page + 1 + random() % 3;
      regions.push_back({page * kPage, end * kPage, 0});
      page = end;
    }
    const std::vector<abi::PageRegion> before = regions;
    const Merged merged = merge_regions(regions, 32);
    ASSERT_LE(merged.count, 32u);
    std::size_t at = 0;
    for (const abi::PageRegion& region : before) {
      while (at < merged.count && regions[at].end < region.end) {
        ++at;
      }
      if (at == merged.count) {
        ASSERT_FALSE(merged.complete);
        break;
      }
      ASSERT_LE(regions[at].start, region.start);
    }
  }
}

// risks.md 1: pages that the kernel moves (compaction) or has swapped out were missed. Two memories
// take turns so that there is something to compact.
TEST(PagemapScan, MissesNoPageWhileTheKernelMovesThem) {
  if (!pagemap_scan_usable()) {
    GTEST_SKIP() << "this kernel has no PAGEMAP_SCAN";
  }
  const base::Fd compact(::open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC));
  if (!compact.valid()) {
    GTEST_SKIP() << "only root may ask for compaction";
  }
  constexpr std::size_t kPages = 4096;
  Scanned scanned(kPages);
  std::atomic<bool> stop = false;
  std::thread mover([&] {
    while (!stop) {
      Scanned churn(2048);
      if (::write(compact.get(), "1", 1) != 1) {
        return;
      }
    }
  });
  std::size_t scans = 0;
  std::size_t missed_by_the_kernels_own = 0;
  const base::Time end = base::Clock::now() + std::chrono::seconds(2);
  while (base::Clock::now() < end) {
    const std::size_t found = scanned.pages(Scanned::Through::kOurs);
    EXPECT_EQ(found, kPages) << "after " << scans << " scans";
    if (found != kPages) {
      break;
    }
    missed_by_the_kernels_own += scanned.pages(Scanned::Through::kKernel) != kPages ? 1 : 0;
    ++scans;
  }
  stop = true;
  mover.join();
  RecordProperty("scans", static_cast<int>(scans));
  RecordProperty("missed_without_us", static_cast<int>(missed_by_the_kernels_own));
  std::printf("%zu scans; asked for PRESENT alone the kernel missed pages in %zu\n", scans,
              missed_by_the_kernels_own);
}

}  // namespace
}  // namespace mik::engine
