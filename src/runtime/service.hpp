// Answers requests: the built-in endpoints itself, all else by modules. Confined to the loop
// thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "files/static_files.hpp"
#include "http/exchange.hpp"
#include "runtime/answers.hpp"
#include "runtime/context.hpp"
#include "runtime/guest_exchange.hpp"
#include "runtime/router.hpp"

namespace mik::runtime {

class Service final : public http::Service, public files::StaticObserver {
 public:
  Service(Context& context, GuestExchangePool& pool);

  void on_request(http::Exchange& exchange) override;
  void describe_failure(int status, std::string_view detail, std::string& field_lines,
                        std::string& body) override;

  // files::StaticObserver
  void on_static_answer(int status) override;
  std::string_view problem(int status, std::string_view detail) override;
  void on_static_error(std::string_view path, int error) override;

 private:
  struct Answer;
  void built_in(http::Exchange& exchange, const Routed& to, bool forwarded);
  bool has_key(const http::RequestHead& head) const;
  void send(http::Exchange& exchange, const Answer& answer);
  void problem(http::Exchange& exchange, int status, std::string_view detail,
               std::uint32_t retry_after_secs = 0);
  void static_file(http::Exchange& exchange);
  void to_module(http::Exchange& exchange, const Routed& to, const http::ForwardedView& from);
  void refuse(http::Exchange& exchange, ModuleEntry& module, int status, std::string_view detail,
              std::uint32_t retry_after_secs = 0);
  bool may_enter(http::Exchange& exchange, GuestRequest& request);
  void refuse_entry(http::Exchange& exchange, ModuleEntry& module, reliability::RefusedBy by);
  std::uint64_t open_bodies_max() const;
  std::string_view status_now() const;
  HealthView health(std::string_view query);
  void add_modules(HealthView& view);
  void add_samples(MetricsView& view);
  std::uint64_t resident_bytes();

  Context& context_;
  GuestExchangePool& pool_;
  const Router router_;
  RouteBuffer route_buffer_;
  std::vector<std::string_view> loaded_;  // for the health document
  std::vector<ModuleSample> samples_;     // for /metrics
  std::uint64_t resident_bytes_ = 0;
  base::Time resident_read_;
};

}  // namespace mik::runtime
