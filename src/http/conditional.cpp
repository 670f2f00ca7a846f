#include "http/conditional.hpp"

#include "http/http_date.hpp"
#include "http/list_field.hpp"

namespace mik::http {

namespace {

constexpr std::int64_t kSettledSecs = 2;

bool is_weak(std::string_view etag) noexcept { return etag.starts_with("W/"); }
std::string_view opaque(std::string_view etag) noexcept {
  return etag.substr(is_weak(etag) ? 2 : 0);
}

// entity-tag = [ "W/" ] DQUOTE *etagc DQUOTE, section 8.8.3. Empty when `rest` does not begin with
// one.
std::string_view take_etag(std::string_view& rest) noexcept {
  const std::size_t quote = is_weak(rest) ? 2 : 0;
  if (rest.size() <= quote || rest[quote] != '"') {
    return {};
  }
  std::size_t end = quote + 1;
  while (end < rest.size() && rest[end] != '"') {
    const auto c = static_cast<unsigned char>(rest[end]);
    if (c <= 0x20 || c == 0x7f) {
      return {};
    }
    ++end;
  }
  if (end == rest.size()) {
    return {};
  }
  const std::string_view etag = rest.substr(0, end + 1);
  rest.remove_prefix(end + 1);
  return etag;
}

// Up to the first thing that is no tag: what stands behind it cannot be understood.
template <class Same>
bool lists(std::string_view list, Same&& same) noexcept {
  while (true) {
    while (!list.empty() && (scan::is_blank(list.front()) || list.front() == ',')) {
      list.remove_prefix(1);
    }
    const std::string_view etag = take_etag(list);
    if (etag.empty()) {
      return false;
    }
    list = trim_blanks(list);
    if (!list.empty() && list.front() != ',') {
      return false;
    }
    if (same(etag)) {
      return true;
    }
  }
}

// Over all lines of a field: nothing when there is none.
template <class Match>
std::optional<bool> any_line(std::span<const Field> fields, std::string_view name,
                             Match&& match) noexcept {
  std::optional<bool> found;
  for (const Field& field : fields) {
    if (equals_lower(field.name, name)) {
      const std::string_view value = trim_blanks(field.value);
      found = found.value_or(false) || value == "*" || match(value);
    }
  }
  return found;
}

// Of a field with one line that is a date.
std::optional<std::int64_t> date_of(std::span<const Field> fields, std::string_view name,
                                    std::int64_t now) noexcept {
  std::optional<std::int64_t> date;
  bool seen = false;
  for (const Field& field : fields) {
    if (equals_lower(field.name, name)) {
      if (seen) {
        return std::nullopt;
      }
      seen = true;
      date = parse_http_date(trim_blanks(field.value), now);
    }
  }
  return date;
}

}  // namespace

bool lists_etag_weak(std::string_view list, std::string_view etag) noexcept {
  return lists(list, [&](std::string_view one) { return opaque(one) == opaque(etag); });
}

bool lists_etag_strong(std::string_view list, std::string_view etag) noexcept {
  return lists(list, [&](std::string_view one) { return one == etag && !is_weak(etag); });
}

bool has_strong_etags_only(std::span<const Field> fields) noexcept {
  const auto any = [](std::string_view list) {
    return lists(list, [](std::string_view) { return true; });
  };
  const auto weak = [](std::string_view list) { return lists(list, is_weak); };
  return any_line(fields, "if-none-match", any) == true &&
         any_line(fields, "if-none-match", weak) == false;
}

Precondition check_preconditions(std::string_view method, std::span<const Field> fields,
                                 const Validators& validators, std::int64_t now) noexcept {
  const auto strong = [&](std::string_view list) {
    return lists_etag_strong(list, validators.etag);
  };
  const auto weak = [&](std::string_view list) { return lists_etag_weak(list, validators.etag); };
  if (const auto match = any_line(fields, "if-match", strong); match.has_value()) {
    if (!*match) {
      return Precondition::kFailed;
    }
  } else if (const auto date = date_of(fields, "if-unmodified-since", now);
             date.has_value() && validators.modified.has_value() && *validators.modified > *date) {
    return Precondition::kFailed;
  }
  const bool reads = method == "GET" || method == "HEAD";
  if (const auto match = any_line(fields, "if-none-match", weak); match.has_value()) {
    if (*match) {
      return reads ? Precondition::kNotModified : Precondition::kFailed;
    }
  } else if (const auto date = date_of(fields, "if-modified-since", now);
             reads && date.has_value() && validators.modified.has_value() &&
             *validators.modified <= *date) {
    return Precondition::kNotModified;
  }
  return Precondition::kHolds;
}

bool if_range_holds(std::span<const Field> fields, const Validators& validators,
                    std::int64_t now) noexcept {
  const Field* only = nullptr;
  for (const Field& field : fields) {
    if (equals_lower(field.name, "if-range")) {
      if (only != nullptr) {
        return false;
      }
      only = &field;
    }
  }
  if (only == nullptr) {
    return true;
  }
  const std::string_view value = trim_blanks(only->value);
  std::string_view rest = value;
  if (const std::string_view etag = take_etag(rest); !etag.empty()) {
    return rest.empty() && etag == validators.etag && !is_weak(etag);
  }
  const std::optional<std::int64_t> date = parse_http_date(value, now);
  return date.has_value() && validators.modified == date && now - *date >= kSettledSecs;
}

}  // namespace mik::http
