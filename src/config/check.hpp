// What the texts of a manifest must be, and what holds between its keys. Reads the file system for
// the paths of dependencies only.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config/document.hpp"

namespace mik::config {

// What layers above know better. Each gives an empty text when its argument is right, else what it
// must be.
struct Syntax {
  std::function<std::string(const std::string&)> bind;     // "127.0.0.1:3000", "unix:/run/x"
  std::function<std::string(const std::string&)> network;  // an address or CIDR
  std::function<std::string(const std::string&, HttpPrivate)> host_pattern;
};

enum class Purpose : std::uint8_t {
  kRun,    // what only a build needs is warned of
  kCheck,  // is an error
};

// In the order of the document.
std::vector<Problem> check(const Document& document, const Syntax& syntax, Purpose purpose);

// Three parts of digits without leading zeroes, then "-" and "+" parts as semver.org 2.0.0 has
// them.
bool is_semantic_version(std::string_view text) noexcept;

}  // namespace mik::config
