// TLS for accepted connections, OpenSSL 3: one certificate and key, TLS 1.2 at least, ALPN h2 and
// http/1.1, session tickets under a key that all workers share. load() may be called on any thread;
// what comes of it is confined to the loop thread. OpenSSL's own types stay in server_tls.cpp.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace mik::http {

class ServerTls;

// One connection's TLS, over a non-blocking socket that it does not own.
class TlsSession {
 public:
  struct Shared;

  enum class Handshake : std::uint8_t {
    kDone,
    kAgain,  // after the next event
    kFailed,
    kPlainHttp,  // the client speaks HTTP without TLS; nothing was answered
  };

  ~TlsSession();
  TlsSession(const TlsSession&) = delete;
  TlsSession& operator=(const TlsSession&) = delete;

  Handshake shake_hands();
  // After kFailed: why, in OpenSSL's words.
  std::string_view failure() const noexcept;
  // Whether anything came from the client.
  bool heard() const noexcept;
  // The client chose HTTP/2 by ALPN.
  bool http2() const noexcept;

  // As recv(2): 0 is the end, in order or not, since a request tells by its own framing where it
  // ends. `more`: there may be something left; else an event tells. EPROTO: not TLS any more.
  ssize_t read(char* to, std::size_t bytes, bool& more);
  // As writev(2). What the kernel did not take must come again, first, in the next call.
  ssize_t write(std::span<const iovec> pieces);
  // Says that no more follows (close_notify). False: the kernel takes nothing now, call again when
  // it does.
  bool say_end();

 private:
  friend class ServerTls;
  struct State;
  explicit TlsSession(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

class ServerTls {
 public:
  static constexpr std::size_t kTicketKeyBytes = 80;

  struct Files {
    std::string certificate;  // PEM, with the chain behind it
    std::string key;          // PEM, without a passphrase
  };

  ServerTls(ServerTls&&) noexcept;
  ServerTls& operator=(ServerTls&&) noexcept;
  ~ServerTls();  // sessions may live on

  // `ticket_key`: kTicketKeyBytes random bytes, the same in all workers; empty: one of its own.
  // kConfig or the file system's error, naming key and file.
  static base::Result<ServerTls> load(const Files& files, std::string_view ticket_key);

  // Nothing when memory is out.
  std::unique_ptr<TlsSession> accept(int socket) const;

 private:
  ServerTls();

  std::shared_ptr<TlsSession::Shared> shared_;
};

}  // namespace mik::http
