// How a request ends: the host's answers in place of the guest's, what is counted, the log line.
#include <algorithm>
#include <array>
#include <utility>

#include <fmt/format.h>

#include "runtime/answers.hpp"
#include "runtime/guest_exchange.hpp"
#include "runtime/memory_share.hpp"

namespace mik::runtime {

namespace {

using shared::GuestFailure;

struct FailureAnswer {
  int status;
  GuestFailure counted;
};

constexpr std::uint32_t kRetryAfterSecs = 1;  // where nothing better is known

// risks: 504 for a CPU budget used up, 507 when memory was refused, 502 for all that is the guest's
// own doing.
FailureAnswer answer_to(engine::Failure failure) noexcept {
  switch (failure) {
    case engine::Failure::kCpu:
      return {504, GuestFailure::kCpuBudget};
    case engine::Failure::kMemory:
      return {507, GuestFailure::kMemory};
    case engine::Failure::kBusy:
      return {503, GuestFailure::kOverload};
    case engine::Failure::kNoResponse:
      return {502, GuestFailure::kNoResponse};
    case engine::Failure::kGuestError:
      return {502, GuestFailure::kErrorCode};
    case engine::Failure::kInternal:
      return {500, GuestFailure::kOther};
    case engine::Failure::kTrap:
    case engine::Failure::kBody:
      return {502, GuestFailure::kTrap};
  }
  return {502, GuestFailure::kTrap};
}

// For the client: what happened, without the guest's insides.
std::string_view public_text(engine::Failure failure) noexcept {
  switch (failure) {
    case engine::Failure::kCpu:
      return "the module used up its CPU time";
    case engine::Failure::kMemory:
      return "the module reached its memory limit";
    case engine::Failure::kBusy:
      return "no instance of the module is free";
    case engine::Failure::kNoResponse:
      return "the module returned without a response";
    case engine::Failure::kGuestError:
      return "the module answered with an error";
    case engine::Failure::kInternal:
      return "internal error";
    case engine::Failure::kTrap:
    case engine::Failure::kBody:
      return "the module failed";
  }
  return "the module failed";
}

// A line of a guest's output, as it goes to the log.
struct GuestLine {
  telemetry::Level level = telemetry::Level::kInfo;
  std::string_view stream;
  std::string_view context;  // of wasi:logging
};

// Of engine::Guests::Observer::on_output. What is left of `text` is what the guest said.
GuestLine guest_line(int stream, std::string_view& text) noexcept {
  using telemetry::Level;
  constexpr std::array<std::string_view, 3> kStreams = {"dropped", "stdout", "stderr"};
  constexpr std::array<Level, 6> kLevels = {Level::kTrace, Level::kDebug, Level::kInfo,
                                            Level::kWarn,  Level::kError, Level::kError};
  GuestLine line;
  if (stream < static_cast<int>(kStreams.size())) {
    line.stream = kStreams[static_cast<std::size_t>(std::max(stream, 0))];
    return line;
  }
  const std::size_t level = static_cast<std::size_t>(stream) - kStreams.size();
  line.level = kLevels[std::min(level, kLevels.size() - 1)];
  line.stream = "log";
  const std::size_t newline = text.find('\n');
  if (newline != std::string_view::npos) {
    line.context = text.substr(0, newline);
    text.remove_prefix(newline + 1);
  }
  return line;
}

// How much of a guest's line goes into one line of the log, where no value may be longer.
std::size_t log_piece(std::string_view text) noexcept {
  constexpr std::size_t kRoom = telemetry::kValueMax - 32;
  std::size_t end = 0;
  for (std::size_t used = 0; end < text.size(); ++end) {
    const auto c = static_cast<unsigned char>(text[end]);
    used += c < 0x20 || c == '"' || c == '\\' || c == 0x7f ? 6 : c >= 0x80 ? 3 : 1;
    if (used > kRoom) {
      break;
    }
  }
  // Between characters, where it is UTF-8.
  std::size_t cut = end;
  while (cut < text.size() && end - cut < 3 &&
         (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) {
    --cut;
  }
  return cut;
}

}  // namespace

void GuestExchange::send_failure(engine::RequestFailure failure) {
  error_ = failure.text;
  failed_ = failure.failure != engine::Failure::kBusy;
  const FailureAnswer to = answer_to(failure.failure);
  count_failure(to.counted);
  answer(to.status, public_text(failure.failure));
}

void GuestExchange::answer(int status, std::string_view detail, std::uint32_t retry_after_secs) {
  release_guest();
  tell_memory(context_.segment, context_.slot, *context_.guests);
  resolve_ticket();
  forget_saved();
  deadline_timer_.disarm();
  write_problem(context_.text, status, detail);
  const auto traceparent = telemetry::format_traceparent(trace_);
  std::vector<http::Field>& fields = context_.fields;
  fields.clear();
  fields.push_back({"Content-Type", kProblemType});
  fields.push_back({"X-Request-ID", telemetry::view(request_id_)});
  fields.push_back({"traceparent", telemetry::view(traceparent)});
  const fmt::format_int seconds(retry_after_secs != 0 ? retry_after_secs : kRetryAfterSecs);
  if (retry_after_secs != 0 || status == 503) {
    fields.push_back({"Retry-After", {seconds.data(), seconds.size()}});
  }
  http::ResponseHead head;
  head.status = status;
  head.fields = fields;
  exchange_->respond(head, context_.text);
}

void GuestExchange::on_deadline() {
  if (exchange_ == nullptr) {
    return;
  }
  count_failure(GuestFailure::kDeadline);
  if (head_sent_) {
    cut_stream();
    return;
  }
  failed_ = id_ != 0;  // what it waited for before is not the module's doing
  const auto seconds =
      std::chrono::duration_cast<std::chrono::duration<double>>(module_->guest.execution_timeout);
  error_ = fmt::format("no response within execution_timeout_secs ({})", seconds.count());
  answer(504, "the module did not answer in time");
}

void GuestExchange::cut_stream() {
  failed_ = context_.loop.now() < stream_end_;
  error_ = failed_ ? "the module produced nothing for stream_idle_secs"
                   : "the response took longer than stream_max_secs";
  release_guest();
  cut_ = true;
  exchange_->abort();
}

void GuestExchange::release_guest() { release_guest(base::Clock::now()); }

void GuestExchange::release_guest(base::Time now) {
  if (id_ == 0) {
    return;
  }
  stats_ = context_.guests->stats(id_);
  spans_.guest_ends(now, stats_);
  count_guest(now);
  context_.scheduler->release(*this);
  say_memory();
  id_ = 0;
  component_.reset();  // after the engine's own reference: the last one is dropped off the loop
}

void GuestExchange::on_closed(const http::Closed& closed) {
  exchange_ = nullptr;
  drop_open_body();
  forget_saved();
  deadline_timer_.disarm();
  const base::Time now = base::Clock::now();
  release_guest(now);
  resolve_ticket();
  const base::Duration took = now - started_;
  if (permit_.held()) {
    permit_.release();
    const bool ran = guest_started_ != base::Time();
    context_.gate->on_end(*module_, ran ? std::optional(now - guest_started_) : std::nullopt);
  }
  count_closed(closed, took);
  say_closed(closed, took);
  if (!running_) {
    pool_.put(*this);
  }
}

bool GuestExchange::counts_as_failure() const noexcept {
  return failed_ || (status_ >= 500 && context_.settings.breaker.guest_5xx);
}

// Once: what is said of a ticket that is resolved changes nothing. A failure is told before its
// answer: whoever has seen five, asks again and comes to another worker finds the breaker open. One
// behind the head is told when the connection is over.
void GuestExchange::resolve_ticket() {
  if (counts_as_failure()) {
    ticket_.failure(context_.loop.now(), context_.gate->breaker_limits());
  } else if (head_sent_) {
    ticket_.success();
  } else {
    ticket_.ignored();
  }
}

// What the module's guests hold, for all workers to see.
void GuestExchange::say_memory() noexcept {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  module_->cells.memory_bytes.store(module_->account.memory_bytes(), kRelaxed);
  if (shared::TenantCells* const cells = module_->tenant.cells; cells != nullptr) {
    cells->memory_bytes.store(module_->tenant.account.memory_bytes(), kRelaxed);
  }
}

void GuestExchange::count_failure(GuestFailure failure) {
  failure_ = failure;
  context_.segment.count_failure(context_.slot, failure);
  shared::count(module_->cells.failures[static_cast<std::size_t>(failure)]);
}

// One that has run: what waited for its first turn has neither instance nor time.
void GuestExchange::count_guest(base::Time now) {
  if (stats_.runs == 0) {
    return;
  }
  shared::WorkerMetrics& metrics = context_.metrics_cells();
  const base::Duration took = now - guest_started_;
  shared::observe(metrics.execution, shared::kLatencyBoundsUs, took);
  shared::observe(metrics.instantiation, shared::kShortBoundsUs, stats_.instantiate);
  shared::count(module_->cells.execution_ns, static_cast<std::uint64_t>(took.count()));
}

void GuestExchange::count_closed(const http::Closed& closed, base::Duration took) {
  shared::Counters& counters = context_.counters();
  shared::ModuleCells& cells = module_->cells;
  if (closed.status != 0) {
    context_.segment.count_response(context_.slot, closed.status, took);
    count_status(cells, closed.status);
    shared::observe_request(cells, took);
    if (trace_.sampled) {
      context_.segment.keep_exemplar(context_.slot, took, trace_.trace_high, trace_.trace_low);
    }
  }
  if (closed.outcome == http::Outcome::kClientGone) {
    shared::count(counters.client_gone);
  }
  shared::count(counters.bytes_in, closed.body_bytes_in);
  shared::count(counters.bytes_out, closed.body_bytes_out);
  shared::count(cells.bytes_in, closed.body_bytes_in);
  shared::count(cells.bytes_out, closed.body_bytes_out);
  shared::count(cells.cpu_ns, static_cast<std::uint64_t>(stats_.cpu.count()));
  shared::count(cells.instantiate_ns, static_cast<std::uint64_t>(stats_.instantiate.count()));
  shared::count(cells.outbound, stats_.outbound);
}

RequestTag GuestExchange::tag() const noexcept {
  return {.trace = trace_,
          .request_id = telemetry::view(request_id_),
          .module = module_->label,
          .tenant = module_->tenant.id};
}

telemetry::Log::Line GuestExchange::line(telemetry::Level level, telemetry::Target target,
                                         std::string_view message) {
  return request_line(context_.log, level, target, message, tag());
}

void GuestExchange::say_closed(const http::Closed& closed, base::Duration took) {
  say_dropped_output();
  const RequestEnd end{.tag = tag(),
                       .method = method_,
                       .path = path_,
                       .scheme = https_ ? "https" : "http",
                       .client = client_,
                       .closed = closed,
                       .took = took,
                       .cpu = stats_.cpu,
                       .error = error_,
                       .failure = failure_};
  log_end(context_.log, end);
  spans_.end(started_ + took, end);
}

void GuestExchange::on_guest_output(int stream, std::string_view text) noexcept {
  constexpr auto kGuest = telemetry::Target::kGuest;
  const GuestLine of = guest_line(stream, text);
  if (!context_.log.enabled(of.level, kGuest)) {
    return;
  }
  say_dropped_output();
  do {
    const std::string_view piece = text.substr(0, log_piece(text));
    if (stream == 0 || module_->output.take(context_.loop.now(), piece.size(), {})) {
      auto said = line(of.level, kGuest, "Guest output");
      said.str("stream", of.stream);
      if (!of.context.empty()) {
        said.str("context", of.context);
      }
      said.str("text", piece);
    } else {
      shared::count(context_.counters().log_lines_dropped);
    }
    text.remove_prefix(piece.size());
  } while (!text.empty());
}

// In the second after the one in which the module's guests wrote too much.
void GuestExchange::say_dropped_output() {
  const auto dropped = module_->output.over(context_.loop.now());
  if (dropped.lines == 0) {
    return;
  }
  auto said =
      context_.log.line(telemetry::Level::kWarn, telemetry::Target::kGuest, "Guest output dropped");
  said.str("module", module_->label)
      .num("lines", static_cast<std::int64_t>(dropped.lines))
      .num("bytes", static_cast<std::int64_t>(dropped.bytes));
}

}  // namespace mik::runtime
