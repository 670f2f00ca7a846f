#include "supervisor/artefact_limit.hpp"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <memory>
#include <string_view>
#include <tuple>

namespace mik::supervisor {

namespace {

constexpr std::string_view kSuffix = ".aot";
// What a child that was killed has left of one; a compilation ends sooner.
constexpr std::string_view kPartSuffix = ".aot.";
constexpr std::int64_t kPartMaxS = 600;

struct File {
  std::int64_t used_s = 0;
  std::int64_t used_ns = 0;
  std::string path;
  std::uint64_t bytes = 0;
};

bool look_at(const std::string& path, File& file) {
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || info.st_uid != ::geteuid()) {
    return false;
  }
  file = {.used_s = info.st_mtim.tv_sec,
          .used_ns = info.st_mtim.tv_nsec,
          .path = path,
          .bytes = static_cast<std::uint64_t>(info.st_blocks) * 512};
  return true;
}

std::string hex(const shared::Digest& digest) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

std::uint64_t limit_artefacts(const Artefacts& artefacts, std::uint64_t bytes_max) {
  std::set<std::string> used;
  for (const shared::Digest& digest : artefacts.used) {
    used.insert(hex(digest) + std::string(kSuffix));
  }
  std::uint64_t total = 0;
  std::vector<File> unused;
  File file;
  const auto take = [&](const std::string& path, bool needed) {
    if (look_at(path, file)) {
      total += file.bytes;
      if (!needed) {
        unused.push_back(file);
      }
    }
  };
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(artefacts.folder.c_str()),
                                                   &::closedir);
  while (const dirent* entry = folder ? ::readdir(folder.get()) : nullptr) {
    const std::string name = entry->d_name;
    const std::string path = artefacts.folder + "/" + name;
    if (name.ends_with(kSuffix)) {
      take(path, used.contains(name));
    } else if (name.find(kPartSuffix) != std::string::npos) {
      take(path, look_at(path, file) && file.used_s + kPartMaxS > std::time(nullptr));
    }
  }
  for (const std::string& path : artefacts.beside) {
    take(path, true);
  }
  for (const std::string& path : artefacts.orphans) {
    take(path, false);
  }
  std::ranges::sort(unused, {}, [](const File& each) {
    return std::tuple(each.used_s, each.used_ns, each.path);
  });
  for (const File& each : unused) {
    if (total <= bytes_max) {
      break;
    }
    if (::unlink(each.path.c_str()) == 0) {
      total -= each.bytes;
      if (each.path.starts_with(artefacts.folder + "/") && each.path.ends_with(kSuffix)) {
        // Whoever waits for the lock meanwhile compiles for itself.
        ::unlink((each.path.substr(0, each.path.size() - kSuffix.size()) + ".lock").c_str());
      }
    }
  }
  return total;
}

}  // namespace mik::supervisor
