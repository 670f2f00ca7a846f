#include "otlp/sender.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <utility>

#include "http/http_date.hpp"

namespace mik::otlp {

Reply reply_to_status(int status) {
  const bool again = status == 429 || status == 502 || status == 503 || status == 504;
  return {.kind = again ? Reply::Kind::kRetry : Reply::Kind::kRefused,
          .detail = fmt::format("HTTP status {}", status)};
}

base::Duration parse_retry_after(std::string_view text, std::int64_t now) noexcept {
  std::uint32_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error == std::errc() && end == text.data() + text.size()) {
    return std::min<base::Duration>(std::chrono::seconds(seconds), kRetryAfterMax);
  }
  const std::int64_t left = http::parse_http_date(text, now).value_or(now) - now;
  // Bounded before it is made nanoseconds, of which a distant date has too many.
  const std::chrono::seconds bounded(std::clamp<std::int64_t>(left, 0, UINT32_MAX));
  return std::min<base::Duration>(bounded, kRetryAfterMax);
}

base::Duration parse_retry_after(std::string_view text) noexcept {
  return parse_retry_after(text, std::time(nullptr));
}

std::unique_ptr<Sender> make_sender(const SenderParts& parts, Endpoint endpoint) {
  return endpoint.protocol == Protocol::kHttp ? make_http_sender(parts, std::move(endpoint))
                                              : make_grpc_sender(parts, std::move(endpoint));
}

}  // namespace mik::otlp
