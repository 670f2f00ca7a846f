#include "cli/config_command.hpp"

#include <unistd.h>

#include <cstdio>

#include <fmt/format.h>

namespace mik::cli {

namespace {

using config::Key;
using config::Section;
using config::SectionId;
using config::Shape;
using config::Table;
using config::Value;

// Values of an environment may be secrets, unless they only name a variable.
Value masked(const Key& key, const Value& value) {
  Value out = value;
  if (key.type == config::Type::kPairs) {
    for (auto& [name, text] : std::get<config::Pairs>(out.data)) {
      if (!(text.starts_with("${") && text.find('}') == text.size() - 1)) {
        text = "***";
      }
    }
  }
  if (key.check == config::Check::kUrl) {
    auto& text = std::get<std::string>(out.data);
    const std::size_t start = text.find("://") + 3;
    const std::size_t end = std::min(text.find_first_of("/?#", start), text.size());
    if (const std::size_t at = text.rfind('@', end); at != std::string::npos && at > start) {
      text.replace(start, at - start, "***");
    }
  }
  return out;
}

std::string header(const Table& table) {
  const std::string_view name = table.section->name;
  switch (table.section->shape) {
    case Shape::kOne:
      return fmt::format("[{}]", name);
    case Shape::kNamed:
      return fmt::format("[{}.{}]", name, config::key_text(table.name));
    case Shape::kList:
      return fmt::format("[[{}]]", name);
  }
  return {};
}

// In the model's order, whatever the order of the file.
void show_table(const Table& table, std::string& out) {
  out += "\n" + header(table) + "\n";
  for (const Key& key : config::keys()) {
    const Value* value = key.section == table.section->id ? table.find(key.name) : nullptr;
    if (value == nullptr || key.type == config::Type::kPersons) {
      continue;
    }
    // Naming one of these makes a log file: a default is told, but must not be read again.
    const bool told =
        key.name.starts_with("log_max_") && value->origin.kind == config::Origin::Kind::kDefault;
    std::string line =
        fmt::format("{}{} = {}", told ? "# " : "", key.name, config::to_toml(masked(key, *value)));
    out += fmt::format("{:<44}  # {}\n", line, value->origin.to_string());
  }
}

// Sections without effect on a server are shown when the file has them.
bool is_worth_showing(const Table& table) {
  const bool aside =
      table.section->id == SectionId::kComposition || table.section->id == SectionId::kLb;
  if (!aside) {
    return true;
  }
  for (const auto& [key, value] : table.values) {
    if (value.origin.kind != config::Origin::Kind::kDefault) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::string show(const Resolved& resolved) {
  const config::Settings& settings = resolved.settings;
  std::string out =
      fmt::format("# file: {}\n", resolved.document.file.empty() ? "none" : resolved.document.file);
  out += fmt::format("# served: {}\n", settings.single_component()     ? settings.component_path
                                       : !settings.modules_dir.empty() ? settings.modules_dir
                                                                       : "nothing yet");
  for (const BesideTheFile& line : resolved.beside) {
    out += fmt::format("# {}: {}  # {}\n", line.name, line.value, line.origin.to_string());
  }
  for (const Section& section : config::sections()) {
    for (const Table& table : resolved.document.tables) {
      if (table.section == &section && is_worth_showing(table)) {
        show_table(table, out);
      }
    }
  }
  return out;
}

base::Result<void> config_check(const RunArguments& arguments) {
  MIK_TRY_ASSIGN(const std::string file, find_manifest(arguments.config));
  if (file.empty()) {
    return base::Error(base::ErrorCode::kNotFound, "there is no mik.toml here")
        .with_help("name one: mik config check /etc/mik/mik.toml");
  }
  MIK_TRY_ASSIGN(const Resolved resolved,
                 resolve(arguments, process_environment(), {.purpose = config::Purpose::kCheck}));
  for (const std::string& warning : resolved.warnings) {
    fmt::print(stderr, "warning: {}\n", warning);
  }
  fmt::print("{}: good\n", file);
  return {};
}

base::Result<void> config_show(const RunArguments& arguments, bool verbose) {
  MIK_TRY_ASSIGN(const Resolved resolved, resolve(arguments, process_environment(),
                                                  {.verbose = verbose,
                                                   .terminal = ::isatty(STDOUT_FILENO) == 1,
                                                   .find_served = false}));
  for (const std::string& warning : resolved.warnings) {
    fmt::print(stderr, "warning: {}\n", warning);
  }
  fmt::print("{}", show(resolved));
  return {};
}

}  // namespace mik::cli
