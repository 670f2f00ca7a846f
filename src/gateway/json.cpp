#include "gateway/json.hpp"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include <fmt/format.h>

#include "base/names.hpp"

namespace mik::gateway {

namespace {

using base::Error;
using base::ErrorCode;
using base::Result;

auto lower_bound(auto& members, std::string_view name) noexcept {
  return std::ranges::lower_bound(members, name, {}, &JsonMember::name);
}

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  const char folded = static_cast<char>(c | 0x20);
  return folded >= 'a' && folded <= 'f' ? folded - 'a' + 10 : -1;
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80u | ((code >> shift) & 0x3fu)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xc0u | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xe0u | (code >> 12));
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xf0u | (code >> 18));
    tail(12);
    tail(6);
    tail(0);
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Result<Json> document() {
    MIK_TRY_ASSIGN(Json value, this->value(0));
    skip_blanks();
    if (at_ < text_.size()) {
      return wrong("something stands behind the end");
    }
    return value;
  }

 private:
  Error wrong(std::string_view what) const {
    return Error(ErrorCode::kBadMessage, fmt::format("no JSON: {} at byte {}", what, at_));
  }
  char peek() const noexcept { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_blanks() noexcept {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != text_.npos) {
      ++at_;
    }
  }
  bool take(char c) noexcept {
    skip_blanks();
    if (peek() != c) {
      return false;
    }
    ++at_;
    return true;
  }

  Result<Json> value(std::size_t depth) {
    if (depth > kJsonDepthMax) {
      return wrong("nested too deeply");
    }
    if (++values_ > kJsonValuesMax) {
      return wrong("too many values");
    }
    skip_blanks();
    switch (peek()) {
      case '{':
        return object(depth);
      case '[':
        return array(depth);
      case '"': {
        Json value;
        value.kind = Json::Kind::kString;
        MIK_TRY(string(value.text));
        return value;
      }
      case 't':
        return word("true", Json::Kind::kTrue);
      case 'f':
        return word("false", Json::Kind::kFalse);
      case 'n':
        return word("null", Json::Kind::kNull);
      default:
        return number();
    }
  }

  Result<Json> word(std::string_view text, Json::Kind kind) {
    if (!text_.substr(at_).starts_with(text)) {
      return wrong("no value");
    }
    at_ += text.size();
    Json value;
    value.kind = kind;
    return value;
  }

  Result<Json> object(std::size_t depth) {
    std::map<std::string, Json> members;
    ++at_;
    if (!take('}')) {
      do {
        skip_blanks();
        if (peek() != '"') {
          return wrong("no name of a member");
        }
        std::string name;
        MIK_TRY(string(name));
        if (!take(':')) {
          return wrong("no ':'");
        }
        MIK_TRY_ASSIGN(Json member, value(depth + 1));
        members.insert_or_assign(std::move(name), std::move(member));
      } while (take(','));
      if (!take('}')) {
        return wrong("no ',' or '}'");
      }
    }
    Json object = Json::object();
    object.members.reserve(members.size());
    while (!members.empty()) {
      auto first = members.extract(members.begin());
      object.members.push_back({std::move(first.key()), std::move(first.mapped())});
    }
    return object;
  }

  Result<Json> array(std::size_t depth) {
    Json array;
    array.kind = Json::Kind::kArray;
    ++at_;
    if (take(']')) {
      return array;
    }
    do {
      MIK_TRY_ASSIGN(Json item, value(depth + 1));
      array.items.push_back(std::move(item));
    } while (take(','));
    if (!take(']')) {
      return wrong("no ',' or ']'");
    }
    return array;
  }

  bool digits() noexcept {
    const std::size_t begin = at_;
    while (peek() >= '0' && peek() <= '9') {
      ++at_;
    }
    return at_ > begin;
  }

  Result<Json> number() {
    const std::size_t begin = at_;
    at_ += peek() == '-' ? 1 : 0;
    const bool zero = peek() == '0';
    const std::size_t whole = at_;
    if (!digits() || (zero && at_ - whole > 1)) {
      return wrong("no value");
    }
    if (peek() == '.') {
      ++at_;
      if (!digits()) {
        return wrong("no digit");
      }
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      at_ += peek() == '+' || peek() == '-' ? 1 : 0;
      if (!digits()) {
        return wrong("no digit");
      }
    }
    Json value;
    value.kind = Json::Kind::kNumber;
    value.text = text_.substr(begin, at_ - begin);
    return value;
  }

  Result<void> string(std::string& out) {
    ++at_;
    while (at_ < text_.size() && text_[at_] != '"') {
      const char c = text_[at_];
      if (static_cast<unsigned char>(c) < 0x20) {
        return wrong("a control character in a string");
      }
      if (c == '\\') {
        MIK_TRY(escape(out));
      } else {
        out += c;
        ++at_;
      }
    }
    if (at_ == text_.size()) {
      return wrong("a string without an end");
    }
    ++at_;
    return {};
  }

  Result<void> escape(std::string& out) {
    constexpr std::string_view kNames = "\"\\/bfnrt";
    constexpr std::string_view kMeant = "\"\\/\b\f\n\r\t";
    ++at_;
    const char c = peek();
    if (c != 'u') {
      const std::size_t which = kNames.find(c);
      if (which == kNames.npos) {
        return wrong("an escape that is none");
      }
      out += kMeant[which];
      ++at_;
      return {};
    }
    MIK_TRY_ASSIGN(std::uint32_t code, unit());
    if (code >= 0xd800 && code < 0xdc00 && text_.substr(at_).starts_with("\\u")) {
      ++at_;
      MIK_TRY_ASSIGN(const std::uint32_t low, unit());
      if (low < 0xdc00 || low > 0xdfff) {
        return wrong("half of a surrogate pair");
      }
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xd800 && code <= 0xdfff) {
      return wrong("half of a surrogate pair");
    }
    append_utf8(out, code);
    return {};
  }

  // From the 'u' on.
  Result<std::uint32_t> unit() {
    ++at_;
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const int digit = hex_digit(peek());
      if (digit < 0) {
        return wrong("no hexadecimal digit");
      }
      code = code * 16 + static_cast<std::uint32_t>(digit);
    }
    return code;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t values_ = 0;
};

}  // namespace

Json Json::string(std::string_view text) {
  Json value;
  value.kind = Kind::kString;
  value.text = text;
  return value;
}

Json Json::object() {
  Json value;
  value.kind = Kind::kObject;
  return value;
}

const Json* Json::find(std::string_view name) const noexcept {
  const auto found = lower_bound(members, name);
  return found == members.end() || found->name != name ? nullptr : &found->value;
}

Json* Json::find(std::string_view name) noexcept {
  return const_cast<Json*>(std::as_const(*this).find(name));
}

void Json::set(std::string_view name, Json value) {
  const auto found = lower_bound(members, name);
  if (found != members.end() && found->name == name) {
    found->value = std::move(value);
  } else {
    members.insert(found, JsonMember{std::string(name), std::move(value)});
  }
}

void Json::erase(std::string_view name) {
  const auto found = lower_bound(members, name);
  if (found != members.end() && found->name == name) {
    members.erase(found);
  }
}

base::Result<Json> parse_json(std::string_view text) {
  if (text.starts_with("\xef\xbb\xbf")) {
    text.remove_prefix(3);
  }
  if (!base::is_utf8(text)) {
    return Error(ErrorCode::kBadMessage, "no JSON: not UTF-8");
  }
  return Parser(text).document();
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  out += '"';
}

void append_json(std::string& out, const Json& value) {
  switch (value.kind) {
    case Json::Kind::kNull:
      out += "null";
      break;
    case Json::Kind::kFalse:
      out += "false";
      break;
    case Json::Kind::kTrue:
      out += "true";
      break;
    case Json::Kind::kNumber:
      out += value.text;
      break;
    case Json::Kind::kString:
      append_json_string(out, value.text);
      break;
    case Json::Kind::kArray: {
      out += '[';
      std::string_view between;
      for (const Json& item : value.items) {
        out += between;
        append_json(out, item);
        between = ",";
      }
      out += ']';
      break;
    }
    case Json::Kind::kObject: {
      out += '{';
      std::string_view between;
      for (const JsonMember& member : value.members) {
        out += between;
        append_json_string(out, member.name);
        out += ':';
        append_json(out, member.value);
        between = ",";
      }
      out += '}';
      break;
    }
  }
}

}  // namespace mik::gateway
