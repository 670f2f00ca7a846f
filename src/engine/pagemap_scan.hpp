// Whether memories may be reset by PAGEMAP_SCAN (docs/adr/0006). Thread-safe.
#pragma once

namespace mik::engine {

// The kernel has PAGEMAP_SCAN, and this binary's scans also see pages that are swapped out or being migrated: linked
// with --wrap=ioctl, so that scan requests of the engine go through pagemap_scan.cpp.
bool pagemap_scan_usable() noexcept;

// How many scan requests have passed through the wrapper in this process: none after an engine that scans was made means
// that the crate was built without `--cfg rustix_use_libc`.
unsigned pagemap_scans_seen() noexcept;

}  // namespace mik::engine
