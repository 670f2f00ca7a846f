// Keeps what compiled modules take on disk within its limit. Stateless; blocks for as long as
// reading the folder takes.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "shared/layout.hpp"

namespace mik::supervisor {

struct Artefacts {
  std::string folder;                // <state>/cache/aot
  std::vector<std::string> beside;   // artefacts that lie beside modules which are there
  std::vector<std::string> orphans;  // and those whose module is gone
  std::set<shared::Digest> used;     // named by a row
};

// Removes the least recently used that no row names until the rest is within `bytes_max`. The
// bytes that are left.
std::uint64_t limit_artefacts(const Artefacts& artefacts, std::uint64_t bytes_max);

}  // namespace mik::supervisor
