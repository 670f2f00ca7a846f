// The Date field line of responses, rendered once per second (RFC 9110 section 6.6.1).
// Confined to the loop thread.
#pragma once

#include <array>
#include <ctime>
#include <string_view>

namespace mik::http {

class DateCache {
 public:
  // "Date: Tue, 15 Nov 1994 08:12:31 GMT\r\n"; valid until the next call.
  std::string_view line() noexcept;
  // "Tue, 15 Nov 1994 08:12:31 GMT"; valid until the next call.
  std::string_view value() noexcept;

  // Renders a time (seconds since 1970, UTC) as line() does.
  static std::string_view render(std::time_t seconds, std::array<char, 40>& buffer) noexcept;

 private:
  std::time_t second_ = -1;
  std::array<char, 40> buffer_{};
};

}  // namespace mik::http
