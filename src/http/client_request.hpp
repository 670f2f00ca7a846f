// The wire form of a guest's request head, RFC 9112 section 3, and what of it decides the
// connection and retries. Pure functions and a value type: thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "http/client.hpp"
#include "http/message.hpp"

namespace mik::http {

// Where a request goes. Connections are pooled per origin.
struct Origin {
  bool tls = true;
  std::string
      host;  // a DNS name in lower case, or an address in its usual spelling, without brackets
  bool literal = false;  // host is an address: inet_pton(3) reads it
  std::uint16_t port = 0;
  std::uint64_t partition = 0;  // ClientRequest::partition

  // What connections and TLS sessions are kept under: "https://host:port#partition".
  std::string key() const;
};

// The origin of a request: kRequestUriInvalid for a missing or bad authority, kProtocolError for
// another scheme.
ClientError parse_origin(std::string_view scheme, std::string_view authority, Origin& origin);

// kNone, or what is wrong with method (kProtocolError), path_query (kRequestUriInvalid) or fields
// (kProtocolError): bytes that would change the message's framing.
ClientError check_head(const ClientRequest& request) noexcept;

// How the body goes out.
enum class Framing : std::uint8_t { kNone, kLength, kChunked };

// The request line and all fields but the framing's. Checked by check_head before.
std::string write_head(const ClientRequest& request);
// Appends the framing's field and the empty line. `length` matters for Framing::kLength.
void finish_head(std::string& head, std::string_view method, Framing framing, std::uint64_t length);

// Fields of one connection only (RFC 9110 section 7.6.1), those named by Connection included.
bool is_hop_by_hop(std::string_view name, std::span<const Field> fields) noexcept;

// Methods that may be sent twice, RFC 9110 section 9.2.2.
bool is_idempotent(std::string_view method) noexcept;

// The seconds of Keep-Alive: timeout=N; nothing when there is none.
std::optional<std::uint32_t> keep_alive_timeout(std::span<const Field> fields) noexcept;

}  // namespace mik::http
