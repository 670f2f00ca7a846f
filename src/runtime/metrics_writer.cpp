#include "runtime/metrics_writer.hpp"

#include <array>
#include <charconv>
#include <utility>

#include <fmt/format.h>

namespace mik::runtime {

namespace {

constexpr std::string_view kTotal = "_total";

std::string_view name_of(MetricType type) noexcept {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "gauge";
}

}  // namespace

void escape_label(std::string& out, std::string_view value) {
  for (const char c : value) {
    if (c == '\\' || c == '"') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
}

BucketLabels::BucketLabels(std::span<const std::uint64_t> bounds_us, MetricsFormat format) {
  for (const std::uint64_t bound : bounds_us) {
    std::string text = fmt::format("le=\"{}", static_cast<double>(bound) / 1e6);
    if (format == MetricsFormat::kOpenMetrics && bound % 1'000'000 == 0) {
      text += text.ends_with(".0") ? "" : ".0";  // a float, there
    }
    texts_.push_back(text + '"');
  }
  texts_.emplace_back("le=\"+Inf\"");
}

void MetricsWriter::family(std::string_view name, MetricType type, std::string_view help) {
  name_ = name;
  const bool short_name = format_ == MetricsFormat::kOpenMetrics && type == MetricType::kCounter;
  const std::string_view said = short_name ? name.substr(0, name.size() - kTotal.size()) : name;
  fmt::format_to(std::back_inserter(out_), "# HELP {} {}\n# TYPE {} {}\n", said, help, said,
                 name_of(type));
}

void MetricsWriter::begin(std::string_view suffix, std::string_view labels, std::string_view more) {
  out_ += name_;
  out_ += suffix;
  if (!labels.empty() || !more.empty()) {
    out_ += '{';
    out_ += labels;
    if (!labels.empty() && !more.empty()) {
      out_ += ',';
    }
    out_ += more;
    out_ += '}';
  }
  out_ += ' ';
}

void MetricsWriter::number(std::uint64_t value) {
  std::array<char, 24> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), value);
  out_.append(text.data(), end);
}

void MetricsWriter::seconds(Ratio value) {
  number(value.value / value.per_second);
  out_ += '.';
  std::uint64_t rest = value.value % value.per_second;
  for (std::uint64_t unit = value.per_second / 10; unit > 0; unit /= 10) {
    out_ += static_cast<char>('0' + rest / unit);
    rest %= unit;
  }
}

void MetricsWriter::sample(std::string_view labels, std::string_view more, std::uint64_t value) {
  begin({}, labels, more);
  number(value);
  out_ += '\n';
}

void MetricsWriter::sample(std::string_view labels, Ratio value) {
  begin({}, labels, {});
  seconds(value);
  out_ += '\n';
}

void MetricsWriter::histogram(std::string_view labels, const BucketLabels& bounds,
                              std::span<const std::uint64_t> buckets, Ratio sum,
                              std::span<const std::optional<shared::Exemplar>> exemplars) {
  std::uint64_t cumulative = 0;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    cumulative += buckets[i];
    begin("_bucket", labels, bounds.texts()[i]);
    number(cumulative);
    if (format_ == MetricsFormat::kOpenMetrics && i < exemplars.size() &&
        exemplars[i].has_value()) {
      exemplar(*exemplars[i]);
    }
    out_ += '\n';
  }
  begin("_sum", labels, {});
  seconds(sum);
  out_ += '\n';
  begin("_count", labels, {});
  number(cumulative);
  out_ += '\n';
}

void MetricsWriter::exemplar(const shared::Exemplar& exemplar) {
  fmt::format_to(std::back_inserter(out_), " # {{trace_id=\"{:016x}{:016x}\"}} ",
                 exemplar.trace_high, exemplar.trace_low);
  seconds(from_us(exemplar.value_us));
  out_ += ' ';
  seconds({exemplar.unix_ms, 1000});
}

std::string MetricsWriter::finish() && {
  if (format_ == MetricsFormat::kOpenMetrics) {
    out_ += "# EOF\n";
  }
  return std::move(out_);
}

}  // namespace mik::runtime
