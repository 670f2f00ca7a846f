// What lies where in the shared segment: one header, then a row of cells for each worker. A worker
// writes its own row only; the supervisor writes the header and, once a worker is dead, the gauges
// of its row. Anybody reads. Every cell is one 64-bit atomic, every transition one operation on one
// cell: a process that dies at any point leaves nothing half done.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace mik::shared {

using Cell = std::atomic<std::uint64_t>;
static_assert(Cell::is_always_lock_free, "a lock in shared memory would die with its holder");
static_assert(sizeof(Cell) == 8 && alignof(Cell) == 8);

inline constexpr std::uint64_t kSegmentMagic = 0x31'67'65'73'6b'69'6d;  // "mikseg1"
inline constexpr std::uint64_t kSegmentVersion = 4;
inline constexpr std::size_t kSlotsMax = 512;
inline constexpr std::size_t kModulesLimit = 1u << 20;  // rows of a table, at most
inline constexpr std::size_t kCacheLine = 64;

using Digest = std::array<std::uint8_t, 32>;  // names an artefact: runtime::ArtefactStore

enum class WorkerState : std::uint64_t { kEmpty = 0, kStarting, kReady, kDraining, kGone };

enum class ModuleState : std::uint64_t { kNone = 0, kCompiling, kReady, kFailed };

// Why the host answered in place of a guest, or cut its answer.
enum class GuestFailure : std::uint8_t {
  kTrap = 0,
  kNoResponse,
  kErrorCode,  // the guest set an error in place of a response
  kDeadline,
  kCpuBudget,
  kMemory,
  kOverload,  // not admitted: the global limit
  kAborted,   // failed after its head was out
  kOther,
};
inline constexpr std::size_t kGuestFailures = 9;

inline constexpr std::size_t kStatusClasses = 5;  // 1xx to 5xx

// Upper bounds (inclusive) of the latency buckets in microseconds; one more bucket takes what is
// slower.
inline constexpr std::array<std::uint64_t, 19> kLatencyBoundsUs = {
    50,        100,       250,        500,        1'000,     2'500,   5'000,
    10'000,    25'000,    50'000,     100'000,    250'000,   500'000, 1'000'000,
    2'500'000, 5'000'000, 10'000'000, 30'000'000, 60'000'000};
inline constexpr std::size_t kLatencyBuckets = kLatencyBoundsUs.size() + 1;
// The same for what takes microseconds.
inline constexpr std::array<std::uint64_t, 19> kShortBoundsUs = {
    1,     2,     5,      10,     25,     50,      100,     250,     500,      1'000,
    2'500, 5'000, 10'000, 25'000, 50'000, 100'000, 250'000, 500'000, 1'000'000};
static_assert(kShortBoundsUs.size() == kLatencyBoundsUs.size());
// The same for one module: few, since there are many modules.
inline constexpr std::array<std::uint64_t, 6> kModuleBoundsUs = {5'000,   25'000,    100'000,
                                                                 500'000, 2'500'000, 10'000'000};
inline constexpr std::size_t kModuleBuckets = kModuleBoundsUs.size() + 1;

inline constexpr std::size_t kSpanDrops = 4;          // reasons for which spans are lost
inline constexpr std::size_t kOutboundPatterns = 64;  // with cells of their own

inline constexpr std::size_t kTextWords = 32;
inline constexpr std::size_t kTextBytes = kTextWords * sizeof(std::uint64_t);

// What changes with every request or connection and is read by the other workers: a line of its
// own.
struct alignas(kCacheLine) Gauges {
  Cell pid;
  Cell state;         // WorkerState
  Cell heartbeat_ns;  // steady clock
  Cell connections;
  Cell active_requests;  // permits of the global limit
  Cell generation;
  Cell module_state;  // ModuleState
  Cell memory_bytes;  // linear memory and tables of its guests that live now
};
static_assert(sizeof(Gauges) == kCacheLine);

// Only ever grow, over the whole life of the slot: the successor of a dead worker counts on from
// where it stopped, so that no sum ever goes backwards and nothing has to be moved when a worker
// dies.
struct alignas(kCacheLine) Counters {
  Cell requests;  // heads that were read, built-in endpoints included
  Cell guest_requests;
  Cell client_gone;
  Cell bytes_in;
  Cell bytes_out;
  Cell accepted;  // from a listener, whoever served them
  Cell handed_out;
  Cell handed_in;
  Cell refused;  // connections over max_connections
  Cell accept_errors;
  std::array<Cell, kStatusClasses> status;
  std::array<Cell, kGuestFailures> failures;
  std::array<Cell, kLatencyBuckets> latency;
  Cell latency_sum_us;
  Cell log_lines_dropped;
  Cell tls_failures;  // handshakes
};

// A text under a sequence number: odd while it is being written.
struct alignas(kCacheLine) SharedText {
  Cell sequence;
  Cell length;
  std::array<Cell, kTextWords> words;
};

struct HistogramCells {
  std::array<Cell, kLatencyBuckets> buckets;
  Cell sum_ns;
};

// A request that fell into a bucket of the latency histogram, and its trace. `sequence` is odd
// while it is being written, 0 when there was none.
struct ExemplarCells {
  Cell sequence;
  Cell trace_high;  // trace id, as the two numbers that its digits make
  Cell trace_low;
  Cell value_us;
  Cell unix_ms;
};

// Outgoing requests under one pattern of http_allowed.
struct OutboundCells {
  Cell answered;
  Cell failed;
};

// What is there to be looked at and decides nothing. The gauges come first.
struct alignas(kCacheLine) WorkerMetrics {
  Cell instances;        // guests that have one, now
  Cell instances_max;    // what the pool holds
  Cell waiting;          // requests that wait for their body, component or permit
  Cell loop_lag_max_us;  // of the last minute

  Cell spans_exported;
  std::array<Cell, kSpanDrops> spans_dropped;
  Cell outbound_refused;         // no pattern allows them
  HistogramCells queue;          // kLatencyBoundsUs
  HistogramCells execution;      // kLatencyBoundsUs
  HistogramCells instantiation;  // kShortBoundsUs
  HistogramCells loop_lag;       // kShortBoundsUs: how long a turn of the loop took
  std::array<ExemplarCells, kLatencyBuckets> exemplars;       // of Counters::latency
  std::array<OutboundCells, kOutboundPatterns + 1> outbound;  // the last: all further patterns
};

struct WorkerCells {
  Gauges gauges;
  Counters counters;
  SharedText module_error;
  WorkerMetrics metrics;
};

// What the supervisor says of one module: two copies, of which the lower bit of `sequence` names
// the one that holds. The writer fills the other one and then moves the sequence, so that a reader
// never waits, and a writer that dies half-way has changed nothing.
struct ModuleText {
  Cell state;  // RowState
  Cell incarnation;
  Cell version;
  Cell tenant_row;
  Cell flags;
  Cell artefact_bytes;
  std::array<Cell, sizeof(Digest) / sizeof(std::uint64_t)> digest;
  Cell name_length;
  Cell error_length;
  Cell pending_length;
  std::array<Cell, kTextWords> name;
  std::array<Cell, kTextWords> error;
  std::array<Cell, kTextWords> pending;
};

struct alignas(kCacheLine) ModuleRowCells {
  Cell sequence;
  Cell version;  // of the copy that holds, in one load
  Cell label;    // whether it has one in /metrics: ModuleTable::claim_label
  alignas(kCacheLine) Cell breaker;
  alignas(kCacheLine) std::array<ModuleText, 2> copies;
};

struct alignas(kCacheLine) TenantRowCells {
  Cell sequence;
  std::array<Cell, 2> length;
  std::array<std::array<Cell, kTextWords>, 2> name;
};

struct alignas(kCacheLine) ModuleTableHeader {
  Cell generation;
  Cell rows;
  Cell tenants;
  Cell labels;  // rows that have one of their own in /metrics
  Cell folds;   // odd while counters move from a row to those of modules that are gone
};

struct alignas(kCacheLine) SegmentHeader {
  std::uint64_t magic;
  std::uint64_t version;
  std::uint64_t slots;
  std::uint64_t bytes;
  std::uint64_t modules_max;
  std::uint64_t tenants_max;
  Cell start_ns;      // steady clock
  Cell start_unix_s;  // for people
  Cell draining;      // 0 or 1, never back
  Cell generation;
  Cell workers;  // how many there should be
  Cell restarts;
  // SIGHUP: whether the last one could be applied (1 until there was one), when the settings that
  // serve were read, and how many could not.
  Cell config_reload_ok;
  Cell config_reload_unix_s;
  Cell config_reloads_failed;
  Cell compile_bytes;  // gauge: what compile children take of the memory budget
  Cell compiles;       // compilations that ended, well or not
  Cell compile_failures;
  Cell compile_ns;
  // Patterns of http_allowed, in the order in which guests came to use them. Whoever uses one first
  // writes it: sequence 0 is free, 1 being written, 2 there for good.
  std::array<SharedText, kOutboundPatterns> outbound_patterns;
};

static_assert(offsetof(SegmentHeader, start_ns) == 48);
static_assert(offsetof(SegmentHeader, draining) == 64);
static_assert(offsetof(SegmentHeader, outbound_patterns) == 3 * kCacheLine);
static_assert(offsetof(WorkerCells, gauges) == 0);
static_assert(offsetof(WorkerCells, counters) == 64);
static_assert(offsetof(Counters, status) == 80);
static_assert(offsetof(Counters, failures) == 120);
static_assert(offsetof(Counters, latency) == 192);
static_assert(offsetof(Counters, latency_sum_us) == 352);
static_assert(offsetof(WorkerCells, module_error) == 448);
static_assert(sizeof(ModuleText) == 872 && sizeof(ModuleRowCells) == 1920);
static_assert(sizeof(TenantRowCells) == 576);
static_assert(offsetof(WorkerCells, metrics) == 768 && sizeof(WorkerCells) % kCacheLine == 0);

}  // namespace mik::shared
