// Reads JSON in the body of a POST and answers what it found in JSON: how many values, how deep,
// and the document with its object keys in order. C++20 with the standard containers and without
// exceptions.

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "http.h"

namespace {

constexpr std::size_t kBodyBytesMax = 1 << 20;
constexpr int kDepthMax = 64;

struct Value;
using Array = std::vector<Value>;
using Object = std::map<std::string, Value, std::less<>>;

// A number stays as it was written, so that no digit of it is lost.
struct Number {
  std::string text;
};

struct Value {
  std::variant<std::nullptr_t, bool, Number, std::string, Array, Object> data = nullptr;
};

// RFC 8259, recursive descent. After a failure error_at() is where the text stopped making sense.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  std::optional<Value> parse() {
    std::optional<Value> value = parse_value(0);
    skip_space();
    if (value && at_ != text_.size()) {
      return std::nullopt;
    }
    return value;
  }

  std::size_t error_at() const { return at_; }

 private:
  void skip_space() {
    while (at_ < text_.size() &&
           std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) {
      ++at_;
    }
  }

  bool take(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) {
      return false;
    }
    at_ += word.size();
    return true;
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  std::optional<Value> parse_value(int depth) {
    skip_space();
    if (depth > kDepthMax) {
      return std::nullopt;
    }
    switch (peek()) {
      case '{':
        return parse_object(depth);
      case '[':
        return parse_array(depth);
      case '"':
        if (std::optional<std::string> text = parse_string()) {
          return Value{*std::move(text)};
        }
        return std::nullopt;
      default:
        break;
    }
    if (take("null")) {
      return Value{nullptr};
    }
    if (take("true")) {
      return Value{true};
    }
    if (take("false")) {
      return Value{false};
    }
    return parse_number();
  }

  std::optional<Value> parse_object(int depth) {
    Object object;
    take("{");
    skip_space();
    if (take("}")) {
      return Value{std::move(object)};
    }
    do {
      skip_space();
      std::optional<std::string> key = parse_string();
      if (!key) {
        return std::nullopt;
      }
      skip_space();
      if (!take(":")) {
        return std::nullopt;
      }
      std::optional<Value> value = parse_value(depth + 1);
      if (!value) {
        return std::nullopt;
      }
      object.insert_or_assign(*std::move(key), *std::move(value));
      skip_space();
    } while (take(","));
    return take("}") ? std::optional<Value>(Value{std::move(object)}) : std::nullopt;
  }

  std::optional<Value> parse_array(int depth) {
    Array array;
    take("[");
    skip_space();
    if (take("]")) {
      return Value{std::move(array)};
    }
    do {
      std::optional<Value> value = parse_value(depth + 1);
      if (!value) {
        return std::nullopt;
      }
      array.push_back(*std::move(value));
      skip_space();
    } while (take(","));
    return take("]") ? std::optional<Value>(Value{std::move(array)}) : std::nullopt;
  }

  std::size_t take_digits() {
    std::size_t count = 0;
    while (peek() >= '0' && peek() <= '9') {
      ++at_;
      ++count;
    }
    return count;
  }

  std::optional<Value> parse_number() {
    std::size_t start = at_;
    take("-");
    bool zero = peek() == '0';
    std::size_t whole = take_digits();
    bool good = whole != 0 && !(zero && whole > 1);
    if (take(".")) {
      good = take_digits() != 0 && good;
    }
    if (take("e") || take("E")) {
      if (!take("+")) {
        take("-");
      }
      good = take_digits() != 0 && good;
    }
    if (!good) {
      at_ = start;
      return std::nullopt;
    }
    return Value{Number{std::string(text_.substr(start, at_ - start))}};
  }

  std::optional<std::string> parse_string() {
    if (!take("\"")) {
      return std::nullopt;
    }
    std::string out;
    while (at_ < text_.size()) {
      char c = text_[at_];
      if (c == '"') {
        ++at_;
        return out;
      }
      if (static_cast<unsigned char>(c) < 0x20 || (c == '\\' && !parse_escape(out))) {
        return std::nullopt;
      }
      if (c != '\\') {
        out.push_back(c);
        ++at_;
      }
    }
    return std::nullopt;
  }

  bool parse_escape(std::string& out) {
    constexpr std::string_view kLetters = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    ++at_;
    char letter = peek();
    if (std::size_t index = kLetters.find(letter);
        letter != '\0' && index != std::string_view::npos) {
      out.push_back(kMeanings[index]);
      ++at_;
      return true;
    }
    std::optional<std::uint32_t> unit = parse_unit();
    if (!unit) {
      return false;
    }
    std::uint32_t point = *unit;
    if (point >= 0xD800 && point < 0xDC00) {  // the first half of a surrogate pair
      if (peek() != '\\') {
        return false;
      }
      ++at_;
      std::optional<std::uint32_t> second = parse_unit();
      if (!second || *second < 0xDC00 || *second > 0xDFFF) {
        return false;
      }
      point = 0x10000 + ((point - 0xD800) << 10) + (*second - 0xDC00);
    } else if (point >= 0xDC00 && point <= 0xDFFF) {
      return false;
    }
    append_utf8(out, point);
    return true;
  }

  // u and four hexadecimal digits
  std::optional<std::uint32_t> parse_unit() {
    if (!take("u") || text_.size() - at_ < 4) {
      return std::nullopt;
    }
    std::uint32_t unit = 0;
    for (char c : text_.substr(at_, 4)) {
      char lower = static_cast<char>(c | 0x20);
      if (c >= '0' && c <= '9') {
        unit = unit * 16 + static_cast<std::uint32_t>(c - '0');
      } else if (lower >= 'a' && lower <= 'f') {
        unit = unit * 16 + static_cast<std::uint32_t>(lower - 'a') + 10;
      } else {
        return std::nullopt;
      }
    }
    at_ += 4;
    return unit;
  }

  static void append_utf8(std::string& out, std::uint32_t point) {
    auto tail = [&](int shift) {
      out.push_back(static_cast<char>(0x80 | ((point >> shift) & 0x3F)));
    };
    if (point < 0x80) {
      out.push_back(static_cast<char>(point));
    } else if (point < 0x800) {
      out.push_back(static_cast<char>(0xC0 | (point >> 6)));
      tail(0);
    } else if (point < 0x10000) {
      out.push_back(static_cast<char>(0xE0 | (point >> 12)));
      tail(6);
      tail(0);
    } else {
      out.push_back(static_cast<char>(0xF0 | (point >> 18)));
      tail(12);
      tail(6);
      tail(0);
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

void write(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  out.push_back('"');
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out.push_back('\\');
      out.push_back(c);
    } else if (byte < 0x20) {
      out += "\\u00";
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
}

struct Summary {
  std::size_t values = 0;
  int depth = 0;
};

void write(std::string& out, const Value& value, int depth, Summary& summary) {
  ++summary.values;
  summary.depth = depth > summary.depth ? depth : summary.depth;
  if (const bool* flag = std::get_if<bool>(&value.data)) {
    out += *flag ? "true" : "false";
  } else if (const Number* number = std::get_if<Number>(&value.data)) {
    out += number->text;
  } else if (const std::string* text = std::get_if<std::string>(&value.data)) {
    write(out, *text);
  } else if (const Array* array = std::get_if<Array>(&value.data)) {
    out.push_back('[');
    for (const Value& item : *array) {
      if (&item != array->data()) {
        out.push_back(',');
      }
      write(out, item, depth + 1, summary);
    }
    out.push_back(']');
  } else if (const Object* object = std::get_if<Object>(&value.data)) {
    const char* separator = "";
    out.push_back('{');
    for (const auto& [key, item] : *object) {
      out += separator;
      write(out, key);
      out.push_back(':');
      write(out, item, depth + 1, summary);
      separator = ",";
    }
    out.push_back('}');
  } else {
    out += "null";
  }
}

using Outparam = exports_wasi_http_incoming_handler_own_response_outparam_t;

void answer(Outparam outparam, std::uint16_t status, const std::string& json) {
  http_answer_text(outparam, status, "application/json", json.data(), json.size());
}

void refuse(Outparam outparam, std::uint16_t status, std::string_view why) {
  std::string out = "{\"error\":";
  write(out, why);
  out += "}\n";
  answer(outparam, status, out);
}

// Nothing when the body is larger than is taken here.
std::optional<std::string> read_body(
    exports_wasi_http_incoming_handler_own_incoming_request_t request) {
  std::string body;
  HttpReader reader;
  if (!http_open_request(request, &reader)) {
    return body;
  }
  proxy_list_u8_t chunk;
  while (body.size() <= kBodyBytesMax && http_read(&reader, 65536, &chunk) == kHttpBytes) {
    body.append(reinterpret_cast<const char*>(chunk.ptr), chunk.len);
    proxy_list_u8_free(&chunk);
  }
  http_close(&reader);
  return body.size() <= kBodyBytesMax ? std::optional(std::move(body)) : std::nullopt;
}

}  // namespace

void exports_wasi_http_incoming_handler_handle(
    exports_wasi_http_incoming_handler_own_incoming_request_t request, Outparam outparam) {
  std::optional<std::string> body = read_body(request);
  wasi_http_types_incoming_request_drop_own(request);
  if (!body) {
    refuse(outparam, 413, "more than 1 MiB");
    return;
  }
  if (body->empty()) {
    refuse(outparam, 400, "POST some JSON");
    return;
  }
  Parser parser(*body);
  std::optional<Value> value = parser.parse();
  if (!value) {
    refuse(outparam, 400, "no JSON at byte " + std::to_string(parser.error_at()));
    return;
  }
  Summary summary;
  std::string document;
  write(document, *value, 1, summary);
  answer(outparam, 200,
         "{\"values\":" + std::to_string(summary.values) +
             ",\"depth\":" + std::to_string(summary.depth) + ",\"document\":" + document + "}\n");
}
