// What a worker knows of the modules in the shared table: one entry for each, found by tenant and
// name without allocation, brought up to date when the table has moved. Confined to the loop
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/time.hpp"
#include "config/settings.hpp"
#include "engine/engine.hpp"
#include "http/allow_list.hpp"
#include "reliability/admission.hpp"
#include "runtime/account.hpp"
#include "shared/modules.hpp"
#include "shared/segment.hpp"
#include "telemetry/log_budget.hpp"

namespace mik::runtime {

class ModuleWaiter;

// A response of that status, in what a worker counts for a module.
void count_status(shared::ModuleCells& cells, int status) noexcept;
http::PrivatePolicy private_policy(config::HttpPrivate setting) noexcept;

// A component that is loaded, and which one.
struct LoadedModule {
  engine::Component component;
  shared::Digest digest{};
};

// What the modules of a tenant (of the platform, where there is no tenant) share in one worker.
struct TenantEntry {
  std::string id;
  std::uint32_t row = shared::kNoRow;
  const config::TenantSettings* settings = nullptr;  // null: no section
  Account account;                                   // of all its modules' guests
  shared::TenantCells* cells = nullptr;              // of this worker; null for the platform
  // What the module cache holds of it.
  std::size_t loaded = 0;
  std::uint64_t loaded_bytes = 0;
};

// One module. Requests share it: it outlives its place in the index while they run.
struct ModuleEntry {
  ModuleEntry(const config::GuestSettings& guest_settings, const http::AllowList& allow_list,
              std::shared_ptr<TenantEntry> of_tenant, shared::ModuleCells& own_cells,
              shared::Cell& breaker_cell)
      : guest(guest_settings),
        allowed(allow_list),
        tenant_owner(std::move(of_tenant)),
        tenant(*tenant_owner),
        // A module of the platform stands beside the tenants, not below one.
        account(guest_settings.cpu_share, tenant.id.empty() ? nullptr : &tenant.account),
        cells(own_cells),
        breaker(breaker_cell) {
    account.set_gauge(cells.memory_bytes);
  }

  std::uint32_t row = 0;
  std::uint64_t incarnation = 0;
  std::string name;
  std::string label;         // "name" or "tenant/name"
  std::string_view handler;  // X-Mik-Handler: the label, or empty when that is no field value

  const config::GuestSettings& guest;
  const http::AllowList& allowed;
  const std::shared_ptr<TenantEntry> tenant_owner;
  TenantEntry& tenant;
  Account account;                   // of its guests
  reliability::Target target;        // of admission
  reliability::ServiceTime service;  // how long its guests hold a permit, here
  reliability::ServiceTime answer;   // from a guest's start to its response's head
  shared::ModuleCells& cells;        // of this worker
  shared::Cell& breaker;             // of all workers
  telemetry::LogBudget output;       // of what its guests write

  // What the table said when it was last read.
  shared::RowState state = shared::RowState::kIdle;
  std::uint64_t version = 0;
  std::optional<shared::Digest> digest;
  std::uint64_t artefact_bytes = 0;
  std::string error;
  std::string pending_error;
  bool pending = false;  // a change is not served: it cannot be, or nobody has asked for it

  // The module cache's; see module_cache.hpp.
  struct Cached {
    std::shared_ptr<LoadedModule> module;
    std::list<ModuleEntry*>::iterator place;  // when module is set
    bool loading = false;
    bool asked = false;                      // the supervisor was told that there is no artefact
    std::uint64_t asked_version = 0;         // of the row then
    bool removed = false;                    // out of the index: nothing is loaded for it any more
    bool broken = false;                     // this version can never run here
    base::Time retry_at;                     // not before: it could not be loaded a moment ago
    unsigned tries = 0;                      // how often it was asked in a row
    std::uint64_t wanted = 0;                // a load's number: results of earlier ones are dropped
    std::shared_ptr<LoadedModule> prepared;  // the next version
    std::vector<ModuleWaiter*> waiting;
  } cached;
};

class ModuleIndex {
 public:
  class Events {
   public:
    virtual ~Events() = default;
    // The row's state, version or digest is another than before.
    virtual void on_changed(ModuleEntry& entry) = 0;
    // It is no longer there: found no more, and it will not come back as this entry.
    virtual void on_removed(ModuleEntry& entry) = 0;
  };

  // All three must outlive the index.
  ModuleIndex(const config::Settings& settings, shared::Segment& segment, std::size_t slot,
              Events& events);
  // Compiles the allow lists of the settings. kConfig.
  base::Result<void> start();

  // Before a lookup: one load when nothing has changed.
  void refresh() {
    if (table_.generation() != seen_) {
      read_table();
    }
  }
  // Null when there is none; kGone rows are not found. Allocates nothing.
  const std::shared_ptr<ModuleEntry>* find(std::string_view tenant, std::string_view name) const;
  // Null when the row is another module's by now, or gone.
  const std::shared_ptr<ModuleEntry>* at(std::uint32_t row, std::uint64_t incarnation) const;

  template <class F>
  void each(F&& f) const {
    for (const auto& entry : by_row_) {
      if (entry != nullptr) {
        f(*entry);
      }
    }
  }
  std::size_t size() const noexcept { return by_key_.size(); }

 private:
  struct Key {
    std::string_view tenant;
    std::string_view name;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Hash {
    std::size_t operator()(const Key& key) const noexcept {
      const std::hash<std::string_view> hash;
      return hash(key.name) ^ (hash(key.tenant) * 0x9e3779b97f4a7c15ull);
    }
  };

  void read_table();
  void read_row(std::uint32_t row);
  void remove(std::uint32_t row);
  std::shared_ptr<ModuleEntry> make(std::uint32_t row, const shared::ModuleRow& said);
  std::shared_ptr<TenantEntry> tenant(const shared::ModuleRow& said);
  const http::AllowList& allow_list(const config::GuestSettings& guest) const;

  const config::Settings& settings_;
  shared::ModuleTable& table_;
  const std::size_t slot_;
  Events& events_;
  std::uint64_t seen_ = 0;
  std::map<std::vector<std::string>, http::AllowList> allow_lists_;  // one for each distinct list
  std::map<std::string, std::shared_ptr<TenantEntry>, std::less<>> tenants_;
  std::vector<std::shared_ptr<ModuleEntry>> by_row_;
  std::vector<std::uint64_t> changes_;  // by row: ModuleTable::changes when it was read
  // The views of a key are into its entry.
  std::unordered_map<Key, std::shared_ptr<ModuleEntry>, Hash> by_key_;
};

}  // namespace mik::runtime
