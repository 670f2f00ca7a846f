// A coarse timer wheel: deadlines of connections and requests, where 33 ms more or less do not
// matter. Arming later than before costs one store; nothing is allocated. Guests' sleeps are not
// here: the engine keeps them exactly. Confined to its loop's thread.
//
// After Varghese and Lauck, "Hashed and hierarchical timing wheels" (SOSP 1987), scheme 6: one
// level, timers beyond the horizon go round again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/time.hpp"

namespace mik::net {

class Wheel;

// One deadline. Lives inside the object whose deadline it is; destroying it disarms it.
class Timer {
 public:
  using Callback = void (*)(void* context);

  Timer(void* context, Callback callback) noexcept : context_(context), callback_(callback) {}
  ~Timer() { unlink(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // A timer that calls (object.*method)(): Timer timer_ = Timer::of<&Connection::on_timeout>(this).
  template <auto Method, class Object>
  static Timer of(Object* object) noexcept {
    return Timer(object, [](void* context) { (static_cast<Object*>(context)->*Method)(); });
  }

  bool armed() const noexcept { return deadline_ != base::kNever; }
  base::Time deadline() const noexcept { return deadline_; }
  // Forgets the deadline. Free to call at any time.
  void disarm() noexcept { deadline_ = base::kNever; }

 private:
  friend class Wheel;
  void unlink() noexcept;

  void* context_;
  Callback callback_;
  base::Time deadline_ = base::kNever;
  std::uint64_t tick_ = 0;  // of the slot that it is linked into
  Timer* next_ = nullptr;
  Timer** link_ = nullptr;  // what points to us; null when unlinked
};

class Wheel {
 public:
  static constexpr base::Duration kResolution = std::chrono::nanoseconds(1 << 25);  // 33.5 ms

  explicit Wheel(base::Time now);
  ~Wheel();
  Wheel(const Wheel&) = delete;
  Wheel& operator=(const Wheel&) = delete;

  // Sets the deadline, replacing any before it. A timer fires once, at its deadline or up to
  // kResolution after.
  void arm(Timer& timer, base::Time deadline) noexcept;

  // Fires what is due. Callbacks may arm, disarm and destroy any timer, their own included.
  void advance(base::Time now);

  // A time by which advance should be called next; kNever when nothing is linked. May be early,
  // never late by more than kResolution.
  base::Time next_deadline() const noexcept;

 private:
  static constexpr std::size_t kSlots = 4096;  // a horizon of 137 s: longer than the idle timeout
  static std::uint64_t tick_of(base::Time time) noexcept;
  void link(Timer& timer, std::uint64_t tick) noexcept;

  std::uint64_t now_tick_;
  std::vector<Timer*> slots_;
  mutable std::array<std::uint64_t, kSlots / 64> occupied_{};  // hints: a set bit may be stale
};

}  // namespace mik::net
