#include "supervisor/catalogue.hpp"

#include <sys/wait.h>

#include <algorithm>
#include <utility>

#include "supervisor/artefact_limit.hpp"

namespace mik::supervisor {

namespace {

// JavaScript and Python: seconds to compile, so at the start or on arrival.
constexpr std::uint64_t kLargeBytes = 4u << 20;
// A worker that says nothing for so long is not waited for.
constexpr base::Duration kPrepareMax = std::chrono::seconds(10);
constexpr base::Duration kTick = std::chrono::milliseconds(500);
constexpr base::Duration kRetryFirst = std::chrono::seconds(5);
constexpr base::Duration kRetryMax = std::chrono::minutes(10);
// A worker may have read a file before it changed, and tell of it afterwards.
constexpr base::Duration kReadMax = std::chrono::seconds(10);
constexpr std::size_t kRefusedMax = 100;

// What may be otherwise at the next try.
bool may_pass(base::ErrorCode code) {
  return code == base::ErrorCode::kSystem || code == base::ErrorCode::kOverload ||
         code == base::ErrorCode::kTimeout;
}

std::string readable(std::uint64_t bytes) {
  const bool small = bytes < (1u << 20);
  const std::uint64_t tenths = (bytes * 10) >> (small ? 10 : 20);
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) +
         (small ? " KiB" : " MiB");
}

}  // namespace

Catalogue::Catalogue(net::Loop& loop, shared::Segment& segment, CatalogueHost& host,
                     const std::string& executable, const CompileLimits& limits)
    : loop_(loop),
      segment_(segment),
      table_(segment.modules()),
      host_(host),
      small_(loop, &segment, executable, limits,
             [this](const CompileJob& job, const shared::Message& message) {
               on_compiled(job, message);
             }),
      large_(loop, &segment, executable, limits,
             [this](const CompileJob& job, const shared::Message& message) {
               on_compiled(job, message);
             }),
      watch_(loop, *this) {}

// --- Files ------------------------------------------------------------------------------------

base::Result<void> Catalogue::start(const config::Settings& settings, int block) {
  settings_ = settings;
  small_.set_settings(block, settings_.memory_budget_bytes);
  large_.set_settings(block, settings_.memory_budget_bytes);
  watch_.start(settings_);
  if (settings_.single_component()) {
    // Row 0, whether there is a file or not: the worker says what is wrong with it.
    if (add({{}, settings_.component_name}, identify(settings_.component_path)) == nullptr) {
      return base::Error(base::ErrorCode::kConfig, "the name of the component is too long");
    }
    return {};
  }
  const Inventory inventory = watch_.take_inventory();
  take(inventory);
  for (const auto& [key, file] : inventory.modules) {
    if (Entry* entry = add(key, file); entry != nullptr && file.size > kLargeBytes) {
      apply(*entry);
    }
  }
  return {};
}

base::Result<void> Catalogue::accepts(const config::Settings& settings) const {
  if (settings.single_component() != settings_.single_component() ||
      settings.component_name != settings_.component_name) {
    return base::Error(base::ErrorCode::kConfig,
                       "modules: to serve another component, or a folder in place of one, needs a "
                       "restart");
  }
  return {};
}

void Catalogue::reconfigure(const config::Settings& settings, int block) {
  settings_ = settings;
  small_.set_settings(block, settings_.memory_budget_bytes);
  large_.set_settings(block, settings_.memory_budget_bytes);
  seen_.clear();
  watch_.start(settings_);
  const Inventory inventory = watch_.take_inventory();
  take(inventory);
  applying_ = true;
  std::vector<std::pair<ModuleKey, std::optional<FileId>>> all(inventory.modules.begin(),
                                                               inventory.modules.end());
  for (auto& [key, entry] : entries_) {
    if (!inventory.modules.contains(key)) {
      all.emplace_back(key, std::nullopt);
    }
    entry.again = entry.again || std::exchange(entry.held, false);
    entry.retry_at = base::kNever;
    if (entry.work == Entry::Work::kNone &&
        table_.read(entry.row).state == shared::RowState::kBroken) {
      // Limits may be others now.
      table_.set_state(entry.row, shared::RowState::kIdle);
    }
  }
  for (const auto& [key, file] : all) {
    look(key, file);
  }
  applying_ = false;
}

void Catalogue::take(const Inventory& inventory) {
  orphans_ = inventory.orphans;
  for (const std::string& path : inventory.refused) {
    if (refused_.size() < kRefusedMax && refused_.insert(path).second) {
      say(Severity::kWarning, path + " is not served: its name cannot stand in a URL");
    }
  }
}

void Catalogue::on_rescan() {
  const Inventory inventory = watch_.take_inventory();
  take(inventory);
  for (const auto& [key, file] : inventory.modules) {
    const auto entry = entries_.find(key);
    if (entry == entries_.end() || entry->second.file != file) {
      seen_[key] = file;
      watch_.mark(key);
    }
  }
  for (const auto& [key, entry] : entries_) {
    if (entry.file && !inventory.modules.contains(key)) {
      watch_.mark(key);
    }
  }
}

void Catalogue::on_quiet(const std::vector<ModuleKey>& modules) {
  for (const ModuleKey& key : modules) {
    const std::optional<FileId> file = identify(watch_.path_of(key));
    const auto seen = seen_.find(key);
    if (seen != seen_.end()) {
      const FileId before = seen->second;
      seen_.erase(seen);
      if (file && *file != before) {
        // Nobody tells us of its writes: it is quiet when two looks at it agree.
        seen_[key] = *file;
        watch_.mark(key);
        continue;
      }
    }
    look(key, file);
  }
}

void Catalogue::on_watch_trouble(const std::string& text) { say(Severity::kWarning, text); }

Catalogue::Entry* Catalogue::add(const ModuleKey& key, const std::optional<FileId>& file) {
  const auto row = table_.add(key.tenant, key.name);
  if (!row) {
    if (!std::exchange(full_, true)) {
      say(Severity::kError, "module " + key.text() + " and those after it are not served: " +
                                std::to_string(kModulesMax) + " modules of " +
                                std::to_string(kTenantsMax) + " tenants are all there can be");
    }
    return nullptr;
  }
  Entry& entry = entries_[key];
  entry.key = key;
  entry.row = *row;
  entry.incarnation = table_.read(*row).incarnation;
  entry.file = file;
  by_row_[*row] = &entry;
  return &entry;
}

Catalogue::Entry* Catalogue::find(std::uint32_t row, std::uint64_t incarnation) {
  const auto found = by_row_.find(row);
  return found != by_row_.end() && found->second->incarnation == incarnation ? found->second
                                                                             : nullptr;
}

// A file as it is, after it has been quiet.
void Catalogue::look(const ModuleKey& key, const std::optional<FileId>& file) {
  const auto known = entries_.find(key);
  if (known == entries_.end()) {
    if (!file) {
      return;
    }
    if (settings_.hot_reload == config::HotReload::kReport && !applying_) {
      say(Severity::kWarning, "module " + key.text() + " is new; SIGHUP adds it");
      return;
    }
    if (Entry* entry = add(key, file); entry != nullptr) {
      say(Severity::kInfo, "module " + key.text() + " was added");
      apply(*entry);
    }
    return;
  }
  Entry& entry = known->second;
  if (entry.file == file && !entry.again) {
    return;
  }
  entry.file = file;
  entry.changed = base::Clock::now();
  changed(entry);
}

void Catalogue::changed(Entry& entry) {
  if (settings_.hot_reload == config::HotReload::kReport && !applying_ &&
      (table_.read(entry.row).digest || !entry.file)) {
    if (!std::exchange(entry.held, true)) {
      table_.set_pending(entry.row, {}, true);
      say(Severity::kWarning, "module " + entry.key.text() + " has changed; SIGHUP applies it");
    }
    entry.again = true;
    return;
  }
  if (entry.work != Entry::Work::kNone && entry.file) {
    entry.again = true;  // after what is being done
    return;
  }
  apply(entry);
}

// Does for the file what has to be done. May destroy the entry.
void Catalogue::apply(Entry& entry) {
  entry.again = false;
  entry.held = false;
  entry.retry_at = base::kNever;
  entry.retry_wait = {};
  const shared::ModuleRow row = table_.read(entry.row);
  if (!entry.file && !settings_.single_component()) {
    remove(entry);
    return;
  }
  if (!entry.file) {
    table_.set_pending(entry.row, "its file is gone", false);
    say(Severity::kError, settings_.component_path + " is gone; what was loaded serves on");
    return;
  }
  if (row.digest) {
    compile(entry);
  } else if (row.state != shared::RowState::kIdle || entry.wanted ||
             (entry.file->size > kLargeBytes && !settings_.single_component())) {
    table_.set_state(entry.row, shared::RowState::kCompiling);
    compile(entry);
  }
}

void Catalogue::remove(Entry& entry) {
  const ModuleKey key = entry.key;
  table_.set_state(entry.row, shared::RowState::kGone);
  say(Severity::kInfo, "module " + key.text() + " was removed");
  if (entry.wanted) {
    entry.verdict = {base::ErrorCode::kNotFound, "the module was removed", {}};
    answer_failed(entry);
  }
  orphans_.push_back(watch_.path_of(key) + ".aot");
  by_row_.erase(entry.row);
  entries_.erase(key);
}

// --- Compiling --------------------------------------------------------------------------------

Compiles& Catalogue::lane(std::uint64_t bytes) noexcept {
  return bytes > kLargeBytes ? large_ : small_;
}

void Catalogue::compile(Entry& entry) {
  entry.work = Entry::Work::kCompiling;
  entry.again = false;
  entry.held = false;
  entry.subject = entry.file.value_or(FileId{});  // the child says that there is none
  entry.begun = base::Clock::now();
  say(Severity::kInfo,
      "compiling module " + entry.key.text() + " (" + readable(entry.subject.size) + ")");
  ask_for(entry);
}

void Catalogue::ask_for(const Entry& entry) {
  lane(entry.subject.size)
      .request({.row = entry.row,
                .incarnation = entry.incarnation,
                .module = entry.key.text(),
                .path = watch_.path_of(entry.key),
                .polite = host_.serving(),
                .urgent = entry.wanted});
}

void Catalogue::on_compiled(const CompileJob& job, const shared::Message& message) {
  Entry* entry = find(job.row, job.incarnation);
  if (entry == nullptr || entry->work != Entry::Work::kCompiling) {
    return;
  }
  entry->work = Entry::Work::kNone;
  const auto* failure = std::get_if<shared::CompileFailed>(&message);
  const bool moved = identify(watch_.path_of(entry->key)).value_or(FileId{}) != entry->subject;
  if (moved || (failure != nullptr && failure->code == base::ErrorCode::kCancelled)) {
    // Says nothing about what is there now.
    entry->again = true;
    watch_.mark(entry->key);
  } else if (failure != nullptr) {
    failed(*entry, *failure);
  } else if (const auto* result = std::get_if<shared::Compiled>(&message)) {
    compiled(*entry, *result);
  }
}

std::string Catalogue::took(const Entry& entry) const {
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(base::Clock::now() - entry.begun);
  return std::to_string(ms.count()) + " ms";
}

void Catalogue::compiled(Entry& entry, const shared::Compiled& result) {
  entry.retry_at = base::kNever;
  entry.retry_wait = {};
  const shared::ModuleRow row = table_.read(entry.row);
  if (row.digest && *row.digest != result.digest) {
    prepare(entry, result);
    return;
  }
  if (!row.digest) {
    table_.publish(entry.row, result.digest, result.artefact_bytes);
    say(Severity::kInfo, "module " + entry.key.text() + " is ready after " + took(entry));
  } else if (!row.pending_error.empty() || row.changed) {
    table_.set_pending(entry.row, {}, false);  // it is again what serves
  }
  answer_ready(entry, result);
  limit_disk();
}

void Catalogue::failed(Entry& entry, const shared::CompileFailed& failure) {
  const std::string who = "module " + entry.key.text();
  entry.verdict = failure;
  if (table_.read(entry.row).digest) {
    table_.set_pending(entry.row, failure.text, false);
    say(Severity::kError,
        who + ": its new version cannot serve, so the one before serves on: " + failure.text);
    if (entry.wanted) {
      answer_failed(entry);
    }
  } else {
    table_.set_state(entry.row, shared::RowState::kBroken, failure.text);
    say(Severity::kError, who + " is broken: " + failure.text);
    answer_failed(entry);
  }
  if (may_pass(failure.code)) {
    entry.retry_wait = entry.retry_wait == base::Duration{}
                           ? kRetryFirst
                           : std::min(entry.retry_wait * 2, kRetryMax);
    entry.retry_at = base::Clock::now() + entry.retry_wait;
    need_tick();
  }
}

void Catalogue::answer_ready(Entry& entry, const shared::Compiled& result) {
  entry.wanted = false;
  host_.tell_workers(
      shared::ArtefactReady{entry.row, entry.incarnation, result.digest, result.artefact_bytes});
}

void Catalogue::answer_failed(Entry& entry) {
  entry.wanted = false;
  const shared::CompileFailed& why = entry.verdict;
  host_.tell_workers(
      shared::ArtefactFailed{entry.row, entry.incarnation, why.code, why.text, why.help});
}

// --- Swapping ---------------------------------------------------------------------------------

void Catalogue::prepare(Entry& entry, const shared::Compiled& result) {
  entry.work = Entry::Work::kPreparing;
  entry.next = result;
  entry.refusal.clear();
  entry.waiting.clear();
  for (std::uint32_t slot = 0; slot < segment_.slots(); ++slot) {
    const shared::Gauges& gauges = segment_.row(slot).gauges;
    // Those of an earlier configuration end soon, and may have another folder; those of the next do
    // not serve yet, and load what the row names when they are asked.
    const std::uint64_t pid = gauges.pid.load();
    if (pid != 0 && gauges.generation.load() == segment_.header().generation.load()) {
      entry.waiting.emplace_back(slot, pid);
    }
  }
  entry.begun = base::Clock::now();
  host_.tell_workers(
      shared::Prepare{entry.row, entry.incarnation, table_.version(entry.row) + 1, result.digest});
  need_tick();
  if (entry.waiting.empty()) {
    prepared(entry);
  }
}

void Catalogue::on_prepared(std::uint32_t slot, const shared::Prepared& answer) {
  const auto found = by_row_.find(answer.row);
  if (found == by_row_.end()) {
    return;
  }
  Entry& entry = *found->second;
  if (entry.work != Entry::Work::kPreparing || answer.version != table_.version(entry.row) + 1 ||
      std::erase_if(entry.waiting, [&](const auto& each) { return each.first == slot; }) == 0) {
    return;
  }
  if (!answer.ok && entry.refusal.empty()) {
    entry.refusal = answer.text.empty() ? "a worker could not load it" : answer.text;
  }
  if (entry.waiting.empty()) {
    prepared(entry);
  }
}

// All that live have said what there is to say.
void Catalogue::prepared(Entry& entry) {
  entry.work = Entry::Work::kNone;
  const std::string who = "module " + entry.key.text();
  if (!entry.refusal.empty()) {
    table_.set_pending(entry.row, entry.refusal, false);
    say(Severity::kError,
        who + ": its new version cannot serve, so the one before serves on: " + entry.refusal);
  } else {
    table_.publish(entry.row, entry.next.digest, entry.next.artefact_bytes);
    say(Severity::kInfo, who + ": a new version serves");
  }
  if (entry.wanted) {
    answer_ready(entry, entry.next);
  }
  limit_disk();
  if (entry.again) {
    watch_.mark(entry.key);
  }
}

void Catalogue::drop_the_dead(Entry& entry) {
  if (entry.work != Entry::Work::kPreparing) {
    return;
  }
  std::erase_if(entry.waiting, [&](const auto& each) {
    return segment_.row(each.first).gauges.pid.load() != each.second;
  });
  if (base::Clock::now() - entry.begun > kPrepareMax) {
    entry.waiting.clear();
  }
  if (entry.waiting.empty()) {
    prepared(entry);
  }
}

// --- What others say --------------------------------------------------------------------------

void Catalogue::on_worker_message(std::uint32_t slot, const shared::Message& message) {
  if (const auto* need = std::get_if<shared::NeedArtefact>(&message)) {
    on_need(*need);
  } else if (const auto* resolved = std::get_if<shared::Resolved>(&message)) {
    on_resolved(*resolved);
  } else if (const auto* answer = std::get_if<shared::Prepared>(&message)) {
    on_prepared(slot, *answer);
  }
}

void Catalogue::on_need(const shared::NeedArtefact& need) {
  Entry* entry = find(need.row, need.incarnation);
  if (entry == nullptr) {
    return;
  }
  const shared::ModuleRow row = table_.read(entry->row);
  if (entry->work == Entry::Work::kNone && row.state == shared::RowState::kBroken) {
    answer_failed(*entry);
    return;
  }
  const bool first = !std::exchange(entry->wanted, true);
  if (entry->work == Entry::Work::kCompiling && first) {
    ask_for(*entry);
  } else if (entry->work == Entry::Work::kNone && (!entry->again || entry->held)) {
    if (!row.digest) {
      table_.set_state(entry->row, shared::RowState::kCompiling);
    }
    compile(*entry);
  }
}

void Catalogue::on_resolved(const shared::Resolved& resolved) {
  Entry* entry = find(resolved.row, resolved.incarnation);
  if (entry == nullptr || entry->work != Entry::Work::kNone || entry->again || entry->held) {
    return;
  }
  const shared::ModuleRow row = table_.read(entry->row);
  if (row.digest || row.state == shared::RowState::kBroken) {
    return;
  }
  table_.publish(entry->row, resolved.digest, resolved.artefact_bytes);
  if (entry->file && base::Clock::now() - entry->changed < kReadMax) {
    compile(*entry);
  }
}

void Catalogue::reap() {
  for (Compiles* lane : {&small_, &large_}) {
    int status = 0;
    if (lane->running() && ::waitpid(lane->pid(), &status, WNOHANG) == lane->pid()) {
      lane->on_exit(status);
    }
  }
  for (auto& [key, entry] : entries_) {
    drop_the_dead(entry);
  }
}

void Catalogue::stop() noexcept {
  watch_.stop();
  tick_timer_.disarm();
  small_.stop();
  large_.stop();
}

void Catalogue::need_tick() {
  if (!tick_timer_.armed()) {
    loop_.wheel().arm(tick_timer_, base::Clock::now() + kTick);
  }
}

void Catalogue::on_tick() {
  const base::Time now = base::Clock::now();
  bool more = false;
  for (auto& [key, entry] : entries_) {
    drop_the_dead(entry);
    if (entry.retry_at <= now) {
      entry.retry_at = base::kNever;
      if (entry.work == Entry::Work::kNone && entry.file && table_.read(entry.row).digest) {
        compile(entry);
      } else if (table_.read(entry.row).state == shared::RowState::kBroken) {
        table_.set_state(entry.row, shared::RowState::kIdle);  // for whoever asks next
      }
    }
    more = more || entry.work == Entry::Work::kPreparing || entry.retry_at != base::kNever;
  }
  if (more) {
    need_tick();
  }
}

void Catalogue::limit_disk() {
  Artefacts artefacts;
  artefacts.folder = settings_.state_dir + "/cache/aot";
  artefacts.orphans = orphans_;
  for (const auto& [key, entry] : entries_) {
    if (const auto digest = table_.read(entry.row).digest) {
      artefacts.used.insert(*digest);
    }
    if (entry.work == Entry::Work::kPreparing) {
      artefacts.used.insert(entry.next.digest);
    }
    if (!settings_.single_component()) {
      artefacts.beside.push_back(watch_.path_of(key) + ".aot");
    }
  }
  const std::uint64_t left = limit_artefacts(artefacts, settings_.aot_max_bytes);
  if (left > settings_.aot_max_bytes && !std::exchange(over_limit_, true)) {
    say(Severity::kWarning, "the compiled modules that are in use take " + readable(left) +
                                " on disk, more than aot_max_mb allows");
  }
}

}  // namespace mik::supervisor
