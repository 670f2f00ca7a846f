// linux/fs.h of Linux 6.7 as far as PAGEMAP_SCAN goes: Debian 12's headers are older.
// For pagemap_scan.cpp and its test; constants only.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>

namespace mik::engine::abi {

struct PageRegion {
  std::uint64_t start, end, categories;
};

struct ScanArgument {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

inline constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArgument);
inline constexpr std::uint64_t kWritten = 1u << 1;
inline constexpr std::uint64_t kFile = 1u << 2;
inline constexpr std::uint64_t kPresent = 1u << 3;
inline constexpr std::uint64_t kSwapped = 1u << 4;
inline constexpr std::uint64_t kZeroPage = 1u << 5;

}  // namespace mik::engine::abi
