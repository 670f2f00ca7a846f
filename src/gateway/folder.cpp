#include "gateway/folder.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/fd.hpp"
#include "base/names.hpp"
#include "runtime/module_file.hpp"

namespace mik::gateway {

namespace {

using base::Error;
using base::ErrorCode;
using base::Fd;
using base::Result;

constexpr std::string_view kWasm = ".wasm";
constexpr std::string_view kDocument = ".openapi.json";

struct Closer {
  void operator()(DIR* directory) const noexcept { ::closedir(directory); }
};

std::vector<std::string> names_in(Fd folder) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, Closer> directory(::fdopendir(folder.get()));
  if (directory == nullptr) {
    return names;
  }
  static_cast<void>(folder.release());
  // NOLINTNEXTLINE(concurrency-mt-unsafe): the stream is ours alone
  while (const dirent* entry = ::readdir(directory.get())) {
    names.emplace_back(entry->d_name);
    if (names.size() == 4 * kModulesMax) {
      break;
    }
  }
  return names;
}

// What is found at `path`, when it is a regular file.
bool look(const std::string& root, const std::string& path, struct stat& info) {
  const auto file = runtime::open_beneath(root, path);
  return file.has_value() && ::fstat(file->get(), &info) == 0 && S_ISREG(info.st_mode);
}

// The same for a name of `folder`, whose path that is. Only a link can lead elsewhere, so that all
// else costs one system call.
bool look_at(const Fd& folder, const std::string& name, const Folder& of, struct stat& info) {
  if (::fstatat(folder.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    return false;
  }
  return S_ISREG(info.st_mode) || (S_ISLNK(info.st_mode) && look(of.root, of.below + name, info));
}

void add_document(const std::string& path, const struct stat& info, Module& module) {
  module.document = path;
  module.stamp = fmt::format("{}:{}:{}:{}.{}", info.st_dev, info.st_ino, info.st_size,
                             info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
}

void scan(Folder& folder, const Fd& fd) {
  const std::vector<std::string> names = names_in(Fd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)));
  const std::set<std::string_view> present(names.begin(), names.end());
  for (const std::string& file : names) {
    const std::string_view stem =
        std::string_view(file).substr(0, file.size() - std::min(file.size(), kWasm.size()));
    struct stat info{};
    if (!file.ends_with(kWasm) || !base::valid_module_name(stem) ||
        folder.modules.size() == kModulesMax || !look_at(fd, file, folder, info)) {
      continue;
    }
    Module module;
    module.name = stem;
    module.size_bytes = static_cast<std::uint64_t>(info.st_size);
    if (const std::string document = module.name + std::string(kDocument);
        present.contains(document) && look_at(fd, document, folder, info)) {
      add_document(folder.below + document, info, module);
    }
    folder.modules.push_back(std::move(module));
  }
  std::ranges::sort(folder.modules, {}, &Module::name);
}

Folder single_component(const config::Settings& settings) {
  Folder folder;
  folder.root = document_root(settings);
  Module module;
  module.name = settings.component_name;
  struct stat info{};
  if (::stat(settings.component_path.c_str(), &info) == 0) {
    module.size_bytes = static_cast<std::uint64_t>(info.st_size);
  }
  if (const std::string document = module.name + std::string(kDocument);
      look(folder.root, document, info)) {
    add_document(document, info, module);
  }
  folder.modules.push_back(std::move(module));
  return folder;
}

}  // namespace

std::string document_root(const config::Settings& settings) {
  return settings.single_component()
             ? settings.component_path.substr(0, settings.component_path.rfind('/') + 1)
             : settings.modules_dir;
}

Folder platform_folder(const config::Settings& settings) {
  if (settings.single_component()) {
    return single_component(settings);
  }
  Folder folder;
  folder.root = settings.modules_dir;
  if (auto fd = runtime::open_beneath(folder.root, "."); fd.has_value()) {
    scan(folder, *fd);
  }
  return folder;
}

Result<Folder> tenant_folder(const config::Settings& settings, std::string_view tenant) {
  Folder folder;
  folder.root = settings.user_modules_dir;
  folder.below = fmt::format("{}/", tenant);
  if (folder.root.empty()) {
    return Error(ErrorCode::kNotFound, "tenants are not configured");
  }
  MIK_TRY_ASSIGN(Fd fd, runtime::open_beneath(folder.root, std::string(tenant)));
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return Error(ErrorCode::kNotFound, "no folder");
  }
  scan(folder, fd);
  return folder;
}

std::vector<std::string> tenants(const config::Settings& settings) {
  std::vector<std::string> found;
  if (settings.user_modules_dir.empty()) {
    return found;
  }
  auto fd = runtime::open_beneath(settings.user_modules_dir, ".");
  if (fd.has_value()) {
    found = names_in(std::move(*fd));
  }
  std::erase_if(found, [](const std::string& name) { return !base::valid_module_name(name); });
  std::ranges::sort(found);
  return found;
}

Result<std::string> read_document(const std::string& root, const std::string& path) {
  MIK_TRY_ASSIGN(const Fd fd, runtime::open_beneath(root, path));
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return Error(ErrorCode::kNotFound, fmt::format("{}/{} is not a file", root, path));
  }
  if (static_cast<std::uint64_t>(info.st_size) > kDocumentBytesMax) {
    return Error(ErrorCode::kOverload,
                 fmt::format("{}/{} has {} bytes, more than the {} MiB that are read", root, path,
                             info.st_size, kDocumentBytesMax >> 20));
  }
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t got = 0;
  while (got < bytes.size()) {
    const ssize_t n = ::read(fd.get(), bytes.data() + got, bytes.size() - got);
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return Error::from_errno(fmt::format("cannot read {}/{}", root, path), errno);
    }
    if (n == 0) {
      break;
    }
    got += static_cast<std::size_t>(n);
  }
  bytes.resize(got);
  return bytes;
}

}  // namespace mik::gateway
