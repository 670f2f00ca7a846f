#include "http/response_parser.hpp"

#include "http/scan.hpp"

namespace mik::http {
namespace {

ParseResult done(std::size_t head_bytes) noexcept {
  return {.status = ParseStatus::kDone, .head_bytes = head_bytes, .problem = {}};
}
ParseResult more() noexcept { return {}; }
ParseResult bad(std::string_view problem) noexcept {
  return {.status = ParseStatus::kBadRequest, .head_bytes = 0, .problem = problem};
}

// The bytes that are being parsed and the response that is being made.
class Parser {
 public:
  Parser(std::string_view buffer, std::span<Field> fields, std::string_view request_method,
         ResponseStatus& response) noexcept
      : begin_(buffer.data()),
        at_(begin_),
        end_(begin_ + buffer.size()),
        fields_(fields),
        method_(request_method),
        response_(response) {}

  ParseResult parse() noexcept {
    ParseResult result = status_line();
    if (result.status != ParseStatus::kDone) {
      return result;
    }
    result = field_lines();
    if (result.status != ParseStatus::kDone) {
      return result;
    }
    return finish();
  }

 private:
  // status-line = HTTP-version SP status-code SP [ reason-phrase ] CRLF
  ParseResult status_line() noexcept {
    constexpr std::string_view kForm = "HTTP/d.d ddd";
    const std::string_view text = scan::view(at_, end_).substr(0, kForm.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (kForm[i] == 'd' ? !scan::is_digit(text[i]) : text[i] != kForm[i]) {
        return bad("not an HTTP status line");
      }
      if (i == 5 && text[i] != '1') {
        return {.status = ParseStatus::kVersion,
                .head_bytes = 0,
                .problem = "a response in an HTTP version that was not asked for"};
      }
    }
    if (text.size() < kForm.size()) {
      return more();
    }
    response_.version = text[7] == '0' ? Version::k10 : Version::k11;
    response_.status = (text[9] - '0') * 100 + (text[10] - '0') * 10 + (text[11] - '0');
    if (response_.status < 100) {
      return bad("a status below 100");
    }
    at_ += kForm.size();
    return reason();
  }

  // What is behind the status code.
  ParseResult reason() noexcept {
    if (at_ == end_) {
      return more();
    }
    const char* stop = at_;
    if (*stop == ' ') {
      stop = scan::skip_value(stop + 1, end_);
      if (stop == end_) {
        return more();
      }
    }
    if (*stop == '\r' && ++stop == end_) {
      return more();
    }
    if (*stop != '\n') {
      return bad("not an HTTP status line");
    }
    at_ = stop + 1;
    return done(0);
  }

  ParseResult field_lines() noexcept {
    std::size_t count = 0;
    while (true) {
      Field field;
      std::string_view problem;
      switch (scan::next_field<scan::Rules::kForgiving>(at_, end_, field, problem)) {
        case scan::Line::kEnd:
          response_.fields = fields_.first(count);
          return done(0);
        case scan::Line::kMore:
          return more();
        case scan::Line::kBad:
          return bad(problem);
        case scan::Line::kField:
          break;
      }
      if (count == fields_.size()) {
        return {.status = ParseStatus::kHeadTooLarge,
                .head_bytes = 0,
                .problem = "the response has too many header fields"};
      }
      fields_[count++] = field;
      if (const std::string_view wrong = note(field); !wrong.empty()) {
        return bad(wrong);
      }
    }
  }

  // Takes in a field that says how the message is framed; what is wrong with it, or "".
  std::string_view note(const Field& field) noexcept {
    if (equals_lower(field.name, "connection")) {
      scan::for_each_member(field.value, [this](std::string_view member) {
        close_ = close_ || equals_lower(member, "close");
        keep_alive_ = keep_alive_ || equals_lower(member, "keep-alive");
      });
    } else if (equals_lower(field.name, "content-length")) {
      return note_length(field.value);
    } else if (equals_lower(field.name, "transfer-encoding")) {
      if (chunked_) {
        return "more than one Transfer-Encoding field";
      }
      chunked_ = true;
      return equals_lower(field.value, "chunked") ? std::string_view{}
                                                  : "a Transfer-Encoding other than chunked";
    }
    return {};
  }

  std::string_view note_length(std::string_view list) noexcept {
    while (true) {
      const std::size_t comma = list.find(',');
      std::uint64_t length = 0;
      if (!scan::parse_length(scan::trim(list.substr(0, comma)), length)) {
        return "an invalid Content-Length field";
      }
      if (length_seen_ && length != length_) {
        return "conflicting Content-Length fields";
      }
      length_seen_ = true;
      length_ = length;
      if (comma == std::string_view::npos) {
        return {};
      }
      list.remove_prefix(comma + 1);
    }
  }

  // RFC 9112 section 6.3, by the numbers there.
  ParseResult finish() noexcept {
    const int status = response_.status;
    response_.keep_alive = !close_ && (response_.version == Version::k11 || keep_alive_);
    if (chunked_ && (length_seen_ || response_.version == Version::k10)) {
      response_.keep_alive = false;
    }
    if (method_ == "HEAD" || status < 200 || status == 204 || status == 304) {  // 1
      // Some send content that must not be there; what follows is then no response.
      if (status == 204 && (chunked_ || length_ > 0)) {
        response_.keep_alive = false;
      }
    } else if (method_ == "CONNECT" && status < 300) {  // 2
      response_.keep_alive = false;
    } else if (chunked_) {  // 3, 4
      response_.body = ResponseBody::kChunked;
    } else if (length_seen_) {  // 5, 6
      response_.body = length_ > 0 ? ResponseBody::kLength : ResponseBody::kNone;
      response_.content_length = length_;
    } else {  // 8
      response_.body = ResponseBody::kUntilClose;
      response_.keep_alive = false;
    }
    return done(static_cast<std::size_t>(at_ - begin_));
  }

  const char* begin_;
  const char* at_;
  const char* end_;
  std::span<Field> fields_;
  std::string_view method_;
  ResponseStatus& response_;
  std::uint64_t length_ = 0;
  bool length_seen_ = false;
  bool chunked_ = false;
  bool close_ = false;
  bool keep_alive_ = false;
};

}  // namespace

ParseResult parse_response_head(std::string_view buffer, const Limits& limits,
                                std::span<Field> fields, std::string_view request_method,
                                std::size_t& scanned, ResponseStatus& response) noexcept {
  if (buffer.empty() || !scan::worth_parsing(buffer, scanned, limits.head_bytes_max)) {
    scanned = buffer.size();
    return more();
  }
  scanned = buffer.size();
  response = ResponseStatus{};
  Parser parser(buffer.substr(0, limits.head_bytes_max), fields, request_method, response);
  const ParseResult result = parser.parse();
  if (result.status == ParseStatus::kNeedMore && buffer.size() >= limits.head_bytes_max) {
    return {.status = ParseStatus::kHeadTooLarge,
            .head_bytes = 0,
            .problem = "the response head is too large"};
  }
  return result;
}

}  // namespace mik::http
