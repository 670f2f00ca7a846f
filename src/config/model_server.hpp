// The rows of [server]. For model.cpp only.
#pragma once

#include <span>

#include "config/model.hpp"

namespace mik::config::rows {

std::span<const Key> server_keys() noexcept;

}  // namespace mik::config::rows
