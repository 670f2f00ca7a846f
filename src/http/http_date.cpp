#include "http/http_date.hpp"

#include <algorithm>
#include <array>
#include <chrono>

namespace mik::http {

namespace {

constexpr std::array<std::string_view, 12> kMonths = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
constexpr std::array<std::string_view, 7> kDays = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};
constexpr std::array<std::string_view, 7> kLongDays = {
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};

// Takes pieces off the front; once one is missing, all is.
class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  bool skip(std::string_view expected) noexcept {
    good_ = good_ && text_.starts_with(expected);
    text_.remove_prefix(good_ ? expected.size() : text_.size());
    return good_;
  }
  template <std::size_t N>
  int one_of(const std::array<std::string_view, N>& names) noexcept {
    for (std::size_t i = 0; i < N; ++i) {
      if (text_.starts_with(names[i])) {
        text_.remove_prefix(names[i].size());
        return static_cast<int>(i);
      }
    }
    good_ = false;
    return 0;
  }
  int digits(std::size_t count) noexcept {
    int value = 0;
    for (std::size_t i = 0; i < count; ++i) {
      good_ = good_ && i < text_.size() && text_[i] >= '0' && text_[i] <= '9';
      value = good_ ? value * 10 + (text_[i] - '0') : 0;
    }
    text_.remove_prefix(std::min(count, text_.size()));
    return value;
  }
  // "02" or " 2"
  int padded_day() noexcept {
    if (text_.starts_with(' ')) {
      text_.remove_prefix(1);
      return digits(1);
    }
    return digits(2);
  }
  bool done() const noexcept { return good_ && text_.empty(); }

 private:
  std::string_view text_;
  bool good_ = true;
};

struct Parts {
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, second = 0;
};

void read_time(Reader& reader, Parts& parts) noexcept {
  parts.hour = reader.digits(2);
  reader.skip(":");
  parts.minute = reader.digits(2);
  reader.skip(":");
  parts.second = reader.digits(2);
}

std::optional<std::int64_t> seconds_of(const Parts& parts) noexcept {
  const std::chrono::year_month_day date{std::chrono::year(parts.year),
                                         std::chrono::month(static_cast<unsigned>(parts.month)),
                                         std::chrono::day(static_cast<unsigned>(parts.day))};
  if (!date.ok() || parts.hour > 23 || parts.minute > 59 || parts.second > 60) {
    return std::nullopt;
  }
  const std::int64_t days = std::chrono::sys_days(date).time_since_epoch().count();
  return days * 86400 + parts.hour * 3600 + parts.minute * 60 + std::min(parts.second, 59);
}

int year_of(std::int64_t now) noexcept {
  const auto days =
      std::chrono::floor<std::chrono::days>(std::chrono::sys_seconds(std::chrono::seconds(now)));
  return static_cast<int>(std::chrono::year_month_day(days).year());
}

}  // namespace

std::optional<std::int64_t> parse_http_date(std::string_view text, std::int64_t now) noexcept {
  Reader reader(text);
  Parts parts;
  if (text.size() > 3 && text[3] == ',') {  // Sun, 06 Nov 1994 08:49:37 GMT
    reader.one_of(kDays);
    reader.skip(", ");
    parts.day = reader.digits(2);
    reader.skip(" ");
    parts.month = reader.one_of(kMonths) + 1;
    reader.skip(" ");
    parts.year = reader.digits(4);
    reader.skip(" ");
    read_time(reader, parts);
    reader.skip(" GMT");
  } else if (text.find(',') != std::string_view::npos) {  // Sunday, 06-Nov-94 08:49:37 GMT
    reader.one_of(kLongDays);
    reader.skip(", ");
    parts.day = reader.digits(2);
    reader.skip("-");
    parts.month = reader.one_of(kMonths) + 1;
    reader.skip("-");
    const int latest = year_of(now) + 50;
    parts.year = latest - latest % 100 + reader.digits(2);
    parts.year -= parts.year > latest ? 100 : 0;
    reader.skip(" ");
    read_time(reader, parts);
    reader.skip(" GMT");
  } else {  // Sun Nov  6 08:49:37 1994
    reader.one_of(kDays);
    reader.skip(" ");
    parts.month = reader.one_of(kMonths) + 1;
    reader.skip(" ");
    parts.day = reader.padded_day();
    reader.skip(" ");
    read_time(reader, parts);
    reader.skip(" ");
    parts.year = reader.digits(4);
  }
  return reader.done() ? seconds_of(parts) : std::nullopt;
}

}  // namespace mik::http
