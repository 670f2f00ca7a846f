// One request that a guest answers: between an http::Exchange and the engine. Confined to the loop
// thread.
//
// It may wait before it starts, with its head and a piece of its body saved: for the body, while
// enough slow uploads are served; then for the component, holding no permit; then it takes its
// permit and starts.
//
// Lives from Service::on_request until the exchange is closed and, if it is being run at that
// moment, until the run is over. The guest is released (and so cancelled) as soon as the exchange
// is closed: a client that left, a deadline and a shutdown all end here.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "http/exchange.hpp"
#include "http/forwarded.hpp"
#include "net/wheel.hpp"
#include "runtime/context.hpp"
#include "runtime/gate.hpp"
#include "runtime/module_cache.hpp"
#include "runtime/request_end.hpp"
#include "runtime/scheduler.hpp"
#include "runtime/tracing.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {

class GuestExchange;

// Where finished exchanges go to be used again.
class GuestExchangePool {
 public:
  explicit GuestExchangePool(Context& context);
  ~GuestExchangePool();
  GuestExchangePool(const GuestExchangePool&) = delete;
  GuestExchangePool& operator=(const GuestExchangePool&) = delete;

  GuestExchange& get();
  // Called by exchanges only.
  void put(GuestExchange& exchange);

 private:
  static constexpr std::size_t kIdleMax = 256;
  Context& context_;
  std::vector<std::unique_ptr<GuestExchange>> all_;  // in use and idle
  std::vector<GuestExchange*> idle_;
};

// What Service has found out about a request that goes to a guest.
struct GuestRequest {
  std::shared_ptr<ModuleEntry> module;
  std::string_view path_query;  // what the guest sees
  http::ForwardedView from;     // valid while the request is handed over
  reliability::BreakerTicket ticket;
  reliability::Permit permit;
  bool wait_for_body = false;  // take the permit when the body is here, or 64 KiB of it
};

class GuestExchange final : public http::ExchangeHandler,
                            public GuestTask,
                            public ModuleWaiter,
                            public reliability::Waiter {
 public:
  GuestExchange(Context& context, GuestExchangePool& pool);
  ~GuestExchange() override;

  // Takes the request over: attaches itself and starts the guest, or waits. Answers itself if the
  // guest cannot start.
  void begin(http::Exchange& exchange, GuestRequest request);

  void on_guest_output(int stream, std::string_view line) noexcept;

  // http::ExchangeHandler
  http::Flow on_body(std::string_view bytes) override;
  void on_body_end(std::span<const http::Field> trailers) override;
  void on_body_error(http::BodyError error) override;
  std::size_t peek(std::span<iovec> pieces) override;
  void consume(std::size_t bytes) override;
  http::SourceState source_state() override;
  std::span<const http::Field> trailers() override;
  void on_closed(const http::Closed& closed) override;

  // GuestTask
  void on_run(engine::Events events) override;
  void on_write() override;

  // ModuleWaiter
  void on_module(ModuleTrouble trouble) override;

  // reliability::Waiter
  void on_admitted(reliability::Permit permit) override;
  void on_refused(reliability::RefusedBy by) override;

  // What outgoing requests of this guest need to know.
  base::Time deadline() const noexcept;
  const telemetry::TraceContext& trace() const noexcept { return trace_; }
  std::string_view trace_state() const noexcept { return trace_state_; }
  engine::RequestId id() const noexcept { return id_; }
  std::string_view request_id() const noexcept { return telemetry::view(request_id_); }
  const ModuleEntry& module() const noexcept { return *module_; }

 private:
  friend class GuestExchangePool;
  struct SavedHead;
  enum class WaitsFor : std::uint8_t { kNothing, kBody, kModule, kPermit };

  void reset();
  // False, here and below: it answered instead, and may be gone.
  bool start(const http::RequestHead& head, std::string_view path_query);
  bool start_saved();
  // The next step of a request that is saved: component, permit, guest.
  bool advance();
  bool wait_for_module();
  // True: it holds one. Else it waits for it, or has answered.
  bool take_permit();
  void count_open_body();
  void drop_open_body();
  void stop_waiting();
  void forget_saved();
  void save(const http::RequestHead& head, std::string_view path_query);
  void send_head(bool whole);
  std::optional<std::uint64_t> content_shown();
  void send_failure(engine::RequestFailure failure);
  void answer(int status, std::string_view detail, std::uint32_t retry_after_secs = 0);
  void finish_run(engine::Events events);
  void on_deadline();
  void cut_stream();
  void run_clock(bool on);
  void arm_stream_timer();
  void release_guest();
  void release_guest(base::Time now);
  void say_memory() noexcept;
  void count_failure(shared::GuestFailure failure);
  bool counts_as_failure() const noexcept;  // for the breaker
  void resolve_ticket();
  void count_guest(base::Time now);
  void count_closed(const http::Closed& closed, base::Duration took);
  void say_closed(const http::Closed& closed, base::Duration took);
  RequestTag tag() const noexcept;
  telemetry::Log::Line line(telemetry::Level level, telemetry::Target target,
                            std::string_view message);
  void say_dropped_output();

  Context& context_;
  GuestExchangePool& pool_;
  http::Exchange* exchange_ = nullptr;  // null once closed
  engine::RequestId id_ = 0;
  std::shared_ptr<ModuleEntry> module_;
  std::shared_ptr<LoadedModule> component_;  // while the guest lives
  reliability::BreakerTicket ticket_;
  reliability::Permit permit_;

  // execution_timeout: counts while the guest, not the client, is what is waited for (config.md).
  net::Timer deadline_timer_;
  base::Time deadline_ = base::kNever;  // kNever while the clock stands
  base::Duration time_left_{};
  base::Time stream_end_ = base::kNever;  // stream_max, from the response's head

  base::Time started_;
  base::Time queued_;         // since when it waits for its component and permit
  base::Time guest_started_;  // when there is a guest
  int status_ = 0;            // of the guest's response
  bool running_ = false;      // inside on_run
  bool head_sent_ = false;
  bool ended_ = false;      // END was said
  bool cut_ = false;        // ABORT was said
  bool failed_ = false;     // and the module is to blame
  bool body_open_ = false;  // the request body has not ended
  WaitsFor waits_for_ = WaitsFor::kNothing;
  bool counts_as_open_ = false;                  // in Context::open_bodies
  bool body_paused_ = false;                     // the guest's window is full
  std::string error_;                            // for the log; empty when all went well
  std::optional<shared::GuestFailure> failure_;  // the last one that was counted
  engine::Stats stats_;

  telemetry::TraceContext trace_;
  std::string trace_state_;  // as the caller sent it
  RequestSpans spans_;
  std::array<char, 36> request_id_{};
  http::Compression::Wanted wanted_;  // by the client
  std::string method_;
  std::string path_;
  std::string client_;  // address
  bool https_ = false;  // of the client's connection
  std::vector<http::Field> trailers_;
  std::unique_ptr<SavedHead> saved_;  // while it waits
};

}  // namespace mik::runtime
