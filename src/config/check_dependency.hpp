// The rules of [dependencies] and [dev-dependencies]. For check.cpp only.
#pragma once

#include <vector>

#include "config/check.hpp"
#include "config/document.hpp"

namespace mik::config {

void check_dependency(const Document& document, const Table& table, Purpose purpose,
                      std::vector<Problem>& problems);

}  // namespace mik::config
