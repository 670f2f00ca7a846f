// One request that a guest answers: between an http::Exchange and the engine. Confined to the loop
// thread.
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
#include "net/wheel.hpp"
#include "runtime/context.hpp"
#include "runtime/scheduler.hpp"
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
  // The component is there: start those that waited for it. Or it never will be: fail them.
  void component_ready();
  void component_failed();

 private:
  friend class GuestExchange;
  static constexpr std::size_t kIdleMax = 256;
  Context& context_;
  std::vector<std::unique_ptr<GuestExchange>> all_;  // in use and idle
  std::vector<GuestExchange*> idle_;
  std::vector<GuestExchange*> waiting_;  // for the component
};

class GuestExchange final : public http::ExchangeHandler, public GuestTask {
 public:
  GuestExchange(Context& context, GuestExchangePool& pool);
  ~GuestExchange() override;

  // Takes the request over: attaches itself and starts the guest, or waits for the component.
  // `path_query` is what the guest sees. Answers itself if the guest cannot start.
  void begin(http::Exchange& exchange, std::string_view path_query, shared::RequestPermit permit);

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

  // What outgoing requests of this guest need to know.
  base::Time deadline() const noexcept;
  const telemetry::TraceContext& trace() const noexcept { return trace_; }
  engine::RequestId id() const noexcept { return id_; }
  std::string_view request_id() const noexcept { return telemetry::view(request_id_); }

 private:
  friend class GuestExchangePool;
  struct SavedHead;

  void reset();
  // False: it answered, and may be destroyed.
  bool start(const http::RequestHead& head, std::string_view path_query);
  // False: answered instead, and this may be gone.
  bool start_saved();
  // What a request whose body was waited for does when enough of it is here. False as above.
  bool admit();
  void wait_for_component();
  void count_open_body();
  void drop_open_body();
  void stop_waiting_for_body();
  void save(const http::RequestHead& head, std::string_view path_query);
  void send_head();
  void send_failure(engine::RequestFailure failure);
  void answer(int status, std::string_view detail);
  void finish_run(engine::Events events);
  void on_deadline();
  void run_clock(bool on);
  void release_guest();
  void forget_saved();
  void log_closed(const http::Closed& closed);

  Context& context_;
  GuestExchangePool& pool_;
  http::Exchange* exchange_ = nullptr;  // null once closed
  engine::RequestId id_ = 0;
  shared::RequestPermit permit_;

  // execution_timeout: counts while the guest, not the client, is what is waited for (config.md).
  net::Timer deadline_timer_;
  base::Time deadline_ = base::kNever;  // kNever while the clock stands
  base::Duration time_left_{};

  base::Time started_;
  bool running_ = false;  // inside on_run
  bool head_sent_ = false;
  bool ended_ = false;           // END was said
  bool cut_ = false;             // ABORT was said
  bool body_open_ = false;       // the request body has not ended
  bool waits_for_body_ = false;  // has no permit yet
  bool counts_as_open_ = false;  // in Context::open_bodies
  bool body_paused_ = false;     // the guest's window is full
  std::string error_;            // for the log; empty when all went well
  engine::Stats stats_;

  telemetry::TraceContext trace_;
  std::array<char, 36> request_id_{};
  std::string method_;
  std::string path_;
  std::string peer_;
  std::vector<http::Field> trailers_;
  std::unique_ptr<SavedHead> saved_;  // while it waits for the component
};

}  // namespace mik::runtime
