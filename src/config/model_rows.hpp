// How rows of the model put a value into Settings. For model.cpp and model_server.cpp only.
#pragma once

#include <chrono>
#include <type_traits>
#include <utility>

#include "config/document.hpp"
#include "config/model.hpp"

namespace mik::config::rows {

template <class Owner, class Member>
Owner owner_of(Member Owner::*);

template <auto M>
auto& member(const Target& target) {
  using Owner = decltype(owner_of(M));
  if constexpr (std::is_same_v<Owner, Settings>) {
    return target.settings->*M;
  } else if constexpr (std::is_same_v<Owner, GuestSettings>) {
    return target.guest->*M;
  } else if constexpr (std::is_same_v<Owner, TenantSettings>) {
    return target.tenant->*M;
  } else if constexpr (std::is_same_v<Owner, RouteSettings>) {
    return target.route->*M;
  } else if constexpr (std::is_same_v<Owner, BreakerSettings>) {
    return target.settings->breaker.*M;
  } else {
    return target.settings->tracing.*M;
  }
}

template <auto M>
void flag(const Target& target, const Value& value) {
  member<M>(target) = value.flag();
}
// Times a unit: bytes of a number of MiB.
template <auto M, std::uint64_t kUnit = 1>
void whole(const Target& target, const Value& value) {
  auto& to = member<M>(target);
  to = static_cast<std::remove_reference_t<decltype(to)>>(value.whole() * kUnit);
}
template <auto M>
void number(const Target& target, const Value& value) {
  member<M>(target) = value.number();
}
template <auto M>
void seconds(const Target& target, const Value& value) {
  member<M>(target) = std::chrono::seconds(value.whole());
}
template <auto M>
void milliseconds(const Target& target, const Value& value) {
  member<M>(target) = std::chrono::milliseconds(value.whole());
}
template <auto M>
void text(const Target& target, const Value& value) {
  member<M>(target) = value.text();
}
template <auto M>
void texts(const Target& target, const Value& value) {
  member<M>(target) = value.texts();
}
template <auto M>
void pairs(const Target& target, const Value& value) {
  member<M>(target) = value.pairs();
}
// What it means depends on other keys or on the machine: build.cpp.
inline void in_build(const Target& /*target*/, const Value& /*value*/) {}

inline constexpr std::uint64_t kMiB = 1ull << 20;
inline constexpr std::uint64_t kDay = 86400;

}  // namespace mik::config::rows
