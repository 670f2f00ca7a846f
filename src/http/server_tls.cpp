#include "http/server_tls.hpp"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/assert.hpp"
#include "base/fd.hpp"
#include "http/tls_socket.hpp"

namespace mik::http {

// What the sessions of a ServerTls share.
struct TlsSession::Shared {
  tls::SslCtx context;
  tls::BioMethod bio_method;
  std::vector<char> record = std::vector<char>(tls::kRecord);  // pieces put together
};

struct TlsSession::State {
  std::shared_ptr<Shared> shared;
  tls::Socket socket;
  tls::Ssl ssl;
  bool broken = false;  // no close_notify after a fatal error (SSL_shutdown(3))
  bool said_end = false;
  const char* failure = nullptr;  // of OpenSSL's texts
};

TlsSession::TlsSession(std::unique_ptr<State> state) : state_(std::move(state)) {}

TlsSession::~TlsSession() = default;

namespace {

bool wants_event(int reason) noexcept {
  return reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE;
}

// Contiguous bytes for one record: the pieces' own where one has enough, else put together.
std::string_view next_record(std::span<const iovec> pieces, std::size_t skip,
                             std::vector<char>& record) {
  const auto bytes_of = [&pieces, &skip](std::size_t i) {
    const std::size_t done = i == 0 ? skip : 0;
    return std::string_view(static_cast<const char*>(pieces[i].iov_base) + done,
                            pieces[i].iov_len - done);
  };
  const std::string_view first = bytes_of(0);
  if (pieces.size() == 1 || first.size() >= record.size()) {
    return first.substr(0, record.size());
  }
  std::size_t size = 0;
  for (std::size_t i = 0; i < pieces.size() && size < record.size(); ++i) {
    const std::string_view piece = bytes_of(i).substr(0, record.size() - size);
    std::ranges::copy(piece, record.begin() + static_cast<std::ptrdiff_t>(size));
    size += piece.size();
  }
  return {record.data(), size};
}

// The protocols that we speak, in the order in which we like them; http/1.0 is what some say that
// mean no more than that.
int on_alpn(SSL* /*ssl*/, const unsigned char** out, unsigned char* out_bytes,
            const unsigned char* offered, unsigned int offered_bytes, void* /*context*/) {
  constexpr std::string_view kOurs = "\x02h2\x08http/1.1\x08http/1.0";
  unsigned char* chosen = nullptr;
  const int found = SSL_select_next_proto(&chosen, out_bytes,
                                          reinterpret_cast<const unsigned char*>(kOurs.data()),
                                          kOurs.size(), offered, offered_bytes);
  *out = chosen;
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

// There is nobody to ask at start: an encrypted key is an error.
int no_passphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* asked) {
  *static_cast<bool*>(asked) = true;
  return -1;
}

base::Result<void> check_readable(std::string_view key, const std::string& file) {
  const base::Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd.valid()) {
    return base::Error::from_errno(fmt::format("{}: cannot read {}", key, file), errno);
  }
  return {};
}

base::Error bad_file(std::string_view key, const std::string& file, std::string_view why) {
  return base::Error(base::ErrorCode::kConfig, fmt::format("{}: {}: {}", key, file, why));
}

base::Result<void> use_certificate(SSL_CTX* context, const std::string& file) {
  MIK_TRY(check_readable("tls_cert", file));
  ERR_clear_error();
  if (SSL_CTX_use_certificate_chain_file(context, file.c_str()) == 1) {
    return {};
  }
  if (ERR_GET_REASON(ERR_peek_error()) == PEM_R_NO_START_LINE) {
    ERR_clear_error();
    return bad_file("tls_cert", file, "has no certificate")
        .with_help(
            "write a PEM file: -----BEGIN CERTIFICATE-----, the server's own first, then "
            "those that signed it");
  }
  return bad_file("tls_cert", file, tls::take_errors());
}

base::Result<void> use_key(SSL_CTX* context, const ServerTls::Files& files) {
  MIK_TRY(check_readable("tls_key", files.key));
  ERR_clear_error();
  bool encrypted = false;
  SSL_CTX_set_default_passwd_cb(context, no_passphrase);
  SSL_CTX_set_default_passwd_cb_userdata(context, &encrypted);
  const bool used = SSL_CTX_use_PrivateKey_file(context, files.key.c_str(), SSL_FILETYPE_PEM) == 1;
  SSL_CTX_set_default_passwd_cb_userdata(context, nullptr);
  SSL_CTX_set_default_passwd_cb(context, nullptr);
  if (used && SSL_CTX_check_private_key(context) == 1) {
    return {};
  }
  const unsigned long error = ERR_peek_error();
  const std::string words = tls::take_errors();
  if (encrypted) {
    return bad_file("tls_key", files.key, "is encrypted")
        .with_help("write it without a passphrase: openssl pkey -in KEY -out PLAIN");
  }
  if (ERR_GET_LIB(error) == ERR_LIB_X509 || used) {
    return bad_file("tls_key", files.key,
                    fmt::format("is not the key of the certificate {}", files.certificate))
        .with_help("the first certificate of tls_cert must be the one that was made for this key");
  }
  if (ERR_GET_REASON(error) == PEM_R_NO_START_LINE || ERR_GET_REASON(error) == ERR_R_UNSUPPORTED) {
    return bad_file("tls_key", files.key, "has no private key")
        .with_help("write a PEM file: -----BEGIN PRIVATE KEY-----");
  }
  return bad_file("tls_key", files.key, words);
}

bool set_up(SSL_CTX* context) {
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                   SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
                                   SSL_OP_IGNORE_UNEXPECTED_EOF);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(context, 1);
  // Tickets are all: no state in a worker that another would not have.
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context, on_alpn, nullptr);
  constexpr std::string_view kContextId = "mik";
  // Of TLS 1.2 what HTTP/2 allows (RFC 9113 section 9.2.2), for HTTP/1.1 as well.
  return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
         SSL_CTX_set_cipher_list(context, "ECDHE+AESGCM:ECDHE+CHACHA20") == 1 &&
         SSL_CTX_set_session_id_context(context,
                                        reinterpret_cast<const unsigned char*>(kContextId.data()),
                                        kContextId.size()) == 1;
}

}  // namespace

TlsSession::Handshake TlsSession::shake_hands() {
  ERR_clear_error();
  const int code = SSL_do_handshake(state_->ssl.get());
  if (code == 1) {
    return Handshake::kDone;
  }
  if (wants_event(SSL_get_error(state_->ssl.get(), code))) {
    return Handshake::kAgain;
  }
  state_->broken = true;
  const unsigned long error = ERR_peek_error();
  ERR_clear_error();
  state_->failure = ERR_reason_error_string(error);
  return ERR_GET_LIB(error) == ERR_LIB_SSL && ERR_GET_REASON(error) == SSL_R_HTTP_REQUEST
             ? Handshake::kPlainHttp
             : Handshake::kFailed;
}

// Without an error of its own OpenSSL has met the end of what it read.
std::string_view TlsSession::failure() const noexcept {
  return state_->failure != nullptr ? state_->failure : "the client has closed the connection";
}

bool TlsSession::heard() const noexcept { return state_->socket.heard; }

bool TlsSession::http2() const noexcept {
  const unsigned char* chosen = nullptr;
  unsigned int bytes = 0;
  SSL_get0_alpn_selected(state_->ssl.get(), &chosen, &bytes);
  return bytes == 2 && std::memcmp(chosen, "h2", 2) == 0;
}

ssize_t TlsSession::read(char* to, std::size_t bytes, bool& more) {
  State& state = *state_;
  SSL* const ssl = state.ssl.get();
  std::size_t total = 0;
  more = true;
  while (total < bytes) {
    ERR_clear_error();
    std::size_t got = 0;
    const int code = SSL_read_ex(ssl, to + total, bytes - total, &got);
    if (code == 1) {
      total += got;
      if (state.socket.drained && SSL_has_pending(ssl) == 0) {
        more = false;
        break;
      }
      continue;
    }
    const int reason = SSL_get_error(ssl, code);
    if (wants_event(reason)) {
      more = false;
      errno = EAGAIN;
    } else if (total > 0) {
      break;  // the end is said by the next call
    } else if (reason == SSL_ERROR_ZERO_RETURN) {
      more = false;
      return 0;
    } else {
      state.broken = true;
      ERR_clear_error();
      errno = EPROTO;
    }
    return total > 0 ? static_cast<ssize_t>(total) : -1;
  }
  return static_cast<ssize_t>(total);
}

ssize_t TlsSession::write(std::span<const iovec> pieces) {
  State& state = *state_;
  std::size_t total = 0;
  std::size_t skip = 0;  // of the first piece
  while (true) {
    while (!pieces.empty() && skip >= pieces.front().iov_len) {
      skip -= pieces.front().iov_len;
      pieces = pieces.subspan(1);
    }
    if (pieces.empty()) {
      return static_cast<ssize_t>(total);
    }
    const std::string_view record = next_record(pieces, skip, state.shared->record);
    ERR_clear_error();
    std::size_t put = 0;
    const int code = SSL_write_ex(state.ssl.get(), record.data(), record.size(), &put);
    if (code != 1) {
      const bool again = wants_event(SSL_get_error(state.ssl.get(), code));
      state.broken = state.broken || !again;
      ERR_clear_error();
      errno = again ? EAGAIN : ECONNRESET;
      return total > 0 && again ? static_cast<ssize_t>(total) : -1;
    }
    total += put;
    skip += put;
  }
}

bool TlsSession::say_end() {
  State& state = *state_;
  if (state.broken || state.said_end) {
    return true;
  }
  ERR_clear_error();
  const int code = SSL_shutdown(state.ssl.get());
  const bool again = code < 0 && wants_event(SSL_get_error(state.ssl.get(), code));
  ERR_clear_error();
  state.said_end = !again;
  return !again;
}

ServerTls::ServerTls() = default;
ServerTls::ServerTls(ServerTls&&) noexcept = default;
ServerTls& ServerTls::operator=(ServerTls&&) noexcept = default;
ServerTls::~ServerTls() = default;

base::Result<ServerTls> ServerTls::load(const Files& files, std::string_view ticket_key) {
  ServerTls loaded;
  loaded.shared_ = std::make_shared<TlsSession::Shared>();
  TlsSession::Shared& shared = *loaded.shared_;
  shared.context.reset(SSL_CTX_new(TLS_server_method()));
  shared.bio_method = tls::make_bio_method();
  if (shared.context == nullptr || shared.bio_method == nullptr || !set_up(shared.context.get())) {
    return base::Error(base::ErrorCode::kInternal, "cannot set up TLS: " + tls::take_errors());
  }
  MIK_TRY(use_certificate(shared.context.get(), files.certificate));
  MIK_TRY(use_key(shared.context.get(), files));
  if (!ticket_key.empty()) {
    MIK_ASSERT(ticket_key.size() == kTicketKeyBytes);
    std::array<char, kTicketKeyBytes> key{};
    std::ranges::copy(ticket_key, key.begin());
    if (SSL_CTX_set_tlsext_ticket_keys(shared.context.get(), key.data(), key.size()) != 1) {
      return base::Error(base::ErrorCode::kInternal, "cannot set up TLS: " + tls::take_errors());
    }
  }
  return loaded;
}

std::unique_ptr<TlsSession> ServerTls::accept(int socket) const {
  auto state = std::make_unique<TlsSession::State>();
  state->shared = shared_;
  state->socket.fd = socket;
  state->ssl.reset(SSL_new(shared_->context.get()));
  if (state->ssl == nullptr ||
      !tls::attach(state->ssl.get(), shared_->bio_method.get(), state->socket)) {
    ERR_clear_error();
    return nullptr;
  }
  SSL_set_accept_state(state->ssl.get());
  return std::unique_ptr<TlsSession>(new TlsSession(std::move(state)));
}

}  // namespace mik::http
