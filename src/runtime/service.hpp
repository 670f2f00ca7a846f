// Answers requests: the built-in endpoints itself, all else by the component. Confined to the loop
// thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "http/exchange.hpp"
#include "runtime/answers.hpp"
#include "runtime/context.hpp"
#include "runtime/guest_exchange.hpp"

namespace mik::runtime {

// Where a path leads. Built-in paths win; the query plays no part.
struct Route {
  enum class To : std::uint8_t {
    kComponent,
    kHealth,
    kLive,
    kReady,
    kMetrics,
    kNoModule,
    kUnknownModule,
    kServer
  };
  To to = To::kComponent;
  std::string path_query;  // for the component, when it is not what came: "/run/m?x" -> "/?x"
  std::string_view rest;   // for the component: part of what came, or of path_query
  std::string module;      // kUnknownModule: decoded
};
// `path_query` as in http::RequestHead; `component` is the name under /run/.
Route route(std::string_view path_query, std::string_view component);

class Service final : public http::Service {
 public:
  Service(Context& context, GuestExchangePool& pool);

  void on_request(http::Exchange& exchange) override;
  void describe_failure(int status, std::string_view detail, std::string& field_lines,
                        std::string& body) override;

  // The component will never be there.
  void component_failed() noexcept { component_failed_ = true; }

 private:
  struct Answer;
  void built_in(http::Exchange& exchange, const Route& route);
  void send(http::Exchange& exchange, const Answer& answer);
  void problem(http::Exchange& exchange, int status, std::string_view detail);
  void to_component(http::Exchange& exchange, std::string_view path_query);
  void wait_for_body(http::Exchange& exchange, std::string_view path_query);
  std::uint64_t open_bodies_max() const;
  std::string_view status_now() const;
  HealthView health(std::string_view query);
  std::uint64_t resident_bytes();

  Context& context_;
  GuestExchangePool& pool_;
  bool component_failed_ = false;
  std::uint64_t resident_bytes_ = 0;
  base::Time resident_read_;
};

}  // namespace mik::runtime
