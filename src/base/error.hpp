// The one error type: a stable code, a sentence for the operator, and what caused it.
// Immutable after construction; may be handed between threads by value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mik::base {

enum class ErrorCode : std::uint16_t {
#define MIK_ERROR_CODE(name, number, label, meaning) name = number,
#include "base/error_codes.def"
#undef MIK_ERROR_CODE
};

// "address_in_use"; static storage.
std::string_view label(ErrorCode code) noexcept;

class Error {
 public:
  Error(ErrorCode code, std::string message) : code_(code), message_(std::move(message)) {}

  // From errno: "cannot open /x: Permission denied".
  static Error from_errno(std::string_view what, int errno_value);

  ErrorCode code() const noexcept { return code_; }
  const std::string& message() const noexcept { return message_; }
  // What to do about it; empty when there is nothing better than the message.
  const std::string& help() const noexcept { return help_; }
  // Innermost last.
  const std::vector<std::string>& causes() const noexcept { return causes_; }

  // A new outermost message; the present one becomes the first cause.
  Error because(std::string message) &&;
  Error with_help(std::string help) &&;

  // "message: cause: cause", for logs.
  std::string to_string() const;

 private:
  ErrorCode code_;
  std::string message_;
  std::string help_;
  std::vector<std::string> causes_;
};

}  // namespace mik::base
