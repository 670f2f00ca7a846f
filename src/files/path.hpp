// From the path of a URL to that of a file below the static folder. Pure functions: thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace mik::files {

enum class PathProblem : std::uint8_t {
  kNone,
  kMalformed,  // an escape that is none, a NUL: 400
  kAbsent,     // nothing that is served can have that name: above the folder, hidden, an escaped
               // slash: 404
};

struct FilePath {
  std::string path;     // relative, without "." and "..", no slash at either end; "" is the folder
  bool folder = false;  // the URL names a folder: it ends with a slash
};

// `raw` is what stands behind "/static/", without the query. Decoded once (RFC 3986 section 2.1),
// then dot segments are resolved and empty ones dropped. A name that begins with a dot is hidden.
PathProblem parse_path(std::string_view raw, FilePath& out);

// "/static/" and the path with escapes where they are needed, and a slash behind it: never two
// slashes in a row, which would name another host (RFC 3986 section 4.2).
std::string folder_url(std::string_view path);

// Of the extension, in any case: with a charset where it is text. "application/octet-stream" for
// what nobody knows.
std::string_view content_type(std::string_view path) noexcept;

}  // namespace mik::files
