#include "telemetry/directives.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace mik::telemetry {

namespace {

constexpr std::array<std::string_view, kTargets> kNames = {
    "mik::server", "mik::http", "mik::modules", "mik::outbound", "mik_guest"};

bool equal_ignoring_case(std::string_view a, std::string_view lower) noexcept {
  return std::ranges::equal(a, lower, [](char x, char y) {
    return static_cast<char>(x >= 'A' && x <= 'Z' ? x + 32 : x) == y;
  });
}

std::optional<Level> parse_level(std::string_view text) noexcept {
  constexpr std::array<std::pair<std::string_view, Level>, 12> kLevels = {{{"off", Level::kOff},
                                                                           {"error", Level::kError},
                                                                           {"warn", Level::kWarn},
                                                                           {"info", Level::kInfo},
                                                                           {"debug", Level::kDebug},
                                                                           {"trace", Level::kTrace},
                                                                           {"0", Level::kOff},
                                                                           {"1", Level::kError},
                                                                           {"2", Level::kWarn},
                                                                           {"3", Level::kInfo},
                                                                           {"4", Level::kDebug},
                                                                           {"5", Level::kTrace}}};
  for (const auto& [name, level] : kLevels) {
    if (equal_ignoring_case(text, name)) {
      return level;
    }
  }
  return std::nullopt;
}

std::string_view trimmed(std::string_view text) noexcept {
  while (!text.empty() && text.front() == ' ') {
    text.remove_prefix(1);
  }
  while (!text.empty() && text.back() == ' ') {
    text.remove_suffix(1);
  }
  return text;
}

std::uint8_t count_of(Level level) noexcept {
  return level == Level::kOff ? 0 : static_cast<std::uint8_t>(static_cast<unsigned>(level) + 1);
}

// A level, or a target and its level.
struct Directive {
  std::string_view target;  // empty: all
  Level level;
};

std::optional<Directive> parse_directive(std::string_view text) noexcept {
  const std::size_t equals = text.find('=');
  if (equals != std::string_view::npos) {
    const auto level = parse_level(trimmed(text.substr(equals + 1)));
    const std::string_view target = trimmed(text.substr(0, equals));
    if (!level.has_value() || target.empty()) {
      return std::nullopt;
    }
    return Directive{target, *level};
  }
  if (const auto level = parse_level(text); level.has_value()) {
    return Directive{{}, *level};
  }
  const auto ours = [&](std::string_view name) { return name.starts_with(text); };
  if (!text.empty() && std::ranges::any_of(kNames, ours)) {
    return Directive{text, Level::kTrace};
  }
  return std::nullopt;
}

}  // namespace

std::string_view name(Target target) noexcept { return kNames[static_cast<std::size_t>(target)]; }

LogFilter::LogFilter(Level level) noexcept { levels_.fill(count_of(level)); }

LogFilter LogFilter::parse(std::string_view text, bool& bad) noexcept {
  LogFilter filter;
  std::array<std::size_t, kTargets> length{};  // of the directive that counts
  bool understood = trimmed(text).empty();
  while (!text.empty()) {
    const std::size_t comma = text.find(',');
    const auto directive = parse_directive(trimmed(text.substr(0, comma)));
    text = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
    if (!directive.has_value()) {
      continue;
    }
    understood = true;
    for (std::size_t i = 0; i < kTargets; ++i) {
      if (kNames[i].starts_with(directive->target) && directive->target.size() >= length[i]) {
        filter.levels_[i] = count_of(directive->level);
        length[i] = directive->target.size();
      }
    }
  }
  bad = !understood;
  return filter;
}

LogFilter LogFilter::of(const config::Settings& settings) noexcept {
  bool bad = false;
  return settings.log_filter.empty() ? LogFilter(settings.log_level)
                                     : parse(settings.log_filter, bad);
}

Level LogFilter::level(Target target) const noexcept {
  const std::uint8_t count = levels_[static_cast<std::size_t>(target)];
  return count == 0 ? Level::kOff : static_cast<Level>(count - 1);
}

}  // namespace mik::telemetry
