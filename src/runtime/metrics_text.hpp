// The text of /metrics: what all workers have counted, read from the shared segment. Reads /proc
// and may take milliseconds: for the offload pool. Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/time.hpp"
#include "config/settings.hpp"
#include "http/message.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {

enum class MetricsFormat : std::uint8_t {
  kText,         // Prometheus text format 0.0.4
  kOpenMetrics,  // OpenMetrics 1.0: with exemplars and an end
};
inline constexpr std::size_t kMetricsFormats = 2;

// For Content-Type.
std::string_view content_type(MetricsFormat format) noexcept;

// What the Accept fields of a scrape ask for: OpenMetrics 1.0 where it is named and liked as much
// as text/plain. What cannot be read asks for nothing. RFC 9110 section 12.5.1.
MetricsFormat metrics_format(std::span<const http::Field> fields) noexcept;

// `now`: for breakers. Counters of two texts never go back.
std::string metrics_text(const config::Settings& settings, const shared::Segment& segment,
                         MetricsFormat format, base::Time now);

}  // namespace mik::runtime
