#include "runtime/gate.hpp"

#include <algorithm>

#include <fmt/format.h>

namespace mik::runtime {

namespace {

reliability::BreakerLimits limits_of(const config::Settings& settings) {
  // A probe is judged by its response's head, so it is silent for as long at most.
  base::Duration longest = settings.guest.execution_timeout;
  for (const config::ModuleSettings& module : settings.modules) {
    longest = std::max(longest, module.guest.execution_timeout);
  }
  for (const config::TenantSettings& tenant : settings.tenants) {
    longest = std::max(longest, tenant.guest.execution_timeout);
  }
  reliability::BreakerLimits limits;
  limits.failures = settings.breaker.failures;
  limits.probes = settings.breaker.probes;
  limits.open = settings.breaker.open;
  limits.probe_timeout = longest + settings.body_timeout;
  return limits;
}

}  // namespace

Gate::Gate(net::Loop& loop, shared::Segment& segment, std::size_t slot,
           const config::Settings& settings)
    : loop_(loop),
      segment_(segment),
      slot_(slot),
      queue_time_(settings.queue),
      adaptive_(settings.adaptive_limit),
      breaker_limits_(limits_of(settings)),
      admission_(segment, slot, {settings.max_concurrent_requests, settings.memory_budget_bytes}),
      queue_(admission_, settings.max_concurrent_requests),
      limit_({.least = 4, .most = std::max<std::uint32_t>(4, settings.max_concurrent_requests)}),
      poll_timer_(net::Timer::of<&Gate::poll>(this)) {}

reliability::BreakerAnswer Gate::ask_breaker(ModuleEntry& module) const noexcept {
  return reliability::ask_breaker(module.breaker, loop_.now(), breaker_limits_);
}

Gate::Answer Gate::enter(reliability::Waiter& waiter, const ModuleEntry& module,
                         base::Time deadline, reliability::Permit& permit) {
  const reliability::WaitQueue::Patience patience{queue_time_, deadline, module.service.mean(),
                                                  module.answer.mean()};
  const Answer answer = queue_.enter(waiter, module.target, patience, loop_.now(), permit);
  if (!queue_.empty() && !poll_timer_.armed()) {
    loop_.wheel().arm(poll_timer_, loop_.now() + reliability::kWaitQueuePoll);
  }
  return answer;
}

void Gate::on_end(ModuleEntry& module, std::optional<base::Duration> ran) {
  if (ran.has_value()) {
    module.service.record(*ran);
  }
  if (!queue_.empty()) {
    // At once, but not from inside whatever ended it.
    loop_.wheel().arm(poll_timer_, loop_.now());
  }
}

void Gate::on_answer(ModuleEntry& module, base::Duration took) {
  module.answer.record(took);
  if (adaptive_) {
    limit_.record(took, admission_.active(), loop_.now());
    admission_.set_worker_max(limit_.limit());
  }
}

void Gate::poll() {
  queue_.turn(loop_.now());
  if (!queue_.empty()) {
    loop_.wheel().arm(poll_timer_, loop_.now() + reliability::kWaitQueuePoll);
  }
}

Gate::Refusal Gate::refuse(RefusedBy by, const ModuleEntry& module, std::string& text) {
  const reliability::Target& target = module.target;
  Refusal refusal;
  refusal.status = reliability::is_overload(by) ? 503 : 429;
  std::uint64_t places = admission_.limits().global_max;
  std::uint64_t ahead = queue_.size();
  switch (by) {
    case RefusedBy::kModule:
      text = fmt::format("rate limit exceeded: Module '{}' overloaded (max {} concurrent)",
                         module.label, target.module_max);
      shared::count(module.cells.refused_module);
      places = target.module_max;
      ahead = queue_.waiting_for(target);
      break;
    case RefusedBy::kTenant:
      text = fmt::format("rate limit exceeded: Tenant '{}' overloaded (max {} concurrent)",
                         module.tenant.id, target.tenant_max);
      shared::count(module.cells.refused_tenant);
      places = target.tenant_max;
      break;
    case RefusedBy::kTenantMemory:
      text =
          fmt::format("rate limit exceeded: Tenant '{}' uses all of its memory", module.tenant.id);
      shared::count(module.cells.refused_tenant);
      break;
    case RefusedBy::kMemory:
      text = "the server uses all of its memory budget";
      break;
    case RefusedBy::kGlobal:
    case RefusedBy::kNone:
      text = "too many requests at once";
      break;
  }
  if (refusal.status == 503) {
    constexpr auto kOverload = shared::GuestFailure::kOverload;
    segment_.count_failure(slot_, kOverload);
    shared::count(module.cells.failures[static_cast<std::size_t>(kOverload)]);
  }
  refusal.retry_after_secs = reliability::retry_after_secs(module.service, ahead, places);
  return refusal;
}

}  // namespace mik::runtime
