// The path of a URL. Whatever it is, what comes out names nothing above the folder and nothing
// hidden, and the URL that is made of it means the same again.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "files/path.hpp"

namespace {

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "a static path is read wrongly: %s\n", what);
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mik::files;
  FilePath file;
  if (parse_path(std::string_view(reinterpret_cast<const char*>(data), size), file) !=
      PathProblem::kNone) {
    return 0;
  }
  const std::string in_slashes = "/" + file.path + "/";
  if (!file.path.empty()) {
    require(in_slashes.find("//") == std::string::npos, "an empty name");
  }
  require(in_slashes.find("/.") == std::string::npos, "a name with a dot in front");
  require(file.path.find('\0') == std::string::npos, "a NUL");
  require(!content_type(file.path).empty(), "no type");

  const std::string url = folder_url(file.path);
  require(url.starts_with("/static/") && url.find("//") == std::string::npos, "another host");
  for (const char c : url) {
    require(c > ' ' && c < 0x7f && c != '"' && c != '?' && c != '#', "a URL that is none");
  }
  FilePath again;
  require(parse_path(std::string_view(url).substr(8), again) == PathProblem::kNone &&
              again.path == file.path && again.folder,
          "not the same again");
  return 0;
}
