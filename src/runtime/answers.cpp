#include "runtime/answers.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <ctime>

#include <fmt/format.h>

#include "base/fd.hpp"
#include "http/message.hpp"
#include "telemetry/log.hpp"

namespace mik::runtime {

namespace {

void append_number(std::string& out, std::uint64_t value) {
  std::array<char, 24> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  out.append(text.data(), end);
}

void member(std::string& out, std::string_view name, std::uint64_t value) {
  out += ",\n  \"";
  out += name;
  out += "\": ";
  append_number(out, value);
}

// Second number of /proc/PID/statm: resident pages.
std::uint64_t resident_bytes_of(std::uint64_t pid) {
  const base::Fd fd(::open(fmt::format("/proc/{}/statm", pid).c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 128> text{};
  if (!fd.valid() || ::read(fd.get(), text.data(), text.size() - 1) <= 0) {
    return 0;
  }
  char* end = nullptr;
  std::strtoull(text.data(), &end, 10);
  return std::strtoull(end, nullptr, 10) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

void write_problem(std::string& out, int status, std::string_view detail) {
  out = R"({"type":"about:blank","title":")";
  out += http::reason_phrase(status);
  out += R"(","status":)";
  append_number(out, static_cast<std::uint64_t>(status));
  out += R"(,"detail":")";
  telemetry::append_json_escaped(out, detail);
  out += R"(","error":")";
  telemetry::append_json_escaped(out, detail);
  out += R"("})";
}

void append_rfc3339(std::string& out) {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  ::gmtime_r(&now.tv_sec, &utc);
  std::array<char, 32> text;
  out.append(text.data(), std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S.", &utc));
  for (long divisor = 100'000'000; divisor >= 1000; divisor /= 10) {
    out += static_cast<char>('0' + now.tv_nsec / divisor % 10);
  }
  out += "+00:00";
}

void write_health(std::string& out, const HealthView& view) {
  out = "{\n  \"status\": \"";
  out += view.status;
  out += "\",\n  \"timestamp\": \"";
  append_rfc3339(out);
  out += '"';
  member(out, "cache_size", view.cache_size);
  member(out, "cache_capacity", view.cache_capacity);
  member(out, "cache_bytes", view.cache_bytes);
  member(out, "cache_max_bytes", view.cache_max_bytes);
  member(out, "total_requests", view.total_requests);
  member(out, "workers", view.workers);
  member(out, "workers_ready", view.workers_ready);
  member(out, "modules", view.modules);
  member(out, "modules_broken", view.modules_broken);
  member(out, "modules_compiling", view.modules_compiling);
  member(out, "modules_pending", view.modules_pending);
  out += ",\n  \"memory\": {\n    \"allocated_bytes\": ";
  append_number(out, view.resident_bytes);
  out += ",\n    \"limit_per_request_bytes\": ";
  append_number(out, view.memory_limit_per_request);
  out += "\n  }";
  if (view.verbose) {
    out += ",\n  \"loaded_modules\": [";
    for (std::size_t i = 0; i < view.loaded_modules.size(); ++i) {
      out += i == 0 ? "\"" : ", \"";
      telemetry::append_json_escaped(out, view.loaded_modules[i]);
      out += '"';
    }
    out += ']';
  }
  out += "\n}\n";
}

std::uint64_t resident_bytes(const shared::Segment& segment) {
  std::uint64_t sum = 0;
  for (std::size_t slot = 0; slot < segment.slots(); ++slot) {
    if (const std::uint64_t pid = segment.row(slot).gauges.pid.load(); pid != 0) {
      sum += resident_bytes_of(pid);
    }
  }
  return sum;
}

}  // namespace mik::runtime
