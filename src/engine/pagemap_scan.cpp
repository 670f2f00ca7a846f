#include "engine/pagemap_scan.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstring>

#include "engine/pagemap_abi.hpp"

using mik::engine::abi::kPagemapScan;
using mik::engine::abi::kPresent;
using mik::engine::abi::kSwapped;
using mik::engine::abi::kWritten;
using mik::engine::abi::PageRegion;
using mik::engine::abi::ScanArgument;

namespace {

std::atomic<unsigned> scans_seen = 0;

}  // namespace

extern "C" {

// The linker's names for --wrap.
int __real_ioctl(int fd, unsigned long request, ...);  // NOLINT(bugprone-reserved-identifier)
int __wrap_ioctl(int fd, unsigned long request, ...);  // NOLINT(bugprone-reserved-identifier)

// Wasmtime 48 asks for pages that are written and PRESENT. A written page that is swapped out, or that the kernel is
// just moving (compaction), is neither reset nor dropped then, and the next guest could read it. Asked for PRESENT or
// SWAPPED (a page on the move counts as swapped) the kernel reports it, and the reset waits for it in a page fault.
int __wrap_ioctl(int fd, unsigned long request, ...) {  // NOLINT(bugprone-reserved-identifier)
  std::va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (request == kPagemapScan && argument != nullptr) {
    scans_seen.fetch_add(1, std::memory_order_relaxed);
    ScanArgument scan{};
    std::memcpy(&scan, argument, sizeof scan);
    if ((scan.category_mask & (kWritten | kPresent)) == (kWritten | kPresent) &&
        (scan.category_inverted & kPresent) == 0 && (scan.category_mask & kSwapped) == 0) {
      scan.category_mask &= ~kPresent;
      scan.category_anyof_mask |= kPresent | kSwapped;
      std::memcpy(argument, &scan, sizeof scan);
    }
  }
  return __real_ioctl(fd, request, argument);
}

}  // extern "C"

namespace mik::engine {

unsigned pagemap_scans_seen() noexcept { return scans_seen.load(std::memory_order_relaxed); }

bool pagemap_scan_usable() noexcept {
  const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return false;
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* memory = ::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  bool usable = false;
  if (memory != MAP_FAILED) {
    static_cast<char*>(memory)[0] = 1;
    std::array<PageRegion, 4> regions{};
    ScanArgument scan{};
    scan.size = sizeof scan;
    scan.start = reinterpret_cast<std::uint64_t>(memory);
    scan.end = scan.start + 2 * page;
    scan.vec = reinterpret_cast<std::uint64_t>(regions.data());
    scan.vec_len = regions.size();
    scan.category_mask = kWritten | kPresent;
    // One region of one page: the page that was written and not the one that was never touched. And the mask was
    // changed on its way, so this binary is linked as it must be.
    usable = ::ioctl(fd, kPagemapScan, &scan) == 1 && regions[0].start == scan.start &&
             regions[0].end == scan.start + page && scan.category_mask == kWritten &&
             scan.category_anyof_mask == (kPresent | kSwapped);
    ::munmap(memory, 2 * page);
  }
  ::close(fd);
  return usable;
}

}  // namespace mik::engine
