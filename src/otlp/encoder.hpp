// OTLP's messages for traces, as bytes: ExportTraceServiceRequest out, ExportTraceServiceResponse
// in (docs/adr/0009). Pure functions; thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "otlp/span.hpp"

namespace mik::otlp {

// Longer texts are cut: a client chooses paths and user agents.
inline constexpr std::size_t kTextBytesMax = 1024;

// Appends a span in the form in which export_request takes it: encoded once, when it ends.
void append_span(std::string& out, const Span& span);

// The request that carries spans of append_span, one after the other.
std::string export_request(const Resource& resource, std::string_view spans);

struct ExportResponse {
  std::uint64_t rejected_spans = 0;
  std::string_view error_message;  // into the bytes that were read
};
// What a collector answered. Nothing when it is no such message.
std::optional<ExportResponse> read_export_response(std::string_view bytes) noexcept;

}  // namespace mik::otlp
