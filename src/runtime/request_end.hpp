// What is said of a request when it is over: its line in the log and, by tracing.hpp, its span.
// Confined to the loop thread.
#pragma once

#include <optional>
#include <string_view>

#include "base/time.hpp"
#include "http/exchange.hpp"
#include "shared/segment.hpp"
#include "telemetry/log.hpp"
#include "telemetry/trace_context.hpp"

namespace mik::runtime {

// What identifies a request in each of its lines.
struct RequestTag {
  telemetry::TraceContext trace;
  std::string_view request_id;
  std::string_view module;  // label; empty: it led to none
  std::string_view tenant;
};
telemetry::Log::Line request_line(telemetry::Log& log, telemetry::Level level,
                                  telemetry::Target target, std::string_view message,
                                  const RequestTag& tag);

struct RequestEnd {
  RequestTag tag;
  std::string_view method;
  std::string_view path;    // without query
  std::string_view scheme;  // of the client's connection
  std::string_view client;  // address
  http::Closed closed;
  base::Duration took{};
  base::Duration cpu{};                         // of the guest
  std::string_view error;                       // why the host answered for the component, or empty
  std::optional<shared::GuestFailure> failure;  // the last one that was counted
};

// "cut" and the like.
std::string_view label(http::Outcome outcome) noexcept;

// "Request completed", or "Request failed" where there is an error.
void log_end(telemetry::Log& log, const RequestEnd& end);

}  // namespace mik::runtime
