// From a document to Settings: defaults, paths, `${NAME}`, automatic sizes. Reads the environment
// through what it is given, and nothing else.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "config/document.hpp"
#include "config/settings.hpp"

namespace mik::config {

// The process's environment, or a test's.
using Environment = std::function<std::optional<std::string>(std::string_view)>;

// What sizes are derived from.
struct Machine {
  std::uint64_t memory_bytes = 0;  // the control group's limit, or what there is
  std::uint64_t disk_bytes = 0;    // of the file system of the state folder
  std::uint32_t cpus = 1;
};

struct Folders {
  std::string state;    // absolute
  std::string working;  // absolute: where relative paths lie when there is no file
};

// Puts defaults where nothing stands, in sections of Shape::kOne and in [[routes]], and makes each
// path absolute: relative to the file's folder; of a file below /etc/mik, to the state folder.
void complete(Document& document, const Folders& folders);

enum class Serving : std::uint8_t { kComponent, kModules };

struct BuildContext {
  Machine machine;
  Serving serving = Serving::kModules;
  bool terminal = false;  // standard output is one
};

// Of a completed document that was checked. What is automatic is written into `document`, for
// `mik config show`. What is served, where it listens and what only the environment says is left to
// the caller. Problems: `${NAME}` that cannot be had, and warnings.
Settings build(Document& document, const BuildContext& context, const Environment& environment,
               std::vector<Problem>& problems);

}  // namespace mik::config
