// Who is let in: permits with their queue, the adaptive limit, the breakers' settings, and what
// those who stay out are told. Confined to the loop thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "config/settings.hpp"
#include "net/loop.hpp"
#include "reliability/adaptive_limit.hpp"
#include "reliability/admission.hpp"
#include "reliability/breaker.hpp"
#include "reliability/wait_queue.hpp"
#include "runtime/module_index.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {

class Gate {
 public:
  using RefusedBy = reliability::RefusedBy;
  using Answer = reliability::WaitQueue::Answer;

  // All must outlive the gate.
  Gate(net::Loop& loop, shared::Segment& segment, std::size_t slot,
       const config::Settings& settings);
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;

  // Whether a request may pass the module's breaker; not open(): refused.
  reliability::BreakerAnswer ask_breaker(ModuleEntry& module) const noexcept;
  const reliability::BreakerLimits& breaker_limits() const noexcept { return breaker_limits_; }

  // Nobody waits for permits, by configuration: the answer is known at once.
  bool waits() const noexcept { return queue_time_ > base::Duration::zero(); }
  RefusedBy try_enter(const ModuleEntry& module, reliability::Permit& permit) noexcept {
    return admission_.try_acquire(module.target, permit);
  }
  std::size_t waiting() const noexcept { return queue_.size(); }
  // The same, or `waiter` is told later.
  Answer enter(reliability::Waiter& waiter, const ModuleEntry& module, base::Time deadline,
               reliability::Permit& permit);
  // A permit was given back, and by a guest that ran so long if there was one: time in queues, and
  // for a compilation, says nothing of how soon a place is free.
  void on_end(ModuleEntry& module, std::optional<base::Duration> ran);
  // A guest's response began so long after its start.
  void on_answer(ModuleEntry& module, base::Duration took);

  // What a refused request is told: 429 or 503, and why; counts it.
  struct Refusal {
    int status = 503;
    std::uint32_t retry_after_secs = 1;
  };
  Refusal refuse(RefusedBy by, const ModuleEntry& module, std::string& text);

 private:
  void poll();

  net::Loop& loop_;
  shared::Segment& segment_;
  const std::size_t slot_;
  const base::Duration queue_time_;
  const bool adaptive_;
  reliability::BreakerLimits breaker_limits_;
  reliability::Admission admission_;
  reliability::WaitQueue queue_;
  reliability::AdaptiveLimit limit_;
  net::Timer poll_timer_;
};

}  // namespace mik::runtime
