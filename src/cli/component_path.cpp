#include "cli/component_path.hpp"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <string_view>

#include <fmt/format.h>

#include "base/fd.hpp"

namespace mik::cli {

namespace {

using base::Error;
using base::ErrorCode;
namespace fs = std::filesystem;

std::optional<std::string> first_match(const std::string& pattern) {
  glob_t found{};
  std::optional<std::string> match;
  if (::glob(pattern.c_str(), 0, nullptr, &found) == 0 && found.gl_pathc > 0) {
    match = found.gl_pathv[0];
  }
  ::globfree(&found);
  return match;
}

std::optional<std::string> default_file() {
  for (const char* pattern : {"target/composed.wasm", "target/wasm32-wasip2/release/*.wasm",
                              "target/wasm32-wasip2/debug/*.wasm"}) {
    if (auto match = first_match(pattern); match.has_value()) {
      return match;
    }
  }
  return std::nullopt;
}

base::Result<void> check_file(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT) {
      return Error(ErrorCode::kNotFound, fmt::format("no such file: {}", path))
          .with_help("give the path of a component: mik run app.wasm");
    }
    return Error::from_errno(fmt::format("cannot look at {}", path), errno);
  }
  if (S_ISDIR(info.st_mode)) {
    return Error(ErrorCode::kNotComponent, fmt::format("{} is a directory", path))
        .with_help("name one component file in it");
  }
  if (!S_ISREG(info.st_mode)) {
    return Error(ErrorCode::kNotComponent, fmt::format("{} is not a regular file", path));
  }
  const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) {
    return Error::from_errno(fmt::format("cannot open {}", path), errno);
  }
  std::array<char, 4> magic{};
  if (::read(fd.get(), magic.data(), magic.size()) != static_cast<ssize_t>(magic.size()) ||
      std::string_view(magic.data(), magic.size()) != std::string_view("\0asm", 4)) {
    return Error(ErrorCode::kNotComponent, fmt::format("{} is not WebAssembly", path))
        .with_help("a component begins with the bytes 00 61 73 6d");
  }
  return {};
}

}  // namespace

base::Result<ComponentFile> find_component(const std::optional<std::string>& path) {
  std::string chosen = path.value_or("");
  if (chosen.empty()) {
    const auto found = default_file();
    if (!found.has_value()) {
      return Error(ErrorCode::kNotFound, "no component given, and none found below target/")
          .with_help("give its path: mik run app.wasm");
    }
    chosen = *found;
  } else if (::access(chosen.c_str(), F_OK) != 0 && chosen.find('*') != std::string::npos) {
    const auto found = first_match(chosen);
    if (!found.has_value()) {
      return Error(ErrorCode::kNotFound, fmt::format("nothing matches {}", chosen));
    }
    chosen = *found;
  }
  MIK_TRY(check_file(chosen));
  ComponentFile file;
  std::error_code ignored;
  file.path = fs::absolute(chosen, ignored).string();
  const fs::path as_path(chosen);
  std::string extension = as_path.extension().string();
  for (char& c : extension) {
    c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  }
  if (extension != ".wasm") {
    file.warning = fmt::format("{} does not end in .wasm", chosen);
  }
  file.name = as_path.stem().string();
  constexpr std::string_view kComposed = "-composed";
  if (file.name.size() > kComposed.size() && file.name.ends_with(kComposed)) {
    file.name.resize(file.name.size() - kComposed.size());
  }
  if (file.name.empty()) {
    file.name = "component";
  }
  return file;
}

}  // namespace mik::cli
