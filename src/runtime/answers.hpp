// Texts that the host itself answers with: problem documents, /health. Pure functions of what
// they are given, where nothing else is said. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/time.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {

inline constexpr std::string_view kProblemType = "application/problem+json";

// RFC 9457, with the reference's `error` and `status` members:
// {"type":"about:blank","title":"Not Found","status":404,"detail":"...","error":"..."}. Replaces
// `out`.
void write_problem(std::string& out, int status, std::string_view detail);

struct HealthView {
  std::string_view status;  // ready, starting, draining
  std::uint64_t cache_size = 0;
  std::uint64_t cache_capacity = 0;
  std::uint64_t cache_bytes = 0;
  std::uint64_t cache_max_bytes = 0;
  std::uint64_t total_requests = 0;
  std::uint64_t resident_bytes = 0;  // of all workers
  std::uint64_t memory_limit_per_request = 0;
  std::uint64_t workers = 0;
  std::uint64_t workers_ready = 0;
  std::uint64_t modules = 0;
  std::uint64_t modules_broken = 0;
  std::uint64_t modules_compiling = 0;
  std::uint64_t modules_pending = 0;  // a change that is not served yet, or cannot be
  std::span<const std::string_view> loaded_modules;  // verbose: "name" or "tenant/name"
  bool verbose = false;
};
// The guide's document (g16) and the reference's members. Replaces `out`.
void write_health(std::string& out, const HealthView& view);

// Of all workers. Reads /proc.
std::uint64_t resident_bytes(const shared::Segment& segment);

// "2026-11-25T13:00:00.123456+00:00"
void append_rfc3339(std::string& out);

}  // namespace mik::runtime
