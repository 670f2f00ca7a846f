#include "http/date_cache.hpp"

#include <algorithm>

namespace mik::http {

namespace {

constexpr std::string_view kDays = "SunMonTueWedThuFriSat";
constexpr std::string_view kMonths = "JanFebMarAprMayJunJulAugSepOctNovDec";
constexpr std::size_t kLineBytes = 37;
constexpr std::size_t kNameBytes = 6;  // "Date: "

char* put(char* to, std::string_view text) noexcept { return std::ranges::copy(text, to).out; }

char* put_digits(char* to, int number, int digits) noexcept {
  for (int i = digits - 1; i >= 0; --i) {
    to[i] = static_cast<char>('0' + number % 10);
    number /= 10;
  }
  return to + digits;
}

}  // namespace

std::string_view DateCache::render(std::time_t seconds, std::array<char, 40>& buffer) noexcept {
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  char* at = put(buffer.data(), "Date: ");
  at = put(at, kDays.substr(static_cast<std::size_t>(utc.tm_wday) * 3, 3));
  at = put(at, ", ");
  at = put_digits(at, utc.tm_mday, 2);
  at = put(at, " ");
  at = put(at, kMonths.substr(static_cast<std::size_t>(utc.tm_mon) * 3, 3));
  at = put(at, " ");
  at = put_digits(at, utc.tm_year + 1900, 4);
  at = put(at, " ");
  at = put_digits(at, utc.tm_hour, 2);
  at = put(at, ":");
  at = put_digits(at, utc.tm_min, 2);
  at = put(at, ":");
  at = put_digits(at, utc.tm_sec, 2);
  put(at, " GMT\r\n");
  return {buffer.data(), kLineBytes};
}

std::string_view DateCache::line() noexcept {
  // The coarse clock costs no system call and no reading of the time-stamp counter; a tick late
  // does not matter here.
  std::timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  if (now.tv_sec != second_) {
    second_ = now.tv_sec;
    render(second_, buffer_);
  }
  return {buffer_.data(), kLineBytes};
}

std::string_view DateCache::value() noexcept {
  return line().substr(kNameBytes, kLineBytes - kNameBytes - 2);
}

}  // namespace mik::http
