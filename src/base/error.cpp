#include "base/error.hpp"

#include <cstring>
#include <utility>

namespace mik::base {

std::string_view label(ErrorCode code) noexcept {
  switch (code) {
#define MIK_ERROR_CODE(name, number, label, meaning) \
  case ErrorCode::name:                              \
    return label;
#include "base/error_codes.def"
#undef MIK_ERROR_CODE
  }
  return "internal";
}

Error Error::from_errno(std::string_view what, int errno_value) {
  std::string message(what);
  message += ": ";
  // Not std::generic_category(): this is said when descriptors and memory run out, too.
  const char* description = ::strerrordesc_np(errno_value);
  message += description != nullptr ? description : "unknown error";
  return Error(ErrorCode::kSystem, std::move(message));
}

Error Error::because(std::string message) && {
  causes_.insert(causes_.begin(), std::move(message_));
  message_ = std::move(message);
  return std::move(*this);
}

Error Error::with_help(std::string help) && {
  help_ = std::move(help);
  return std::move(*this);
}

std::string Error::to_string() const {
  std::string text = message_;
  for (const std::string& cause : causes_) {
    text += ": ";
    text += cause;
  }
  return text;
}

}  // namespace mik::base
