#include "http/request_parser.hpp"

#include <algorithm>

#include "http/scan.hpp"
#include "http/url.hpp"

namespace mik::http {
namespace {

// RFC 9112 section 2.2 asks for at least one. Few, so that a flood of them cannot make parsing
// again expensive.
constexpr int kEmptyLinesMax = 8;

constexpr std::string_view kBareCr = "a bare CR";

ParseResult done(std::size_t head_bytes) noexcept {
  return {.status = ParseStatus::kDone, .head_bytes = head_bytes, .problem = {}};
}
ParseResult more() noexcept { return {}; }
ParseResult bad(std::string_view problem) noexcept {
  return {.status = ParseStatus::kBadRequest, .head_bytes = 0, .problem = problem};
}

bool well_formed_utf8(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    const auto byte = [&text](std::size_t i) {
      return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
    };
    const std::uint32_t first = byte(at);
    if (first < 0x80) {
      ++at;
      continue;
    }
    const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4) {
      return false;
    }
    for (std::size_t i = 1; i < length; ++i) {
      if ((byte(at + i) & 0xc0U) != 0x80U) {
        return false;
      }
    }
    const std::uint32_t second = byte(at + 1);
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
        (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f)) {
      return false;  // overlong, a surrogate, or above U+10FFFF
    }
    at += length;
  }
  return true;
}

bool has_high_bytes(std::string_view text) noexcept {
  return std::ranges::any_of(text, [](char c) { return static_cast<unsigned char>(c) >= 0x80; });
}

// The bytes that are being parsed and the head that is being made.
class Parser {
 public:
  Parser(std::string_view buffer, std::span<Field> fields, std::size_t target_bytes_max,
         RequestHead& head) noexcept
      : begin_(buffer.data()),
        at_(begin_),
        end_(begin_ + buffer.size()),
        fields_(fields),
        target_bytes_max_(target_bytes_max),
        head_(head) {}

  ParseResult parse() noexcept {
    ParseResult result = request_line();
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
  // Skips empty lines; kDone at the first byte of a request line.
  ParseResult empty_lines() noexcept {
    for (int lines = 0; at_ != end_; ++lines) {
      if (*at_ != '\r') {
        return done(0);
      }
      if (end_ - at_ < 2) {
        return more();
      }
      if (at_[1] != '\n') {
        return bad(kBareCr);
      }
      if (lines == kEmptyLinesMax) {
        return bad("too many empty lines before a request");
      }
      at_ += 2;
    }
    return more();
  }

  // request-line = method SP request-target SP HTTP-version CRLF
  ParseResult request_line() noexcept {
    const ParseResult start = empty_lines();
    if (start.status != ParseStatus::kDone) {
      return start;
    }
    start_ = at_;
    const char* const method_end = scan::skip_token(at_, end_);
    if (method_end == end_) {
      return more();
    }
    if (method_end == at_ || *method_end != ' ') {
      return bad("the request does not begin with a method and a space");
    }
    head_.method = scan::view(at_, method_end);
    const char* const target = method_end + 1;
    const char* const target_end = scan::skip_target(target, end_);
    if (static_cast<std::size_t>(target_end - target) > target_bytes_max_) {
      return {.status = ParseStatus::kTargetTooLong,
              .head_bytes = 0,
              .problem = "the request target is too long"};
    }
    if (target_end == end_) {
      return more();
    }
    if (target_end == target || *target_end != ' ') {
      return bad("the request target is empty or has a character that it must not have");
    }
    head_.target = scan::view(target, target_end);
    at_ = target_end + 1;
    return version();
  }

  // HTTP-version = "HTTP/" DIGIT "." DIGIT, and the end of the line.
  ParseResult version() noexcept {
    constexpr std::string_view kForm = "HTTP/d.d\r\n";
    const std::string_view text = scan::view(at_, end_).substr(0, kForm.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (kForm[i] == 'd' ? !scan::is_digit(text[i]) : text[i] != kForm[i]) {
        return bad(i < 8 ? "the request line does not end with an HTTP version"
                         : "the request line does not end with CRLF");
      }
    }
    if (text.size() < kForm.size()) {
      return more();
    }
    if (text[5] != '1') {
      return {.status = ParseStatus::kVersion,
              .head_bytes = 0,
              .problem = "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here"};
    }
    // A higher minor version is answered as the highest we know (RFC 9110 section 2.5).
    head_.version = text[7] == '0' ? Version::k10 : Version::k11;
    head_.keep_alive = head_.version == Version::k11;
    at_ += kForm.size();
    return done(0);
  }

  ParseResult field_lines() noexcept {
    std::size_t count = 0;
    while (true) {
      Field field;
      std::string_view problem;
      switch (scan::next_field<scan::Rules::kStrict>(at_, end_, field, problem)) {
        case scan::Line::kEnd:
          head_.fields = fields_.first(count);
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
                .problem = "the request has too many header fields"};
      }
      fields_[count++] = field;
      if (const std::string_view wrong = note(field); !wrong.empty()) {
        return bad(wrong);
      }
    }
  }

  // Takes in a field that says how the message is framed or where it goes; what is wrong with it,
  // or "".
  std::string_view note(const Field& field) noexcept {
    switch (field.name.size()) {
      case 2:
        if (equals_lower(field.name, "te")) {
          scan::for_each_member(field.value, [this](std::string_view member) {
            te_trailers_ = te_trailers_ || equals_lower(member, "trailers");
          });
        }
        return {};
      case 4:
        return equals_lower(field.name, "host") ? note_host(field.value) : std::string_view{};
      case 6:
        if (equals_lower(field.name, "expect")) {
          expect_continue_ = expect_continue_ || equals_lower(field.value, "100-continue");
        }
        return {};
      case 10:
        if (equals_lower(field.name, "connection")) {
          scan::for_each_member(field.value, [this](std::string_view member) {
            close_ = close_ || equals_lower(member, "close");
            keep_alive_ = keep_alive_ || equals_lower(member, "keep-alive");
          });
        }
        return {};
      case 14:
        return equals_lower(field.name, "content-length") ? note_length(field.value)
                                                          : std::string_view{};
      case 17:
        return equals_lower(field.name, "transfer-encoding") ? note_coding(field.value)
                                                             : std::string_view{};
      default:
        return {};
    }
  }

  std::string_view note_host(std::string_view value) noexcept {
    if (host_seen_) {
      return "more than one Host field";
    }
    host_seen_ = true;
    host_ = value;
    if (value.empty() && head_.version == Version::k10) {
      return {};
    }
    return split_authority(value).has_value() ? std::string_view{} : "an invalid Host field";
  }

  // A list of equal lengths may be refused or folded (RFC 9110 section 8.6); here it is refused, as
  // is a second field.
  std::string_view note_length(std::string_view value) noexcept {
    if (length_seen_) {
      return "more than one Content-Length field";
    }
    length_seen_ = true;
    return scan::parse_length(value, head_.content_length) ? std::string_view{}
                                                           : "an invalid Content-Length field";
  }

  std::string_view note_coding(std::string_view value) noexcept {
    if (chunked_) {
      return "more than one Transfer-Encoding field";
    }
    chunked_ = true;
    return equals_lower(value, "chunked") ? std::string_view{}
                                          : "a Transfer-Encoding other than chunked";
  }

  // What can be said only when all fields are known.
  ParseResult finish() noexcept {
    if (chunked_) {
      if (length_seen_) {
        return bad("both Content-Length and Transfer-Encoding");
      }
      if (head_.version == Version::k10) {
        return bad("Transfer-Encoding in HTTP/1.0");
      }
      head_.body = BodyKind::kChunked;
    } else if (head_.content_length > 0) {
      head_.body = BodyKind::kLength;
    }
    if (!host_seen_ && head_.version == Version::k11) {
      return bad("no Host field");
    }
    head_.keep_alive = !close_ && (head_.version == Version::k11 || keep_alive_);
    head_.te_trailers = te_trailers_ && head_.version == Version::k11;
    head_.expect_continue =
        expect_continue_ && head_.version == Version::k11 && head_.body != BodyKind::kNone;
    if (const std::string_view problem = target(); !problem.empty()) {
      return bad(problem);
    }
    head_.bytes = scan::view(start_, at_);
    return done(static_cast<std::size_t>(at_ - begin_));
  }

  // The four forms of RFC 9112 section 3.2.
  std::string_view target() noexcept {
    head_.authority = host_;
    if (head_.method == "CONNECT") {
      const std::optional<Authority> authority = split_authority(head_.target);
      if (!authority.has_value() || !authority->port.has_value()) {
        return "CONNECT needs a host and a port as its target";
      }
      head_.authority = head_.target;
      return {};
    }
    if (head_.target.front() == '/') {
      head_.path_query = head_.target;
    } else if (head_.target == "*") {
      if (head_.method != "OPTIONS") {
        return "only OPTIONS can have * as its target";
      }
      head_.path_query = head_.target;
    } else if (const std::string_view problem = absolute_form(); !problem.empty()) {
      return problem;
    }
    if (has_high_bytes(head_.path_query) && !well_formed_utf8(head_.path_query)) {
      return "the request target is not UTF-8";
    }
    return {};
  }

  // absolute-form = ( "http" / "https" ) "://" authority path-abempty [ "?" query ]
  std::string_view absolute_form() noexcept {
    const std::size_t scheme = head_.target.find("://");
    if (scheme == std::string_view::npos ||
        (!equals_lower(head_.target.substr(0, scheme), "http") &&
         !equals_lower(head_.target.substr(0, scheme), "https"))) {
      return "the request target is neither a path nor an http URL";
    }
    const std::string_view rest = head_.target.substr(scheme + 3);
    const std::size_t path = std::min(rest.find_first_of("/?"), rest.size());
    head_.authority = rest.substr(0, path);
    if (!split_authority(head_.authority).has_value()) {
      return "the request target has an invalid authority";
    }
    if (path == rest.size()) {
      // The empty path is "/", but for OPTIONS, where it is "*" (RFC 9112 section 3.2.4).
      head_.path_query = head_.method == "OPTIONS" ? "*" : head_.target.substr(scheme + 1, 1);
    } else if (rest[path] == '?') {
      return "the request target has a query without a path";
    } else {
      head_.path_query = rest.substr(path);
    }
    return {};
  }

  const char* begin_;
  const char* at_;
  const char* end_;
  const char* start_ = nullptr;  // of the request line
  std::span<Field> fields_;
  std::size_t target_bytes_max_;
  RequestHead& head_;
  std::string_view host_;
  bool host_seen_ = false;
  bool length_seen_ = false;
  bool chunked_ = false;
  bool close_ = false;
  bool keep_alive_ = false;
  bool te_trailers_ = false;
  bool expect_continue_ = false;
};

}  // namespace

ParseResult parse_request_head(std::string_view buffer, const Limits& limits,
                               std::span<Field> fields, std::size_t& scanned,
                               RequestHead& head) noexcept {
  if (buffer.empty() || !scan::worth_parsing(buffer, scanned, limits.head_bytes_max)) {
    scanned = buffer.size();
    return more();
  }
  scanned = buffer.size();
  head = RequestHead{};
  Parser parser(buffer.substr(0, limits.head_bytes_max), fields, limits.target_bytes_max, head);
  const ParseResult result = parser.parse();
  if (result.status == ParseStatus::kNeedMore && buffer.size() >= limits.head_bytes_max) {
    return {.status = ParseStatus::kHeadTooLarge,
            .head_bytes = 0,
            .problem = "the request head is too large"};
  }
  return result;
}

}  // namespace mik::http
