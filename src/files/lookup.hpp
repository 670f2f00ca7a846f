// Finds and opens what is served for a path, beneath the static folder and without leaving it by
// links (openat2(2), RESOLVE_BENEATH). Thread-safe: blocking where it is told to be.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <span>
#include <string>

#include "base/fd.hpp"
#include "files/path.hpp"
#include "http/accept_encoding.hpp"

namespace mik::files {

enum class Wait : std::uint8_t {
  kNever,  // only by what the kernel has in its caches (RESOLVE_CACHED, Linux 5.12)
  kMay,
};

struct Found {
  enum class What : std::uint8_t {
    kFile,
    kFolder,     // the URL lacks its slash
    kAbsent,     // 404; links that lead out, pipes and devices, too
    kForbidden,  // 403: we may not read it
    kFailed,     // 500, with error
    kWouldBlock,
  };
  What what = What::kAbsent;
  int error = 0;
  base::Fd fd;                                    // of kFile
  struct stat info{};                             // of fd
  http::Coding coding = http::Coding::kIdentity;  // a sibling that is compressed already
};

// A folder's index.html for a path that names one. Where `path` is text or the like, the first of
// `codings` that has a sibling (.br, .zst, .gz) wins, unless the sibling is a leftover: more than a
// minute older.
Found look_up(int folder, const FilePath& path, std::span<const http::Coding> codings, Wait wait);

// Whether two looks at an open file saw the same content.
bool same_content(const struct stat& a, const struct stat& b) noexcept;

}  // namespace mik::files
