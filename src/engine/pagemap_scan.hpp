// Whether memories may be reset by PAGEMAP_SCAN (docs/adr/0006). Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/pagemap_abi.hpp"

namespace mik::engine {

// The kernel has PAGEMAP_SCAN, and this binary's scans also see pages that are swapped out or being
// migrated: linked with --wrap=ioctl, so that scan requests of the engine go through
// pagemap_scan.cpp.
bool pagemap_scan_usable() noexcept;

// How many scan requests have passed through the wrapper in this process: none after an engine that
// scans was made means that the crate was built without `--cfg rustix_use_libc`.
unsigned pagemap_scans_seen() noexcept;

// How much more written memory resets may keep resident in slots that nobody uses; UINT64_MAX, the
// default: no bound. A reset keeps half of the room at most and takes what it keeps off it; the
// rest it drops (a fault for each of its pages on the next request). One loop's thread uses both.
void set_kept_room(std::uint64_t bytes) noexcept;
std::uint64_t kept_room_left() noexcept;

struct Merged {
  std::size_t count;  // how many regions stand at the front now
  bool complete;      // they cover all; else they are the first ones, untouched
};
// Joins neighbours, nearest first, until at most `count_max` (at least 1) are left. `regions`
// ascend, and are more than that. Gives up where too much that was never written would be joined
// in.
Merged merge_regions(std::span<abi::PageRegion> regions, std::size_t count_max) noexcept;

}  // namespace mik::engine
