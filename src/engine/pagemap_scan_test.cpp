#include "engine/pagemap_scan.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "engine/pagemap_abi.hpp"

namespace mik::engine {
namespace {

constexpr std::size_t kPage = 4096;

// A memory whose pages have all been written, and scans of it as Wasmtime 48 asks for them.
class Scanned {
 public:
  explicit Scanned(std::size_t pages)
      : bytes_(pages * kPage),
        memory_(::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
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

  enum class Through : std::uint8_t { kOurs, kKernel };
  // How many pages the scan reports.
  std::size_t pages(Through through) {
    std::vector<abi::PageRegion> regions(bytes_ / kPage);
    abi::ScanArgument scan{};
    scan.size = sizeof scan;
    scan.start = reinterpret_cast<std::uint64_t>(memory_);
    scan.end = scan.start + bytes_;
    scan.vec = reinterpret_cast<std::uint64_t>(regions.data());
    scan.vec_len = regions.size();
    scan.category_inverted = abi::kZeroPage | abi::kFile;
    scan.category_mask = abi::kWritten | abi::kPresent | abi::kZeroPage | abi::kFile;
    const long count = through == Through::kOurs
                           ? ::ioctl(pagemap_.get(), abi::kPagemapScan, &scan)
                           : ::syscall(SYS_ioctl, pagemap_.get(), abi::kPagemapScan, &scan);
    std::size_t found = 0;
    for (long i = 0; i < count; ++i) {
      found += (regions[static_cast<std::size_t>(i)].end - regions[static_cast<std::size_t>(i)].start) / kPage;
    }
    return found;
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

// risks.md 1: pages that the kernel moves (compaction) or has swapped out were missed. Two memories take turns so that
// there is something to compact.
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
    ASSERT_EQ(scanned.pages(Scanned::Through::kOurs), kPages) << "after " << scans << " scans";
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
