#include "shared/modules.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#include "base/assert.hpp"
#include "shared/breaker_cell.hpp"

namespace mik::shared {

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;

constexpr std::uint64_t kHasDigest = 1;
constexpr std::uint64_t kChanged = 2;

static_assert(kNameMax <= kTextBytes);
static_assert(sizeof(ModuleCells) == 320 && sizeof(ModuleSums) <= 320 && sizeof(TenantCells) == 64);

// Offsets from the begin of the table, each a multiple of a cache line.
struct Offsets {
  explicit Offsets(const ModuleTableSize& size)
      : tenants(rows + size.modules_max * sizeof(ModuleRowCells)),
        tenant_cells(tenants + size.tenants_max * sizeof(TenantRowCells)),
        module_cells(tenant_cells + size.tenants_max * size.slots * sizeof(TenantCells)),
        gone(module_cells + size.modules_max * size.slots * sizeof(ModuleCells)),
        end(gone + sizeof(ModuleCells)) {}
  static constexpr std::size_t rows = sizeof(ModuleTableHeader);
  std::size_t tenants;
  std::size_t tenant_cells;
  std::size_t module_cells;
  std::size_t gone;
  std::size_t end;
};

template <class T>
T& at(std::byte* first, std::size_t index) noexcept {
  return *std::launder(reinterpret_cast<T*>(first + index * sizeof(T)));
}

std::string key_of(std::string_view tenant, std::string_view name) {
  std::string key(tenant);
  key += '/';
  key += name;
  return key;
}

// Words of a copy that no reader may take for whole yet. Release, each: who sees one of them and
// then reads the sequence sees what was stored before it.
void store_text(std::array<Cell, kTextWords>& words, Cell& length,
                std::string_view value) noexcept {
  for (std::size_t i = 0; i * 8 < value.size(); ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, value.data() + i * 8, std::min<std::size_t>(8, value.size() - i * 8));
    words[i].store(word, kRelease);
  }
  length.store(value.size(), kRelease);
}

std::string load_text(const std::array<Cell, kTextWords>& words, const Cell& length_cell) {
  const std::size_t length = std::min<std::size_t>(length_cell.load(kAcquire), kTextBytes);
  std::string value(length, '\0');
  for (std::size_t i = 0; i * 8 < length; ++i) {
    const std::uint64_t word = words[i].load(kAcquire);
    std::memcpy(value.data() + i * 8, &word, std::min<std::size_t>(8, length - i * 8));
  }
  return value;
}

// `load(copy)` of the copy that holds. Another turn means that the writer has finished a whole
// change meanwhile, so nobody waits for anybody.
template <class Load>
auto load_consistent(const Cell& sequence, Load&& load) {
  for (std::uint64_t before = sequence.load(kAcquire);;) {
    auto value = load(before & 1);
    const std::uint64_t after = sequence.load(kAcquire);
    if (after == before) {
      return value;
    }
    before = after;
  }
}

// LabelState of a row.
constexpr std::uint64_t kUndecided = 0;
constexpr std::uint64_t kLabelled = 1;
constexpr std::uint64_t kUnlabelled = 2;

// The numbers of a module, one by one.
constexpr std::size_t kModuleWords = sizeof(ModuleSums) / sizeof(std::uint64_t);
constexpr std::size_t kModuleGauges = offsetof(ModuleSums, requests) / sizeof(std::uint64_t);
static_assert(sizeof(ModuleNumbers<Cell>) == sizeof(ModuleSums));

const Cell* words_of(const ModuleCells& cells) noexcept {
  return std::launder(reinterpret_cast<const Cell*>(&cells));
}
Cell* words_of(ModuleCells& cells) noexcept {
  return std::launder(reinterpret_cast<Cell*>(&cells));
}

// Written only where there is something: a cell that nobody touched keeps having no memory.
void zero_if_set(Cell& gauge) noexcept {
  if (gauge.load(kRelaxed) != 0) {
    gauge.store(0);
  }
}

}  // namespace

// One copy of a row.
struct ModuleTable::Words {
  std::string name;
  std::string error;
  std::string pending;
  std::uint64_t state = 0;
  std::uint64_t incarnation = 0;
  std::uint64_t version = 0;
  std::uint64_t tenant_row = kNoRow;
  std::uint64_t flags = 0;
  std::uint64_t artefact_bytes = 0;
  Digest digest{};
};

std::size_t ModuleTable::bytes_for(const ModuleTableSize& size) noexcept {
  return Offsets(size).end;
}

ModuleTable::ModuleTable(void* memory, const ModuleTableSize& size) noexcept
    : memory_(static_cast<std::byte*>(memory)),
      size_(size),
      tenant_rows_(memory_ + Offsets(size).tenants),
      tenant_cells_(memory_ + Offsets(size).tenant_cells),
      module_cells_(memory_ + Offsets(size).module_cells),
      gone_(memory_ + Offsets(size).gone) {}

ModuleTableHeader& ModuleTable::header() const noexcept {
  return at<ModuleTableHeader>(memory_, 0);
}

ModuleRowCells& ModuleTable::row_cells(std::uint32_t row) const noexcept {
  MIK_ASSERT(row < size_.modules_max);
  return at<ModuleRowCells>(memory_ + Offsets::rows, row);
}

TenantRowCells& ModuleTable::tenant_row_cells(std::uint32_t tenant_row) const noexcept {
  MIK_ASSERT(tenant_row < size_.tenants_max);
  return at<TenantRowCells>(tenant_rows_, tenant_row);
}

ModuleTable::Words ModuleTable::said(std::uint32_t row) const {
  const ModuleRowCells& cells = row_cells(row);
  return load_consistent(cells.sequence, [&](std::uint64_t which) {
    const ModuleText& copy = cells.copies[which];
    Words words;
    words.state = copy.state.load(kAcquire);
    words.incarnation = copy.incarnation.load(kAcquire);
    words.version = copy.version.load(kAcquire);
    words.tenant_row = copy.tenant_row.load(kAcquire);
    words.flags = copy.flags.load(kAcquire);
    words.artefact_bytes = copy.artefact_bytes.load(kAcquire);
    for (std::size_t i = 0; i < copy.digest.size(); ++i) {
      const std::uint64_t word = copy.digest[i].load(kAcquire);
      std::memcpy(words.digest.data() + i * 8, &word, 8);
    }
    words.name = load_text(copy.name, copy.name_length);
    words.error = load_text(copy.error, copy.error_length);
    words.pending = load_text(copy.pending, copy.pending_length);
    return words;
  });
}

void ModuleTable::say(std::uint32_t row, const Words& words) noexcept {
  ModuleRowCells& cells = row_cells(row);
  const std::uint64_t next = cells.sequence.load(kRelaxed) + 1;
  ModuleText& copy = cells.copies[next & 1];
  copy.state.store(words.state, kRelease);
  copy.incarnation.store(words.incarnation, kRelease);
  copy.version.store(words.version, kRelease);
  copy.tenant_row.store(words.tenant_row, kRelease);
  copy.flags.store(words.flags, kRelease);
  copy.artefact_bytes.store(words.artefact_bytes, kRelease);
  for (std::size_t i = 0; i < copy.digest.size(); ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, words.digest.data() + i * 8, 8);
    copy.digest[i].store(word, kRelease);
  }
  store_text(copy.name, copy.name_length, words.name);
  store_text(copy.error, copy.error_length, words.error);
  store_text(copy.pending, copy.pending_length, words.pending);
  cells.sequence.store(next, kRelease);
  cells.version.store(words.version, kRelease);
  header().generation.fetch_add(1);
}

std::optional<std::uint32_t> ModuleTable::add(std::string_view tenant, std::string_view name) {
  if (tenant.size() > kNameMax || name.size() > kNameMax) {
    return std::nullopt;
  }
  std::string key = key_of(tenant, name);
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    Words words = said(found->second);
    if (words.state == static_cast<std::uint64_t>(RowState::kGone)) {
      Words back;
      back.name = std::move(words.name);
      back.tenant_row = words.tenant_row;
      back.version = words.version;
      back.incarnation = words.incarnation + 1;
      back.state = static_cast<std::uint64_t>(RowState::kIdle);
      reset_breaker(row_cells(found->second).breaker);
      say(found->second, back);
    }
    return found->second;
  }
  if (free_rows_.empty() && header().rows.load(kRelaxed) == size_.modules_max) {
    reclaim();
  }
  const std::uint32_t used = rows();
  if (free_rows_.empty() && used == size_.modules_max) {
    return std::nullopt;
  }
  Words words;
  if (!tenant.empty()) {
    const auto tenant_row = tenant_of(tenant);
    if (!tenant_row) {
      return std::nullopt;
    }
    words.tenant_row = *tenant_row;
  }
  std::uint32_t row = used;
  if (!free_rows_.empty()) {
    row = free_rows_.back();
    free_rows_.pop_back();
    const Words before = said(row);
    words.incarnation = before.incarnation;
    words.version = before.version;
    reset_breaker(row_cells(row).breaker);
    fold(row);
  }
  words.incarnation += 1;
  words.state = static_cast<std::uint64_t>(RowState::kIdle);
  words.name = name;
  by_key_.emplace(std::move(key), row);
  if (row == used) {
    header().rows.store(used + 1, kRelease);
  }
  say(row, words);
  return row;
}

std::optional<std::uint32_t> ModuleTable::tenant_of(std::string_view name) {
  std::string key(name);
  if (const auto found = tenants_by_name_.find(key); found != tenants_by_name_.end()) {
    return found->second;
  }
  const std::uint32_t used = tenants();
  if (free_tenants_.empty() && used == size_.tenants_max) {
    reclaim();
  }
  std::uint32_t row = used;
  if (!free_tenants_.empty()) {
    row = free_tenants_.back();
    free_tenants_.pop_back();
  } else if (used == size_.tenants_max) {
    return std::nullopt;
  }
  TenantRowCells& cells = tenant_row_cells(row);
  const std::uint64_t next = cells.sequence.load(kRelaxed) + 1;
  store_text(cells.name[next & 1], cells.length[next & 1], name);
  cells.sequence.store(next, kRelease);
  if (row == used) {
    header().tenants.store(used + 1, kRelease);
  }
  tenants_by_name_.emplace(std::move(key), row);
  return row;
}

bool ModuleTable::anything_held(std::uint32_t row) const noexcept {
  for (std::size_t slot = 0; slot < size_.slots; ++slot) {
    const ModuleCells& held = cells(row, slot);
    if (held.active.load() != 0 || held.memory_bytes.load() != 0) {
      return true;
    }
  }
  return false;
}

// Rows of modules that are gone become free, and tenants that have none left.
void ModuleTable::reclaim() {
  std::vector<bool> needed(size_.tenants_max, false);
  for (auto entry = by_key_.begin(); entry != by_key_.end();) {
    const std::uint32_t row = entry->second;
    const Words words = said(row);
    if (words.state != static_cast<std::uint64_t>(RowState::kGone) || anything_held(row)) {
      if (words.tenant_row != kNoRow) {
        needed[words.tenant_row] = true;
      }
      ++entry;
      continue;
    }
    Words none;
    none.incarnation = words.incarnation;
    none.version = words.version;
    say(row, none);
    drop_label(row);
    free_rows_.push_back(row);
    entry = by_key_.erase(entry);
  }
  std::erase_if(tenants_by_name_, [&](const auto& entry) {
    if (needed[entry.second]) {
      return false;
    }
    free_tenants_.push_back(entry.second);
    return true;
  });
}

void ModuleTable::set_state(std::uint32_t row, RowState state, std::string_view error) {
  Words words = said(row);
  words.state = static_cast<std::uint64_t>(state);
  words.error = error.substr(0, kTextBytes);
  if (state == RowState::kGone) {
    words.flags = 0;
    words.pending.clear();
  }
  say(row, words);
}

void ModuleTable::set_pending(std::uint32_t row, std::string_view error, bool changed) {
  Words words = said(row);
  words.pending = error.substr(0, kTextBytes);
  words.flags = (words.flags & ~kChanged) | (changed ? kChanged : 0);
  say(row, words);
}

void ModuleTable::publish(std::uint32_t row, const Digest& digest, std::uint64_t artefact_bytes) {
  Words words = said(row);
  // Requests that have waited for a first artefact are judged by it.
  const bool first = (words.flags & kHasDigest) == 0;
  if (first ? !breaker_is_new(row_cells(row).breaker) : words.digest != digest) {
    reset_breaker(row_cells(row).breaker);
  }
  words.state = static_cast<std::uint64_t>(RowState::kReady);
  words.version += 1;
  words.digest = digest;
  words.artefact_bytes = artefact_bytes;
  words.flags = kHasDigest;
  words.error.clear();
  words.pending.clear();
  say(row, words);
}

void ModuleTable::bury(std::size_t slot) noexcept {
  for (std::uint32_t row = 0; row < rows(); ++row) {
    zero_if_set(cells(row, slot).active);
    zero_if_set(cells(row, slot).memory_bytes);
    zero_if_set(cells(row, slot).loaded);
    zero_if_set(cells(row, slot).broken);
  }
  for (std::uint32_t tenant = 0; tenant < tenants(); ++tenant) {
    zero_if_set(tenant_cells(tenant, slot).active);
    zero_if_set(tenant_cells(tenant, slot).memory_bytes);
  }
}

std::uint64_t ModuleTable::generation() const noexcept {
  return header().generation.load(kAcquire);
}

std::uint32_t ModuleTable::rows() const noexcept {
  return static_cast<std::uint32_t>(header().rows.load(kAcquire));
}

std::uint32_t ModuleTable::tenants() const noexcept {
  return static_cast<std::uint32_t>(header().tenants.load(kAcquire));
}

ModuleRow ModuleTable::read(std::uint32_t row) const {
  const Cell& sequence = row_cells(row).sequence;
  for (;;) {
    const std::uint64_t before = sequence.load(kAcquire);
    Words words = said(row);
    ModuleRow result;
    result.state = static_cast<RowState>(words.state);
    result.incarnation = words.incarnation;
    if (result.state == RowState::kFree) {
      return result;
    }
    if (words.tenant_row != kNoRow) {
      result.tenant_row = static_cast<std::uint32_t>(words.tenant_row);
      result.tenant = tenant_name(result.tenant_row);
    }
    result.name = std::move(words.name);
    result.version = words.version;
    if ((words.flags & kHasDigest) != 0) {
      result.digest = words.digest;
      result.artefact_bytes = words.artefact_bytes;
    }
    result.error = std::move(words.error);
    result.pending_error = std::move(words.pending);
    result.changed = (words.flags & kChanged) != 0;
    // The tenant's row may have become another's, but only after this row was given back.
    if (sequence.load(kAcquire) == before) {
      return result;
    }
  }
}

std::uint64_t ModuleTable::version(std::uint32_t row) const noexcept {
  return row_cells(row).version.load(kAcquire);
}

std::uint64_t ModuleTable::changes(std::uint32_t row) const noexcept {
  return row_cells(row).sequence.load(kAcquire);
}

std::string ModuleTable::tenant_name(std::uint32_t tenant_row) const {
  const TenantRowCells& cells = tenant_row_cells(tenant_row);
  return load_consistent(cells.sequence, [&](std::uint64_t which) {
    return load_text(cells.name[which], cells.length[which]);
  });
}

ModuleCells& ModuleTable::cells(std::uint32_t row, std::size_t slot) noexcept {
  return const_cast<ModuleCells&>(std::as_const(*this).cells(row, slot));
}

const ModuleCells& ModuleTable::cells(std::uint32_t row, std::size_t slot) const noexcept {
  MIK_ASSERT(row < size_.modules_max && slot < size_.slots);
  return at<ModuleCells>(module_cells_, row * size_.slots + slot);
}

TenantCells& ModuleTable::tenant_cells(std::uint32_t tenant_row, std::size_t slot) noexcept {
  return const_cast<TenantCells&>(std::as_const(*this).tenant_cells(tenant_row, slot));
}

const TenantCells& ModuleTable::tenant_cells(std::uint32_t tenant_row,
                                             std::size_t slot) const noexcept {
  MIK_ASSERT(tenant_row < size_.tenants_max && slot < size_.slots);
  return at<TenantCells>(tenant_cells_, tenant_row * size_.slots + slot);
}

Cell& ModuleTable::breaker(std::uint32_t row) noexcept { return row_cells(row).breaker; }

const Cell& ModuleTable::breaker(std::uint32_t row) const noexcept {
  return row_cells(row).breaker;
}

void ModuleTable::claim_label(std::uint32_t row, std::string_view label) noexcept {
  Cell& state = row_cells(row).label;
  if (state.load(kRelaxed) != kUndecided) {
    return;
  }
  Cell& labels = header().labels;
  std::uint64_t undecided = kUndecided;
  if (label == kOtherLabel || labels.fetch_add(1) >= kLabelsMax) {
    // For good: what it has counted as one of the others never leaves them.
    state.compare_exchange_strong(undecided, kUnlabelled);
    if (label != kOtherLabel) {
      labels.fetch_sub(1);
    }
  } else if (!state.compare_exchange_strong(undecided, kLabelled)) {
    labels.fetch_sub(1);  // another worker was first
  }
}

bool ModuleTable::has_label(std::uint32_t row) const noexcept {
  return row_cells(row).label.load(kAcquire) == kLabelled;
}

void ModuleTable::drop_label(std::uint32_t row) noexcept {
  if (row_cells(row).label.exchange(kUndecided) == kLabelled) {
    header().labels.fetch_sub(1);
  }
}

const ModuleCells& ModuleTable::gone() const noexcept { return at<ModuleCells>(gone_, 0); }

std::uint64_t ModuleTable::folds() const noexcept { return header().folds.load(kAcquire); }

// What the row's module has counted goes to those that are gone. Not the gauges: nothing is held in
// a free row, and a worker that looked at it a moment ago and gives a permit back must find what it
// counted.
void ModuleTable::fold(std::uint32_t row) noexcept {
  header().folds.fetch_add(1);
  Cell* const sums = words_of(at<ModuleCells>(gone_, 0));
  for (std::size_t slot = 0; slot < size_.slots; ++slot) {
    Cell* const words = words_of(cells(row, slot));
    for (std::size_t i = kModuleGauges; i < kModuleWords; ++i) {
      if (words[i].load(kRelaxed) != 0) {
        sums[i].fetch_add(words[i].exchange(0));
      }
    }
  }
  header().folds.fetch_add(1);
}

void add(ModuleSums& sums, const ModuleCells& cells) noexcept {
  auto* const to = reinterpret_cast<std::uint64_t*>(&sums);
  const Cell* const words = words_of(cells);
  for (std::size_t i = 0; i < kModuleWords; ++i) {
    to[i] += words[i].load(kRelaxed);
  }
}

}  // namespace mik::shared
