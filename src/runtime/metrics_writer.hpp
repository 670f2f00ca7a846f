// Samples and families as Prometheus' text format 0.0.4 and OpenMetrics 1.0 have them. Confined to
// one thread. Labels are given as they stand between the braces, values escaped: escape_label.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/metrics_text.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {

enum class MetricType : std::uint8_t { kCounter, kGauge, kHistogram };

// Appends a label's value: backslash, quote and newline are escaped.
void escape_label(std::string& out, std::string_view value);

// A time that is kept as a whole number, `unit` of them a second.
struct Ratio {
  std::uint64_t value = 0;
  std::uint64_t per_second = 1;
};
constexpr Ratio from_ns(std::uint64_t ns) noexcept { return {ns, 1'000'000'000}; }
constexpr Ratio from_us(std::uint64_t us) noexcept { return {us, 1'000'000}; }

// Upper bounds of a histogram's buckets, in seconds: ` le="..."` of each and of the last, +Inf.
class BucketLabels {
 public:
  BucketLabels(std::span<const std::uint64_t> bounds_us, MetricsFormat format);
  const std::vector<std::string>& texts() const noexcept { return texts_; }

 private:
  std::vector<std::string> texts_;
};

class MetricsWriter {
 public:
  explicit MetricsWriter(MetricsFormat format) : format_(format) {}

  MetricsFormat format() const noexcept { return format_; }
  // What follows is of this family. `name`: with _total, where it is a counter.
  void family(std::string_view name, MetricType type, std::string_view help);
  void sample(std::uint64_t value) { sample({}, {}, value); }
  void sample(std::string_view labels, std::uint64_t value) { sample(labels, {}, value); }
  void sample(std::string_view labels, std::string_view more, std::uint64_t value);
  void sample(std::string_view labels, Ratio seconds);
  // `buckets`: not cumulative, one more than bounds. `exemplars`: none, or one for each bucket.
  void histogram(std::string_view labels, const BucketLabels& bounds,
                 std::span<const std::uint64_t> buckets, Ratio sum,
                 std::span<const std::optional<shared::Exemplar>> exemplars = {});

  std::string finish() &&;

 private:
  void begin(std::string_view suffix, std::string_view labels, std::string_view more);
  void number(std::uint64_t value);
  void seconds(Ratio value);
  void exemplar(const shared::Exemplar& exemplar);

  const MetricsFormat format_;
  std::string out_;
  std::string_view name_;
};

}  // namespace mik::runtime
