#include "reliability/adaptive_limit.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

namespace mik::reliability {

namespace {

constexpr base::Duration kWindow = std::chrono::milliseconds(100);
constexpr std::uint32_t kSamplesMin = 10;  // of a window: one slow request is no trend
constexpr base::Duration kMeasureEvery = std::chrono::seconds(60);
constexpr base::Duration kMeasureMost = std::chrono::seconds(1);
constexpr std::uint32_t kMeasureSamples = 25;
constexpr double kTolerance = 1.5;  // so much longer is no queue yet
constexpr double kSmoothing = 0.2;
constexpr std::uint32_t kLimitAtFirst = 20;

}  // namespace

AdaptiveLimit::AdaptiveLimit(const Bounds& bounds) noexcept
    : bounds_{std::max<std::uint32_t>(bounds.least, 1), std::max({bounds.most, bounds.least, 1u})},
      limit_(std::clamp(kLimitAtFirst, bounds_.least, bounds_.most)) {}

void AdaptiveLimit::record(base::Duration took, std::uint64_t active, base::Time now) noexcept {
  const double seconds = std::chrono::duration<double>(took).count();
  if (measuring_) {
    measure(seconds, now - took, now);
    return;
  }
  if (window_.samples == 0) {
    window_.since = now;
  }
  window_.sum += seconds;
  ++window_.samples;
  window_.active_most = std::max(window_.active_most, active);
  if (window_.samples >= kSamplesMin && now - window_.since >= kWindow) {
    update(std::exchange(window_, {}), now);
  }
}

void AdaptiveLimit::measure(double took, base::Time began, base::Time now) noexcept {
  if (began >= window_.since) {  // the others began in the crowd
    window_.sum += took;
    ++window_.samples;
  }
  if (window_.samples < kMeasureSamples && now - window_.since < kMeasureMost) {
    return;
  }
  if (window_.samples >= kSamplesMin) {
    unloaded_ = window_.mean();
  }
  measuring_ = false;
  measured_ = now;
  window_ = {};
}

void AdaptiveLimit::update(const Window& window, base::Time now) noexcept {
  if (window.active_most <= bounds_.least) {  // a quiet moment measures for nothing
    unloaded_ = unloaded_ == 0 ? window.mean() : (unloaded_ + window.mean()) / 2;
    measured_ = now;
    return;
  }
  if (static_cast<double>(window.active_most) < limit_ / 2) {
    return;  // the limit is not what holds requests back, so nothing is known of it
  }
  if (measured_ == base::Time() || now - measured_ >= kMeasureEvery) {
    measuring_ = true;
    window_.since = now;
    return;
  }
  if (unloaded_ == 0) {
    return;  // they take too long to be measured
  }
  const double gradient =
      std::clamp(kTolerance * unloaded_ / std::max(window.mean(), 1e-9), 0.5, 1.0);
  const double wanted = limit_ * gradient + std::sqrt(limit_);
  limit_ = std::clamp(limit_ + (wanted - limit_) * kSmoothing, static_cast<double>(bounds_.least),
                      static_cast<double>(bounds_.most));
}

}  // namespace mik::reliability
