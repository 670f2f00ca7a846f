#include "runtime/request_end.hpp"

namespace mik::runtime {

namespace {

using shared::GuestFailure;

// The reference's names for kinds of failures, and `overload`, which it has no name for.
std::string_view category(std::optional<GuestFailure> failure, int status) noexcept {
  if (failure.has_value() && *failure != GuestFailure::kOther) {
    switch (*failure) {
      case GuestFailure::kDeadline:
      case GuestFailure::kCpuBudget:
        return "timeout";
      case GuestFailure::kOverload:
        return "overload";
      default:
        return "execution";
    }
  }
  switch (status) {
    case 400:
    case 408:
    case 413:
      return "invalid_request";
    case 404:
    case 502:
      return "module_load";
    case 429:
      return "overload";
    case 503:
      return failure.has_value() ? "module_load" : "overload";
    default:
      return "internal";
  }
}

}  // namespace

telemetry::Log::Line request_line(telemetry::Log& log, telemetry::Level level,
                                  telemetry::Target target, std::string_view message,
                                  const RequestTag& tag) {
  const auto traceparent = telemetry::format_traceparent(tag.trace);
  auto line = log.line(level, target, message);
  line.str("request_id", tag.request_id)
      .str("trace_id", telemetry::view(traceparent).substr(3, 32));
  if (!tag.module.empty()) {
    line.str("module", tag.module);
  }
  if (!tag.tenant.empty()) {
    line.str("tenant", tag.tenant);
  }
  return line;
}

std::string_view label(http::Outcome outcome) noexcept {
  switch (outcome) {
    case http::Outcome::kComplete:
      return "complete";
    case http::Outcome::kCut:
      return "cut";
    case http::Outcome::kClientGone:
      return "client_gone";
    case http::Outcome::kTimeout:
      return "client_timeout";
    case http::Outcome::kShutdown:
      return "shutdown";
  }
  return "complete";
}

void log_end(telemetry::Log& log, const RequestEnd& end) {
  const bool failed = !end.error.empty();
  const telemetry::Level level = failed ? telemetry::Level::kWarn : telemetry::Level::kInfo;
  if (!log.enabled(level, telemetry::Target::kHttp)) {
    return;
  }
  auto said = request_line(log, level, telemetry::Target::kHttp,
                           failed ? "Request failed" : "Request completed", end.tag);
  said.str("method", end.method)
      .str("remote_addr", end.client)
      .num("status", end.closed.status)
      .ms("duration_ms", end.took);
  if (!end.tag.module.empty()) {
    said.ms("cpu_ms", end.cpu);
  }
  said.num("bytes_in", static_cast<std::int64_t>(end.closed.body_bytes_in))
      .num("bytes_out", static_cast<std::int64_t>(end.closed.body_bytes_out));
  if (end.closed.outcome != http::Outcome::kComplete) {
    said.str("outcome", label(end.closed.outcome));
  }
  if (failed) {
    said.str("category", category(end.failure, end.closed.status)).str("error", end.error);
  }
  said.str("path", end.path);  // last: it may be as long as a head, and is cut to what is left
}

}  // namespace mik::runtime
