// What both sides of TLS need of OpenSSL 3: handles that free themselves, errors in words, and a
// BIO over a socket. Internal to src/http.
#pragma once

#include <openssl/bio.h>
#include <openssl/ssl.h>

#include <memory>
#include <string>

namespace mik::http::tls {

template <auto Free>
struct Deleter {
  template <class T>
  void operator()(T* object) const noexcept {
    Free(object);
  }
};
using SslCtx = std::unique_ptr<SSL_CTX, Deleter<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Deleter<SSL_free>>;
using Session = std::unique_ptr<SSL_SESSION, Deleter<SSL_SESSION_free>>;
using BioMethod = std::unique_ptr<BIO_METHOD, Deleter<BIO_meth_free>>;

inline constexpr std::size_t kRecord = 16 * 1024;  // content of one, RFC 8446 section 5.1

// The oldest entry of this thread's error queue in words; empties the queue.
std::string take_errors();

// What a BIO reads and writes: a socket that it does not own. OpenSSL's own BIO writes without
// MSG_NOSIGNAL.
struct Socket {
  int fd = -1;
  bool drained = false;  // the last recv took all that there was
  bool heard = false;    // anything came
};

BioMethod make_bio_method();
// `socket` and the method outlive `ssl`. False: out of memory.
bool attach(SSL* ssl, const BIO_METHOD* method, Socket& socket);

}  // namespace mik::http::tls
