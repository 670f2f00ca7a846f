#include "shared/segment.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <new>

#include "base/assert.hpp"

namespace mik::shared {

namespace {

constexpr auto kRelaxed = std::memory_order_relaxed;

constexpr std::size_t kPage = 4096;

// Of the header and the workers' rows; the table of modules begins at the next page.
constexpr std::size_t bytes_for(std::size_t slots) {
  return sizeof(SegmentHeader) + slots * sizeof(WorkerCells);
}

constexpr std::size_t table_offset(std::size_t slots) {
  return (bytes_for(slots) + kPage - 1) / kPage * kPage;
}

std::size_t bytes_for(const ModuleTableSize& size) {
  return table_offset(size.slots) + ModuleTable::bytes_for(size);
}

ModuleTableSize size_of(const SegmentHeader& header) {
  return {header.slots, header.modules_max, header.tenants_max};
}

base::Result<void*> map(int fd, std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    return base::Error::from_errno("cannot map the shared segment", errno);
  }
  return memory;
}

void write_text(SharedText& text, std::string_view value) noexcept {
  value = value.substr(0, kTextBytes);
  const std::uint64_t sequence = text.sequence.load(kRelaxed) | 1;
  text.sequence.store(sequence, kRelaxed);
  // Release, each: who sees one of these sees the odd number too.
  for (std::size_t i = 0; i * 8 < value.size(); ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, value.data() + i * 8, std::min<std::size_t>(8, value.size() - i * 8));
    text.words[i].store(word, std::memory_order_release);
  }
  text.length.store(value.size(), std::memory_order_release);
  text.sequence.store(sequence + 1, std::memory_order_release);
}

std::string read_text(const SharedText& text) {
  // A writer that is at it twice in a row is not worth waiting for.
  for (int attempt = 0; attempt < 4; ++attempt) {
    const std::uint64_t before = text.sequence.load(std::memory_order_acquire);
    if ((before & 1) != 0) {
      continue;
    }
    const std::size_t length =
        std::min<std::size_t>(text.length.load(std::memory_order_acquire), kTextBytes);
    std::string value(length, '\0');
    for (std::size_t i = 0; i * 8 < length; ++i) {
      // Acquire: the sequence is read again after the words.
      const std::uint64_t word = text.words[i].load(std::memory_order_acquire);
      std::memcpy(value.data() + i * 8, &word, std::min<std::size_t>(8, length - i * 8));
    }
    if (text.sequence.load(std::memory_order_acquire) == before) {
      return value;
    }
  }
  return {};
}

// Rounded up: a value is never above the bound of its bucket.
std::uint64_t microseconds(base::Duration value) noexcept {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, std::chrono::ceil<std::chrono::microseconds>(value).count()));
}

template <std::size_t N>
void add(std::array<std::uint64_t, N>& sums, const std::array<Cell, N>& cells) noexcept {
  for (std::size_t i = 0; i < N; ++i) {
    sums[i] += cells[i].load(kRelaxed);
  }
}

}  // namespace

void observe_request(ModuleCells& cells, base::Duration took) noexcept {
  const std::uint64_t us = microseconds(took);
  const auto* bound = std::ranges::lower_bound(kModuleBoundsUs, us);
  count(cells.latency[static_cast<std::size_t>(bound - kModuleBoundsUs.begin())]);
  count(cells.latency_sum_us, us);
}

std::size_t latency_bucket(base::Duration latency) noexcept {
  const std::uint64_t us = microseconds(latency);
  const auto* bound = std::ranges::lower_bound(kLatencyBoundsUs, us);
  return static_cast<std::size_t>(bound - kLatencyBoundsUs.begin());
}

base::Result<Segment> Segment::create(std::size_t slots, std::size_t modules_max,
                                      std::size_t tenants_max) {
  MIK_ASSERT(slots >= 1 && slots <= kSlotsMax && modules_max >= 1 && tenants_max >= 1 &&
             modules_max <= kModulesLimit && tenants_max <= kModulesLimit);
  base::Fd fd(::memfd_create("mik-segment", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) {
    return base::Error::from_errno("memfd_create", errno);
  }
  const std::size_t bytes = bytes_for(ModuleTableSize{slots, modules_max, tenants_max});
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return base::Error::from_errno("cannot size the shared segment", errno);
  }
  // Nobody who holds the descriptor can cut it under a mapping (SIGBUS).
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return base::Error::from_errno("cannot seal the shared segment", errno);
  }
  MIK_TRY_ASSIGN(void* memory, map(fd.get(), bytes));
  auto* header = new (memory) SegmentHeader{};
  for (std::size_t i = 0; i < slots; ++i) {
    new (static_cast<std::byte*>(memory) + bytes_for(i)) WorkerCells{};
  }
  header->magic = kSegmentMagic;
  header->version = kSegmentVersion;
  header->slots = slots;
  header->bytes = bytes;
  header->modules_max = modules_max;
  header->tenants_max = tenants_max;
  header->start_ns.store(base::to_ns(base::Clock::now()));
  header->start_unix_s.store(static_cast<std::uint64_t>(std::time(nullptr)));
  header->config_reload_ok.store(1);
  header->config_reload_unix_s.store(header->start_unix_s.load());
  header->workers.store(slots);
  return Segment(std::move(fd), memory);
}

base::Result<Segment> Segment::attach(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0) {
    return base::Error::from_errno("cannot look at the shared segment", errno);
  }
  const auto bytes = static_cast<std::size_t>(status.st_size);
  const int seals = ::fcntl(fd, F_GET_SEALS);
  if (bytes < table_offset(1) || seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return base::Error(base::ErrorCode::kBadMessage, "the descriptor is no shared segment");
  }
  MIK_TRY_ASSIGN(void* memory, map(fd, bytes));
  const SegmentHeader& header = *std::launder(static_cast<SegmentHeader*>(memory));
  const bool fits = header.magic == kSegmentMagic && header.version == kSegmentVersion &&
                    header.bytes == bytes && header.slots >= 1 && header.slots <= kSlotsMax &&
                    header.modules_max >= 1 && header.modules_max <= kModulesLimit &&
                    header.tenants_max >= 1 && header.tenants_max <= kModulesLimit &&
                    bytes_for(size_of(header)) == bytes;
  if (!fits) {
    ::munmap(memory, bytes);
    return base::Error(base::ErrorCode::kBadMessage,
                       "the shared segment was made by another version of mik");
  }
  return Segment(base::Fd(), memory);
}

Segment::Segment(base::Fd fd, void* memory) noexcept
    : fd_(std::move(fd)),
      header_(std::launder(static_cast<SegmentHeader*>(memory))),
      rows_(std::launder(
          reinterpret_cast<WorkerCells*>(static_cast<std::byte*>(memory) + sizeof(SegmentHeader)))),
      modules_(static_cast<std::byte*>(memory) + table_offset(header_->slots), size_of(*header_)) {}

Segment::~Segment() {
  if (header_ != nullptr) {
    ::munmap(header_, header_->bytes);
  }
}

WorkerCells& Segment::row(std::size_t slot) noexcept {
  MIK_ASSERT(slot < slots());
  return rows_[slot];
}

const WorkerCells& Segment::row(std::size_t slot) const noexcept {
  MIK_ASSERT(slot < slots());
  return rows_[slot];
}

void Segment::begin(std::size_t slot, std::uint64_t generation) noexcept {
  row(slot).gauges.generation.store(generation);
  set_state(slot, WorkerState::kStarting);
}

void Segment::set_pid(std::size_t slot, pid_t pid) noexcept {
  row(slot).gauges.pid.store(static_cast<std::uint64_t>(pid));
}

void Segment::bury(std::size_t slot) noexcept {
  WorkerCells& cells = row(slot);
  // First of all nobody hands anything to it.
  cells.gauges.state.store(static_cast<std::uint64_t>(WorkerState::kGone));
  cells.gauges.pid.store(0);
  cells.gauges.heartbeat_ns.store(0);
  cells.gauges.connections.store(0);
  cells.gauges.active_requests.store(0);
  cells.gauges.module_state.store(static_cast<std::uint64_t>(ModuleState::kNone));
  cells.gauges.memory_bytes.store(0);
  for (Cell* gauge : {&cells.metrics.instances, &cells.metrics.instances_max,
                      &cells.metrics.waiting, &cells.metrics.loop_lag_max_us}) {
    gauge->store(0);
  }
  write_text(cells.module_error, {});
  modules_.bury(slot);
}

WorkerState Segment::state(std::size_t slot) const noexcept {
  return static_cast<WorkerState>(row(slot).gauges.state.load());
}

void Segment::set_state(std::size_t slot, WorkerState state) noexcept {
  row(slot).gauges.state.store(static_cast<std::uint64_t>(state));
}

void Segment::beat(std::size_t slot, base::Time now) noexcept {
  row(slot).gauges.heartbeat_ns.store(base::to_ns(now), kRelaxed);
}

void Segment::set_connections(std::size_t slot, std::uint64_t open) noexcept {
  row(slot).gauges.connections.store(open, kRelaxed);
}

void Segment::set_module(std::size_t slot, ModuleState state, std::string_view error) noexcept {
  write_text(row(slot).module_error, error);
  row(slot).gauges.module_state.store(static_cast<std::uint64_t>(state));
}

ModuleState Segment::module_state(std::size_t slot) const noexcept {
  return static_cast<ModuleState>(row(slot).gauges.module_state.load());
}

std::string Segment::module_error(std::size_t slot) const {
  return read_text(row(slot).module_error);
}

void Segment::count_response(std::size_t slot, int status, base::Duration latency) noexcept {
  Counters& counters = row(slot).counters;
  const int group = std::clamp(status / 100, 1, static_cast<int>(kStatusClasses));
  count(counters.status[static_cast<std::size_t>(group - 1)]);
  count(counters.latency[latency_bucket(latency)]);
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(latency).count();
  count(counters.latency_sum_us, static_cast<std::uint64_t>(std::max<std::int64_t>(0, us)));
}

void Segment::keep_exemplar(std::size_t slot, base::Duration latency, std::uint64_t trace_high,
                            std::uint64_t trace_low) noexcept {
  constexpr std::uint64_t kEveryMs = 1000;
  timespec time{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &time);
  const auto now = static_cast<std::uint64_t>(time.tv_sec) * 1000 +
                   static_cast<std::uint64_t>(time.tv_nsec) / 1'000'000;
  ExemplarCells& cells = row(slot).metrics.exemplars[latency_bucket(latency)];
  const std::uint64_t sequence = cells.sequence.load(kRelaxed);
  if (sequence != 0 && now - cells.unix_ms.load(kRelaxed) < kEveryMs) {
    return;
  }
  // As in write_text.
  cells.sequence.store(sequence | 1, kRelaxed);
  cells.trace_high.store(trace_high, std::memory_order_release);
  cells.trace_low.store(trace_low, std::memory_order_release);
  cells.value_us.store(microseconds(latency), std::memory_order_release);
  cells.unix_ms.store(now, std::memory_order_release);
  cells.sequence.store((sequence | 1) + 1, std::memory_order_release);
}

std::optional<Exemplar> Segment::exemplar(std::size_t slot, std::size_t bucket) const noexcept {
  const ExemplarCells& cells = row(slot).metrics.exemplars[bucket];
  const std::uint64_t before = cells.sequence.load(std::memory_order_acquire);
  Exemplar found;
  found.trace_high = cells.trace_high.load(std::memory_order_acquire);
  found.trace_low = cells.trace_low.load(std::memory_order_acquire);
  found.value_us = cells.value_us.load(std::memory_order_acquire);
  found.unix_ms = cells.unix_ms.load(std::memory_order_acquire);
  if (before == 0 || (before & 1) != 0 ||
      cells.sequence.load(std::memory_order_acquire) != before) {
    return std::nullopt;
  }
  return found;
}

std::size_t Segment::outbound_pattern(std::string_view pattern) noexcept {
  for (std::size_t place = 0; place < kOutboundPatterns && pattern.size() <= kTextBytes; ++place) {
    SharedText& text = header_->outbound_patterns[place];
    std::uint64_t free = 0;
    if (text.sequence.compare_exchange_strong(free, 1)) {
      write_text(text, pattern);
      return place;
    }
    // One that is being written by another worker may become the same: it is added up then.
    if (text.length.load(std::memory_order_acquire) == pattern.size() &&
        read_text(text) == pattern) {
      return place;
    }
  }
  return kOutboundPatterns;
}

std::optional<std::string> Segment::outbound_pattern_at(std::size_t place) const {
  const SharedText& text = header_->outbound_patterns[place];
  return text.sequence.load(std::memory_order_acquire) == 2 ? std::optional(read_text(text))
                                                            : std::nullopt;
}

void Segment::count_failure(std::size_t slot, GuestFailure failure) noexcept {
  count(row(slot).counters.failures[static_cast<std::size_t>(failure)]);
}

std::optional<RequestPermit> Segment::try_acquire(std::size_t slot, std::uint64_t limit) noexcept {
  // Of any set of permits held at one moment, the one that was counted last has seen all the
  // others: had there been more than the limit it would have stepped back. Needs the single total
  // order of sequential consistency.
  Cell& own = row(slot).gauges.active_requests;
  own.fetch_add(1);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < slots(); ++i) {
    sum += rows_[i].gauges.active_requests.load();
  }
  if (sum > limit) {
    own.fetch_sub(1);
    return std::nullopt;
  }
  return RequestPermit(own);
}

bool Segment::live(std::size_t slot, base::Time now) const noexcept {
  const Gauges& gauges = row(slot).gauges;
  if (gauges.state.load() != static_cast<std::uint64_t>(WorkerState::kReady)) {
    return false;
  }
  const std::uint64_t beat = gauges.heartbeat_ns.load(kRelaxed);
  const std::uint64_t at = base::to_ns(now);
  constexpr auto kMax = static_cast<std::uint64_t>(std::chrono::nanoseconds(kHeartbeatMax).count());
  // `now` may be a turn old, so a beat may lie ahead of it.
  return beat >= at || at - beat < kMax;
}

std::uint64_t Segment::connections() const noexcept {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < slots(); ++i) {
    sum += rows_[i].gauges.connections.load(kRelaxed);
  }
  return sum;
}

Totals Segment::totals() const noexcept {
  Totals sum;
  sum.workers = header_->workers.load(kRelaxed);
  sum.restarts = header_->restarts.load(kRelaxed);
  sum.config_reload_ok = header_->config_reload_ok.load(kRelaxed);
  sum.config_reload_unix_s = header_->config_reload_unix_s.load(kRelaxed);
  sum.config_reloads_failed = header_->config_reloads_failed.load(kRelaxed);
  for (std::size_t i = 0; i < slots(); ++i) {
    const Gauges& gauges = rows_[i].gauges;
    const Counters& counters = rows_[i].counters;
    sum.requests += counters.requests.load(kRelaxed);
    sum.guest_requests += counters.guest_requests.load(kRelaxed);
    sum.client_gone += counters.client_gone.load(kRelaxed);
    sum.bytes_in += counters.bytes_in.load(kRelaxed);
    sum.bytes_out += counters.bytes_out.load(kRelaxed);
    sum.accepted += counters.accepted.load(kRelaxed);
    sum.handed_out += counters.handed_out.load(kRelaxed);
    sum.handed_in += counters.handed_in.load(kRelaxed);
    sum.refused += counters.refused.load(kRelaxed);
    sum.accept_errors += counters.accept_errors.load(kRelaxed);
    sum.tls_failures += counters.tls_failures.load(kRelaxed);
    add(sum.status, counters.status);
    add(sum.failures, counters.failures);
    add(sum.latency, counters.latency);
    sum.latency_sum_us += counters.latency_sum_us.load(kRelaxed);
    sum.log_lines_dropped += counters.log_lines_dropped.load(kRelaxed);
    sum.connections += gauges.connections.load(kRelaxed);
    sum.active_requests += gauges.active_requests.load(kRelaxed);
    sum.workers_ready += state(i) == WorkerState::kReady ? 1 : 0;
  }
  return sum;
}

}  // namespace mik::shared
