// The components that a worker has loaded: loaded off the loop, once however many ask; bounded in
// number and bytes; swapped when the supervisor says so (docs/design/modules.md). Confined to the
// loop thread.
//
// What is over the limits goes by least recent use, within the tenant that holds the most: a tenant
// with many modules turns out its own. Requests in flight keep their component; eviction forgets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>

#include "base/error.hpp"
#include "engine/engine.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"
#include "runtime/module_index.hpp"
#include "runtime/module_loader.hpp"
#include "shared/control.hpp"

namespace mik::runtime {

enum class ModuleTrouble : std::uint8_t {
  kNone,         // it is loaded
  kGone,         // 404
  kBroken,       // 502: it cannot be served until its file changes
  kUnavailable,  // 503: it could not be loaded now
  kFailed,       // the same, told to one of those who wait: so that it counts once
};

// Who waits for a component. Told once, unless it stopped waiting before.
class ModuleWaiter {
 public:
  virtual ~ModuleWaiter() = default;
  virtual void on_module(ModuleTrouble trouble) = 0;
};

class ModuleCache final : public ModuleIndex::Events {
 public:
  // Requests that wait for components, in one worker.
  static constexpr std::size_t kWaitingMax = 1024;
  // Of those, for one module that has no max_requests of its own.
  static constexpr std::size_t kWaitingDefault = 64;

  class Host {
   public:
    virtual ~Host() = default;
    // False when it cannot be reached.
    virtual bool tell_supervisor(const shared::Message& message) = 0;
    virtual void on_module_loaded(const ModuleEntry& entry, std::uint64_t artefact_bytes) = 0;
    // There is an artefact that must not be used: another is made.
    virtual void on_artefact_refused(const ModuleEntry& entry, const base::Error& error) = 0;
    // Nobody can be served by this version, or not now. Before those who wait are told.
    enum class FoundBy : std::uint8_t { kUs, kSupervisor };  // who has said it in its log already
    virtual void on_module_failed(const ModuleEntry& entry, const base::Error& error,
                                  FoundBy by) = 0;
  };

  // All must outlive the cache.
  struct Parts {
    const config::Settings& settings;
    shared::Segment& segment;
    std::size_t slot;
    net::Loop& loop;
    net::Offload& offload;
    const ModuleLoader& loader;
    engine::Guests& guests;
    Host& host;
  };
  explicit ModuleCache(const Parts& parts);
  ~ModuleCache() override;
  ModuleCache(const ModuleCache&) = delete;
  ModuleCache& operator=(const ModuleCache&) = delete;

  // Once, before all else: reads the table. kConfig.
  base::Result<void> start() { return index_.start(); }
  ModuleIndex& index() noexcept { return index_; }

  // The component for a new request; null when it is not loaded. The most recently used from now
  // on.
  std::shared_ptr<LoadedModule> use(ModuleEntry& entry);
  bool loaded(const ModuleEntry& entry) const noexcept { return entry.cached.module != nullptr; }

  enum class Wait : std::uint8_t { kWaiting, kFull, kUnavailable, kGone };
  // For a module that is not loaded: sees to it that it will be. Only kWaiting tells the waiter
  // later, never before this returns.
  Wait wait(const std::shared_ptr<ModuleEntry>& entry, ModuleWaiter& waiter);
  void stop_waiting(ModuleEntry& entry, ModuleWaiter& waiter);
  // Loads it although nobody waits: the single component at the start.
  void preload(const std::shared_ptr<ModuleEntry>& entry);

  // The worker serves its last requests, with what it has: a new version may be of a new
  // configuration, and lie where this one does not look.
  void drain() noexcept { draining_ = true; }
  // Nobody compiles any more, since the family ends or the supervisor is dead: who waits for that
  // is told so, and who would come to wait.
  void abandon();

  // What the supervisor says of modules.
  void on_message(const shared::ArtefactReady& message);
  void on_message(const shared::ArtefactFailed& message);
  void on_message(const shared::Prepare& message);

  // ModuleIndex::Events
  void on_changed(ModuleEntry& entry) override;
  void on_removed(ModuleEntry& entry) override;

  std::size_t size() const noexcept { return used_.size(); }
  std::uint64_t bytes() const noexcept { return bytes_; }
  std::size_t waiting() const noexcept { return waiting_; }

 private:
  using Loaded = base::Result<LoadedModule>;
  using Done = void (ModuleCache::*)(const std::shared_ptr<ModuleEntry>&, std::uint64_t, Loaded);

  bool submit(const std::shared_ptr<ModuleEntry>& entry, std::optional<shared::Digest> digest,
              std::uint64_t number, Done done);
  bool load(const std::shared_ptr<ModuleEntry>& entry);
  void load_again(std::shared_ptr<ModuleEntry> entry);
  void on_load(const std::shared_ptr<ModuleEntry>& entry, std::uint64_t number, Loaded loaded);
  void on_load_failed(const std::shared_ptr<ModuleEntry>& entry, const base::Error& error);
  void ask_for_artefact(const std::shared_ptr<ModuleEntry>& entry, const base::Error& error);
  void on_prepared(const std::shared_ptr<ModuleEntry>& entry, std::uint64_t version, Loaded loaded);
  void install(ModuleEntry& entry, std::shared_ptr<LoadedModule> module);
  void unload(ModuleEntry& entry);
  void forget(std::shared_ptr<LoadedModule>& module);
  std::size_t waiting_max(const ModuleEntry& entry) const;
  void shrink();
  ModuleEntry* victim(const ModuleEntry& newest);
  void give_up(ModuleEntry& entry, ModuleTrouble trouble, const base::Error& error,
               Host::FoundBy by = Host::FoundBy::kUs);
  void tell_waiting(ModuleEntry& entry, ModuleTrouble trouble);
  std::shared_ptr<LoadedModule> share(LoadedModule module);
  void look_again();

  const Parts parts_;
  ModuleIndex index_;
  std::list<ModuleEntry*> used_;  // most recently used first
  std::uint64_t bytes_ = 0;
  std::size_t waiting_ = 0;
  std::uint64_t loads_ = 0;  // numbers them
  bool draining_ = false;
  bool abandoned_ = false;
  // The table is the truth and messages are hints: while anybody waits it is looked at.
  net::Timer look_timer_;
  std::shared_ptr<ModuleCache*> self_;  // for what comes back from the pool
};

}  // namespace mik::runtime
