#include <optional>

#include "http/message.hpp"
#include "runtime/metrics_text.hpp"

namespace mik::runtime {

namespace {

constexpr std::uint16_t kFull = 1000;

bool is_blank(char c) noexcept { return c == ' ' || c == '\t'; }

std::string_view trim(std::string_view text) noexcept {
  while (!text.empty() && is_blank(text.front())) {
    text.remove_prefix(1);
  }
  while (!text.empty() && is_blank(text.back())) {
    text.remove_suffix(1);
  }
  return text;
}

// What stands before the next `mark`, trimmed; `rest` goes on behind it.
std::string_view take(std::string_view& rest, char mark) noexcept {
  const std::size_t at = rest.find(mark);
  const std::string_view item = rest.substr(0, at);
  rest.remove_prefix(at == std::string_view::npos ? rest.size() : at + 1);
  return trim(item);
}

// In thousandths; RFC 9110 section 12.4.2.
std::optional<std::uint16_t> quality(std::string_view text) noexcept {
  if (text.empty() || text.size() > 5 || (text[0] != '0' && text[0] != '1') ||
      (text.size() > 1 && text[1] != '.')) {
    return std::nullopt;
  }
  unsigned value = text[0] == '1' ? kFull : 0;
  unsigned scale = 100;
  for (const char c : text.substr(std::min<std::size_t>(2, text.size()))) {
    if (c < '0' || c > '9') {
      return std::nullopt;
    }
    value += static_cast<unsigned>(c - '0') * scale;
    scale /= 10;
  }
  return value > kFull ? std::nullopt : std::optional(static_cast<std::uint16_t>(value));
}

struct MediaRange {
  std::string_view type;
  std::string_view version;
  std::uint16_t quality = kFull;
};

// Nothing: its weight is none.
std::optional<MediaRange> parse(std::string_view text) noexcept {
  MediaRange range;
  range.type = take(text, ';');
  while (!text.empty()) {
    std::string_view value = take(text, ';');
    const std::string_view name = take(value, '=');
    if (http::equals_lower(name, "q")) {
      const auto weight = quality(value);
      if (!weight.has_value()) {
        return std::nullopt;
      }
      range.quality = *weight;
    } else if (http::equals_lower(name, "version")) {
      value = trim(value);
      const bool quoted = value.size() >= 2 && value.front() == '"' && value.back() == '"';
      range.version = quoted ? value.substr(1, value.size() - 2) : value;
    }
  }
  return range;
}

}  // namespace

std::string_view content_type(MetricsFormat format) noexcept {
  return format == MetricsFormat::kText
             ? "text/plain; version=0.0.4; charset=utf-8"
             : "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

MetricsFormat metrics_format(std::span<const http::Field> fields) noexcept {
  std::uint16_t open_metrics = 0;
  std::uint16_t text = 0;
  for (const http::Field& field : fields) {
    if (!http::equals_lower(field.name, "accept")) {
      continue;
    }
    std::string_view rest = field.value;
    while (!rest.empty()) {
      const auto range = parse(take(rest, ','));
      if (!range.has_value()) {
        continue;
      }
      if (http::equals_lower(range->type, "application/openmetrics-text") &&
          (range->version.empty() || range->version == "1.0.0")) {
        open_metrics = std::max(open_metrics, range->quality);
      } else if (http::equals_lower(range->type, "text/plain") &&
                 (range->version.empty() || range->version == "0.0.4")) {
        text = std::max(text, range->quality);
      }
    }
  }
  return open_metrics > 0 && open_metrics >= text ? MetricsFormat::kOpenMetrics
                                                  : MetricsFormat::kText;
}

}  // namespace mik::runtime
