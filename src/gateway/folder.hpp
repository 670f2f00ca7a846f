// The modules of one folder and the OpenAPI documents beside them, read without leaving it.
// Blocking; stateless; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "config/settings.hpp"

namespace mik::gateway {

inline constexpr std::size_t kDocumentBytesMax = std::size_t{1} << 20;
inline constexpr std::size_t kModulesMax =
    20'000;  // of a folder; what comes after is not looked at

struct Module {
  std::string name;
  std::uint64_t size_bytes = 0;
  std::string document;  // its OpenAPI document, below the folder; empty: it has none
  std::string stamp;     // another one when the document's file is another one or has changed
};

struct Folder {
  std::string root;             // nothing outside of it is opened
  std::string below;            // "", "acme/"
  std::vector<Module> modules;  // sorted by name
};

// Platform modules, or the single component; none where no folder is configured or it is not to be
// had.
Folder platform_folder(const config::Settings& settings);
// kNotFound: there is no such folder, or it leads elsewhere. `tenant` is a valid name.
base::Result<Folder> tenant_folder(const config::Settings& settings, std::string_view tenant);
// Sorted.
std::vector<std::string> tenants(const config::Settings& settings);

// Where the document of a platform module lies, below the folder's root, whether or not the module
// is there.
std::string document_root(const config::Settings& settings);
// kNotFound, kUntrusted; kOverload: larger than kDocumentBytesMax; kSystem.
base::Result<std::string> read_document(const std::string& root, const std::string& path);

}  // namespace mik::gateway
