// One request that the host answers itself, with a file or because no guest can have it: what marks
// the answer, and what is counted and said when it is over. Confined to the loop thread.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "files/static_files.hpp"
#include "http/exchange.hpp"
#include "http/forwarded.hpp"
#include "runtime/context.hpp"
#include "runtime/module_index.hpp"
#include "runtime/request_end.hpp"
#include "runtime/tracing.hpp"

namespace mik::runtime {

class HostRequest final : public files::StaticEnd {
 public:
  // Inside on_request. `rest`: what of the path its route leaves open; empty: there is no route.
  HostRequest(Context& context, const http::Exchange& exchange, const http::ForwardedView& from,
              std::string_view rest);

  // X-Request-ID and traceparent of the answer; they live as long as this.
  std::array<http::Field, 2> marks() const noexcept;
  // The module that it was for, which outlives this, and why that does not answer.
  void fail(const ModuleEntry& module, std::string_view why);

  void on_end(const http::Closed& closed) override;
  // This one says nothing any more.
  std::unique_ptr<files::StaticEnd> keep() override;

 private:
  Context& context_;
  base::Time started_;
  RequestSpans spans_;
  telemetry::TraceContext trace_;
  std::array<char, 36> request_id_;
  decltype(telemetry::format_traceparent({})) traceparent_;
  std::string method_;
  std::string path_;
  std::string client_;
  bool https_;
  const ModuleEntry* module_ = nullptr;
  std::string error_;
};

}  // namespace mik::runtime
