// mik.toml from bytes: TOML syntax, known sections and keys, types and ranges. What texts must be,
// and what holds between keys, is check.hpp. Pure functions: thread-safe.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "config/document.hpp"

namespace mik::config {

inline constexpr std::size_t kManifestBytesMax = 1 << 20;

struct ReadResult {
  Document document;              // what could be read
  std::vector<Problem> problems;  // in the order of the file; empty: all is well
};

// `file` is how problems name it. Any bytes: a text over kManifestBytesMax or nested too deep is a
// problem, not a danger.
ReadResult read_manifest(std::string_view text, std::string file);

// "a whole number from 1 to 65535".
std::string describe_type(const Key& key);

}  // namespace mik::config
