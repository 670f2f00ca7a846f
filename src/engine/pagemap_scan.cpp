#include "engine/pagemap_scan.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <span>

#include "engine/pagemap_abi.hpp"
#include "engine/working_sets.hpp"

using mik::engine::abi::kPagemapScan;
using mik::engine::abi::kPresent;
using mik::engine::abi::kSwapped;
using mik::engine::abi::kWritten;
using mik::engine::abi::PageRegion;
using mik::engine::abi::ScanArgument;

namespace {

std::atomic<unsigned> scans_seen = 0;

// What one scan may find. Heavy guests (JavaScript, Python) have written 50 to 300 regions.
constexpr std::size_t kRegionsMax = 1024;

// Asked for first: enough for most. The kernel allocates as much, and up to a page it does so from
// a cache (2 % of the CPU of a small request lay in whole pages, taken and given back).
constexpr std::size_t kRegionsFirst = 170;

// What lies between regions and is copied though nobody wrote it. A megabyte costs some 80 us, as
// 40 faults do.
constexpr std::uint64_t kGapBytesMax = 8 << 20;

// A memory that has more written pages than the engine keeps (max_pages) is a hoard, not a working
// set: of it only so much stays, or a burst of greedy guests would leave its pages behind in every
// slot.
constexpr std::uint64_t kHoardKeptBytes = 1 << 20;

constexpr std::uint64_t kPageBytes = 4096;

// Bytes that may be kept beyond what is kept already: see set_kept_room.
std::atomic<std::uint64_t> kept_room = UINT64_MAX;

thread_local mik::engine::WorkingSets working_sets;

bool is_reset_scan(const ScanArgument& scan) noexcept {
  return (scan.category_mask & (kWritten | kPresent)) == (kWritten | kPresent) &&
         (scan.category_inverted & kPresent) == 0 && (scan.category_mask & kSwapped) == 0;
}

}  // namespace

extern "C" {

// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming): the linker's names for
// --wrap.
int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)

}  // extern "C"

namespace {

// The first regions, of `bytes` together at most, the last one cut. `bytes` are whole pages.
std::span<PageRegion> first_bytes(std::span<PageRegion> regions, std::uint64_t bytes) noexcept {
  std::size_t count = 0;
  while (count < regions.size() && bytes > 0) {
    PageRegion& region = regions[count++];
    region.end = std::min(region.end, region.start + bytes);
    bytes -= region.end - region.start;
  }
  return regions.first(count);
}

// Of the regions what the room allows: half of it, so that there is some left for the next ones.
std::span<PageRegion> within_room(std::span<PageRegion> regions, ScanArgument& scan) noexcept {
  const std::uint64_t room = kept_room.load(std::memory_order_relaxed);
  if (room == UINT64_MAX) {
    return regions;
  }
  std::uint64_t bytes = 0;
  for (const PageRegion& region : regions) {
    bytes += region.end - region.start;
  }
  const std::uint64_t most = room / 2 / kPageBytes * kPageBytes;
  if (bytes > most) {
    regions = first_bytes(regions, most);
    scan.walk_end = regions.empty() ? scan.start : regions.back().end;
    bytes = most;
  }
  kept_room.store(room - bytes, std::memory_order_relaxed);
  return regions;
}

std::uint64_t pages_of(std::span<const PageRegion> regions) noexcept {
  std::uint64_t bytes = 0;
  for (const PageRegion& region : regions) {
    bytes += region.end - region.start;
  }
  return bytes / kPageBytes;
}

// How many regions were found, or -1. `scan` is as after one scan for all of them.
int scan_into(int fd, ScanArgument& scan, std::span<PageRegion, kRegionsMax> regions) noexcept {
  scan.vec = reinterpret_cast<std::uint64_t>(regions.data());
  scan.vec_len = kRegionsFirst;
  const int first = __real_ioctl(fd, kPagemapScan, &scan);
  if (first != static_cast<int>(kRegionsFirst) || scan.walk_end >= scan.end) {
    return first;
  }
  const std::uint64_t pages = pages_of(regions.first(kRegionsFirst));
  if (scan.max_pages != 0 && pages >= scan.max_pages) {
    return first;
  }
  ScanArgument rest = scan;
  rest.start = scan.walk_end;
  rest.max_pages -= scan.max_pages != 0 ? pages : 0;
  rest.vec = reinterpret_cast<std::uint64_t>(&regions[kRegionsFirst]);
  rest.vec_len = kRegionsMax - kRegionsFirst;
  const int second = __real_ioctl(fd, kPagemapScan, &rest);
  if (second < 0) {
    return second;
  }
  scan.walk_end = rest.walk_end;
  return first + second;
}

// Wasmtime has room for 32 regions, and drops all memory behind the last that fits: a fault for
// each of its pages on the next request. With more room, and neighbours told as one, it need not.
int scan_with_room(int fd, ScanArgument& scan) {
  std::array<PageRegion, kRegionsMax> regions;
  const std::uint64_t asked_vec = scan.vec;
  const std::size_t asked_len = scan.vec_len;
  const int found = scan_into(fd, scan, regions);
  scan.vec = asked_vec;
  scan.vec_len = asked_len;
  if (found < 0) {
    return found;
  }
  std::span<PageRegion> all(regions.data(), static_cast<std::size_t>(found));
  if (working_sets.is_old(scan.start, pages_of(all))) {
    scan.walk_end = scan.start;
    return 0;
  }
  if (scan.walk_end < scan.end && !all.empty() && all.size() < regions.size()) {
    all = first_bytes(all, kHoardKeptBytes);
    scan.walk_end = all.back().end;
  }
  if (all.size() > asked_len) {
    const mik::engine::Merged merged = mik::engine::merge_regions(all, asked_len);
    if (!merged.complete) {
      scan.walk_end =
          all[merged.count - 1].end;  // too far apart: what follows is dropped, as without us
    }
    all = all.first(merged.count);
  }
  all = within_room(all, scan);
  std::memcpy(reinterpret_cast<void*>(asked_vec), all.data(), all.size_bytes());
  return static_cast<int>(all.size());
}

}  // namespace

extern "C" {

// Wasmtime 48 asks for pages that are written and PRESENT. A written page that is swapped out, or
// that the kernel is just moving (compaction), is neither reset nor dropped then, and the next
// guest could read it. Asked for PRESENT or SWAPPED (a page on the move counts as swapped) the
// kernel reports it, and the reset waits for it in a page fault.
// NOLINTNEXTLINE(bugprone-reserved-identifier, readability-identifier-naming)
int __wrap_ioctl(int fd, unsigned long request, ...) {
  std::va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (request != kPagemapScan || argument == nullptr) {
    return __real_ioctl(fd, request, argument);
  }
  scans_seen.fetch_add(1, std::memory_order_relaxed);
  ScanArgument scan{};
  std::memcpy(&scan, argument, sizeof scan);
  if (!is_reset_scan(scan)) {
    return __real_ioctl(fd, request, argument);
  }
  scan.category_mask &= ~kPresent;
  scan.category_anyof_mask |= kPresent | kSwapped;
  const int found = scan_with_room(fd, scan);
  std::memcpy(argument, &scan, sizeof scan);
  return found;
}

}  // extern "C"

namespace mik::engine {

Merged merge_regions(std::span<abi::PageRegion> regions, std::size_t count_max) noexcept {
  std::array<std::uint64_t, kRegionsMax> gaps;
  const std::size_t gap_count = std::min(regions.size() - 1, gaps.size());
  for (std::size_t i = 0; i < gap_count; ++i) {
    gaps[i] = regions[i + 1].start - regions[i].end;
  }
  // The count_max - 1 widest gaps stay; all that is narrower is joined.
  const auto first_joined = gaps.begin() + static_cast<std::ptrdiff_t>(count_max) - 1;
  const auto gaps_end = gaps.begin() + static_cast<std::ptrdiff_t>(gap_count);
  std::nth_element(gaps.begin(), first_joined, gaps_end, std::greater<>());
  const std::uint64_t near = *first_joined;
  if (std::accumulate(first_joined, gaps_end, std::uint64_t{0}) > kGapBytesMax) {
    return {count_max, false};
  }
  auto as_wide =
      std::count(first_joined, gaps_end, near);  // of those that are just as wide some stay
  std::size_t last = 0;
  for (std::size_t i = 1; i < regions.size(); ++i) {
    const std::uint64_t gap = regions[i].start - regions[last].end;
    if (gap < near || (gap == near && as_wide-- > 0)) {
      regions[last].end = regions[i].end;
    } else {
      regions[++last] = regions[i];
    }
  }
  return {last + 1, true};
}

void set_kept_room(std::uint64_t bytes) noexcept {
  kept_room.store(bytes, std::memory_order_relaxed);
}

std::uint64_t kept_room_left() noexcept { return kept_room.load(std::memory_order_relaxed); }

unsigned pagemap_scans_seen() noexcept { return scans_seen.load(std::memory_order_relaxed); }

bool pagemap_scan_usable() noexcept {
  const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return false;
  }
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* memory =
      ::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
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
    // One region of one page: the page that was written and not the one that was never touched. And
    // the mask was changed on its way, so this binary is linked as it must be.
    usable = ::ioctl(fd, kPagemapScan, &scan) == 1 && regions[0].start == scan.start &&
             regions[0].end == scan.start + page && scan.category_mask == kWritten &&
             scan.category_anyof_mask == (kPresent | kSwapped);
    ::munmap(memory, 2 * page);
  }
  ::close(fd);
  return usable;
}

}  // namespace mik::engine
