// Answers requests: the built-in endpoints itself, all else by modules. Confined to the loop
// thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "files/static_files.hpp"
#include "http/exchange.hpp"
#include "runtime/answers.hpp"
#include "runtime/context.hpp"
#include "runtime/guest_exchange.hpp"
#include "runtime/host_request.hpp"
#include "runtime/router.hpp"

namespace mik::runtime {

class Service final : public http::Service, public files::StaticObserver {
 public:
  Service(Context& context, GuestExchangePool& pool);

  void on_request(http::Exchange& exchange) override;
  // One that came to `[server] admin`: what is for operators, and nothing else.
  void on_admin_request(http::Exchange& exchange);
  void describe_failure(int status, std::string_view detail, std::string& field_lines,
                        std::string& body) override;

  // files::StaticObserver
  std::string_view problem(int status, std::string_view detail) override;
  void on_static_error(std::string_view path, int error) override;

 private:
  struct Answer;
  // What each of our answers carries.
  struct Marks {
    decltype(telemetry::make_uuid(std::declval<telemetry::Random&>())) id;
    decltype(telemetry::format_traceparent({})) traceparent;
  };
  Marks make_marks(const http::RequestHead& head);
  using MarkFields = std::array<http::Field, 2>;
  enum class Entrance : std::uint8_t { kPublic, kAdmin };
  void built_in(http::Exchange& exchange, const Routed& to, Entrance entrance, bool forwarded);
  bool may_see(http::Exchange& exchange, const Routed& to, Entrance entrance, bool forwarded);
  bool may_see_all(const http::RequestHead& head, Entrance entrance, bool forwarded) const;
  bool method_fits(http::Exchange& exchange, const Routed& to);
  void ask_desk(http::Exchange& exchange);
  bool has_key(const http::RequestHead& head) const;
  // How much content goes out.
  std::size_t send(http::Exchange& exchange, const Answer& answer, const MarkFields& marks);
  // Of built-in paths: counted, not logged.
  void send(http::Exchange& exchange, const Answer& answer);
  Answer make_problem(int status, std::string_view detail, std::uint32_t retry_after_secs = 0);
  void problem(http::Exchange& exchange, int status, std::string_view detail);
  // Of all others, which no module answers.
  void turn_away(http::Exchange& exchange, HostRequest& request, const Answer& answer);
  void turn_away(http::Exchange& exchange, const http::ForwardedView& from, int status,
                 std::string_view detail);
  void static_file(http::Exchange& exchange, const http::ForwardedView& from);
  void to_module(http::Exchange& exchange, const Routed& to, const http::ForwardedView& from);
  void refuse(http::Exchange& exchange, const GuestRequest& request, int status,
              std::string_view detail, std::uint32_t retry_after_secs = 0);
  bool may_enter(http::Exchange& exchange, GuestRequest& request);
  void refuse_entry(http::Exchange& exchange, const GuestRequest& request,
                    reliability::RefusedBy by);
  std::uint64_t open_bodies_max() const;
  std::string_view status_now() const;
  HealthView health(std::string_view query);
  void add_modules(HealthView& view);
  std::uint64_t resident_bytes();

  Context& context_;
  GuestExchangePool& pool_;
  const Router router_;
  RouteBuffer route_buffer_;
  std::vector<std::string_view> loaded_;  // for the health document
  std::uint64_t resident_bytes_ = 0;
  base::Time resident_read_;
};

// What the connections of `[server] admin` are served by.
class AdminService final : public http::Service {
 public:
  explicit AdminService(runtime::Service& service) : service_(service) {}

  void on_request(http::Exchange& exchange) override { service_.on_admin_request(exchange); }
  void describe_failure(int status, std::string_view detail, std::string& field_lines,
                        std::string& body) override {
    service_.describe_failure(status, detail, field_lines, body);
  }

 private:
  runtime::Service& service_;
};

}  // namespace mik::runtime
