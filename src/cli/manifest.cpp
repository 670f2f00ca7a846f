#include "cli/manifest.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <tuple>

#include <fmt/format.h>

#include "base/fd.hpp"
#include "cli/syntax.hpp"
#include "config/reader.hpp"
#include "http/server_tls.hpp"

namespace mik::cli {

namespace {

using base::Error;
using base::ErrorCode;
using config::Origin;
using config::SectionId;
using config::Value;

constexpr const char* kManifestName = "mik.toml";

base::Result<std::string> read_file(const std::string& path) {
  const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info{};
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) {
    return Error::from_errno(fmt::format("cannot open {}", path), errno);
  }
  if (!S_ISREG(info.st_mode)) {
    return Error(ErrorCode::kConfig, fmt::format("{} is not a regular file", path));
  }
  std::string text;
  std::array<char, 65536> block;
  while (text.size() <= config::kManifestBytesMax) {  // the reader refuses what is longer
    const ssize_t n = ::read(fd.get(), block.data(), block.size());
    if (n < 0 && errno == EINTR) {
      continue;
    }
    if (n < 0) {
      return Error::from_errno(fmt::format("cannot read {}", path), errno);
    }
    if (n == 0) {
      break;
    }
    text.append(block.data(), static_cast<std::size_t>(n));
  }
  return text;
}

class Flags {
 public:
  Flags(config::Document& document, const RunArguments& flags)
      : server_(document.at(SectionId::kServer)), flags_(flags) {}

  void lay_over() {
    number("execution_timeout_secs", "--timeout", flags_.timeout_secs);
    number("memory_limit_bytes", "--memory-limit", flags_.memory_limit_bytes);
    number("reuse", "--reuse", flags_.reuse);
    number("workers", "--workers", flags_.workers);
    if (!flags_.allow_hosts.empty()) {
      set("http_allowed", "--allow-host", flags_.allow_hosts);
    }
    add_env();
  }

 private:
  template <class Data>
  void set(std::string_view key, const char* flag, Data data) {
    server_.set(*config::find_key(SectionId::kServer, key),
                {.data = std::move(data), .origin = {Origin::Kind::kFlag, flag, 0, 0}});
  }
  template <class Number>
  void number(std::string_view key, const char* flag, const std::optional<Number>& value) {
    if (value.has_value()) {
      set(key, flag, static_cast<std::uint64_t>(*value));
    }
  }
  // Over those of the file, name by name; a flag's value is taken to the letter.
  void add_env() {
    if (flags_.env.empty()) {
      return;
    }
    const Value* old = server_.find("env");
    Value merged = old != nullptr ? *old : Value{.data = config::Pairs()};
    auto& pairs = std::get<config::Pairs>(merged.data);
    merged.elements.resize(pairs.size(), merged.origin);
    const Origin origin{Origin::Kind::kFlag, "--env", 0, 0};
    for (const auto& [name, value] : flags_.env) {
      std::string text = value;
      for (std::size_t i = text.find("${"); i != std::string::npos; i = text.find("${", i + 3)) {
        text.insert(i, "$");
      }
      const auto same = std::ranges::find(pairs, name, [](const auto& pair) { return pair.first; });
      if (same != pairs.end()) {
        same->second = text;
        merged.elements[static_cast<std::size_t>(same - pairs.begin())] = origin;
      } else {
        pairs.emplace_back(name, text);
        merged.elements.push_back(origin);
      }
    }
    merged.origin = origin;
    server_.set(*config::find_key(SectionId::kServer, "env"), std::move(merged));
  }

  config::Table& server_;
  const RunArguments& flags_;
};

// Files that must be there as soon as they are named.
void check_files(const config::Document& document, std::vector<config::Problem>& problems) {
  for (const std::string_view key : {"tls_cert", "tls_key", "http_ca_file"}) {
    const Value* path = document.find(SectionId::kServer, key);
    if (path == nullptr || path->text().empty()) {
      continue;
    }
    const auto text = read_file(path->text());
    if (!text.has_value()) {
      problems.push_back({path->origin, fmt::format("server.{}: {}", key, text.error().message())});
    } else if (text->find("-----BEGIN ") == std::string::npos) {
      problems.push_back(
          {path->origin, fmt::format("server.{}: {} holds no PEM", key, path->text())});
    }
  }
  const Value* cert = document.find(SectionId::kServer, "tls_cert");
  const Value* key = document.find(SectionId::kServer, "tls_key");
  if (cert == nullptr || key == nullptr || cert->text().empty() || key->text().empty() ||
      !problems.empty()) {
    return;
  }
  // As workers do it: what they could not load must not replace what serves.
  const auto tls = http::ServerTls::load({cert->text(), key->text()}, {});
  if (!tls.has_value()) {
    const bool of_cert = tls.error().message().starts_with("tls_cert");
    problems.push_back({(of_cert ? cert : key)->origin, "server." + tls.error().message()});
  }
}

// Of the key that it stands for is nothing said: the flag in its place.
Error wrong_flag(const config::Problem& problem) {
  const std::size_t key = std::min(problem.text.find_first_of(": "), problem.text.size());
  return Error(ErrorCode::kUsage, problem.at.name + problem.text.substr(key))
      .with_help("docs/reference/cli.md says what it takes");
}

}  // namespace

base::Result<std::string> find_manifest(const std::optional<std::string>& file) {
  namespace fs = std::filesystem;
  std::error_code error;
  const std::string name = file.value_or(kManifestName);
  const fs::path path = fs::absolute(name, error).lexically_normal();
  if (fs::exists(path, error)) {
    return path.string();
  }
  if (!file.has_value() && !error) {
    return std::string();
  }
  if (error) {
    return Error(ErrorCode::kSystem,
                 fmt::format("cannot look at {}: {}", path.string(), error.message()));
  }
  return Error(ErrorCode::kNotFound, fmt::format("no such file: {}", path.string()))
      .with_help("name a manifest that is there, as /etc/mik/mik.toml");
}

base::Result<Manifest> load_manifest(const std::string& file, const RunArguments& flags,
                                     const config::Folders& folders, config::Purpose purpose) {
  Manifest manifest;
  if (!file.empty()) {
    MIK_TRY_ASSIGN(const std::string text, read_file(file));
    config::ReadResult read = config::read_manifest(text, file);
    manifest.document = std::move(read.document);
    manifest.problems = std::move(read.problems);
  }
  Flags(manifest.document, flags).lay_over();
  config::complete(manifest.document, folders);
  for (config::Problem& problem : config::check(manifest.document, manifest_syntax(), purpose)) {
    manifest.problems.push_back(std::move(problem));
  }
  check_files(manifest.document, manifest.problems);
  sort_problems(manifest.problems);
  return manifest;
}

void sort_problems(std::vector<config::Problem>& problems) {
  std::ranges::sort(problems, {}, [](const config::Problem& problem) {
    return std::tie(problem.at.line, problem.at.column, problem.text);
  });
}

base::Result<void> refuse_problems(const std::vector<config::Problem>& problems,
                                   const std::string& file) {
  std::vector<const config::Problem*> errors;
  for (const config::Problem& problem : problems) {
    if (!problem.warning) {
      errors.push_back(&problem);
    }
  }
  if (errors.empty()) {
    return {};
  }
  const auto flag = std::ranges::find_if(errors, [](const config::Problem* problem) {
    return problem->at.kind == Origin::Kind::kFlag;
  });
  if (flag != errors.end()) {
    return wrong_flag(**flag);
  }
  Error error(ErrorCode::kConfig, errors.back()->to_string());
  for (std::size_t i = errors.size() - 1; i-- > 0;) {
    error = std::move(error).because(errors[i]->to_string());
  }
  return std::move(error)
      .because(fmt::format("{}{} problem{}",
                           file.empty() ? "the configuration cannot be used: "
                                        : fmt::format("{} cannot be used: ", file),
                           errors.size(), errors.size() == 1 ? "" : "s"))
      .with_help("docs/reference/config.md lists every key; 'mik config check' looks again");
}

}  // namespace mik::cli
