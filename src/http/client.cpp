#include "http/client.hpp"

#include <algorithm>
#include <utility>

#include "http/client_exchange.hpp"

namespace mik::http {

std::string_view label(ClientError error) noexcept {
  constexpr std::array<std::string_view, kClientErrorCount> kLabels = {
      "none",
      "dns_timeout",
      "dns_error",
      "destination_not_found",
      "destination_unavailable",
      "destination_ip_prohibited",
      "destination_ip_unroutable",
      "connection_refused",
      "connection_terminated",
      "connection_timeout",
      "connection_read_timeout",
      "connection_write_timeout",
      "connection_limit_reached",
      "tls_protocol_error",
      "tls_certificate_error",
      "tls_alert_received",
      "request_denied",
      "request_uri_invalid",
      "request_body_size",
      "response_incomplete",
      "response_header_section_size",
      "response_timeout",
      "protocol_error",
      "internal_error"};
  return kLabels[std::min(static_cast<std::size_t>(error), kClientErrorCount - 1)];
}

ClientCore::ClientCore(net::Loop& loop_in, net::Offload& offload, ClientOptions options_in,
                       const AllowList& allowed_in)
    : loop(loop_in),
      options(std::move(options_in)),
      allowed(allowed_in),
      resolver(loop_in, offload, options.resolver),
      tls(offload, options.ca_file),
      pool(loop_in, {.idle_timeout = options.idle_timeout,
                     .idle_per_host_max = options.idle_per_host_max,
                     .per_host_max = options.per_host_max,
                     .connections_max = options.connections_max,
                     .waiting_max = options.waiting_max}) {}

void ClientCore::call_later(OutgoingExchange& exchange) {
  if (later_.empty()) {
    loop.post([weak = self] {
      if (const auto core = weak.lock()) {
        core->run_later();
      }
    });
  }
  later_.push_back(&exchange);
}

void ClientCore::forget_later(OutgoingExchange& exchange) {
  OutgoingExchange* const none = nullptr;
  std::ranges::replace(later_, &exchange, none);
  std::ranges::replace(running_later_, &exchange, none);
}

void ClientCore::run_later() {
  running_later_.swap(later_);
  for (std::size_t i = 0; i < running_later_.size(); ++i) {
    if (OutgoingExchange* exchange = std::exchange(running_later_[i], nullptr);
        exchange != nullptr) {
      exchange->on_later();
    }
  }
  running_later_.clear();
}

class Client::Impl : public ClientCore {
 public:
  using ClientCore::ClientCore;
};

Client::Client(net::Loop& loop, net::Offload& offload, ClientOptions options,
               const AllowList& allowed)
    : impl_(std::make_shared<Impl>(loop, offload, std::move(options), allowed)) {
  impl_->self = impl_;
}

Client::~Client() {
  close_all();
  // What was begun by those callbacks.
  while (!impl_->exchanges.empty()) {
    impl_->exchanges.front()->cancel();
  }
}

ClientError Client::check(const ClientRequest& request) const {
  Origin origin;
  if (const ClientError error = parse_origin(request.scheme, request.authority, origin);
      error != ClientError::kNone) {
    return error;
  }
  if (const ClientError error = check_head(request); error != ClientError::kNone) {
    return error;
  }
  const AllowList& allowed = request.allowed != nullptr ? *request.allowed : impl_->allowed;
  if (!allowed.allows_name(origin.host, origin.port)) {
    return ClientError::kRequestDenied;
  }
  return ClientError::kNone;
}

ClientExchange* Client::start(const ClientRequest& request, ClientExchangeHandler& handler) {
  const ClientError checked = check(request);
  auto owned = std::make_unique<OutgoingExchange>(*impl_, request, handler);
  OutgoingExchange* exchange = owned.get();
  exchange->place = impl_->exchanges.insert(impl_->exchanges.end(), std::move(owned));
  ++impl_->counters.started;
  exchange->begin(checked);
  return exchange;
}

void Client::drain() { impl_->pool.drain(); }

void Client::close_all() {
  const bool outer = std::exchange(impl_->closing, true);
  // Those of now: what their handlers begin meanwhile fails by itself.
  std::vector<OutgoingExchange*> doomed;
  for (const auto& exchange : impl_->exchanges) {
    doomed.push_back(exchange.get());
  }
  for (OutgoingExchange* exchange : doomed) {
    exchange->end_now();  // retired ones live to the end of the turn and do nothing
  }
  impl_->pool.close_idle();
  impl_->closing = outer;
}

ClientCounters Client::counters() const {
  ClientCounters counters = impl_->counters;
  counters.lookups = impl_->resolver.lookups();
  counters.active = impl_->exchanges.size();
  counters.waiting = impl_->pool.waiting();
  counters.connections = impl_->pool.connections();
  counters.idle = impl_->pool.idle();
  return counters;
}

}  // namespace mik::http
