#include "otlp/encoder.hpp"

#include <algorithm>

#include "otlp/protobuf.hpp"

namespace mik::otlp {

namespace {

// Field numbers of opentelemetry/proto/{trace/v1/trace,common/v1/common,resource/v1/resource,
// collector/trace/v1/trace_service}.proto; all are stable.
namespace field {
constexpr std::uint32_t kKey = 1, kValue = 2;               // KeyValue
constexpr std::uint32_t kText = 1, kInt = 3;                // AnyValue
constexpr std::uint32_t kResourceAttributes = 1;            // Resource
constexpr std::uint32_t kScopeName = 1, kScopeVersion = 2;  // InstrumentationScope
constexpr std::uint32_t kScope = 1, kSpans = 2;             // ScopeSpans
constexpr std::uint32_t kResource = 1, kScopeSpans = 2;     // ResourceSpans
constexpr std::uint32_t kResourceSpans = 1;                 // ExportTraceServiceRequest
constexpr std::uint32_t kTraceId = 1, kSpanId = 2, kTraceState = 3, kParentSpanId = 4, kName = 5,
                        kKind = 6, kStart = 7, kEnd = 8, kAttributes = 9, kStatus = 15,
                        kFlags = 16;                            // Span
constexpr std::uint32_t kMessage = 2, kCode = 3;                // Status
constexpr std::uint32_t kPartialSuccess = 1;                    // ExportTraceServiceResponse
constexpr std::uint32_t kRejectedSpans = 1, kErrorMessage = 2;  // ExportTracePartialSuccess
}  // namespace field

constexpr std::uint64_t kStatusError = 2;
constexpr std::size_t kTraceStateMax = 512;  // W3C Trace Context section 3.3.1.5

// SpanFlags: the W3C flags, whether it is known that the parent is remote, and whether it is.
constexpr std::uint32_t kSampled = 1;
constexpr std::uint32_t kHasIsRemote = 0x100;
constexpr std::uint32_t kIsRemote = 0x200;

void append_id(std::string& out, std::uint64_t id) {
  for (int shift = 56; shift >= 0; shift -= 8) {
    out += static_cast<char>(id >> shift & 0xff);
  }
}

void put_id(std::string& out, std::uint32_t number, std::uint64_t id) {
  const std::size_t begun = begin_message(out, number);
  append_id(out, id);
  end_message(out, begun);
}

void put_attribute(std::string& out, std::uint32_t number, const Attribute& attribute) {
  const auto* text = std::get_if<std::string_view>(&attribute.value);
  if (text != nullptr && text->empty()) {
    return;
  }
  const std::size_t pair = begin_message(out, number);
  put_bytes(out, field::kKey, attribute.key);
  const std::size_t value = begin_message(out, field::kValue);
  if (text != nullptr) {
    put_text(out, field::kText, *text, kTextBytesMax);
  } else {
    put_number(out, field::kInt,
               static_cast<std::uint64_t>(std::get<std::int64_t>(attribute.value)));
  }
  end_message(out, value);
  end_message(out, pair);
}

void put_resource(std::string& out, const Resource& resource) {
  const std::size_t begun = begin_message(out, field::kResource);
  for (const Attribute& attribute : {Attribute{"service.name", resource.service_name},
                                     Attribute{"service.version", resource.service_version},
                                     Attribute{"host.name", resource.host_name},
                                     Attribute{"process.pid", resource.process_pid}}) {
    put_attribute(out, field::kResourceAttributes, attribute);
  }
  end_message(out, begun);
}

bool is_trace_state(std::string_view text) noexcept {
  return text.size() <= kTraceStateMax &&
         std::ranges::all_of(text, [](char c) { return (c >= 0x20 && c < 0x7f) || c == '\t'; });
}

}  // namespace

void append_span(std::string& out, const Span& span) {
  const std::size_t begun = begin_message(out, field::kSpans);
  const std::size_t trace = begin_message(out, field::kTraceId);
  append_id(out, span.trace_high);
  append_id(out, span.trace_low);
  end_message(out, trace);
  put_id(out, field::kSpanId, span.id);
  if (!span.trace_state.empty() && is_trace_state(span.trace_state)) {
    put_bytes(out, field::kTraceState, span.trace_state);
  }
  if (span.parent != 0) {
    put_id(out, field::kParentSpanId, span.parent);
  }
  put_text(out, field::kName, span.name, kTextBytesMax);
  put_number(out, field::kKind, static_cast<std::uint64_t>(span.kind));
  put_fixed64(out, field::kStart, span.start_unix_ns);
  put_fixed64(out, field::kEnd, std::max(span.start_unix_ns, span.end_unix_ns));
  for (const Attribute& attribute : span.attributes) {
    put_attribute(out, field::kAttributes, attribute);
  }
  if (span.failed) {
    const std::size_t status = begin_message(out, field::kStatus);
    if (!span.failure.empty()) {
      put_text(out, field::kMessage, span.failure, kTextBytesMax);
    }
    put_number(out, field::kCode, kStatusError);
    end_message(out, status);
  }
  put_fixed32(out, field::kFlags,
              kSampled | kHasIsRemote | (span.parent_is_remote ? kIsRemote : 0));
  end_message(out, begun);
}

std::string export_request(const Resource& resource, std::string_view spans) {
  // Heads first, so that the spans are copied once and lengths need no room to grow into.
  std::string scope;
  const std::size_t begun = begin_message(scope, field::kScope);
  put_bytes(scope, field::kScopeName, "mik");
  put_bytes(scope, field::kScopeVersion, resource.scope_version);
  end_message(scope, begun);
  std::string head;
  put_resource(head, resource);
  begin_message(head, field::kScopeSpans);
  put_varint(head, scope.size() + spans.size());
  std::string out;
  out.reserve(head.size() + scope.size() + spans.size() + 16);
  begin_message(out, field::kResourceSpans);
  put_varint(out, head.size() + scope.size() + spans.size());
  return out.append(head).append(scope).append(spans);
}

std::optional<ExportResponse> read_export_response(std::string_view bytes) noexcept {
  ExportResponse response;
  WireReader reader(bytes);
  while (const auto outer = reader.next()) {
    if (outer->number != field::kPartialSuccess || outer->type != WireType::kBytes) {
      continue;
    }
    WireReader partial(outer->bytes);
    while (const auto inner = partial.next()) {
      if (inner->number == field::kRejectedSpans && inner->type == WireType::kVarint) {
        response.rejected_spans = inner->value;
      } else if (inner->number == field::kErrorMessage && inner->type == WireType::kBytes) {
        response.error_message = inner->bytes;
      }
    }
    if (partial.malformed()) {
      return std::nullopt;
    }
  }
  if (reader.malformed()) {
    return std::nullopt;
  }
  return response;
}

}  // namespace mik::otlp
