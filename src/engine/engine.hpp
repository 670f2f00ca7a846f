// C++ over engine/include/engine.h: the only folder that includes it. Handles own, views borrow,
// errors are Results. Engine and Component may be used from any thread; Guests, and the ids that
// come from it, belong to the thread that created it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.hpp"
#include "base/time.hpp"

struct mik_engine;
struct mik_component;
struct mik_loop;

namespace mik::engine {

struct Field {
  std::string_view name;  // lower case
  std::string_view value;
};

struct EngineOptions {
  std::uint32_t instances_max = 1000;
  std::uint32_t warm_slots_max = 0;  // components that find their memories mapped; see engine.h
  bool pagemap_scan = false;
  bool on_demand = false;
  bool compile_only = false;
  std::uint64_t memory_reservation_bytes = 0;  // 0: the default, 4 GiB
  // What instances that have ended may leave resident, all together: three quarters for the next
  // ones, one of large memories that are given back in pieces; 0: 8 MiB for each memory. For one
  // engine in the process that runs guests.
  std::uint64_t kept_bytes_max = 0;
};

class Engine {
 public:
  static base::Result<Engine> create(const EngineOptions& options);

  // One epoch tick; any thread.
  void tick() noexcept;
  std::array<std::uint8_t, 32> artefact_key() const;
  // kCompile or what check() gives. Blocking, uses several threads: for the compile child.
  base::Result<void> compile(std::string_view wasm,
                             const std::function<bool(std::string_view)>& sink) const;

  // Counts again what is kept when half of what may be seems to be used.
  void bound_kept() const noexcept;
  std::uint64_t kept_bytes() const noexcept;
  std::uint64_t waiting_bytes_max() const noexcept { return waiting_bytes_max_; }

  mik_engine* handle() const noexcept { return handle_.get(); }

 private:
  struct Delete {
    void operator()(mik_engine* engine) const noexcept;
  };
  explicit Engine(mik_engine* handle) : handle_(handle) {}
  std::unique_ptr<mik_engine, Delete> handle_;
  std::uint64_t kept_bytes_max_ = 0;
  std::uint64_t waiting_bytes_max_ = 0;
};

std::string_view engine_version();

// A component with an HTTP handler whose imports are all offered? kNotComponent, kImport with a
// text that helps.
base::Result<void> check_wasm(std::string_view wasm);

struct ComponentOptions {
  std::uint64_t memory_bytes_max = 0;
  std::uint32_t reuse_max = 1;
  std::vector<std::pair<std::string, std::string>> env;
};

class Component {
 public:
  // Maps a verified artefact; see mik_component_load. kArtefact: compile again. kStaticLimit,
  // kImport: it can never run.
  static base::Result<Component> load(const Engine& engine, int fd,
                                      const ComponentOptions& options);
  std::uint64_t bytes() const noexcept;
  mik_component* handle() const noexcept { return handle_.get(); }

 private:
  struct Delete {
    void operator()(mik_component* component) const noexcept;
  };
  explicit Component(mik_component* handle) : handle_(handle) {}
  std::unique_ptr<mik_component, Delete> handle_;
};

using RequestId = std::uint64_t;   // 0 is none
using OutboundId = std::uint64_t;  // 0 is none

// What a run reports: the bits of MIK_EV_*.
struct Events {
  std::uint32_t bits = 0;
  bool head() const noexcept { return (bits & (1u << 0)) != 0; }
  bool body() const noexcept { return (bits & (1u << 1)) != 0; }
  bool end() const noexcept { return (bits & (1u << 2)) != 0; }
  bool abort() const noexcept { return (bits & (1u << 3)) != 0; }
  bool failed() const noexcept { return (bits & (1u << 4)) != 0; }
  bool need_body() const noexcept { return (bits & (1u << 5)) != 0; }
  bool outbound() const noexcept { return (bits & (1u << 6)) != 0; }
  bool yielded() const noexcept { return (bits & (1u << 7)) != 0; }
  bool done() const noexcept { return (bits & (1u << 8)) != 0; }
  bool body_unused() const noexcept { return (bits & (1u << 9)) != 0; }
};

struct OutboundEvents {
  OutboundId id = 0;
  std::uint64_t user = 0;
  std::uint32_t bits = 0;
  bool body() const noexcept { return (bits & (1u << 0)) != 0; }
  bool body_end() const noexcept { return (bits & (1u << 1)) != 0; }
  bool body_fail() const noexcept { return (bits & (1u << 2)) != 0; }
  bool read() const noexcept { return (bits & (1u << 3)) != 0; }
  bool dropped() const noexcept { return (bits & (1u << 4)) != 0; }
};

// Why a guest failed, as far as the answer depends on it.
enum class Failure : std::uint8_t {
  kTrap,        // trap, stack overflow, exit, limits of the host: 502
  kNoResponse,  // 502
  kGuestError,  // 502
  kBody,        // the response body was cut: only after the head
  kCpu,         // 504
  kMemory,      // 507
  kBusy,        // 503
  kInternal,    // a bug of ours: 500
};
std::string_view label(Failure failure) noexcept;

struct RequestFailure {
  Failure failure = Failure::kTrap;
  std::string_view text;  // for the operator; valid until release
};

struct Head {
  // The block that the views point into: copied once. Views that lie elsewhere cost another copy.
  std::string_view bytes;
  std::string_view method;
  std::string_view authority;
  std::string_view path_query;
  bool https = false;
  bool has_body = false;
  std::uint64_t user = 0;
  base::Duration cpu_budget = base::Duration::max();
};

struct Response {
  int status = 0;
  bool has_content_length = false;
  std::uint64_t content_length = 0;
  std::span<const Field> fields;  // storage of Guests: valid until the next call of response_head
};

struct Stats {
  base::Duration cpu{};
  base::Duration instantiate{};
  std::uint64_t memory_bytes_peak = 0;  // linear memories
  std::uint64_t memory_bytes = 0;       // memories and tables now; 0 once the guest is over
  std::uint32_t runs = 0;
  std::uint32_t outbound = 0;
  std::uint32_t reuse_index = 0;
};

// The outgoing request that a guest wants made. Views valid until release.
struct OutboundHead {
  std::string_view method, scheme, authority, path_query;
  std::span<const Field> fields;  // storage of Guests: valid until the next call of outbound_head
  bool has_body = false;
  bool has_content_length = false;
  std::uint64_t content_length = 0;
  base::Duration connect_timeout = base::Duration::max();
  base::Duration first_byte_timeout = base::Duration::max();
  base::Duration between_bytes_timeout = base::Duration::max();
};

enum class Push : std::uint8_t { kGoOn, kFull, kUnwanted };

// All guests of one loop: see mik_loop in engine.h, whose rules hold.
class Guests {
 public:
  class Observer {
   public:
    virtual ~Observer() = default;
    // A guest became ready from another thread. Any thread; must only wake the loop.
    virtual void on_wake() noexcept = 0;
    // A line of output: stream 1 or 2, or 0 for what the engine says of lines it dropped; 3 to 8:
    // wasi:logging of the levels trace to critical, context and message with a newline between.
    virtual void on_output(std::uint64_t user, int stream, std::string_view line) noexcept = 0;
  };
  struct Woken {
    RequestId id;
    std::uint64_t user;
  };

  // Engine and observer must outlive the guests.
  static base::Result<std::unique_ptr<Guests>> create(const Engine& engine, Observer& observer);
  ~Guests();
  Guests(const Guests&) = delete;
  Guests& operator=(const Guests&) = delete;

  std::size_t take_woken(base::Time now, std::span<Woken> woken);
  base::Time next_timer() const;
  // Drops kept instances: those that have idled too long; those of a component that is given up;
  // all.
  void drop_idle(base::Time now);
  void drop_kept(const Component& component);
  void drop_all_kept();
  // What the memories and tables of all instances hold now, kept ones included, and how much that
  // may become: a growth past it is refused, and Failure::kMemory if the guest then fails.
  std::uint64_t memory_bytes() const noexcept;
  void set_memory_room(std::uint64_t bytes) noexcept;
  // To be called each turn of the loop: keeps what ended guests leave within its bounds, and gives
  // a piece of large memories back. True: more is left.
  bool tidy() noexcept;
  // What giving back the memories that were put off since the last call will take, by what it took
  // of late for all: nobody runs while that is done, so it is for those whose guests wrote them.
  base::Duration put_off() noexcept;
  // Drops the kept instances of a component that gets no new requests.
  void forget(const Component& component);

  // kBadMessage when the head cannot be a request. `fields` are views, best into head.bytes.
  template <class AnyField>
  base::Result<RequestId> start(const Component& component, const Head& head,
                                std::span<const AnyField> fields) {
    begin_fields(fields.size());
    for (const AnyField& field : fields) {
      add_field(field.name, field.value);
    }
    return start_collected(component, head);
  }
  Events run(RequestId id, base::Time now, base::Duration slice);
  Push push_body(RequestId id, std::string_view bytes);
  template <class AnyField>
  void end_body(RequestId id, std::span<const AnyField> trailers) {
    begin_trailers(trailers.size());
    for (const AnyField& field : trailers) {
      add_trailer(field.name, field.value);
    }
    end_body_collected(id);
  }
  void fail_body(RequestId id);
  Response response_head(RequestId id);
  // Pieces ready for writev, valid until the next consume, run or release. Piece: {void*, size_t}
  // as iovec.
  template <class IoVec>
  std::size_t peek(RequestId id, std::span<IoVec> pieces) {
    return peek_with(id, pieces.size(), [&](std::size_t i, std::string_view piece) {
      pieces[i] = IoVec{const_cast<char*>(piece.data()), piece.size()};
    });
  }
  void consume(RequestId id, std::size_t bytes);
  std::span<const Field> trailers(RequestId id);
  RequestFailure failure(RequestId id);
  Stats stats(RequestId id);
  std::uint64_t memory_bytes(RequestId id) noexcept;  // Stats::memory_bytes alone
  void release(RequestId id);

  OutboundId next_outbound(RequestId id);
  OutboundHead outbound_head(OutboundId id);
  void accept(OutboundId id, std::uint64_t user);
  void refuse(OutboundId id, int http_error);
  std::size_t take_outbound_events(std::span<OutboundEvents> events);
  template <class IoVec>
  std::size_t outbound_peek(OutboundId id, std::span<IoVec> pieces) {
    return outbound_peek_with(id, pieces.size(), [&](std::size_t i, std::string_view piece) {
      pieces[i] = IoVec{const_cast<char*>(piece.data()), piece.size()};
    });
  }
  void outbound_consume(OutboundId id, std::size_t bytes);
  template <class AnyField>
  void outbound_respond(OutboundId id, int status, std::span<const AnyField> fields) {
    begin_trailers(fields.size());
    for (const AnyField& field : fields) {
      add_trailer(field.name, field.value);
    }
    outbound_respond_collected(id, status);
  }
  Push outbound_push(OutboundId id, std::string_view bytes);
  template <class AnyField>
  void outbound_end(OutboundId id, std::span<const AnyField> trailers) {
    begin_trailers(trailers.size());
    for (const AnyField& field : trailers) {
      add_trailer(field.name, field.value);
    }
    outbound_end_collected(id);
  }
  void outbound_fail(OutboundId id, int http_error);
  void outbound_release(OutboundId id);

 private:
  struct Storage;
  Guests();
  void begin_fields(std::size_t count);
  void add_field(std::string_view name, std::string_view value);
  base::Result<RequestId> start_collected(const Component& component, const Head& head);
  void begin_trailers(std::size_t count);
  void add_trailer(std::string_view name, std::string_view value);
  void end_body_collected(RequestId id);
  void outbound_respond_collected(OutboundId id, int status);
  void outbound_end_collected(OutboundId id);
  template <class F>
  std::size_t peek_with(RequestId id, std::size_t cap, F&& put) {
    const std::size_t count = peek_collected(id, cap);
    for (std::size_t i = 0; i < count; ++i) {
      put(i, piece(i));
    }
    return count;
  }
  template <class F>
  std::size_t outbound_peek_with(OutboundId id, std::size_t cap, F&& put) {
    const std::size_t count = outbound_peek_collected(id, cap);
    for (std::size_t i = 0; i < count; ++i) {
      put(i, piece(i));
    }
    return count;
  }
  std::size_t peek_collected(RequestId id, std::size_t cap);
  std::size_t outbound_peek_collected(OutboundId id, std::size_t cap);
  std::string_view piece(std::size_t index) const noexcept;

  const Engine* engine_ = nullptr;
  mik_loop* loop_ = nullptr;
  std::unique_ptr<Storage> storage_;
  double return_ns_per_byte_ = 0.07;  // a page: 0.28 us
};

// Asks the guest that has the loop for it: when it has had a slice and, if its run is watched, soon
// after the loop has something else to do (pace.hpp). A timer that interrupts the loop's own thread
// (SIGURG, timer_create(2)); it is not set while no guest runs: an idle worker takes no CPU. Made,
// used and destroyed on the loop's thread, which must not block that signal, and whose system calls
// may be interrupted by it (those that SA_RESTART does not go on with: signal(7)).
class Ticker {
 public:
  // Since it was made: how often it looked, moved the epoch, and did so because the loop had input.
  struct Counts {
    std::uint64_t looks = 0;
    std::uint64_t ticks = 0;
    std::uint64_t preemptions = 0;
  };

  // `loop_fd` is readable while the loop has something to do, and outlives the ticker. Without one
  // guests have whole slices. Fails where there are no timers (RLIMIT_SIGPENDING).
  static base::Result<Ticker> create(Engine& engine, int loop_fd = -1);
  ~Ticker();
  Ticker(Ticker&&) noexcept;
  Ticker& operator=(Ticker&&) noexcept;

  // Around each run of a guest. No system call, but one for a run that is watched, or the first for
  // some time, while the timer is not set. One that is not watched has Pace::kGuard and a slice.
  void begin_run(base::Time now, bool watched = true) noexcept;
  void end_run() noexcept;

  Counts counts() const noexcept;

 private:
  struct State;
  explicit Ticker(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

}  // namespace mik::engine
