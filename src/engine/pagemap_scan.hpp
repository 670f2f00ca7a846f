// Whether memories may be reset by PAGEMAP_SCAN (docs/adr/0006). Thread-safe.
#pragma once

#include <cstddef>
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

struct Merged {
  std::size_t count;  // how many regions stand at the front now
  bool complete;      // they cover all; else they are the first ones, untouched
};
// Joins neighbours, nearest first, until at most `count_max` (at least 1) are left. `regions`
// ascend, and are more than that. Gives up where too much that was never written would be joined
// in.
Merged merge_regions(std::span<abi::PageRegion> regions, std::size_t count_max) noexcept;

}  // namespace mik::engine
