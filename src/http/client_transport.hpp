// What a client connection reads and writes through: a non-blocking socket, bare or under TLS
// (tls.hpp). Confined to the loop thread.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/fd.hpp"
#include "http/client.hpp"

namespace mik::http {

enum class IoStatus : std::uint8_t {
  kOk,
  kAgain,      // nothing now: the loop tells when
  kEof,        // the peer ended its side in order
  kTruncated,  // TLS: the socket ended without close_notify, so anybody may have cut it
  kFailed,     // reset, or broken TLS: see `error`
};

struct IoResult {
  IoStatus status = IoStatus::kOk;
  std::size_t bytes = 0;                   // kOk
  ClientError error = ClientError::kNone;  // kFailed and, of a handshake, kEof
};

class Transport {
 public:
  virtual ~Transport() = default;

  virtual int fd() const noexcept = 0;
  // kOk when bytes may flow. Call again after kAgain and an event of either kind.
  virtual IoResult handshake() = 0;
  virtual IoResult read(std::span<char> buffer) = 0;
  // Takes some of the bytes; what TLS has taken may still wait for flush().
  virtual IoResult write(std::span<const iovec> pieces) = 0;
  // kOk when nothing taken is held back.
  virtual IoResult flush() = 0;
  // Says goodbye where the protocol has a word for it, if that does not block; closes.
  virtual void close() noexcept = 0;

  // A read that gave less than was asked for took everything.
  virtual bool short_read_is_all() const noexcept { return false; }
  virtual bool resumed() const noexcept { return false; }
  // Words for the operator after kFailed.
  const std::string& problem() const noexcept { return problem_; }

 protected:
  // kFailed with errno's words.
  IoResult system_failure(const char* what, int errno_value);

  std::string problem_;
};

std::unique_ptr<Transport> make_plain_transport(base::Fd socket);

}  // namespace mik::http
