#include "files/lookup.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include <cerrno>
#include <string_view>
#include <utility>

namespace mik::files {

namespace {

using What = Found::What;
using http::Coding;

// What is not a regular file must not hold us: a pipe without a writer, a terminal.
constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
// A path may change while it is being walked (EAGAIN).
constexpr int kAttempts = 16;
constexpr std::int64_t kLeftoverSecs = 60;

// Where there is no openat2(2) (an old kernel, an old filter of system calls): name by name, and no
// links at all.
base::Fd walk(int folder, const std::string& path) {
  base::Fd below;
  int at = folder;
  std::size_t begin = 0;
  while (true) {
    const std::size_t slash = path.find('/', begin);
    const bool last = slash == std::string::npos;
    const std::string name = path.substr(begin, slash - begin);
    const int flags = last ? kReadFlags : O_PATH | O_DIRECTORY | O_CLOEXEC;
    base::Fd next(::openat(at, name.c_str(), flags | O_NOFOLLOW));
    if (!next.valid() || last) {
      return next;
    }
    below = std::move(next);
    at = below.get();
    begin = slash + 1;
  }
}

// errno is set when it is not valid: EAGAIN when it would block.
base::Fd open_beneath(int folder, const std::string& path, Wait wait) {
  open_how how{};
  how.flags = static_cast<std::uint64_t>(kReadFlags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  if (wait == Wait::kNever) {
    how.resolve |= RESOLVE_CACHED;
  }
  for (int attempt = 0;; ++attempt) {
    base::Fd fd(static_cast<int>(::syscall(SYS_openat2, folder, path.c_str(), &how, sizeof how)));
    if (fd.valid()) {
      return fd;
    }
    if (wait == Wait::kNever) {
      errno = errno == ENOSYS || errno == EPERM || errno == EINVAL ? EAGAIN : errno;
      return fd;
    }
    if (errno == ENOSYS || errno == EPERM) {
      return walk(folder, path);
    }
    if ((errno != EAGAIN && errno != EINTR) || attempt == kAttempts) {
      return fd;
    }
  }
}

What what_failed(int error) noexcept {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ENAMETOOLONG:
    case ELOOP:
    case EXDEV:
    case ENXIO:
      return What::kAbsent;
    case EACCES:
      return What::kForbidden;
    case EAGAIN:
      return What::kWouldBlock;
    default:
      return What::kFailed;
  }
}

Found open_file(int folder, const std::string& path, Wait wait) {
  Found found;
  found.fd = open_beneath(folder, path, wait);
  if (!found.fd.valid()) {
    found.error = errno;
    found.what = what_failed(errno);
  } else if (::fstat(found.fd.get(), &found.info) != 0) {
    found.error = errno;
    found.what = What::kFailed;
  } else if (S_ISREG(found.info.st_mode)) {
    found.what = What::kFile;
  } else {
    found.what = S_ISDIR(found.info.st_mode) ? What::kFolder : What::kAbsent;
  }
  return found;
}

std::string_view suffix(Coding coding) noexcept {
  switch (coding) {
    case Coding::kBrotli:
      return ".br";
    case Coding::kZstd:
      return ".zst";
    case Coding::kGzip:
      return ".gz";
    case Coding::kIdentity:
      break;
  }
  return "";
}

// Formats that are compressed in themselves have no siblings.
bool may_have_sibling(std::string_view path) noexcept {
  const std::string_view type = content_type(path);
  return type.starts_with("text/") || type.starts_with("application/") ||
         type.starts_with("image/svg") || type.starts_with("font/");
}

}  // namespace

bool same_content(const struct stat& a, const struct stat& b) noexcept {
  return a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

Found look_up(int folder, const FilePath& path, std::span<const Coding> codings, Wait wait) {
  std::string name = path.path;
  if (path.folder) {
    name += name.empty() ? "index.html" : "/index.html";
  }
  Found found = open_file(folder, name, wait);
  if (found.what == What::kFolder && path.folder) {
    found = Found();
  }
  if (found.what != What::kFile || codings.empty() || !may_have_sibling(name)) {
    return found;
  }
  for (const Coding coding : codings) {
    Found sibling = open_file(folder, name + std::string(suffix(coding)), wait);
    if (sibling.what == What::kWouldBlock) {
      return sibling;
    }
    if (sibling.what == What::kFile &&
        sibling.info.st_mtim.tv_sec + kLeftoverSecs >= found.info.st_mtim.tv_sec) {
      sibling.coding = coding;
      return sibling;
    }
  }
  return found;
}

}  // namespace mik::files
