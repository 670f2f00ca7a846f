// Which file `mik run` serves, and what it is called. Reads the file system, changes nothing.
#pragma once

#include <optional>
#include <string>

#include "base/result.hpp"

namespace mik::cli {

struct ComponentFile {
  std::string path;     // absolute
  std::string name;     // as in /run/<name>/: the stem without a trailing "-composed"
  std::string warning;  // empty, or something odd that is no error
};

// `path` as given: a file, or a glob when no such file exists and it contains '*' (first match in
// order). Empty or none: target/composed.wasm, target/wasm32-wasip2/release/*.wasm,
// target/wasm32-wasip2/debug/*.wasm. The file must be regular, readable and begin with the
// WebAssembly magic.
base::Result<ComponentFile> find_component(const std::optional<std::string>& path);

}  // namespace mik::cli
