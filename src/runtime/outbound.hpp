// Guests' outgoing requests: between the engine's outgoing exchanges and the HTTP client. Confined
// to the loop thread. An exchange lives until the client is through with it, or the guest (or its
// end) has dropped it.
//
// Modules with the same allow-list share a client; others have another, with connections of its
// own: an address that one list lets pass was never looked at for the other.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "http/client.hpp"
#include "net/offload.hpp"
#include "runtime/context.hpp"
#include "runtime/module_index.hpp"
#include "runtime/scheduler.hpp"
#include "runtime/tracing.hpp"

namespace mik::runtime {

class OutboundExchanges final : public Outbound, public OutboundSink {
 public:
  OutboundExchanges(Context& context, net::Offload& offload);
  ~OutboundExchanges() override;

  // A guest is suspended in outgoing-handler.handle: let it go on with a future, or with an error.
  void begin(engine::OutboundId id, const GuestExchange& guest) override;
  void on_outbound(const engine::OutboundEvents& events) override;

  // Keeps no connection from now on.
  void drain();

  std::size_t active() const noexcept { return active_.size(); }

 private:
  class One;
  void end(One& one);
  void collect_fields(const engine::OutboundHead& head, const GuestExchange& guest,
                      OutboundSpan& span, std::array<char, 55>& traceparent,
                      std::vector<http::Field>& fields);
  // Where requests to that host are counted: by the pattern that lets them pass.
  shared::OutboundCells& cells(const ModuleEntry& module, std::string_view scheme,
                               std::string_view authority);

  Context& context_;
  const http::AllowList nothing_;  // each request brings its module's list
  http::Client client_;
  std::unordered_set<One*> active_;
  std::unordered_map<engine::RequestId, std::size_t> by_guest_;  // how many are active
  std::unordered_map<std::string, std::size_t> places_;  // of patterns: Segment::outbound_pattern
};

}  // namespace mik::runtime
