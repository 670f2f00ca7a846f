#include "config/check_dependency.hpp"

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

namespace mik::config {

namespace {

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](char c) {
    return static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  });
  return text;
}

// http, https, git or ssh with a host, or git@host:path.
bool is_git_url(const std::string& url) {
  for (const std::string_view scheme : {"http://", "https://", "git://", "ssh://"}) {
    if (url.starts_with(scheme)) {
      return url.size() > scheme.size() && url[scheme.size()] != '/';
    }
  }
  const std::size_t colon = url.find(':');
  return url.starts_with("git@") && colon != std::string::npos && colon > 4 &&
         colon + 1 < url.size();
}

}  // namespace

void check_dependency(const Document& document, const Table& table, Purpose purpose,
                      std::vector<Problem>& problems) {
  const auto problem = [&](const Origin& at, std::string_view text, bool warning = false) {
    problems.push_back({at, fmt::format("{}: {}", table.path, text), warning});
  };
  const bool dev = table.section->id == SectionId::kDevDependencies;
  if (table.name.empty()) {
    problem(table.origin, dev ? "Empty dev-dependency name found" : "Empty dependency name found");
  }
  std::string sources;
  int count = 0;
  for (const auto& [key, empty] :
       {std::pair<std::string_view, std::string_view>{"version", "empty version string"},
        {"git", "empty git URL"},
        {"path", "empty path"},
        {"registry", "empty registry URL"}}) {
    const Value* value = table.find(key);
    if (value == nullptr) {
      continue;
    }
    if (value->text().empty()) {
      problem(value->origin, empty);
    }
    sources += (count++ == 0 ? "" : ", ") + std::string(key);
  }
  const bool registry = table.find("registry") != nullptr;
  const bool version = table.find("version") != nullptr;
  if (count == 0) {
    problem(table.origin, "must specify at least one source: version, git, path or registry");
  } else if (count > 1 && !(count == 2 && registry && version)) {
    problem(table.origin, fmt::format("multiple sources: {}; name one", sources));
  }
  if (registry && !version) {
    problem(table.find("registry")->origin, "a registry must specify a version");
  }
  if (const Value* git = table.find("git");
      git != nullptr && !git->text().empty() && !is_git_url(git->text())) {
    problem(git->origin,
            fmt::format("invalid git URL {}: write https://host/path, http://, git://, ssh:// or "
                        "git@host:path",
                        in_quotes(git->text())));
  }
  if ((table.find("branch") != nullptr) + (table.find("tag") != nullptr) +
          (table.find("rev") != nullptr) >
      1) {
    problem(table.origin, "multiple git refs: name one of branch, tag and rev");
  }
  const Value* path = table.find("path");
  if (path == nullptr || path->text().empty() || document.file.empty()) {
    return;
  }
  namespace fs = std::filesystem;
  std::error_code ignored;
  const fs::path whole = fs::path(document.file).parent_path() / path->text();
  const bool warning = purpose == Purpose::kRun;
  if (!fs::exists(whole, ignored)) {
    problem(path->origin, fmt::format("non-existent path {}", in_quotes(whole.string())), warning);
  } else if (!fs::is_directory(whole, ignored) && lower(whole.extension().string()) != ".wasm") {
    problem(path->origin,
            fmt::format("{} should be a .wasm file or a folder", in_quotes(whole.string())),
            warning);
  }
}

}  // namespace mik::config
