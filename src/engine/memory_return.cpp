#include "engine/memory_return.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <utility>

#include "engine/stack_pool.hpp"

extern "C" {

// NOLINTBEGIN(bugprone-reserved-identifier, readability-identifier-naming): the linker's names for
// --wrap.
int __real_madvise(void* start, std::size_t bytes, int advice);
int __wrap_madvise(void* start, std::size_t bytes, int advice);
// NOLINTEND(bugprone-reserved-identifier, readability-identifier-naming)

}  // extern "C"

namespace mik::engine {

namespace {

constexpr std::size_t kPage = 4096;

// Smaller ranges are freed at once: 1,024 pages take 0.2 to 0.3 ms.
constexpr std::size_t kLargeBytes = 4 << 20;

constexpr std::size_t kPieceBytes = 1 << 20;
// Of what waits, so that it cannot grow faster than it is freed: a guest needs longer to write a
// page than we to free it.
constexpr std::size_t kPiecePart = 32;

// Pages that move by the table of 512 need the same place in it.
constexpr std::size_t kTableBytes = 2 << 20;

struct Range {
  std::byte* start = nullptr;
  std::size_t bytes = 0;
};

struct Waiting {
  std::uint64_t bytes_max = 0;
  std::uint64_t bytes = 0;
  std::uint64_t moved = 0;
  std::array<Range, 64> ranges{};  // the last one is freed first, from its end
  std::size_t count = 0;
};

thread_local Waiting waiting;

void* reserve(std::size_t bytes) noexcept {
  return ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

// Moves the pages of `from` elsewhere; none when the kernel cannot.
Range move_aside(Range from) noexcept {
  void* const reserved = reserve(from.bytes + kTableBytes);
  if (reserved == MAP_FAILED) {
    return {};
  }
  auto* const place = static_cast<std::byte*>(reserved);
  const std::size_t before =
      (reinterpret_cast<std::uintptr_t>(from.start) - reinterpret_cast<std::uintptr_t>(place)) %
      kTableBytes;
  void* const moved = ::mremap(from.start, from.bytes, from.bytes,
                               MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, place + before);
  if (moved == MAP_FAILED) {
    ::munmap(reserved, from.bytes + kTableBytes);
    return {};
  }
  if (before > 0) {
    ::munmap(place, before);
  }
  if (before < kTableBytes) {
    ::munmap(place + before + from.bytes, kTableBytes - before);
  }
  return {place + before, from.bytes};
}

// How much at the end of the range was moved. Before Linux 6.17 only one mapping can be, and an
// image of some pages lies before the rest of a memory. Of several that were moved in part before
// one could not be, the pages are freed: they read as dropped, and what is left is tried again.
std::size_t move_end(Range range) noexcept {
  for (const std::size_t before :
       {std::size_t{0}, range.bytes / 8, range.bytes / 4, range.bytes / 2}) {
    const std::size_t skipped = before / kPage * kPage;
    const Range moved = move_aside({range.start + skipped, range.bytes - skipped});
    if (moved.bytes > 0) {
      waiting.ranges[waiting.count++] = moved;
      waiting.bytes += moved.bytes;
      waiting.moved += moved.bytes;
      return moved.bytes;
    }
  }
  return 0;
}

// As much of its end as there is room for.
std::size_t move_if_large(Range range) noexcept {
  const std::uint64_t room = waiting.bytes_max - std::min(waiting.bytes_max, waiting.bytes);
  const std::size_t some = std::min<std::uint64_t>(range.bytes, room) / kPage * kPage;
  if (some < kLargeBytes || waiting.count == waiting.ranges.size() || range.bytes % kPage != 0) {
    return 0;
  }
  return move_end({range.start + (range.bytes - some), some});
}

}  // namespace

void return_in_pieces(std::uint64_t bytes_max) noexcept { waiting.bytes_max = bytes_max; }

bool return_some() noexcept {
  std::size_t piece =
      std::max<std::size_t>(kPieceBytes, waiting.bytes / kPiecePart / kPage * kPage);
  while (waiting.count > 0 && piece > 0) {
    Range& last = waiting.ranges[waiting.count - 1];
    const std::size_t now = std::min(piece, last.bytes);
    last.bytes -= now;
    if (::munmap(last.start + last.bytes, now) != 0) {
      __real_madvise(last.start + last.bytes, now, MADV_DONTNEED);  // too many mappings
    }
    waiting.bytes -= now;
    waiting.count -= last.bytes == 0 ? 1 : 0;
    piece -= now;
  }
  return waiting.count > 0;
}

std::uint64_t bytes_to_return() noexcept { return waiting.bytes; }

std::uint64_t take_bytes_moved() noexcept { return std::exchange(waiting.moved, 0); }

}  // namespace mik::engine

// NOLINTNEXTLINE(bugprone-reserved-identifier, readability-identifier-naming)
extern "C" int __wrap_madvise(void* start, std::size_t bytes, int advice) {
  if (advice == MADV_DONTNEED) {
    bytes = mik::engine::stack_bytes_to_drop(start, bytes).value_or(bytes);
    bytes -= mik::engine::move_if_large({static_cast<std::byte*>(start), bytes});
    if (bytes == 0) {
      return 0;
    }
  }
  return __real_madvise(start, bytes, advice);
}
