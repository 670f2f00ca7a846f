// A traceparent that is taken is written again as it was, and stays the trace of what follows.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "telemetry/trace_context.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mik::telemetry;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto parsed = parse_traceparent(text);
  Random random(size);
  const TraceContext child = child_of(parsed, random);
  const auto written = format_traceparent(child);
  const auto again = parse_traceparent(view(written));
  if (!again.has_value() || again->span != child.span || again->sampled != child.sampled) {
    std::abort();
  }
  if (!parsed.has_value()) {
    return 0;
  }
  const auto same = format_traceparent(*parsed);
  // But for flags that we do not know.
  if (view(same).substr(0, 53) != text.substr(0, 53) || again->trace_high != parsed->trace_high ||
      again->trace_low != parsed->trace_low || again->sampled != parsed->sampled) {
    std::abort();
  }
  return 0;
}
