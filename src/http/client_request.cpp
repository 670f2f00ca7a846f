#include "http/client_request.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <iterator>

#include "http/address.hpp"
#include "http/url.hpp"

namespace mik::http {

namespace {

char lower(char c) noexcept { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool equals_ignoring_case(std::string_view a, std::string_view b) noexcept {
  return std::ranges::equal(a, b, {}, lower, lower);
}

// RFC 9110 section 5.6.2.
bool is_token(std::string_view text) noexcept {
  static constexpr std::string_view kMarks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           kMarks.find(c) != std::string_view::npos;
  });
}

// RFC 9110 section 5.5: no control character but the tab.
bool is_field_value(std::string_view text) noexcept {
  return std::ranges::all_of(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return (byte >= 0x20 && byte != 0x7f) || byte == '\t';
  });
}

// What may stand in a request line: nothing that ends the target or the line. Other bytes are the
// guest's affair.
bool is_target(std::string_view text) noexcept {
  return std::ranges::all_of(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte > 0x20 && byte != 0x7f && byte != '#';
  });
}

std::string_view trim(std::string_view text) noexcept {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) {
    text.remove_prefix(1);
  }
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) {
    text.remove_suffix(1);
  }
  return text;
}

// Calls f(element) for each element of a comma-separated list until it returns true.
template <class F>
bool any_element(std::string_view list, F f) noexcept {
  while (!list.empty()) {
    const std::size_t comma = list.find(',');
    if (f(trim(list.substr(0, comma)))) {
      return true;
    }
    list.remove_prefix(comma == std::string_view::npos ? list.size() : comma + 1);
  }
  return false;
}

}  // namespace

std::string Origin::key() const {
  std::string key = fmt::format("{}://{}:{}", tls ? "https" : "http", host, port);
  if (partition != 0) {
    fmt::format_to(std::back_inserter(key), "#{}", partition);
  }
  return key;
}

ClientError parse_origin(std::string_view scheme, std::string_view authority, Origin& origin) {
  if (scheme.empty() || equals_ignoring_case(scheme, "https")) {
    origin.tls = true;
  } else if (equals_ignoring_case(scheme, "http")) {
    origin.tls = false;
  } else {
    return ClientError::kProtocolError;
  }
  const std::optional<Authority> parts = split_authority(authority);
  if (!parts || parts->port.value_or(1) == 0) {
    return ClientError::kRequestUriInvalid;
  }
  if (const std::optional<IpAddress> address = IpAddress::parse(parts->host)) {
    origin.host = address->to_string();
    origin.literal = true;
  } else if (is_dns_name(parts->host)) {
    origin.host.clear();
    std::ranges::transform(parts->host, std::back_inserter(origin.host), lower);
    origin.literal = false;
  } else {
    return ClientError::kRequestUriInvalid;
  }
  origin.port = parts->port.value_or(origin.tls ? 443 : 80);
  return ClientError::kNone;
}

ClientError check_head(const ClientRequest& request) noexcept {
  if (!is_token(request.method) || request.method == "CONNECT") {
    return ClientError::kProtocolError;
  }
  const std::string_view target = request.path_query;
  const bool asterisk = target == "*" && request.method == "OPTIONS";
  if (!is_target(target) ||
      (!target.empty() && target.front() != '/' && target.front() != '?' && !asterisk)) {
    return ClientError::kRequestUriInvalid;
  }
  const bool fields_fit = std::ranges::all_of(request.fields, [](const Field& field) {
    return is_token(field.name) && is_field_value(field.value);
  });
  return fields_fit ? ClientError::kNone : ClientError::kProtocolError;
}

std::string write_head(const ClientRequest& request) {
  std::string head;
  std::size_t bytes = request.method.size() + request.path_query.size() + request.authority.size();
  for (const Field& field : request.fields) {
    bytes += field.name.size() + field.value.size() + 4;
  }
  head.reserve(bytes + 128);
  const bool rooted = !request.path_query.empty() && request.path_query.front() != '?';
  fmt::format_to(std::back_inserter(head), "{} {}{} HTTP/1.1\r\nHost: {}\r\n", request.method,
                 rooted ? "" : "/", request.path_query, request.authority);
  for (const Field& field : request.fields) {
    if (is_hop_by_hop(field.name, request.fields) || equals_ignoring_case(field.name, "host") ||
        equals_ignoring_case(field.name, "content-length") ||
        equals_ignoring_case(field.name, "expect")) {
      continue;
    }
    head += field.name;
    head += ": ";
    head += field.value;
    head += "\r\n";
  }
  return head;
}

void finish_head(std::string& head, std::string_view method, Framing framing,
                 std::uint64_t length) {
  // RFC 9110 section 8.6: a method that gives content a meaning says that there is none.
  const bool wants_length = method == "POST" || method == "PUT" || method == "PATCH";
  if (framing == Framing::kChunked) {
    head += "Transfer-Encoding: chunked\r\n";
  } else if (framing == Framing::kLength) {
    fmt::format_to(std::back_inserter(head), "Content-Length: {}\r\n", length);
  } else if (wants_length) {
    head += "Content-Length: 0\r\n";
  }
  head += "\r\n";
}

bool is_hop_by_hop(std::string_view name, std::span<const Field> fields) noexcept {
  constexpr std::array<std::string_view, 11> kNames = {"connection",
                                                       "keep-alive",
                                                       "proxy-authenticate",
                                                       "proxy-authorization",
                                                       "proxy-connection",
                                                       "te",
                                                       "trailer",
                                                       "transfer-encoding",
                                                       "upgrade",
                                                       "http2-settings",
                                                       "trailers"};
  if (std::ranges::any_of(kNames, [&](std::string_view n) { return equals_lower(name, n); })) {
    return true;
  }
  return std::ranges::any_of(fields, [&](const Field& field) {
    return equals_lower(field.name, "connection") &&
           any_element(field.value,
                       [&](std::string_view n) { return equals_ignoring_case(name, n); });
  });
}

bool is_idempotent(std::string_view method) noexcept {
  constexpr std::array<std::string_view, 6> kMethods = {"GET",    "HEAD",    "PUT",
                                                        "DELETE", "OPTIONS", "TRACE"};
  return std::ranges::find(kMethods, method) != kMethods.end();
}

std::optional<std::uint32_t> keep_alive_timeout(std::span<const Field> fields) noexcept {
  std::optional<std::uint32_t> seconds;
  for (const Field& field : fields) {
    if (!equals_lower(field.name, "keep-alive")) {
      continue;
    }
    any_element(field.value, [&](std::string_view element) {
      constexpr std::string_view kName = "timeout=";
      if (element.size() <= kName.size() ||
          !equals_ignoring_case(element.substr(0, kName.size()), kName)) {
        return false;
      }
      std::uint32_t value = 0;
      const char* end = element.data() + element.size();
      const auto [stop, error] = std::from_chars(element.data() + kName.size(), end, value);
      if (error == std::errc() && stop == end) {
        seconds = value;
      }
      return seconds.has_value();
    });
  }
  return seconds;
}

}  // namespace mik::http
