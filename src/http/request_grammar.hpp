// The grammar of request heads once more, written line by line from the RFCs with no thought of
// speed: what the parser is compared with. For tests and fuzzing only; pure functions.
#pragma once

#include <arpa/inet.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/message.hpp"

namespace mik::http::testing {

struct GrammarHead {
  std::set<int> errors;  // every status that fits something that is wrong; empty: accepted
  std::string method, target, path_query, authority;
  int minor = 1;
  bool chunked = false;
  std::uint64_t length = 0;
  bool keep_alive = true;
  bool expect_continue = false;
  bool te_trailers = false;
  std::vector<std::pair<std::string, std::string>> fields;
};

inline bool one_of(char c, std::string_view set) { return set.find(c) != std::string_view::npos; }
inline bool alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
inline bool digit(char c) { return c >= '0' && c <= '9'; }
inline bool hex(char c) { return digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
inline bool tchar(char c) { return alpha(c) || digit(c) || one_of(c, "!#$%&'*+-.^_`|~"); }
inline bool vchar(char c) { return c >= 0x21 && c <= 0x7e; }
inline bool obs_text(char c) { return static_cast<unsigned char>(c) >= 0x80; }

inline bool token(std::string_view text) {
  for (const char c : text) {
    if (!tchar(c)) {
      return false;
    }
  }
  return !text.empty();
}

inline std::string folded(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out.push_back(c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c);
  }
  return out;
}

inline std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == at) {
      parts.emplace_back();
    } else {
      parts.back().push_back(c);
    }
  }
  return parts;
}

inline std::string without_blanks(std::string text) {
  while (!text.empty() && one_of(text.front(), " \t")) {
    text.erase(0, 1);
  }
  while (!text.empty() && one_of(text.back(), " \t")) {
    text.pop_back();
  }
  return text;
}

// Lower-case members of a list of tokens.
inline std::vector<std::string> members(std::string_view list) {
  std::vector<std::string> found;
  for (const std::string& part : split(list, ',')) {
    found.push_back(folded(without_blanks(part)));
  }
  return found;
}

// uri-host [ ":" port ] with a host that is not empty; `port` is set when there are digits.
inline bool authority_fits(std::string_view text, bool& has_port) {
  std::string host(text);
  std::string port;
  const std::size_t colon = host.rfind(':');
  if (colon != std::string::npos && host.find(']', colon) == std::string::npos) {
    port = host.substr(colon + 1);
    host.erase(colon);
  }
  std::uint64_t number = 0;
  for (const char c : port) {
    if (!digit(c)) {
      return false;
    }
    number = number > 65535 ? number : number * 10 + static_cast<std::uint64_t>(c - '0');
  }
  has_port = !port.empty();
  if (number > 65535 || host.empty()) {
    return false;
  }
  if (host.front() == '[') {
    in6_addr address{};
    return host.back() == ']' && host.find('\0') == std::string::npos &&
           inet_pton(AF_INET6, host.substr(1, host.size() - 2).c_str(), &address) == 1;
  }
  for (std::size_t i = 0; i < host.size(); ++i) {
    if (host[i] == '%') {
      if (i + 2 >= host.size() || !hex(host[i + 1]) || !hex(host[i + 2])) {
        return false;
      }
    } else if (!alpha(host[i]) && !digit(host[i]) && !one_of(host[i], "-._~!$&'()*+,;=")) {
      return false;
    }
  }
  return true;
}

// By decoding code points and asking whether each needed that many bytes.
inline bool utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const int more = lead < 0x80       ? 0
                     : lead >> 5 == 6  ? 1
                     : lead >> 4 == 14 ? 2
                     : lead >> 3 == 30 ? 3
                                       : -1;
    if (more < 0 || i + static_cast<std::size_t>(more) >= text.size()) {
      return false;
    }
    std::uint32_t point = more == 0 ? lead : lead & (0x3fU >> more);
    for (int k = 1; k <= more; ++k) {
      const auto next = static_cast<unsigned char>(text[i + static_cast<std::size_t>(k)]);
      if (next >> 6 != 2) {
        return false;
      }
      point = point << 6 | (next & 0x3fU);
    }
    const std::uint32_t least = more == 0 ? 0 : more == 1 ? 0x80 : more == 2 ? 0x800 : 0x10000;
    if (point < least || point > 0x10ffff || (point >= 0xd800 && point <= 0xdfff)) {
      return false;
    }
    i += static_cast<std::size_t>(more) + 1;
  }
  return true;
}

inline std::optional<std::uint64_t> length_of(std::string_view text) {
  unsigned __int128 value = 0;
  for (const char c : text) {
    if (!digit(c)) {
      return std::nullopt;
    }
    value = value * 10 + static_cast<unsigned>(c - '0');
    if (value > ~std::uint64_t{0}) {
      return std::nullopt;
    }
  }
  return text.empty() ? std::nullopt : std::optional(static_cast<std::uint64_t>(value));
}

// RFC 9112 section 3.2: path_query and authority, or an error.
inline void read_target(GrammarHead& head) {
  bool has_port = false;
  if (head.method == "CONNECT") {
    if (!authority_fits(head.target, has_port) || !has_port) {
      head.errors.insert(400);
    }
    head.authority = head.target;
    return;
  }
  head.path_query = head.target;
  if (head.target == "*") {
    if (head.method != "OPTIONS") {
      head.errors.insert(400);
    }
  } else if (head.target.empty() || head.target.front() != '/') {
    const std::string lower = folded(head.target);
    const std::size_t scheme = lower.starts_with("http://")    ? 7
                               : lower.starts_with("https://") ? 8
                                                               : 0;
    if (scheme == 0) {
      head.errors.insert(400);
      return;
    }
    const std::string rest = head.target.substr(scheme);
    const std::size_t end = rest.find_first_of("/?");
    head.authority = rest.substr(0, end);
    head.path_query = end != std::string::npos   ? rest.substr(end)
                      : head.method == "OPTIONS" ? "*"
                                                 : "/";
    if (head.path_query.front() == '?' || !authority_fits(head.authority, has_port)) {
      head.errors.insert(400);
    }
  }
  if (!utf8(head.path_query)) {
    head.errors.insert(400);
  }
}

// request-line = method SP request-target SP HTTP-version
inline void read_request_line(const std::string& line, const Limits& limits, GrammarHead& head) {
  const std::size_t space = line.find(' ');
  if (space != std::string::npos) {
    std::size_t run = space + 1;
    while (run < line.size() && line[run] != '#' && (vchar(line[run]) || obs_text(line[run]))) {
      ++run;
    }
    if (run - space - 1 > limits.target_bytes_max) {
      head.errors.insert(414);
    }
  }
  const std::vector<std::string> parts = split(line, ' ');
  if (parts.size() != 3 || !token(parts[0]) || parts[1].empty()) {
    head.errors.insert(400);
  }
  const std::string& version = parts.size() < 3 ? line : parts[2];
  if (version.size() != 8 || !version.starts_with("HTTP/") || !digit(version[5]) ||
      version[6] != '.' || !digit(version[7])) {
    head.errors.insert(400);
  } else if (version[5] != '1') {
    head.errors.insert(505);
  } else {
    head.minor = version[7] == '0' ? 0 : 1;
  }
  if (parts.size() == 3) {
    head.method = parts[0];
    head.target = parts[1];
  }
  for (const char c : head.target) {
    if (c == '#' || (!vchar(c) && !obs_text(c))) {
      head.errors.insert(400);
    }
  }
}

// field-line = field-name ":" OWS field-value OWS
inline void read_field_line(const std::string& line, GrammarHead& head) {
  const std::size_t colon = line.find(':');
  const std::string name = line.substr(0, colon);
  const std::string value =
      colon == std::string::npos ? "" : without_blanks(line.substr(colon + 1));
  if (colon == std::string::npos || !token(name)) {
    head.errors.insert(400);
  }
  for (const char c : value) {
    if (!vchar(c) && !obs_text(c) && !one_of(c, " \t")) {
      head.errors.insert(400);
    }
  }
  head.fields.emplace_back(name, value);
}

inline void read_meaning(GrammarHead& head) {
  int hosts = 0;
  int lengths = 0;
  int codings = 0;
  bool close = false;
  bool keep = false;
  bool expect = false;
  bool trailers = false;
  for (const auto& [written, value] : head.fields) {
    const std::string name = folded(written);
    bool has_port = false;
    if (name == "host") {
      ++hosts;
      head.authority = value;
      if (!authority_fits(value, has_port) && !(value.empty() && head.minor == 0)) {
        head.errors.insert(400);
      }
    } else if (name == "content-length") {
      ++lengths;
      if (!length_of(value).has_value()) {
        head.errors.insert(400);
      }
      head.length = length_of(value).value_or(0);
    } else if (name == "transfer-encoding") {
      ++codings;
      if (folded(value) != "chunked") {
        head.errors.insert(400);
      }
    } else if (name == "expect") {
      expect = expect || folded(value) == "100-continue";
    } else if (name == "connection" || name == "te") {
      for (const std::string& member : members(value)) {
        close = close || (name == "connection" && member == "close");
        keep = keep || (name == "connection" && member == "keep-alive");
        trailers = trailers || (name == "te" && member == "trailers");
      }
    }
  }
  head.chunked = codings > 0;
  if (hosts > 1 || (hosts == 0 && head.minor == 1) || lengths > 1 || codings > 1 ||
      (codings > 0 && (lengths > 0 || head.minor == 0))) {
    head.errors.insert(400);
  }
  head.keep_alive = !close && (head.minor == 1 || keep);
  head.te_trailers = trailers && head.minor == 1;
  head.expect_continue = expect && head.minor == 1 && (head.chunked || head.length > 0);
}

// How many bytes of empty lines come first.
inline std::size_t empty_lines(std::string_view bytes) {
  std::size_t at = 0;
  while (bytes.substr(at).starts_with("\r\n")) {
    at += 2;
  }
  return at;
}

// Reads a whole head: empty lines, if any, and then all up to the first CRLF CRLF.
inline GrammarHead read_head(std::string_view bytes, const Limits& limits, std::size_t fields_max) {
  GrammarHead head;
  if (bytes.size() > limits.head_bytes_max) {
    head.errors.insert(431);
  }
  if (empty_lines(bytes) > 16) {
    head.errors.insert(400);
  }
  bytes.remove_prefix(empty_lines(bytes));
  bytes.remove_suffix(4);
  std::vector<std::string> lines = split(bytes, '\n');
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i + 1 < lines.size()) {  // the last one lost its CRLF above
      if (!lines[i].ends_with('\r')) {
        head.errors.insert(400);
      } else {
        lines[i].pop_back();
      }
    }
    if (lines[i].find('\r') != std::string::npos) {
      head.errors.insert(400);
    }
  }
  read_request_line(lines[0], limits, head);
  for (std::size_t i = 1; i < lines.size(); ++i) {
    read_field_line(lines[i], head);
  }
  if (head.fields.size() > fields_max) {
    head.errors.insert(431);
  }
  read_meaning(head);
  read_target(head);
  return head;
}

}  // namespace mik::http::testing
