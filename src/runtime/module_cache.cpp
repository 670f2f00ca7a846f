#include "runtime/module_cache.hpp"

#include <algorithm>
#include <utility>

#include "base/assert.hpp"

namespace mik::runtime {

namespace {

using base::ErrorCode;

constexpr base::Duration kLookAgain = std::chrono::milliseconds(100);
// What could not be loaded is not tried again for so long.
constexpr base::Duration kRetryAfter = std::chrono::seconds(1);
// An artefact that the supervisor calls ready and this worker cannot use: so often it is asked
// again.
constexpr unsigned kTriesMax = 3;

// Nothing but another file or another configuration would help.
bool is_final(ErrorCode code) noexcept {
  return code == ErrorCode::kStaticLimit || code == ErrorCode::kImport ||
         code == ErrorCode::kNotComponent || code == ErrorCode::kCompile;
}

base::Error ending() {
  return base::Error(ErrorCode::kCancelled, "the server is ending: nothing is compiled any more");
}

}  // namespace

ModuleCache::ModuleCache(const Parts& parts)
    : parts_(parts),
      index_(parts.settings, parts.segment, parts.slot, *this),
      look_timer_(net::Timer::of<&ModuleCache::look_again>(this)),
      self_(std::make_shared<ModuleCache*>(this)) {}

ModuleCache::~ModuleCache() {
  while (!used_.empty()) {
    unload(*used_.back());
  }
}

std::shared_ptr<LoadedModule> ModuleCache::use(ModuleEntry& entry) {
  if (entry.cached.module != nullptr && entry.cached.place != used_.begin()) {
    used_.splice(used_.begin(), used_, entry.cached.place);
  }
  return entry.cached.module;
}

ModuleCache::Wait ModuleCache::wait(const std::shared_ptr<ModuleEntry>& entry,
                                    ModuleWaiter& waiter) {
  MIK_ASSERT(entry->cached.module == nullptr);
  ModuleEntry::Cached& cached = entry->cached;
  if (cached.removed) {
    return Wait::kGone;
  }
  if (waiting_ >= kWaitingMax || cached.waiting.size() >= waiting_max(*entry)) {
    return Wait::kFull;
  }
  if (!cached.loading && !cached.asked && (parts_.loop.now() < cached.retry_at || !load(entry))) {
    return Wait::kUnavailable;
  }
  cached.waiting.push_back(&waiter);
  ++waiting_;
  if (!look_timer_.armed()) {
    parts_.loop.wheel().arm(look_timer_, parts_.loop.now() + kLookAgain);
  }
  return Wait::kWaiting;
}

std::size_t ModuleCache::waiting_max(const ModuleEntry& entry) const {
  if (parts_.settings.single_component()) {
    return kWaitingMax;
  }
  return entry.guest.max_requests > 0 ? entry.guest.max_requests : kWaitingDefault;
}

void ModuleCache::stop_waiting(ModuleEntry& entry, ModuleWaiter& waiter) {
  waiting_ -= std::erase(entry.cached.waiting, &waiter);
}

void ModuleCache::preload(const std::shared_ptr<ModuleEntry>& entry) {
  // What loading counts is its own.
  parts_.segment.modules().claim_label(entry->row, entry->label);
  ModuleEntry::Cached& cached = entry->cached;
  if (cached.module == nullptr && !cached.loading && !cached.asked && !load(entry)) {
    on_load_failed(entry, base::Error(ErrorCode::kOverload, "too much else is being loaded"));
  }
}

bool ModuleCache::submit(const std::shared_ptr<ModuleEntry>& entry,
                         std::optional<shared::Digest> digest, std::uint64_t number, Done done) {
  LoadRequest request;
  request.tenant = entry->tenant.id;
  request.name = entry->name;
  request.digest = digest;
  request.guest = &entry->guest;
  auto result = std::make_shared<std::optional<Loaded>>();
  return parts_.offload.submit(
      [&loader = parts_.loader, request = std::move(request), result] {
        result->emplace(loader.load(request));
      },
      [self = std::weak_ptr(self_), asked_for = std::weak_ptr(entry), number, done, result] {
        const auto cache = self.lock();
        if (const auto still = asked_for.lock(); cache != nullptr && still != nullptr) {
          ((*cache)->*done)(still, number, *std::move(*result));
        }
      });
}

bool ModuleCache::load(const std::shared_ptr<ModuleEntry>& entry) {
  ModuleEntry::Cached& cached = entry->cached;
  cached.asked = false;
  cached.wanted = ++loads_;
  cached.loading = submit(entry, entry->digest, cached.wanted, &ModuleCache::on_load);
  return cached.loading;
}

// For those who wait already. By value: failing may take the module out of the index.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
void ModuleCache::load_again(std::shared_ptr<ModuleEntry> entry) {
  if (!load(entry)) {
    give_up(*entry, ModuleTrouble::kUnavailable,
            base::Error(ErrorCode::kOverload, "too much else is being loaded"));
  }
}

void ModuleCache::on_load(const std::shared_ptr<ModuleEntry>& entry, std::uint64_t number,
                          Loaded loaded) {
  ModuleEntry::Cached& cached = entry->cached;
  if (number != cached.wanted || !cached.loading) {
    return;  // the module is gone, or another version came meanwhile
  }
  cached.loading = false;
  index_.refresh();  // may have taken the module away
  if (number != cached.wanted || cached.module != nullptr) {
    return;
  }
  if (!loaded.has_value()) {
    on_load_failed(entry, loaded.error());
    return;
  }
  if (entry->digest.has_value() && *entry->digest != loaded->digest) {
    load_again(entry);  // a swap came between
    return;
  }
  shared::count(entry->cells.loads);
  const std::uint64_t bytes = loaded->component.bytes();
  if (!entry->digest.has_value()) {
    parts_.host.tell_supervisor(
        shared::Resolved{entry->row, entry->incarnation, loaded->digest, bytes});
  }
  cached.tries = 0;
  install(*entry, share(*std::move(loaded)));
  parts_.host.on_module_loaded(*entry, bytes);
  tell_waiting(*entry, ModuleTrouble::kNone);
}

void ModuleCache::on_load_failed(const std::shared_ptr<ModuleEntry>& entry,
                                 const base::Error& error) {
  if (error.code() == ErrorCode::kArtefact) {
    ask_for_artefact(entry, error);
  } else if (error.code() == ErrorCode::kNotFound) {
    give_up(*entry, ModuleTrouble::kGone, error);
  } else {
    entry->cached.broken = is_final(error.code());
    entry->cells.broken.store(entry->cached.broken ? 1 : 0, std::memory_order_relaxed);
    give_up(*entry, entry->cached.broken ? ModuleTrouble::kBroken : ModuleTrouble::kFailed, error);
  }
}

void ModuleCache::abandon() {
  abandoned_ = true;
  std::vector<ModuleEntry*> asked;  // entries live as long as the index
  index_.each([&](ModuleEntry& entry) {
    if (entry.cached.asked) {
      asked.push_back(&entry);
    }
  });
  for (ModuleEntry* entry : asked) {
    give_up(*entry, ModuleTrouble::kUnavailable, ending());
  }
}

void ModuleCache::ask_for_artefact(const std::shared_ptr<ModuleEntry>& entry,
                                   const base::Error& error) {
  if (abandoned_) {
    give_up(*entry, ModuleTrouble::kUnavailable, ending());
    return;
  }
  if (++entry->cached.tries > kTriesMax) {
    give_up(*entry, ModuleTrouble::kFailed, error);
    return;
  }
  if (!error.message().empty()) {
    parts_.host.on_artefact_refused(*entry, error);
  }
  entry->cached.asked = true;
  entry->cached.asked_version = entry->version;
  if (!parts_.host.tell_supervisor(shared::NeedArtefact{entry->row, entry->incarnation})) {
    entry->cached.asked = false;
    give_up(*entry, ModuleTrouble::kUnavailable,
            base::Error(ErrorCode::kSystem, "the supervisor cannot be reached"));
  }
}

void ModuleCache::on_message(const shared::ArtefactReady& message) {
  index_.refresh();
  const std::shared_ptr<ModuleEntry>* found = index_.at(message.row, message.incarnation);
  if (found == nullptr || !(*found)->cached.asked) {
    return;
  }
  load_again(*found);
}

void ModuleCache::on_message(const shared::ArtefactFailed& message) {
  index_.refresh();
  const std::shared_ptr<ModuleEntry>* found = index_.at(message.row, message.incarnation);
  if (found == nullptr || !(*found)->cached.asked) {
    return;
  }
  const std::shared_ptr<ModuleEntry> entry = *found;
  give_up(*entry,
          entry->state == shared::RowState::kBroken ? ModuleTrouble::kBroken
                                                    : ModuleTrouble::kUnavailable,
          shared::to_error(message), Host::FoundBy::kSupervisor);
}

void ModuleCache::on_message(const shared::Prepare& message) {
  index_.refresh();
  const std::shared_ptr<ModuleEntry>* found = index_.at(message.row, message.incarnation);
  if (found != nullptr && !draining_ && (*found)->cached.module != nullptr &&
      submit(*found, message.digest, message.version, &ModuleCache::on_prepared)) {
    return;
  }
  // Not loaded here, or it will be when it is asked for.
  parts_.host.tell_supervisor(shared::Prepared{message.row, message.version, true, {}});
}

void ModuleCache::on_prepared(const std::shared_ptr<ModuleEntry>& entry, std::uint64_t version,
                              Loaded loaded) {
  shared::Prepared answer{entry->row, version, loaded.has_value(), {}};
  if (!loaded.has_value()) {
    answer.text = loaded.error().to_string();
  } else if (entry->cached.module != nullptr) {
    forget(entry->cached.prepared);
    entry->cached.prepared = share(*std::move(loaded));
    if (entry->version >= version) {
      on_changed(*entry);  // published without waiting for this worker
    }
  }
  parts_.host.tell_supervisor(answer);
}

void ModuleCache::on_changed(ModuleEntry& entry) {
  ModuleEntry::Cached& cached = entry.cached;
  cached.broken = false;
  if (entry.cells.broken.load(std::memory_order_relaxed) != 0) {
    entry.cells.broken.store(0, std::memory_order_relaxed);
  }
  cached.retry_at = base::Time();
  if (cached.module != nullptr && !draining_ && entry.digest.has_value() &&
      cached.module->digest != *entry.digest) {
    std::shared_ptr<LoadedModule> next = std::exchange(cached.prepared, nullptr);
    unload(entry);
    if (next != nullptr && next->digest == *entry.digest) {
      install(entry, std::move(next));
    } else {
      forget(next);  // this version is loaded when it is asked for
    }
  } else if (!entry.pending_error.empty()) {
    forget(cached.prepared);  // will not be published
  }
  if (cached.asked && entry.state == shared::RowState::kReady &&
      entry.version != cached.asked_version) {
    load_again(*index_.at(entry.row, entry.incarnation));
  } else if (cached.asked && entry.state == shared::RowState::kBroken) {
    give_up(entry, ModuleTrouble::kBroken, base::Error(ErrorCode::kCompile, entry.error),
            Host::FoundBy::kSupervisor);
  }
}

void ModuleCache::on_removed(ModuleEntry& entry) {
  entry.cached.removed = true;
  entry.cells.broken.store(0, std::memory_order_relaxed);
  entry.cached.wanted = 0;
  entry.cached.loading = false;
  entry.cached.asked = false;
  unload(entry);
  tell_waiting(entry, ModuleTrouble::kGone);
}

void ModuleCache::install(ModuleEntry& entry, std::shared_ptr<LoadedModule> module) {
  const std::uint64_t bytes = module->component.bytes();
  entry.cached.module = std::move(module);
  used_.push_front(&entry);
  entry.cached.place = used_.begin();
  bytes_ += bytes;
  entry.tenant.loaded_bytes += bytes;
  ++entry.tenant.loaded;
  entry.cells.loaded.store(1, std::memory_order_relaxed);
  shrink();
}

void ModuleCache::unload(ModuleEntry& entry) {
  ModuleEntry::Cached& cached = entry.cached;
  forget(cached.prepared);
  if (cached.module == nullptr) {
    return;
  }
  const std::uint64_t bytes = cached.module->component.bytes();
  bytes_ -= bytes;
  entry.tenant.loaded_bytes -= bytes;
  --entry.tenant.loaded;
  entry.cells.loaded.store(0, std::memory_order_relaxed);
  used_.erase(cached.place);
  forget(cached.module);
}

// Instances that were kept for another request go at once; those that serve keep the component.
void ModuleCache::forget(std::shared_ptr<LoadedModule>& module) {
  if (module != nullptr) {
    parts_.guests.forget(module->component);
    module.reset();
  }
}

void ModuleCache::shrink() {
  // The newest stays, however large it is: it is about to be used.
  while (used_.size() > 1 &&
         (used_.size() > parts_.settings.cache_size || bytes_ > parts_.settings.max_cache_bytes)) {
    unload(*victim(*used_.front()));
  }
}

ModuleEntry* ModuleCache::victim(const ModuleEntry& newest) {
  const bool by_count = used_.size() > parts_.settings.cache_size;
  const auto held = [&](const TenantEntry& tenant) {
    return by_count ? tenant.loaded : tenant.loaded_bytes;
  };
  ModuleEntry* found = nullptr;
  for (ModuleEntry* entry : used_) {  // the last of equals is the least recently used
    if (entry != &newest && (found == nullptr || held(entry->tenant) >= held(found->tenant))) {
      found = entry;
    }
  }
  return found;
}

void ModuleCache::give_up(ModuleEntry& entry, ModuleTrouble trouble, const base::Error& error,
                          Host::FoundBy by) {
  entry.cached.asked = false;
  entry.cached.tries = 0;
  entry.cached.retry_at = parts_.loop.now() + kRetryAfter;
  parts_.host.on_module_failed(entry, error, by);
  tell_waiting(entry, trouble);
}

void ModuleCache::tell_waiting(ModuleEntry& entry, ModuleTrouble trouble) {
  // One by one: an answer to one may end its connection, and with it others that wait here; and the
  // next request of a connection may come to wait.
  for (std::size_t left = entry.cached.waiting.size(); left > 0 && !entry.cached.waiting.empty();
       --left) {
    ModuleWaiter& waiter = *entry.cached.waiting.front();
    entry.cached.waiting.erase(entry.cached.waiting.begin());
    --waiting_;
    waiter.on_module(trouble);
    trouble = trouble == ModuleTrouble::kFailed ? ModuleTrouble::kUnavailable : trouble;
  }
}

// Destroyed on the pool: dropping the maps of a large component takes milliseconds.
std::shared_ptr<LoadedModule> ModuleCache::share(LoadedModule module) {
  return {new LoadedModule(std::move(module)), [&offload = parts_.offload](LoadedModule* last) {
            // Emptied by the job: whoever drops the job itself drops nothing large.
            const auto owner = std::make_shared<std::unique_ptr<LoadedModule>>(last);
            static_cast<void>(offload.submit([owner] { owner->reset(); }, [] {}));
          }};
}

void ModuleCache::look_again() {
  index_.refresh();
  if (waiting_ > 0) {
    parts_.loop.wheel().arm(look_timer_, parts_.loop.now() + kLookAgain);
  }
}

}  // namespace mik::runtime
