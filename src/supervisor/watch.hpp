// Which module files there are, and which have changed and been quiet since: inotify, with polling
// where that does not work. Confined to the supervisor's loop; reading a folder blocks for as long
// as the file system takes.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "config/settings.hpp"
#include "net/loop.hpp"

namespace mik::supervisor {

// Another file, or other contents, when it differs.
struct FileId {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;
  std::int64_t changed_ns = 0;
  friend bool operator==(const FileId&, const FileId&) = default;
};
// Of a regular file, links followed; nothing when there is none.
std::optional<FileId> identify(const std::string& path);

struct ModuleKey {
  std::string tenant;  // empty: a platform module
  std::string name;
  friend auto operator<=>(const ModuleKey&, const ModuleKey&) = default;
  // "name" or "tenant/name".
  std::string text() const { return tenant.empty() ? name : tenant + "/" + name; }
};

// What is in the folders now.
struct Inventory {
  std::map<ModuleKey, FileId> modules;
  // Files and folders whose names cannot stand in a URL.
  std::set<std::string> refused;
  // Artefacts whose module is not there.
  std::vector<std::string> orphans;
};

class WatchEvents {
 public:
  virtual ~WatchEvents() = default;
  // These may have changed, been added or removed, and nothing has happened to them since.
  virtual void on_quiet(const std::vector<ModuleKey>& modules) = 0;
  // Anything may have: Watch::take_inventory.
  virtual void on_rescan() = 0;
  virtual void on_watch_trouble(const std::string& text) = 0;
};

class Watch final : public net::IoHandler {
 public:
  Watch(net::Loop& loop, WatchEvents& events);
  ~Watch() override;
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // Watches the folders of these settings from now on, or the one of the single component.
  void start(const config::Settings& settings);
  void stop() noexcept;
  // Reads the folders, and watches those of tenants that are new.
  Inventory take_inventory();
  std::string path_of(const ModuleKey& module) const;

  // on_quiet will name it, once it has been quiet for long enough.
  void mark(const ModuleKey& module);

  void on_io(std::uint32_t events) override;

 private:
  struct Folder {
    enum class Kind : std::uint8_t { kModules, kTenants, kTenant, kSingle };
    Kind kind = Kind::kModules;
    std::string path;
    std::string tenant;
    std::uint64_t inode = 0;
  };

  void add_folder(Folder folder);
  void drop_folder(int watch) noexcept;
  bool watched(const std::string& path) const;
  void on_event(std::uint32_t mask, std::string_view name, const Folder& folder);
  void mark_all();
  void arm();
  void on_due();
  void on_poll();
  void scan_folder(const Folder& folder, Inventory& inventory);
  void scan_tenants(Inventory& inventory);
  void say_once(const std::string& text);

  net::Loop& loop_;
  WatchEvents& events_;
  base::Fd inotify_;
  bool single_ = false;
  std::string component_path_;
  std::string component_name_;
  std::string modules_dir_;
  std::string user_modules_dir_;
  base::Duration quiet_{};
  std::unordered_map<int, Folder> folders_;  // by watch descriptor
  std::map<ModuleKey, base::Time> due_;
  base::Time rescan_at_ = base::kNever;
  bool poll_all_ = false;  // inotify does not tell everything here
  std::set<std::string> said_;
  net::Timer due_timer_ = net::Timer::of<&Watch::on_due>(this);
  net::Timer poll_timer_ = net::Timer::of<&Watch::on_poll>(this);
};

}  // namespace mik::supervisor
