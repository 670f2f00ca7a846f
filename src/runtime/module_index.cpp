#include "runtime/module_index.hpp"

#include <algorithm>
#include <utility>

#include "base/assert.hpp"

namespace mik::runtime {

namespace {

// The rest is no text for a field value that everybody reads alike (RFC 9110 section 5.5).
bool printable_ascii(std::string_view text) noexcept {
  return std::ranges::all_of(text, [](char c) { return c > ' ' && c < '\x7f'; });
}

}  // namespace

ModuleIndex::ModuleIndex(const config::Settings& settings, shared::Segment& segment,
                         std::size_t slot, Events& events)
    : settings_(settings), table_(segment.modules()), slot_(slot), events_(events) {}

base::Result<void> ModuleIndex::start() {
  const http::PrivatePolicy policy = private_policy(settings_.http_private);
  const auto add = [&](const config::GuestSettings& guest) -> base::Result<void> {
    if (!allow_lists_.contains(guest.http_allowed)) {
      MIK_TRY_ASSIGN(http::AllowList list, http::AllowList::compile(guest.http_allowed, policy));
      allow_lists_.emplace(guest.http_allowed, std::move(list));
    }
    return {};
  };
  MIK_TRY(add(settings_.guest));
  for (const config::ModuleSettings& module : settings_.modules) {
    MIK_TRY(add(module.guest));
  }
  for (const config::TenantSettings& tenant : settings_.tenants) {
    MIK_TRY(add(tenant.guest));
  }
  read_table();
  return {};
}

const std::shared_ptr<ModuleEntry>* ModuleIndex::find(std::string_view tenant,
                                                      std::string_view name) const {
  const auto found = by_key_.find(Key{tenant, name});
  return found == by_key_.end() ? nullptr : &found->second;
}

const std::shared_ptr<ModuleEntry>* ModuleIndex::at(std::uint32_t row,
                                                    std::uint64_t incarnation) const {
  if (row >= by_row_.size() || by_row_[row] == nullptr ||
      by_row_[row]->incarnation != incarnation) {
    return nullptr;
  }
  return &by_row_[row];
}

void ModuleIndex::read_table() {
  // First: what changes while the rows are read is read again at the next request.
  const std::uint64_t generation = table_.generation();
  const std::uint32_t rows = table_.rows();
  by_row_.resize(std::max<std::size_t>(by_row_.size(), rows));
  changes_.resize(by_row_.size());
  for (std::uint32_t row = 0; row < rows; ++row) {
    const std::uint64_t changes = table_.changes(row);
    if (changes != changes_[row]) {
      changes_[row] = changes;
      read_row(row);
    }
  }
  seen_ = generation;
}

void ModuleIndex::read_row(std::uint32_t row) {
  shared::ModuleRow said = table_.read(row);
  if (by_row_[row] != nullptr &&
      (said.incarnation != by_row_[row]->incarnation || said.state == shared::RowState::kFree ||
       said.state == shared::RowState::kGone)) {
    remove(row);
  }
  if (said.state == shared::RowState::kFree || said.state == shared::RowState::kGone) {
    return;
  }
  const bool fresh = by_row_[row] == nullptr;
  if (fresh) {
    by_row_[row] = make(row, said);
    const Key key{by_row_[row]->tenant.id, by_row_[row]->name};
    by_key_.erase(key);  // its views are into the entry that had the name before
    by_key_.emplace(key, by_row_[row]);
  }
  ModuleEntry& entry = *by_row_[row];
  const bool changed = fresh || entry.state != said.state || entry.version != said.version ||
                       entry.digest != said.digest || entry.pending_error != said.pending_error;
  entry.state = said.state;
  entry.version = said.version;
  entry.digest = said.digest;
  entry.error = std::move(said.error);
  entry.pending_error = std::move(said.pending_error);
  entry.artefact_bytes = said.artefact_bytes;
  entry.pending = said.changed || !entry.pending_error.empty();
  if (changed) {
    events_.on_changed(entry);
  }
}

void ModuleIndex::remove(std::uint32_t row) {
  const std::shared_ptr<ModuleEntry> entry = std::exchange(by_row_[row], nullptr);
  const auto found = by_key_.find(Key{entry->tenant.id, entry->name});
  if (found != by_key_.end() && found->second == entry) {
    by_key_.erase(found);
  }
  events_.on_removed(*entry);
}

std::shared_ptr<ModuleEntry> ModuleIndex::make(std::uint32_t row, const shared::ModuleRow& said) {
  const config::GuestSettings& guest = config::guest_settings(settings_, said.tenant, said.name);
  auto entry = std::make_shared<ModuleEntry>(guest, allow_list(guest), tenant(said),
                                             table_.cells(row, slot_), table_.breaker(row));
  entry->row = row;
  entry->incarnation = said.incarnation;
  entry->name = said.name;
  entry->label = said.tenant.empty() ? said.name : said.tenant + "/" + said.name;
  entry->target.row = row;
  entry->target.tenant_row = said.tenant_row;
  // One that could not be reached before the global limit is none: the answer is 503 then.
  entry->target.module_max =
      guest.max_requests < settings_.max_concurrent_requests ? guest.max_requests : 0;
  if (const config::TenantSettings* section = entry->tenant.settings; section != nullptr) {
    entry->target.tenant_max = section->max_requests;
    entry->target.tenant_memory_max = section->memory_bytes;
  }
  entry->handler = printable_ascii(entry->label) ? entry->label : std::string_view();
  return entry;
}

std::shared_ptr<TenantEntry> ModuleIndex::tenant(const shared::ModuleRow& said) {
  std::shared_ptr<TenantEntry>& tenant = tenants_[said.tenant];
  if (tenant == nullptr) {
    tenant = std::make_shared<TenantEntry>();
    tenant->id = said.tenant;
    tenant->settings = config::tenant_settings(settings_, said.tenant);
    tenant->account.set_weight(tenant->settings != nullptr ? tenant->settings->guest.cpu_share
                                                           : settings_.guest.cpu_share);
  }
  tenant->row = said.tenant_row;
  if (said.tenant_row != shared::kNoRow) {
    tenant->cells = &table_.tenant_cells(said.tenant_row, slot_);
  }
  if (tenant->row != shared::kNoRow) {
    tenant->account.set_gauge(table_.tenant_cells(tenant->row, slot_).memory_bytes);
  }
  return tenant;
}

const http::AllowList& ModuleIndex::allow_list(const config::GuestSettings& guest) const {
  const auto found = allow_lists_.find(guest.http_allowed);
  MIK_ASSERT(found != allow_lists_.end());
  return found->second;
}

void count_status(shared::ModuleCells& cells, int status) noexcept {
  const std::size_t status_class = static_cast<std::size_t>(status) / 100;
  if (status_class >= 1 && status_class <= shared::kStatusClasses) {
    shared::count(cells.status[status_class - 1]);
  }
}

http::PrivatePolicy private_policy(config::HttpPrivate setting) noexcept {
  switch (setting) {
    case config::HttpPrivate::kDeny:
      return http::PrivatePolicy::kDeny;
    case config::HttpPrivate::kAllow:
      return http::PrivatePolicy::kAllow;
    case config::HttpPrivate::kNamed:
      return http::PrivatePolicy::kNamed;
  }
  return http::PrivatePolicy::kNamed;
}

}  // namespace mik::runtime
