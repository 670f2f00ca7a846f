// How one request goes to a collector and what comes back, whatever the protocol. Confined to the
// loop thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/time.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"
#include "otlp/endpoint.hpp"

namespace mik::otlp {

struct Reply {
  enum class Kind : std::uint8_t {
    kTaken,    // but for `rejected` of its spans
    kRetry,    // not now: nobody there, overloaded, too slow
    kRefused,  // and would be again
  };
  Kind kind = Kind::kRetry;
  std::uint64_t rejected = 0;
  base::Duration retry_after{};  // zero: it said nothing of it
  std::string detail;            // for the operator; may hold a stranger's text
};

class Sender {
 public:
  class User {
   public:
    virtual void on_reply(Reply reply) = 0;

   protected:
    ~User() = default;
  };

  virtual ~Sender() = default;
  // One request at a time. `message` lives until on_reply, which comes once, by `deadline`, and
  // perhaps before this returns; the user may send the next one in it, and must not destroy the
  // sender.
  virtual void send(std::string_view message, base::Time deadline, User& user) = 0;
  // No on_reply follows.
  virtual void cancel() = 0;
};

// Answers longer than this are not read to their end.
inline constexpr std::size_t kAnswerBytesMax = 64 * 1024;
// A collector that names a later time is asked again after this one.
inline constexpr base::Duration kRetryAfterMax = std::chrono::minutes(5);

// What both protocols make of an HTTP status that is not 200. kTaken does not come out.
Reply reply_to_status(int status);
// How long from `now` (seconds since 1970) a Retry-After asks to wait, by seconds or by an
// HTTP-date (RFC 9110 section 10.2.3); kRetryAfterMax at most. Zero: it is none, or over already.
base::Duration parse_retry_after(std::string_view text, std::int64_t now) noexcept;
// The same, from this moment on.
base::Duration parse_retry_after(std::string_view text) noexcept;

struct SenderParts {
  net::Loop& loop;
  net::Offload& offload;
  std::string ca_file;     // trusted besides the system's; empty: none
  std::string user_agent;  // "mik/0.1.0"
};
// HTTP/1.1, protobuf: OTLP specification, section "OTLP/HTTP".
std::unique_ptr<Sender> make_http_sender(const SenderParts& parts, Endpoint endpoint);
// HTTP/2, with prior knowledge for http://, by ALPN for https://: section "OTLP/gRPC".
std::unique_ptr<Sender> make_grpc_sender(const SenderParts& parts, Endpoint endpoint);

std::unique_ptr<Sender> make_sender(const SenderParts& parts, Endpoint endpoint);

}  // namespace mik::otlp
