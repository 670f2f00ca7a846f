#include "runtime/module_file.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include <fmt/format.h>

namespace mik::runtime {

namespace {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Result;

// A name's way through the file system may change while it is being looked up (EAGAIN).
constexpr int kAttempts = 16;

// What is not a regular file must not hold us: a pipe without a writer, a terminal.
constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;

bool same(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec && a.st_ctim.tv_sec == b.st_ctim.tv_sec &&
         a.st_ctim.tv_nsec == b.st_ctim.tv_nsec;
}

Error cannot_open(const std::string& path, int error) {
  if (error == ENOENT || error == ENOTDIR) {
    return Error(ErrorCode::kNotFound, fmt::format("{} does not exist", path));
  }
  if (error == EXDEV || error == ELOOP) {
    return Error(ErrorCode::kUntrusted, fmt::format("{} leads out of its folder", path))
        .with_help("put the file itself there, or a link to a file in the same folder");
  }
  return Error::from_errno(fmt::format("cannot open {}", path), error);
}

Result<std::string> read_file(const Fd& fd, const std::string& path) {
  struct stat before{};
  if (::fstat(fd.get(), &before) != 0) {
    return Error::from_errno(fmt::format("cannot look at {}", path), errno);
  }
  if (!S_ISREG(before.st_mode)) {
    return Error(ErrorCode::kNotComponent, fmt::format("{} is not a file", path));
  }
  if (static_cast<std::uint64_t>(before.st_size) > kModuleBytesMax) {
    return Error(ErrorCode::kNotComponent,
                 fmt::format("{} has {} bytes, more than any component", path, before.st_size));
  }
  std::string bytes(static_cast<std::size_t>(before.st_size), '\0');
  std::size_t got = 0;
  while (got < bytes.size()) {
    const ssize_t n = ::read(fd.get(), bytes.data() + got, bytes.size() - got);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return Error::from_errno(fmt::format("cannot read {}", path), errno);
    }
    if (n == 0) {
      break;
    }
    got += static_cast<std::size_t>(n);
  }
  struct stat after{};
  if (::fstat(fd.get(), &after) != 0 || got != bytes.size() || !same(before, after)) {
    return Error(ErrorCode::kCancelled, fmt::format("{} is still being written", path));
  }
  return bytes;
}

}  // namespace

namespace internal {

Result<Fd> walk_beneath(int folder, const std::string& path) {
  Fd below;
  int at = folder;
  for (std::size_t begin = 0;;) {
    const std::size_t slash = path.find('/', begin);
    const std::string part = path.substr(begin, slash - begin);
    if (part.empty() || part == "." || part == "..") {
      return cannot_open(path, EXDEV);
    }
    const bool last = slash == std::string::npos;
    const int flags =
        last ? kReadFlags | O_NOFOLLOW : O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    Fd next(::openat(at, part.c_str(), flags));
    if (!next.valid()) {
      const int error = errno;
      struct stat info{};
      const bool link =
          ::fstatat(at, part.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(info.st_mode);
      return cannot_open(path, link ? ELOOP : error);
    }
    if (last) {
      return next;
    }
    below = std::move(next);
    at = below.get();
    begin = slash + 1;
  }
}

}  // namespace internal

Result<Fd> open_beneath(const std::string& folder, const std::string& path) {
  const Fd base(::open(folder.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!base.valid()) {
    return cannot_open(folder, errno);
  }
  open_how how{};
  how.flags = static_cast<std::uint64_t>(kReadFlags);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  for (int attempt = 0;; ++attempt) {
    Fd fd(static_cast<int>(::syscall(SYS_openat2, base.get(), path.c_str(), &how, sizeof how)));
    if (fd.valid()) {
      return fd;
    }
    if (errno == ENOSYS || errno == EPERM) {  // an old kernel; an old filter of system calls
      return internal::walk_beneath(base.get(), path);
    }
    if ((errno != EAGAIN && errno != EINTR) || attempt == kAttempts) {
      const int error = errno;
      return cannot_open(fmt::format("{}/{}", folder, path), error);
    }
  }
}

std::string module_path(const config::Settings& settings, std::string_view tenant,
                        std::string_view name) {
  if (settings.single_component()) {
    return settings.component_path;
  }
  return tenant.empty() ? fmt::format("{}/{}.wasm", settings.modules_dir, name)
                        : fmt::format("{}/{}/{}.wasm", settings.user_modules_dir, tenant, name);
}

std::string artefact_beside(const config::Settings& settings, std::string_view tenant,
                            std::string_view name) {
  return settings.single_component() ? std::string() : module_path(settings, tenant, name) + ".aot";
}

Result<std::string> read_module(const config::Settings& settings, std::string_view tenant,
                                std::string_view name) {
  const std::string path = module_path(settings, tenant, name);
  if (settings.single_component()) {
    const Fd fd(::open(path.c_str(), kReadFlags));
    if (!fd.valid()) {
      return cannot_open(path, errno);
    }
    return read_file(fd, path);
  }
  const std::string& folder = tenant.empty() ? settings.modules_dir : settings.user_modules_dir;
  MIK_TRY_ASSIGN(const Fd fd, open_beneath(folder, path.substr(folder.size() + 1)));
  return read_file(fd, path);
}

}  // namespace mik::runtime
