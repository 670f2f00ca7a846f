#include "files/path.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace mik::files {

namespace {

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') {
    return c - '0';
  }
  const char folded = static_cast<char>(c | 0x20);
  return folded >= 'a' && folded <= 'f' ? folded - 'a' + 10 : -1;
}

// False: an escape that is none.
bool decode(std::string_view raw, std::string& out) {
  out.clear();
  for (std::size_t i = 0; i < raw.size(); ++i) {
    if (raw[i] != '%') {
      out += raw[i];
      continue;
    }
    if (i + 2 >= raw.size() || hex_digit(raw[i + 1]) < 0 || hex_digit(raw[i + 2]) < 0) {
      return false;
    }
    out += static_cast<char>(hex_digit(raw[i + 1]) * 16 + hex_digit(raw[i + 2]));
    i += 2;
  }
  return true;
}

void drop_last(std::string& path) {
  const std::size_t slash = path.rfind('/');
  path.resize(slash == std::string::npos ? 0 : slash);
}

bool is_plain(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("-._~!$&'()*+,;=:@/").find(c) != std::string_view::npos;
}

using Type = std::pair<std::string_view, std::string_view>;

constexpr std::array kTypes = {
    Type{"atom", "application/atom+xml; charset=utf-8"},
    Type{"avif", "image/avif"},
    Type{"bmp", "image/bmp"},
    Type{"css", "text/css; charset=utf-8"},
    Type{"csv", "text/csv; charset=utf-8"},
    Type{"flac", "audio/flac"},
    Type{"gif", "image/gif"},
    Type{"gz", "application/gzip"},
    Type{"htm", "text/html; charset=utf-8"},
    Type{"html", "text/html; charset=utf-8"},
    Type{"ico", "image/x-icon"},
    Type{"ics", "text/calendar; charset=utf-8"},
    Type{"jpeg", "image/jpeg"},
    Type{"jpg", "image/jpeg"},
    Type{"js", "text/javascript; charset=utf-8"},
    Type{"json", "application/json; charset=utf-8"},
    Type{"jsonld", "application/ld+json; charset=utf-8"},
    Type{"jxl", "image/jxl"},
    Type{"m4a", "audio/m4a"},
    Type{"map", "text/plain; charset=utf-8"},
    Type{"md", "text/markdown; charset=utf-8"},
    Type{"mjs", "application/javascript; charset=utf-8"},
    Type{"mp3", "audio/mpeg"},
    Type{"mp4", "video/mp4"},
    Type{"mpeg", "video/mpeg"},
    Type{"oga", "audio/ogg"},
    Type{"ogg", "audio/ogg"},
    Type{"ogv", "video/ogg"},
    Type{"otf", "font/otf"},
    Type{"pdf", "application/pdf"},
    Type{"png", "image/png"},
    Type{"rss", "application/rss+xml; charset=utf-8"},
    Type{"svg", "image/svg+xml"},
    Type{"tar", "application/x-tar"},
    Type{"tif", "image/tiff"},
    Type{"tiff", "image/tiff"},
    Type{"ts", "video/vnd.dlna.mpeg-tts"},
    Type{"ttf", "font/ttf"},
    Type{"txt", "text/plain; charset=utf-8"},
    Type{"vtt", "text/vtt; charset=utf-8"},
    Type{"wasm", "application/wasm"},
    Type{"wav", "audio/wav"},
    Type{"webm", "video/webm"},
    Type{"webmanifest", "application/manifest+json; charset=utf-8"},
    Type{"webp", "image/webp"},
    Type{"woff", "font/woff"},
    Type{"woff2", "font/woff2"},
    Type{"xhtml", "application/xhtml+xml; charset=utf-8"},
    Type{"xml", "text/xml; charset=utf-8"},
    Type{"zip", "application/zip"},
    Type{"zst", "application/zstd"},
};
static_assert(std::ranges::is_sorted(kTypes, {}, &Type::first));

}  // namespace

PathProblem parse_path(std::string_view raw, FilePath& out) {
  out.path.clear();
  out.folder = true;
  std::string name;
  while (!raw.empty()) {
    const std::size_t slash = raw.find('/');
    if (!decode(raw.substr(0, slash), name) || name.find('\0') != std::string::npos) {
      return PathProblem::kMalformed;
    }
    raw.remove_prefix(slash == std::string_view::npos ? raw.size() : slash + 1);
    out.folder = slash != std::string_view::npos || name == "." || name == "..";
    if (name.empty() || name == ".") {
      continue;
    }
    if (name == "..") {
      if (out.path.empty()) {
        return PathProblem::kAbsent;
      }
      drop_last(out.path);
      continue;
    }
    if (name.front() == '.' || name.find('/') != std::string::npos) {
      return PathProblem::kAbsent;
    }
    if (!out.path.empty()) {
      out.path += '/';
    }
    out.path += name;
  }
  return PathProblem::kNone;
}

std::string folder_url(std::string_view path) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string url = "/static/";
  for (const char c : path) {
    if (is_plain(c)) {
      url += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      url += '%';
      url += kHex[byte >> 4];
      url += kHex[byte & 15];
    }
  }
  if (!path.empty()) {
    url += '/';
  }
  return url;
}

std::string_view content_type(std::string_view path) noexcept {
  constexpr std::string_view kUnknown = "application/octet-stream";
  constexpr std::size_t kLongest = 11;  // webmanifest
  const std::string_view name = path.substr(path.rfind('/') + 1);
  const std::size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || name.size() - dot - 1 > kLongest) {
    return kUnknown;
  }
  std::array<char, kLongest> buffer{};
  const std::string_view extension = name.substr(dot + 1);
  std::ranges::transform(extension, buffer.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  });
  const std::string_view folded(buffer.data(), extension.size());
  const auto* const found = std::ranges::lower_bound(kTypes, folded, {}, &Type::first);
  return found != kTypes.end() && found->first == folded ? found->second : kUnknown;
}

}  // namespace mik::files
