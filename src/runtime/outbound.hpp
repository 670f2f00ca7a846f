// Guests' outgoing requests: between the engine's outgoing exchanges and the HTTP client. Confined
// to the loop thread. An exchange lives until the client is through with it, or the guest (or its
// end) has dropped it.
#pragma once

#include <cstddef>
#include <memory>
#include <unordered_map>
#include <unordered_set>

#include "http/client.hpp"
#include "runtime/context.hpp"
#include "runtime/scheduler.hpp"

namespace mik::runtime {

class OutboundExchanges final : public Outbound, public OutboundSink {
 public:
  OutboundExchanges(Context& context, http::Client& client);
  ~OutboundExchanges() override;

  // A guest is suspended in outgoing-handler.handle: let it go on with a future, or with an error.
  void begin(engine::OutboundId id, const GuestExchange& guest) override;
  void on_outbound(const engine::OutboundEvents& events) override;

  std::size_t active() const noexcept { return active_.size(); }

 private:
  class One;
  void end(One& one);

  Context& context_;
  http::Client& client_;
  std::unordered_set<One*> active_;
  std::unordered_map<engine::RequestId, std::size_t> by_guest_;  // how many are active
};

}  // namespace mik::runtime
