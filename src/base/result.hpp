// Result<T>: a value or an Error, with the member names of std::expected (docs/adr/0004).
// A value type; synchronise it like any other.
#pragma once

#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/assert.hpp"
#include "base/error.hpp"

namespace mik::base {

template <class T>
class [[nodiscard]] Result {
 public:
  using value_type = T;

  // NOLINTNEXTLINE(google-explicit-constructor): as std::expected
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  // NOLINTNEXTLINE(google-explicit-constructor): as std::unexpected
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }

  T& value() & { return is<0>(state_); }
  const T& value() const& { return is<0>(state_); }
  T&& value() && { return std::move(is<0>(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const& { return is<1>(state_); }
  Error&& error() && { return std::move(is<1>(state_)); }

  T value_or(T other) && { return has_value() ? std::move(*this).value() : std::move(other); }

  template <class F>
  auto and_then(F&& f) && -> std::invoke_result_t<F, T&&> {
    if (has_value()) {
      return std::forward<F>(f)(std::move(*this).value());
    }
    return std::move(*this).error();
  }

  template <class F>
  auto transform(F&& f) && -> Result<std::invoke_result_t<F, T&&>> {
    if (has_value()) {
      return std::forward<F>(f)(std::move(*this).value());
    }
    return std::move(*this).error();
  }

 private:
  template <std::size_t kWhich, class State>
  static auto& is(State& state) {
    auto* const it = std::get_if<kWhich>(&state);
    MIK_ASSERT(it != nullptr);
    return *it;
  }

  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  using value_type = void;

  Result() = default;
  // NOLINTNEXTLINE(google-explicit-constructor): as std::unexpected
  Result(Error error) : error_(std::move(error)) {}

  bool has_value() const noexcept { return !error_.has_value(); }
  explicit operator bool() const noexcept { return has_value(); }
  const Error& error() const& {
    MIK_ASSERT(error_.has_value());
    return *error_;
  }
  Error&& error() && {
    MIK_ASSERT(error_.has_value());
    return std::move(*error_);
  }

 private:
  std::optional<Error> error_;
};

}  // namespace mik::base

// Returns the error of an expression of type Result<T> from the enclosing function.
#define MIK_TRY(expression)                     \
  do {                                          \
    auto mik_try_result = (expression);         \
    if (!mik_try_result.has_value()) {          \
      return std::move(mik_try_result).error(); \
    }                                           \
  } while (false)

#define MIK_CONCAT_INNER(a, b) a##b
#define MIK_CONCAT(a, b) MIK_CONCAT_INNER(a, b)

// MIK_TRY_ASSIGN(auto x, f()): declares or assigns the value, or returns the error.
#define MIK_TRY_ASSIGN(target, expression) \
  MIK_TRY_ASSIGN_INNER(target, expression, MIK_CONCAT(mik_try_, __LINE__))
#define MIK_TRY_ASSIGN_INNER(target, expression, name) \
  auto name = (expression);                            \
  if (!name.has_value()) {                             \
    return std::move(name).error();                    \
  }                                                    \
  target = std::move(name).value()
