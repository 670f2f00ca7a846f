// Between the C types of engine.h and ours. For the sources of this folder only; pure functions.
#pragma once

#include <string_view>

#include "../../engine/include/engine.h"
#include "base/result.hpp"

namespace mik::engine {

inline mik_str to_c(std::string_view text) noexcept {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

inline std::string_view from_c(mik_str text) noexcept {
  return {reinterpret_cast<const char*>(text.p), text.n};
}

// The engine's code and text as an Error of ours.
base::Error to_error(const mik_err& error);

}  // namespace mik::engine
