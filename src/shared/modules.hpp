// The table of modules and tenants in the shared segment: what there is, in which state, and the
// cells that workers count in. The supervisor writes rows; workers read them and write their own
// cells. Nothing blocks, and what a reader gets was said at one moment; docs/design/modules.md
// tells how the parts use it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "shared/layout.hpp"

namespace mik::shared {

inline constexpr std::size_t kNameMax = 255;  // bytes of a module's or tenant's name
inline constexpr std::uint32_t kNoRow = 0xffffffff;

// Row states; see docs/design/modules.md.
enum class RowState : std::uint64_t { kFree = 0, kIdle, kCompiling, kReady, kBroken, kGone };

// A consistent copy of what the supervisor said of one module.
struct ModuleRow {
  std::string tenant;  // empty: a platform module
  std::string name;
  std::uint32_t tenant_row = kNoRow;
  RowState state = RowState::kFree;
  std::uint64_t incarnation = 0;  // another module has the row when it differs
  std::uint64_t version = 0;      // moves with each swap
  std::optional<Digest> digest;
  std::uint64_t artefact_bytes = 0;
  std::string error;          // kBroken: why
  std::string pending_error;  // a new version that cannot replace the one that serves
  bool changed = false;       // a change was seen and not applied (hot reload is off)
};

// What is counted for one module: gauges, then what only ever grows. `Number` is a Cell of one
// worker, or a plain number where several are added up.
template <class Number>
struct ModuleNumbers {
  Number active;        // permits held
  Number memory_bytes;  // linear memory and tables of its guests that live now
  Number loaded;        // 1 while the component is loaded
  Number broken;        // 1: the worker has found that this version can never run

  Number requests;
  Number cpu_ns;
  Number instantiate_ns;
  Number execution_ns;
  Number queue_ns;
  Number bytes_in;
  Number bytes_out;
  Number outbound;
  std::array<Number, kStatusClasses> status;
  std::array<Number, kGuestFailures> failures;
  Number refused_module;   // 429: the module's limit
  Number refused_tenant;   // 429: the tenant's limit
  Number refused_breaker;  // 503
  Number loads;            // artefacts mapped: cache misses
  Number hits;             // requests that found the component loaded
  std::array<Number, kModuleBuckets> latency;
  Number latency_sum_us;
};
struct alignas(kCacheLine) ModuleCells : ModuleNumbers<Cell> {};
using ModuleSums = ModuleNumbers<std::uint64_t>;

// Adds what one worker has counted.
void add(ModuleSums& sums, const ModuleCells& cells) noexcept;

// So many modules have a label of their own in /metrics, those that were asked for first. What
// others count stands there as that of kOtherLabel, which is why a module of that name has none.
inline constexpr std::size_t kLabelsMax = 1000;
inline constexpr std::string_view kOtherLabel = "other";

// What one worker counts for one tenant.
struct alignas(kCacheLine) TenantCells {
  Cell active;        // gauge: permits held
  Cell memory_bytes;  // gauge
};

// Where the parts of the table lie; `memory` is the segment's, all zero when new.
struct ModuleTableSize {
  std::size_t slots = 1;
  std::size_t modules_max = 1;
  std::size_t tenants_max = 1;
};

// A view of the table inside a Segment, which must outlive it: Segment::modules(). Memory that no
// module has touched yet is not there: a large table of few modules is small.
class ModuleTable {
 public:
  static std::size_t bytes_for(const ModuleTableSize& size) noexcept;
  // `memory`: bytes_for(size) bytes, aligned to a page, zeroed by whoever creates the segment.
  ModuleTable(void* memory, const ModuleTableSize& size) noexcept;

  // --- The supervisor ---------------------------------------------------------------------------
  // The row of a module, new (kIdle) or again (a kGone one comes back kIdle, without a digest, as
  // another incarnation). Rows of modules that are gone and in which nothing is held are given to
  // others once the table is full. Nothing when it is full of modules that are there, or a name is
  // longer than kNameMax.
  std::optional<std::uint32_t> add(std::string_view tenant, std::string_view name);
  // Each moves generation(). Errors are cut to what a SharedText holds.
  void set_state(std::uint32_t row, RowState state, std::string_view error = {});
  void set_pending(std::uint32_t row, std::string_view error, bool changed);
  // The row serves this artefact from now on: kReady, version + 1, errors cleared, and its breaker
  // closed if it spoke of another artefact.
  void publish(std::uint32_t row, const Digest& digest, std::uint64_t artefact_bytes);
  // A worker died: its gauges go to zero, its counters stay.
  void bury(std::size_t slot) noexcept;

  // --- Anybody ----------------------------------------------------------------------------------
  // Moves with every change of any row; acquire.
  std::uint64_t generation() const noexcept;
  // Rows that were ever used: 0 to rows() - 1.
  std::uint32_t rows() const noexcept;
  std::uint32_t tenants() const noexcept;
  // A row that is kFree has no name.
  ModuleRow read(std::uint32_t row) const;
  std::uint64_t version(std::uint32_t row) const noexcept;
  // Moves with every change of this row; acquire.
  std::uint64_t changes(std::uint32_t row) const noexcept;
  std::string tenant_name(std::uint32_t tenant_row) const;

  // --- Workers, of their own slot; sums by anybody --------------------------------------------
  ModuleCells& cells(std::uint32_t row, std::size_t slot) noexcept;
  const ModuleCells& cells(std::uint32_t row, std::size_t slot) const noexcept;
  TenantCells& tenant_cells(std::uint32_t tenant_row, std::size_t slot) noexcept;
  const TenantCells& tenant_cells(std::uint32_t tenant_row, std::size_t slot) const noexcept;
  // The module's circuit breaker: reliability/breaker.hpp owns what is in it.
  Cell& breaker(std::uint32_t row) noexcept;
  const Cell& breaker(std::uint32_t row) const noexcept;

  // Before the row's first request is counted: whether it has a label is settled from then on, for
  // as long as the row is this module's.
  void claim_label(std::uint32_t row, std::string_view label) noexcept;
  bool has_label(std::uint32_t row) const noexcept;
  // What was counted for modules whose row another has by now. Moves together with the cells that
  // it takes over from: a sum over all is right when folds() is even, and the same before and
  // after.
  const ModuleCells& gone() const noexcept;
  std::uint64_t folds() const noexcept;

 private:
  struct Words;
  ModuleTableHeader& header() const noexcept;
  ModuleRowCells& row_cells(std::uint32_t row) const noexcept;
  TenantRowCells& tenant_row_cells(std::uint32_t tenant_row) const noexcept;
  Words said(std::uint32_t row) const;
  void say(std::uint32_t row, const Words& words) noexcept;
  std::optional<std::uint32_t> tenant_of(std::string_view name);
  void reclaim();
  bool anything_held(std::uint32_t row) const noexcept;
  void drop_label(std::uint32_t row) noexcept;
  void fold(std::uint32_t row) noexcept;

  std::byte* memory_;
  ModuleTableSize size_;
  std::byte* tenant_rows_;
  std::byte* tenant_cells_;
  std::byte* module_cells_;
  std::byte* gone_;
  // The supervisor's alone: rows by "tenant/name", tenants' rows by name, rows for others.
  std::unordered_map<std::string, std::uint32_t> by_key_;
  std::unordered_map<std::string, std::uint32_t> tenants_by_name_;
  std::vector<std::uint32_t> free_rows_;
  std::vector<std::uint32_t> free_tenants_;
};

}  // namespace mik::shared
