// Traces of requests: the caller's context or a new one, whether it is sampled, and the spans that
// go to the collector (docs/reference/traces.md). Confined to the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "engine/engine.hpp"
#include "http/message.hpp"
#include "net/offload.hpp"
#include "otlp/exporter.hpp"
#include "runtime/context.hpp"
#include "runtime/request_end.hpp"

namespace mik::runtime {

// The trace of a request that came: its span is ours.
struct RequestTrace {
  telemetry::TraceContext own;
  std::uint64_t parent = 0;  // the caller's span; 0: there is none
  std::string state;         // the caller's tracestate, untouched; empty without a parent
};
// Of the request's traceparent and tracestate. The caller decides whether it is sampled, else
// [tracing] sample_ratio does, by the trace's id.
RequestTrace trace_of(Context& context, std::span<const http::Field> fields);

// Sends spans to [tracing] otlp_endpoint.
class Tracing final : public otlp::ExporterObserver {
 public:
  // Null: there is no endpoint, or enabled is false. kConfig: the endpoint is none.
  static base::Result<std::unique_ptr<Tracing>> create(Context& context, net::Offload& offload);

  void add(const otlp::Span& span) { exporter_->add(span); }
  // As otlp::Exporter::drain.
  void drain(std::function<void()> done) { exporter_->drain(std::move(done)); }

  // otlp::ExporterObserver
  void on_exported(std::uint64_t spans) override;
  void on_dropped(otlp::Drop why, std::uint64_t spans) override;
  void on_trouble(std::string_view detail) override;
  void on_trouble_over() override;

 private:
  explicit Tracing(Context& context) : context_(context) {}

  Context& context_;
  std::string endpoint_;  // as it may be shown
  std::unique_ptr<otlp::Exporter> exporter_;
};

// The spans of one request: that of the server, and its children. Does nothing while the
// request is not sampled or nobody takes spans.
class RequestSpans {
 public:
  // `guest_path`: what the guest sees of the path, the query included; empty: no route leads there.
  void begin(Context& context, const RequestTrace& trace, const http::RequestHead& head,
             std::string_view guest_path);
  bool on() const noexcept { return tracing_ != nullptr; }

  // Waiting for the client, a permit or the component: one at a time. A new wait, and goes_on(),
  // end the one before.
  enum class Wait : std::uint8_t { kBody, kQueue, kCompile };
  void waits(Wait wait, base::Time now);
  void goes_on(base::Time now);
  void guest_starts(base::Time now) noexcept { guest_started_ = now; }
  void guest_ends(base::Time now, const engine::Stats& stats);

  void end(base::Time now, const RequestEnd& end);

 private:
  void child(std::string_view name, base::Time from, base::Time to,
             std::span<const otlp::Attribute> attributes = {});

  Tracing* tracing_ = nullptr;
  Context* context_ = nullptr;
  RequestTrace trace_;
  base::Time started_;
  std::uint64_t wall_offset_ = 0;
  base::Time wait_started_ = base::kNever;
  Wait wait_ = Wait::kBody;
  base::Time guest_started_ = base::kNever;
  std::string route_;
  std::string authority_;
  std::string user_agent_;
  http::Version version_ = http::Version::k11;
};

// The span of one outgoing request. Off where its request's are.
class OutboundSpan {
 public:
  // The context for the traceparent of the outgoing request: that of this span, or of the request's
  // when nothing is recorded. Nothing: what the guest has set is left alone. `guest_says`: that
  // traceparent, or empty.
  std::optional<telemetry::TraceContext> begin(Context& context,
                                               const telemetry::TraceContext& request,
                                               std::string_view guest_says,
                                               const engine::OutboundHead& head);
  void answered(int status) noexcept { status_ = status; }
  // `error`: empty when all went well.
  void end(std::string_view error);

 private:
  Tracing* tracing_ = nullptr;
  Context* context_ = nullptr;
  telemetry::TraceContext own_;
  std::uint64_t parent_ = 0;
  base::Time started_;
  int status_ = 0;
  std::string method_;
  std::string url_;
  std::string host_;
  std::int64_t port_ = 0;
};

}  // namespace mik::runtime
