// For tests: the client's end of a TLS connection to the server, by OpenSSL over buffers, so that a
// test decides in which pieces bytes go. Confined to the test's thread.
#pragma once

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "http/server_rig.hpp"
#include "http/tls_socket.hpp"

namespace mik::http::testing {

class TlsEnd final : public Client {
 public:
  struct Options {
    std::string_view alpn;  // as on the wire: "\x02h2"
    int version_max = TLS1_3_VERSION;
    int version_min = TLS1_2_VERSION;
    SSL_SESSION* session = nullptr;
    std::string certificates;      // whom to trust; empty: anybody
    std::size_t piece = SIZE_MAX;  // bytes that go out at once
  };

  TlsEnd(int fd, const Options& options) : Client(fd), piece_(options.piece) {
    context_.reset(SSL_CTX_new(TLS_client_method()));
    SSL_CTX_set_security_level(context_.get(), 0);
    SSL_CTX_set_min_proto_version(context_.get(), options.version_min);
    SSL_CTX_set_max_proto_version(context_.get(), options.version_max);
    if (!options.certificates.empty()) {
      SSL_CTX_load_verify_file(context_.get(), options.certificates.c_str());
      SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    }
    ssl_.reset(SSL_new(context_.get()));
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(in_, -1);
    SSL_set_bio(ssl_.get(), in_, out_);
    SSL_set_tlsext_host_name(ssl_.get(), "localhost");
    if (!options.alpn.empty()) {
      SSL_set_alpn_protos(ssl_.get(), reinterpret_cast<const unsigned char*>(options.alpn.data()),
                          static_cast<unsigned int>(options.alpn.size()));
    }
    if (options.session != nullptr) {
      SSL_set_session(ssl_.get(), options.session);
    }
    SSL_set_connect_state(ssl_.get());
  }
  ~TlsEnd() override {
    // Freed unread, a session would be taken for one that failed.
    SSL_set_shutdown(ssl_.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  }

  std::size_t send(std::string_view bytes) override {
    std::size_t put = 0;
    if (wire_.size() < kWireMax && ready()) {
      SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &put);
    }
    flush();
    return put;
  }
  void take() override {
    std::array<char, 65536> buffer;
    while (!raw_over_ && reading) {
      const ssize_t got = ::recv(fd(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got > 0) {
        BIO_write(in_, buffer.data(), static_cast<int>(got));
      } else if (got < 0 && errno == EAGAIN) {
        break;
      } else {
        raw_over_ = true;
        raw_reset_ = got < 0;
      }
    }
    if (!failed && ready()) {
      read();
    }
    if (raw_over_ && !over()) {
      (raw_reset_ ? reset : fin) = true;
    }
    flush();
  }
  // Says that nothing follows; the socket stays open.
  void say_end() {
    SSL_shutdown(ssl_.get());
    flush();
  }
  SSL* ssl() { return ssl_.get(); }

  bool notified = false;  // the server ended by close_notify
  bool failed = false;    // not TLS as it should be, or an alert
  int alert = 0;          // that came
  bool reading = true;

 private:
  static constexpr std::size_t kWireMax = 256 * 1024;

  bool ready() {
    if (SSL_is_init_finished(ssl_.get()) != 0) {
      return true;
    }
    ERR_clear_error();
    const int code = SSL_do_handshake(ssl_.get());
    if (code != 1) {
      note(code);
    }
    return code == 1;
  }
  void read() {
    std::array<char, 65536> buffer;
    while (true) {
      ERR_clear_error();
      std::size_t got = 0;
      const int code = SSL_read_ex(ssl_.get(), buffer.data(), buffer.size(), &got);
      if (code != 1) {
        note(code);
        return;
      }
      text.append(buffer.data(), got);
    }
  }
  void note(int code) {
    const int reason = SSL_get_error(ssl_.get(), code);
    if (reason == SSL_ERROR_ZERO_RETURN) {
      notified = true;
    } else if (reason != SSL_ERROR_WANT_READ && reason != SSL_ERROR_WANT_WRITE) {
      failed = true;
      const int why = ERR_GET_REASON(ERR_peek_error());
      alert = why >= SSL_AD_REASON_OFFSET ? why - SSL_AD_REASON_OFFSET : 0;
    }
  }
  void flush() {
    std::array<char, 65536> buffer;
    for (int got = 1; got > 0;) {
      got = BIO_read(out_, buffer.data(), static_cast<int>(buffer.size()));
      wire_.append(buffer.data(), static_cast<std::size_t>(std::max(got, 0)));
    }
    wire_.erase(0, Client::send(std::string_view(wire_).substr(0, piece_)));
  }

  tls::SslCtx context_;
  tls::Ssl ssl_;
  BIO* in_ = nullptr;
  BIO* out_ = nullptr;
  std::string wire_;
  std::size_t piece_;
  bool raw_over_ = false;
  bool raw_reset_ = false;
};

}  // namespace mik::http::testing
