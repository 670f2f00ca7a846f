#include <algorithm>
#include <memory>
#include <utility>

#include "base/assert.hpp"
#include "runtime/guest_exchange.hpp"

namespace mik::runtime {

GuestExchangePool::GuestExchangePool(Context& context) : context_(context) {}

GuestExchangePool::~GuestExchangePool() { MIK_ASSERT(all_.size() == idle_.size()); }

GuestExchange& GuestExchangePool::get() {
  if (idle_.empty()) {
    all_.push_back(std::make_unique<GuestExchange>(context_, *this));
    return *all_.back();
  }
  GuestExchange& exchange = *idle_.back();
  idle_.pop_back();
  return exchange;
}

void GuestExchangePool::put(GuestExchange& exchange) {
  exchange.reset();
  if (idle_.size() < kIdleMax) {
    idle_.push_back(&exchange);
    return;
  }
  const auto found =
      std::ranges::find_if(all_, [&](const auto& one) { return one.get() == &exchange; });
  std::swap(*found, all_.back());
  all_.pop_back();
}

}  // namespace mik::runtime
