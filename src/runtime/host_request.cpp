#include "runtime/host_request.hpp"

#include <utility>

namespace mik::runtime {

HostRequest::HostRequest(Context& context, const http::Exchange& exchange,
                         const http::ForwardedView& from, std::string_view rest)
    : context_(context),
      started_(context.loop.now()),
      request_id_(telemetry::make_uuid(context.random)),
      method_(exchange.head().method),
      path_(exchange.head().path_query.substr(0, exchange.head().path_query.find('?'))),
      client_(from.client),
      https_(is_https(from, exchange)) {
  const RequestTrace trace = trace_of(context, exchange.head().fields);
  trace_ = trace.own;
  traceparent_ = telemetry::format_traceparent(trace_);
  spans_.begin(context, trace, exchange.head(), rest);
}

std::array<http::Field, 2> HostRequest::marks() const noexcept {
  return {{{"X-Request-ID", telemetry::view(request_id_)},
           {"traceparent", telemetry::view(traceparent_)}}};
}

void HostRequest::fail(const ModuleEntry& module, std::string_view why) {
  module_ = &module;
  error_ = why;
}

void HostRequest::on_end(const http::Closed& closed) {
  const base::Duration took = base::Clock::now() - started_;
  if (closed.status != 0) {
    context_.segment.count_response(context_.slot, closed.status, took);
    if (trace_.sampled) {
      context_.segment.keep_exemplar(context_.slot, took, trace_.trace_high, trace_.trace_low);
    }
  }
  if (closed.outcome == http::Outcome::kClientGone) {
    shared::count(context_.counters().client_gone);
  }
  RequestEnd end;
  end.tag.trace = trace_;
  end.tag.request_id = telemetry::view(request_id_);
  if (module_ != nullptr) {
    end.tag.module = module_->label;
    end.tag.tenant = module_->tenant.id;
  }
  end.method = method_;
  end.path = path_;
  end.scheme = https_ ? "https" : "http";
  end.client = client_;
  end.closed = closed;
  end.took = took;
  end.error = error_;
  if (error_.empty() && closed.status >= 500) {  // of a file: the modules' say why
    end.error = closed.status == 503 ? "too many files are being read" : "the file cannot be read";
  }
  log_end(context_.log, end);
  spans_.end(started_ + took, end);
}

std::unique_ptr<files::StaticEnd> HostRequest::keep() {
  return std::make_unique<HostRequest>(std::move(*this));
}

}  // namespace mik::runtime
