// A span as OTLP knows it (opentelemetry-proto, trace/v1/trace.proto). A value of views; what they
// point at must live while it is encoded.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <variant>

namespace mik::otlp {

enum class SpanKind : std::uint8_t { kInternal = 1, kServer = 2, kClient = 3 };

struct Attribute {
  std::string_view key;
  std::variant<std::string_view, std::int64_t> value;
};

struct Span {
  std::uint64_t trace_high = 0;
  std::uint64_t trace_low = 0;
  std::uint64_t id = 0;
  std::uint64_t parent = 0;  // 0: it is a root
  bool parent_is_remote = false;
  std::string_view trace_state;  // as the caller sent it
  std::string_view name;
  SpanKind kind = SpanKind::kInternal;
  std::uint64_t start_unix_ns = 0;
  std::uint64_t end_unix_ns = 0;
  std::span<const Attribute> attributes;  // texts that are empty are left out
  bool failed = false;
  std::string_view failure;  // words, when it failed
};

// Whose spans they are: the same for all of a process.
struct Resource {
  std::string_view service_name;
  std::string_view service_version;  // may be empty
  std::string_view host_name;
  std::int64_t process_pid = 0;
  std::string_view scope_version;  // of mik
};

}  // namespace mik::otlp
