// The file of a module: where it lies, and its bytes, read without leaving the folder of modules.
// Stateless; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "config/settings.hpp"

namespace mik::runtime {

// A file is read whole. WebAssembly's own limit for a module is the same.
inline constexpr std::uint64_t kModuleBytesMax = 1ull << 30;

// The single component, or <modules_dir>/<name>.wasm, or <user_modules_dir>/<tenant>/<name>.wasm.
std::string module_path(const config::Settings& settings, std::string_view tenant,
                        std::string_view name);

// "<module's path>.aot", where an artefact may lie beside its module; empty for a single component.
std::string artefact_beside(const config::Settings& settings, std::string_view tenant,
                            std::string_view name);

// Its bytes. Blocking. Symbolic links that stay inside the folder are followed; the path of a
// single component, which the operator named, is opened as it is. kNotFound; kUntrusted: it leads
// out of the folder; kNotComponent: no file, or too large; kCancelled: it changed while it was
// read, so read it again later; kSystem.
base::Result<std::string> read_module(const config::Settings& settings, std::string_view tenant,
                                      std::string_view name);

// Opens `path` below the folder, read-only, never blocking on what it is. kNotFound, kUntrusted,
// kSystem.
base::Result<base::Fd> open_beneath(const std::string& folder, const std::string& path);

namespace internal {
// What open_beneath does where the kernel has no openat2: no symbolic link at all is followed.
base::Result<base::Fd> walk_beneath(int folder, const std::string& path);
}  // namespace internal

}  // namespace mik::runtime
