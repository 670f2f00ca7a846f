#include "config/reference.hpp"

#include <algorithm>
#include <string_view>

#include <fmt/format.h>

#include "config/model.hpp"

namespace mik::config {

namespace {

constexpr std::string_view kIntroduction = R"(# mik.toml

Made from the table of keys in `src/config` by `tools/docs/config.py`; do not edit.

Found in the working directory, or named by `--config FILE`. `mik config check` says what is wrong with one, `mik config show`
what holds and where each value comes from. A key, section or value that is not understood is an error: the file, line and
column, the value, and what would be right; all that the file itself shows, at once. A file has at most 1 MiB.

A flag wins over the environment, the environment over the file, the file over what is automatic. `PORT`, `HOST`,
`MIK_LOCAL`, `MIK_API_KEY`, `MIK_HOT_RELOAD`, `MIK_HOME` and `RUST_LOG` are in [cli.md](cli.md). Without a file the defaults
hold, and one component is served.

Relative paths are relative to the folder of the file; in a file below `/etc/mik` to the state folder (`MIK_HOME`, else
`/var/lib/mik` where it is ours to write, else `~/.mik`).

"Automatic" is what 0, or nothing, means: memory and cores are those of the control group where it has limits, else of the
machine. A limit above `max_concurrent_requests` is an error when both are written down; where one of them is automatic it is
lowered, and said.

SIGHUP reads the file again. When it can be used, new workers start with it and the old ones finish what they have; when not,
all stays as it was, and the log says why.
)";

std::string type_of(const Key& key) {
  switch (key.type) {
    case Type::kBool:
      return "true, false";
    case Type::kWhole:
    case Type::kNumber:
      return fmt::format("{} to {}", key.min, key.max);
    case Type::kText:
    case Type::kTexts: {
      std::string out = key.type == Type::kText ? "text" : "list of texts";
      if (!key.choices.empty()) {
        out = key.type == Type::kText ? "" : "list of ";
        for (const char c : key.choices) {
          out += c == '|' ? std::string(", ") : std::string(1, c);
        }
      }
      return out;
    }
    case Type::kPath:
      return "path";
    case Type::kPairs:
      return "table of texts";
    case Type::kPersons:
      return "list of tables";
  }
  return {};
}

std::string fallback_of(const Key& key) {
  if (key.required) {
    return "required";
  }
  if (!key.automatic.empty()) {
    return fmt::format("0: {}", key.automatic);
  }
  return key.fallback.empty() ? "" : fmt::format("`{}`", key.fallback);
}

std::string heading(const Section& section) {
  switch (section.shape) {
    case Shape::kOne:
      return fmt::format("[{}]", section.name);
    case Shape::kNamed:
      return fmt::format("[{}.{}]", section.name,
                         section.id == SectionId::kTenants ? "ID" : "NAME");
    case Shape::kList:
      return fmt::format("[[{}]]", section.name);
  }
  return {};
}

bool has_effect(const Section& section) {
  return std::ranges::any_of(
      keys(), [&](const Key& key) { return key.section == section.id && key.apply != nullptr; });
}

void add_section(const Section& section, std::string& out) {
  out += fmt::format("\n## {}\n\n{}", heading(section), section.meaning);
  const bool effect = has_effect(section);
  if (!effect) {
    out += " Read and checked; without effect on the server.";
  }
  out += "\n\n| key | values | default | meaning |\n|---|---|---|---|\n";
  for (const Key& key : keys()) {
    if (key.section != section.id) {
      continue;
    }
    const std::string_view note = key.later ? " Read and checked; no effect yet."
                                  : effect && key.apply == nullptr ? " No effect on the server."
                                                                   : "";
    out += fmt::format("| `{}` | {} | {} | {}{} |\n", key.name, type_of(key), fallback_of(key),
                       key.meaning, note);
  }
}

}  // namespace

std::string reference_page() {
  std::string out(kIntroduction);
  for (const Section& section : sections()) {
    add_section(section, out);
  }
  return out;
}

}  // namespace mik::config
