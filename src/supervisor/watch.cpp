#include "supervisor/watch.hpp"

#include <dirent.h>
#include <linux/magic.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "base/names.hpp"

namespace mik::supervisor {

namespace {

constexpr base::Duration kPoll = std::chrono::seconds(2);
// A writer that has the file open may stall; after so long without a byte we look anyway.
constexpr base::Duration kOpenQuiet = std::chrono::seconds(10);
constexpr std::string_view kSuffix = ".wasm";
constexpr std::string_view kArtefactSuffix = ".wasm.aot";
constexpr std::uint32_t kMask = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE |
                                IN_CREATE | IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF |
                                IN_ONLYDIR;

// File systems on which other machines write, of which inotify does not tell.
bool changes_unseen(const std::string& path) {
  constexpr std::array<std::int64_t, 8> kElsewhere = {
      NFS_SUPER_MAGIC, SMB_SUPER_MAGIC,  0xfe534d42 /* SMB2 */, 0xff534d42 /* CIFS */,
      V9FS_MAGIC,      FUSE_SUPER_MAGIC, AFS_SUPER_MAGIC,       0x00c36400 /* Ceph */};
  struct statfs info{};
  return ::statfs(path.c_str(), &info) == 0 &&
         std::ranges::find(kElsewhere, static_cast<std::int64_t>(info.f_type)) != kElsewhere.end();
}

std::int64_t to_ns(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

FileId id_of(const struct stat& info) {
  return {.device = info.st_dev,
          .inode = info.st_ino,
          .size = static_cast<std::uint64_t>(info.st_size),
          .modified_ns = to_ns(info.st_mtim),
          .changed_ns = to_ns(info.st_ctim)};
}

std::uint64_t inode_of(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

// Names in a folder and whether each is a link; empty when it cannot be read.
struct Listed {
  std::string name;
  bool link = false;
};
std::vector<Listed> list(const std::string& path) {
  std::vector<Listed> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> folder(::opendir(path.c_str()), &::closedir);
  while (const dirent* entry = folder ? ::readdir(folder.get()) : nullptr) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") {
      names.push_back({std::string(name), entry->d_type == DT_LNK || entry->d_type == DT_UNKNOWN});
    }
  }
  return names;
}

bool is_link(const std::string& path) {
  struct stat info{};
  return ::lstat(path.c_str(), &info) == 0 && S_ISLNK(info.st_mode);
}

// Only the writer of a new file says that it is done with it; what was linked is whole.
bool is_being_written(const std::string& path) {
  struct stat info{};
  return ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink == 1;
}

// "/a/b.wasm" is "/a" and "b.wasm".
std::pair<std::string, std::string> split(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) {
    return {".", path};
  }
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace

std::optional<FileId> identify(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return std::nullopt;
  }
  return id_of(info);
}

Watch::Watch(net::Loop& loop, WatchEvents& events) : loop_(loop), events_(events) {}

Watch::~Watch() { stop(); }

void Watch::stop() noexcept {
  if (inotify_.valid()) {
    loop_.unwatch(inotify_.get());
    inotify_.reset();
  }
  folders_.clear();
  due_.clear();
  rescan_at_ = base::kNever;
  due_timer_.disarm();
  poll_timer_.disarm();
}

void Watch::start(const config::Settings& settings) {
  stop();
  single_ = settings.single_component();
  component_path_ = settings.component_path;
  component_name_ = settings.component_name;
  modules_dir_ = single_ ? std::string() : settings.modules_dir;
  user_modules_dir_ = single_ ? std::string() : settings.user_modules_dir;
  constexpr base::Duration kEager = std::chrono::milliseconds(50);
  quiet_ = settings.hot_reload == config::HotReload::kEager
               ? std::min(kEager, settings.watch_debounce)
               : settings.watch_debounce;
  poll_all_ = false;
  inotify_.reset(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!inotify_.valid() || !loop_.watch_level(inotify_.get(), EPOLLIN, *this).has_value()) {
    inotify_.reset();
    poll_all_ = true;
    say_once(std::string("files are polled every 2 s, since inotify is not to be had: ") +
             std::strerror(errno));
  }
  if (single_) {
    add_folder({.kind = Folder::Kind::kSingle, .path = split(component_path_).first, .tenant = {}});
  }
  if (!modules_dir_.empty()) {
    add_folder({.kind = Folder::Kind::kModules, .path = modules_dir_, .tenant = {}});
  }
  if (!user_modules_dir_.empty()) {
    add_folder({.kind = Folder::Kind::kTenants, .path = user_modules_dir_, .tenant = {}});
  }
  loop_.wheel().arm(poll_timer_, base::Clock::now() + kPoll);
}

void Watch::add_folder(Folder folder) {
  poll_all_ = poll_all_ || changes_unseen(folder.path);
  if (!inotify_.valid()) {
    return;
  }
  const int watch = ::inotify_add_watch(inotify_.get(), folder.path.c_str(), kMask);
  if (watch < 0) {
    // A folder that is not there yet is found by polling, which costs a look at it.
    if (errno != ENOENT && errno != ENOTDIR) {
      poll_all_ = true;
      say_once("files are polled every 2 s, since " + folder.path +
               " cannot be watched: " + std::strerror(errno));
    }
    return;
  }
  folder.inode = inode_of(folder.path);
  folders_[watch] = std::move(folder);
}

void Watch::drop_folder(int watch) noexcept {
  ::inotify_rm_watch(inotify_.get(), watch);
  folders_.erase(watch);
}

bool Watch::watched(const std::string& path) const {
  return std::ranges::any_of(folders_,
                             [&](const auto& entry) { return entry.second.path == path; });
}

std::string Watch::path_of(const ModuleKey& module) const {
  if (single_) {
    return component_path_;
  }
  const std::string& folder =
      module.tenant.empty() ? modules_dir_ : user_modules_dir_ + "/" + module.tenant;
  return folder + "/" + module.name + std::string(kSuffix);
}

// --- What happens -----------------------------------------------------------------------------

void Watch::on_io(std::uint32_t /*events*/) {
  constexpr int kReadsMax = 16;  // a turn
  alignas(inotify_event) std::array<char, 16 * 1024> buffer;
  for (int i = 0; i < kReadsMax && inotify_.valid(); ++i) {
    const ssize_t got = ::read(inotify_.get(), buffer.data(), buffer.size());
    if (got <= 0) {
      return;
    }
    for (std::size_t at = 0; at < static_cast<std::size_t>(got);) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof event);
      const char* name = buffer.data() + at + sizeof event;
      const std::string_view text(name, ::strnlen(name, event.len));
      at += sizeof event + event.len;
      const auto folder = folders_.find(event.wd);
      if ((event.mask & IN_Q_OVERFLOW) != 0) {
        mark_all();
      } else if ((event.mask & (IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF)) != 0) {
        if (folder != folders_.end()) {
          drop_folder(event.wd);
        }
        mark_all();
      } else if (folder != folders_.end()) {
        on_event(event.mask, text, folder->second);
      }
    }
  }
}

void Watch::on_event(std::uint32_t mask, std::string_view name, const Folder& folder) {
  if (folder.kind == Folder::Kind::kTenants) {
    mark_all();
    return;
  }
  if (name.find(kArtefactSuffix) != std::string_view::npos) {
    return;  // ours
  }
  ModuleKey module{folder.tenant, {}};
  std::string path = folder.path + "/" + std::string(name);
  if (folder.kind == Folder::Kind::kSingle) {
    module.name = component_name_;
    if (name != split(component_path_).second) {
      // Perhaps what a link leads through.
      if ((mask & (IN_MOVED_TO | IN_CREATE | IN_DELETE)) != 0) {
        mark(module);
      }
      return;
    }
  } else if (name.ends_with(kSuffix)) {
    module.name = name.substr(0, name.size() - kSuffix.size());
  } else {
    // Perhaps what links lead through: a release's folder, put in place by rename.
    if ((mask & (IN_MOVED_TO | IN_CREATE | IN_DELETE)) != 0) {
      mark_all();
    }
    return;
  }
  const bool open = (mask & IN_MODIFY) != 0 || ((mask & IN_CREATE) != 0 && is_being_written(path));
  due_[module] =
      base::saturating_add(base::Clock::now(), open ? std::max(quiet_, kOpenQuiet) : quiet_);
  arm();
}

void Watch::mark(const ModuleKey& module) {
  due_.try_emplace(module, base::saturating_add(base::Clock::now(), quiet_));
  arm();
}

// Not put off by what comes after it: in a busy folder that has no end.
void Watch::mark_all() {
  rescan_at_ = std::min(rescan_at_, base::saturating_add(base::Clock::now(), quiet_));
  arm();
}

void Watch::arm() {
  base::Time next = rescan_at_;
  for (const auto& [module, at] : due_) {
    next = std::min(next, at);
  }
  if (next == base::kNever) {
    due_timer_.disarm();
  } else {
    loop_.wheel().arm(due_timer_, next);
  }
}

void Watch::on_due() {
  const base::Time now = base::Clock::now();
  std::vector<ModuleKey> quiet;
  std::erase_if(due_, [&](const auto& entry) {
    if (entry.second > now) {
      return false;
    }
    quiet.push_back(entry.first);
    return true;
  });
  if (rescan_at_ <= now) {
    rescan_at_ = base::kNever;
    events_.on_rescan();
  }
  if (!quiet.empty()) {
    events_.on_quiet(quiet);
  }
  arm();
}

void Watch::on_poll() {
  loop_.wheel().arm(poll_timer_, base::Clock::now() + kPoll);
  // A folder that was replaced keeps being watched under its old inode.
  bool moved = false;
  for (auto entry = folders_.begin(); entry != folders_.end();) {
    const auto [watch, folder] = *entry++;
    if (inode_of(folder.path) != folder.inode) {
      drop_folder(watch);
      moved = true;
    }
  }
  const auto lost = [&](const std::string& path) {
    return !path.empty() && inotify_.valid() && !watched(path) && inode_of(path) != 0;
  };
  if (lost(modules_dir_)) {
    add_folder({.kind = Folder::Kind::kModules, .path = modules_dir_, .tenant = {}});
    moved = true;
  }
  if (lost(user_modules_dir_)) {
    add_folder({.kind = Folder::Kind::kTenants, .path = user_modules_dir_, .tenant = {}});
    moved = true;
  }
  const std::string single = single_ ? split(component_path_).first : std::string();
  if (lost(single)) {
    add_folder({.kind = Folder::Kind::kSingle, .path = single, .tenant = {}});
    moved = true;
  }
  if (moved || poll_all_) {
    events_.on_rescan();
  }
}

// --- What there is ----------------------------------------------------------------------------

Inventory Watch::take_inventory() {
  Inventory inventory;
  if (single_) {
    if (const auto id = identify(component_path_)) {
      inventory.modules.emplace(ModuleKey{{}, component_name_}, *id);
    }
    return inventory;
  }
  if (!modules_dir_.empty()) {
    scan_folder({.kind = Folder::Kind::kModules, .path = modules_dir_, .tenant = {}}, inventory);
  }
  if (!user_modules_dir_.empty()) {
    scan_tenants(inventory);
  }
  return inventory;
}

void Watch::scan_tenants(Inventory& inventory) {
  for (const Listed& listed : list(user_modules_dir_)) {
    Folder folder{.kind = Folder::Kind::kTenant,
                  .path = user_modules_dir_ + "/" + listed.name,
                  .tenant = listed.name};
    struct stat info{};
    if (::stat(folder.path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
      continue;
    }
    if (!base::valid_module_name(listed.name)) {
      inventory.refused.insert(folder.path);
      continue;
    }
    if (!watched(folder.path)) {
      add_folder(folder);
    }
    scan_folder(folder, inventory);
  }
}

void Watch::scan_folder(const Folder& folder, Inventory& inventory) {
  std::vector<std::string> artefacts;
  for (const Listed& listed : list(folder.path)) {
    const std::string path = folder.path + "/" + listed.name;
    if (listed.name.ends_with(kArtefactSuffix)) {
      artefacts.push_back(path);
      continue;
    }
    if (!listed.name.ends_with(kSuffix)) {
      continue;
    }
    // What a link leads to changes where nobody watches.
    poll_all_ = poll_all_ || (listed.link && is_link(path));
    const auto id = identify(path);
    if (!id) {
      continue;
    }
    const std::string stem = listed.name.substr(0, listed.name.size() - kSuffix.size());
    if (base::valid_module_name(stem)) {
      inventory.modules.emplace(ModuleKey{folder.tenant, stem}, *id);
    } else {
      inventory.refused.insert(path);
    }
  }
  for (std::string& artefact : artefacts) {
    const std::size_t begin = folder.path.size() + 1;
    const std::string stem =
        artefact.substr(begin, artefact.size() - begin - kArtefactSuffix.size());
    if (!inventory.modules.contains(ModuleKey{folder.tenant, stem})) {
      inventory.orphans.push_back(std::move(artefact));
    }
  }
}

void Watch::say_once(const std::string& text) {
  if (said_.insert(text).second) {
    events_.on_watch_trouble(text);
  }
}

}  // namespace mik::supervisor
