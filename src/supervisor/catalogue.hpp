// What is known of the modules: files on one side, rows of the ModuleTable on the other. Decides
// what is compiled when, and swaps a new version in, in two phases (docs/design/modules.md).
// Confined to the supervisor's loop.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/time.hpp"
#include "config/settings.hpp"
#include "net/loop.hpp"
#include "shared/control.hpp"
#include "shared/segment.hpp"
#include "supervisor/compiles.hpp"
#include "supervisor/observer.hpp"
#include "supervisor/watch.hpp"

namespace mik::supervisor {

// Rows of the table that the supervisor makes.
inline constexpr std::size_t kModulesMax = 8192;
inline constexpr std::size_t kTenantsMax = 1024;

class CatalogueHost {
 public:
  virtual ~CatalogueHost() = default;
  // To all workers that live, of every generation.
  virtual void tell_workers(const shared::Message& message) = 0;
  // For the log.
  virtual void on_module_event(Severity severity, const std::string& text) = 0;
  // Whether something is being served, which compilations should leave the CPUs to.
  virtual bool serving() const = 0;
};

class Catalogue final : public WatchEvents {
 public:
  Catalogue(net::Loop& loop, shared::Segment& segment, CatalogueHost& host,
            const std::string& executable, const CompileLimits& limits);

  // Fills the table and begins to watch. `block`: the settings for compile children, borrowed.
  // kConfig when the table cannot take what is there.
  base::Result<void> start(const config::Settings& settings, int block);
  // Whether a run with the present settings can go over to these. kConfig.
  base::Result<void> accepts(const config::Settings& settings) const;
  // New settings serve: looks at all files, applies what was only reported, tries again what was
  // broken.
  void reconfigure(const config::Settings& settings, int block);
  // NeedArtefact, Resolved or Prepared; anything else is ignored.
  void on_worker_message(std::uint32_t slot, const shared::Message& message);
  // A child has ended: a compile child of ours, or a worker that will not answer.
  void reap();
  bool compiling() const noexcept { return small_.running() || large_.running(); }
  // A drain: kills the children, watches nothing any more.
  void stop() noexcept;

  // WatchEvents
  void on_quiet(const std::vector<ModuleKey>& modules) override;
  void on_rescan() override;
  void on_watch_trouble(const std::string& text) override;

 private:
  struct Entry {
    ModuleKey key;
    std::uint32_t row = 0;
    std::uint64_t incarnation = 0;
    std::optional<FileId> file;  // as last looked at; nothing: there is none
    enum class Work : std::uint8_t { kNone, kCompiling, kPreparing };
    Work work = Work::kNone;
    bool again = false;             // what was last looked at is not what the row speaks of
    bool wanted = false;            // requests wait for the outcome
    bool held = false;              // a change was reported and is not applied
    base::Time begun;               // of the work
    base::Time changed;             // of the file, as far as we saw
    FileId subject;                 // of the compilation
    shared::CompileFailed verdict;  // kBroken
    // kPreparing: what is to serve, and who has not said that it can (slots and their pids).
    shared::Compiled next;
    std::vector<std::pair<std::uint32_t, std::uint64_t>> waiting;
    std::string refusal;
    // After a failure that may pass.
    base::Time retry_at = base::kNever;
    base::Duration retry_wait{};
  };

  Entry* add(const ModuleKey& key, const std::optional<FileId>& file);
  Entry* find(std::uint32_t row, std::uint64_t incarnation);
  Compiles& lane(std::uint64_t bytes) noexcept;
  void look(const ModuleKey& key, const std::optional<FileId>& file);
  void changed(Entry& entry);
  void apply(Entry& entry);
  void remove(Entry& entry);
  void compile(Entry& entry);
  void ask_for(const Entry& entry);
  void on_compiled(const CompileJob& job, const shared::Message& message);
  void compiled(Entry& entry, const shared::Compiled& result);
  void failed(Entry& entry, const shared::CompileFailed& failure);
  void prepare(Entry& entry, const shared::Compiled& result);
  void prepared(Entry& entry);
  void answer_ready(Entry& entry, const shared::Compiled& result);
  void answer_failed(Entry& entry);
  void drop_the_dead(Entry& entry);
  void on_need(const shared::NeedArtefact& need);
  void on_resolved(const shared::Resolved& resolved);
  void on_prepared(std::uint32_t slot, const shared::Prepared& answer);
  void on_tick();
  void need_tick();
  void take(const Inventory& inventory);
  void limit_disk();
  std::string took(const Entry& entry) const;
  void say(Severity severity, const std::string& text) { host_.on_module_event(severity, text); }

  net::Loop& loop_;
  shared::Segment& segment_;
  shared::ModuleTable& table_;
  CatalogueHost& host_;
  // So that a module which takes ten seconds to compile does not stand before small ones.
  Compiles small_;
  Compiles large_;
  Watch watch_;
  config::Settings settings_;
  std::map<ModuleKey, Entry> entries_;
  std::unordered_map<std::uint32_t, Entry*> by_row_;
  std::map<ModuleKey, FileId> seen_;  // by a rescan, and not yet for long enough
  std::set<std::string> refused_;
  std::vector<std::string> orphans_;
  bool full_ = false;        // said
  bool applying_ = false;    // SIGHUP: nothing is held back
  bool over_limit_ = false;  // said
  net::Timer tick_timer_ = net::Timer::of<&Catalogue::on_tick>(this);
};

}  // namespace mik::supervisor
