// Spans on their way out: a bounded queue, batches, one request at a time, again with back-off when
// the collector is away. Whatever the collector does costs spans, which are counted, and nothing
// else. Confined to the loop thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "net/loop.hpp"
#include "net/wheel.hpp"
#include "otlp/sender.hpp"
#include "otlp/span.hpp"
#include "telemetry/trace_context.hpp"

namespace mik::otlp {

// Why spans were lost.
enum class Drop : std::uint8_t {
  kQueueFull,    // they come faster than they go
  kUnreachable,  // nobody took them within retry_for
  kRejected,     // the collector will not have them
  kShutdown,     // they were left over at the end
};
inline constexpr std::size_t kDropReasons = 4;

struct ExporterOptions {
  std::string service_name;
  std::string service_version;
  std::string host_name;
  std::int64_t process_pid = 0;
  std::string mik_version;

  std::size_t queue_spans_max = 2048;
  std::size_t queue_bytes_max = 4 << 20;
  std::size_t batch_spans_max = 512;
  std::size_t batch_bytes_max = 1 << 20;
  base::Duration delay = std::chrono::seconds(1);  // a batch that is not full waits so long
  base::Duration timeout = std::chrono::seconds(10);
  base::Duration retry_first = std::chrono::seconds(1);
  base::Duration retry_max = std::chrono::seconds(30);
  base::Duration retry_for = std::chrono::minutes(1);  // of one batch
};

class ExporterObserver {
 public:
  virtual void on_exported(std::uint64_t spans) = 0;
  virtual void on_dropped(Drop why, std::uint64_t spans) = 0;
  // The collector does not take spans; told once, until it takes some again.
  virtual void on_trouble(std::string_view detail) = 0;
  virtual void on_trouble_over() = 0;

 protected:
  ~ExporterObserver() = default;
};

class Exporter final : private Sender::User {
 public:
  // Loop, random and observer outlive the exporter.
  Exporter(net::Loop& loop, std::unique_ptr<Sender> sender, ExporterOptions options,
           telemetry::Random& random, ExporterObserver& observer);
  ~Exporter();  // what is left counts as kShutdown
  Exporter(const Exporter&) = delete;
  Exporter& operator=(const Exporter&) = delete;

  void add(const Span& span);

  // Sends what there is, each batch once, and then calls `done`, perhaps before this returns. Who
  // has no more time destroys the exporter.
  void drain(std::function<void()> done);

  std::size_t queued() const noexcept { return queued_spans_; }

 private:
  enum class State : std::uint8_t { kIdle, kSending, kWaiting };
  struct Batch {
    std::string spans;
    std::uint64_t count = 0;
  };

  void on_reply(Reply reply) override;
  void on_delay();
  void on_retry();
  // What there is to do once nothing is under way.
  void go_on();
  void send_next();
  void attempt();
  void retry_or_drop(const Reply& reply);
  void drop_batch(Drop why);
  void drop_all(Drop why);
  void note_trouble(std::string_view detail);
  void note_success();
  base::Duration jittered(base::Duration wait);

  net::Loop& loop_;
  std::unique_ptr<Sender> sender_;
  const ExporterOptions options_;
  telemetry::Random& random_;
  ExporterObserver& observer_;
  State state_ = State::kIdle;
  bool draining_ = false;
  bool trouble_ = false;
  std::function<void()> done_;

  std::deque<Batch> queue_;  // those before the last are full
  std::size_t queued_spans_ = 0;
  std::size_t queued_bytes_ = 0;

  Batch batch_;          // under way
  std::string message_;  // of it
  base::Time give_up_;
  base::Duration backoff_;

  net::Timer delay_timer_;
  net::Timer retry_timer_;
};

}  // namespace mik::otlp
