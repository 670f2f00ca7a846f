#include "http/tls.hpp"

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <unordered_map>
#include <utility>

#include "base/assert.hpp"
#include "http/tls_socket.hpp"

namespace mik::http {

namespace {

using tls::BioMethod;
using tls::kRecord;
using tls::Session;
using tls::Ssl;
using tls::SslCtx;
using tls::take_errors;

constexpr std::size_t kSessionsPerOrigin = 4;
constexpr std::size_t kOriginsWithSessions = 256;

base::Error store_error(const std::string& what) {
  return base::Error(base::ErrorCode::kConfig, what + ": " + take_errors());
}

// The system's certificates. The bundle is read whole here, on a pool thread, since a folder of
// hashed names would be read during handshakes, on the loop.
void load_system_store(SSL_CTX* context) {
  constexpr std::array<const char*, 4> kBundles = {
      "/etc/ssl/certs/ca-certificates.crt",  // Debian, Arch, Alpine
      "/etc/pki/tls/certs/ca-bundle.crt",    // Fedora
      "/etc/ssl/ca-bundle.pem",              // SUSE
      "/etc/ssl/cert.pem"};
  for (const char* bundle : kBundles) {
    if (::access(bundle, R_OK) == 0 && SSL_CTX_load_verify_file(context, bundle) == 1) {
      return;
    }
  }
  ERR_clear_error();
  SSL_CTX_set_default_verify_dir(context);
}

base::Result<void> load_trust(SSL_CTX* context, const std::string& ca_file) {
  load_system_store(context);
  if (const char* file = ::secure_getenv("SSL_CERT_FILE"); file != nullptr && *file != '\0') {
    if (SSL_CTX_load_verify_file(context, file) != 1) {
      return store_error(std::string("cannot read the certificates of SSL_CERT_FILE ") + file);
    }
  }
  if (const char* folder = ::secure_getenv("SSL_CERT_DIR"); folder != nullptr && *folder != '\0') {
    SSL_CTX_load_verify_dir(context, folder);
  }
  if (!ca_file.empty() && SSL_CTX_load_verify_file(context, ca_file.c_str()) != 1) {
    return store_error("cannot read the certificates of " + ca_file);
  }
  ERR_clear_error();
  return {};
}

}  // namespace

struct TlsClient::State {
  SslCtx context;
  BioMethod bio_method;
  std::unordered_map<std::string, std::vector<Session>> sessions;

  void keep(const std::string& key, Session session);
  Session take(const std::string& key);
};

struct TlsClient::Build {
  SslCtx context;
  BioMethod bio_method;
  base::Result<void> result;

  void run_blocking(const std::string& ca_file, Alpn alpn);
};

namespace {

class TlsTransport final : public Transport {
 public:
  TlsTransport(base::Fd socket, Ssl ssl)
      : socket_(std::move(socket)), below_{.fd = socket_.get()}, ssl_(std::move(ssl)) {}

  // False: out of memory.
  bool attach(const BIO_METHOD* method) { return tls::attach(ssl_.get(), method, below_); }

  int fd() const noexcept override { return socket_.get(); }
  IoResult handshake() override;
  IoResult read(std::span<char> buffer) override;
  IoResult write(std::span<const iovec> pieces) override;
  IoResult flush() override;
  void close() noexcept override;
  bool resumed() const noexcept override { return SSL_session_reused(ssl_.get()) == 1; }

  // Where new sessions go; called by OpenSSL during read and handshake.
  std::function<void(Session)> keep_session;

 private:
  IoResult failure(int code, const char* what);

  base::Fd socket_;
  tls::Socket below_;
  Ssl ssl_;
  bool broken_ = false;  // no close_notify after a fatal error (SSL_shutdown(3))
  std::string held_;     // a record's content that OpenSSL must be given again
  std::size_t held_done_ = 0;
};

IoResult TlsTransport::failure(int code, const char* what) {
  const int errno_value = errno;
  const int reason = SSL_get_error(ssl_.get(), code);
  switch (reason) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
      ERR_clear_error();
      return {.status = IoStatus::kAgain};
    case SSL_ERROR_ZERO_RETURN:
      return {.status = IoStatus::kEof, .error = ClientError::kConnectionTerminated};
    default:
      break;
  }
  broken_ = true;
  const unsigned long error = ERR_peek_error();
  if (reason == SSL_ERROR_SSL && ERR_GET_LIB(error) == ERR_LIB_SSL &&
      ERR_GET_REASON(error) == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    ERR_clear_error();
    problem_ = "the peer closed without ending TLS";
    return {.status = IoStatus::kTruncated, .error = ClientError::kConnectionTerminated};
  }
  if (reason == SSL_ERROR_SYSCALL && error == 0) {
    return system_failure(what, errno_value);
  }
  ClientError kind = ClientError::kTlsProtocolError;
  const long verified = SSL_get_verify_result(ssl_.get());
  if (verified != X509_V_OK) {
    kind = ClientError::kTlsCertificateError;
    problem_ = X509_verify_cert_error_string(verified);
    ERR_clear_error();
  } else {
    // Reasons from here on are alerts of the peer: openssl/sslerr.h.
    if (ERR_GET_LIB(error) == ERR_LIB_SSL && ERR_GET_REASON(error) >= SSL_AD_REASON_OFFSET) {
      kind = ClientError::kTlsAlertReceived;
    }
    problem_ = take_errors();
  }
  return {.status = IoStatus::kFailed, .error = kind};
}

IoResult TlsTransport::handshake() {
  ERR_clear_error();
  const int code = SSL_do_handshake(ssl_.get());
  if (code == 1) {
    return {};
  }
  return failure(code, "cannot shake hands");
}

IoResult TlsTransport::read(std::span<char> buffer) {
  ERR_clear_error();
  std::size_t got = 0;
  const int code = SSL_read_ex(ssl_.get(), buffer.data(), buffer.size(), &got);
  if (code == 1) {
    return {.bytes = got};
  }
  return failure(code, "cannot read");
}

IoResult TlsTransport::write(std::span<const iovec> pieces) {
  if (const IoResult flushed = flush(); flushed.status != IoStatus::kOk) {
    return flushed;
  }
  for (const iovec& piece : pieces) {
    const std::size_t room = kRecord - held_.size();
    held_.append(static_cast<const char*>(piece.iov_base), std::min(piece.iov_len, room));
  }
  const std::size_t taken = held_.size();
  if (const IoResult flushed = flush();
      flushed.status != IoStatus::kOk && flushed.status != IoStatus::kAgain) {
    return flushed;
  }
  return {.bytes = taken};
}

IoResult TlsTransport::flush() {
  while (held_done_ < held_.size()) {
    ERR_clear_error();
    std::size_t put = 0;
    const int code =
        SSL_write_ex(ssl_.get(), held_.data() + held_done_, held_.size() - held_done_, &put);
    if (code != 1) {
      return failure(code, "cannot write");
    }
    held_done_ += put;
  }
  held_.clear();
  held_done_ = 0;
  return {};
}

void TlsTransport::close() noexcept {
  if (!socket_.valid()) {
    return;
  }
  if (!broken_ && SSL_is_init_finished(ssl_.get()) != 0) {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
    ERR_clear_error();
  }
  socket_.reset();
}

// OpenSSL hands over a session that may be kept; returning 1 takes the reference.
int on_new_session(SSL* ssl, SSL_SESSION* session) {
  auto* transport = static_cast<TlsTransport*>(SSL_get_app_data(ssl));
  if (transport == nullptr || !transport->keep_session) {
    return 0;
  }
  transport->keep_session(Session(session));
  return 1;
}

}  // namespace

void TlsClient::State::keep(const std::string& key, Session session) {
  if (sessions.size() >= kOriginsWithSessions && !sessions.contains(key)) {
    sessions.erase(sessions.begin());
  }
  std::vector<Session>& kept = sessions[key];
  if (kept.size() >= kSessionsPerOrigin) {
    kept.erase(kept.begin());
  }
  kept.push_back(std::move(session));
}

Session TlsClient::State::take(const std::string& key) {
  const auto found = sessions.find(key);
  if (found == sessions.end()) {
    return nullptr;
  }
  std::vector<Session>& kept = found->second;
  Session session = std::move(kept.back());
  kept.pop_back();
  // A ticket of TLS 1.3 is for one use (RFC 8446 appendix C.4); an older session stays good.
  if (SSL_SESSION_get_protocol_version(session.get()) < TLS1_3_VERSION &&
      SSL_SESSION_up_ref(session.get()) == 1) {
    kept.insert(kept.begin(), Session(session.get()));
  }
  if (kept.empty()) {
    sessions.erase(found);
  }
  return session;
}

void TlsClient::Build::run_blocking(const std::string& ca_file, Alpn alpn) {
  context.reset(SSL_CTX_new(TLS_client_method()));
  bio_method = tls::make_bio_method();
  if (context == nullptr || bio_method == nullptr) {
    result = store_error("cannot set up TLS");
    return;
  }
  SSL_CTX* c = context.get();
  constexpr std::array<unsigned char, 9> kHttp1 = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
  constexpr std::array<unsigned char, 3> kHttp2 = {2, 'h', '2'};
  const std::span<const unsigned char> protocols =
      alpn == Alpn::kHttp2 ? std::span<const unsigned char>(kHttp2) : kHttp1;
  const bool set = SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION) == 1 &&
                   SSL_CTX_set_alpn_protos(c, protocols.data(),
                                           static_cast<unsigned int>(protocols.size())) == 0;
  if (!set) {
    result = store_error("cannot set up TLS");
    return;
  }
  SSL_CTX_set_options(c, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(c, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                          SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_verify(c, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(c, on_new_session);
  result = load_trust(c, ca_file);
}

TlsClient::TlsClient(net::Offload& offload, std::string ca_file, Alpn alpn)
    : offload_(offload),
      ca_file_(std::move(ca_file)),
      alpn_(alpn),
      state_(std::make_shared<State>()),
      self_(std::make_shared<TlsClient*>(this)) {}

TlsClient::~TlsClient() = default;

bool TlsClient::ready() const noexcept { return state_->context != nullptr; }

bool TlsClient::prepare(TlsWaiter& waiter) {
  if (!building_) {
    auto build = std::make_shared<Build>();
    building_ =
        offload_.submit([build, file = ca_file_, alpn = alpn_] { build->run_blocking(file, alpn); },
                        [build, weak = std::weak_ptr<TlsClient*>(self_)] {
                          if (const auto self = weak.lock()) {
                            (*self)->finish(*build);
                          }
                        });
    if (!building_) {
      return false;
    }
  }
  waiters_.push_back(&waiter);
  return true;
}

void TlsClient::leave(TlsWaiter& waiter) { std::ranges::replace(waiters_, &waiter, nullptr); }

void TlsClient::finish(Build& build) {
  building_ = false;
  if (build.result.has_value()) {
    state_->context = std::move(build.context);
    state_->bio_method = std::move(build.bio_method);
  }
  // A waiter that is told may make others leave, or come anew after a failure: only those of now,
  // by index.
  const std::size_t count = waiters_.size();
  for (std::size_t i = 0; i < count; ++i) {
    if (TlsWaiter* waiter = std::exchange(waiters_[i], nullptr); waiter != nullptr) {
      waiter->on_tls_ready(build.result);
    }
  }
  waiters_.erase(waiters_.begin(), waiters_.begin() + static_cast<std::ptrdiff_t>(count));
}

std::unique_ptr<Transport> TlsClient::connect(base::Fd socket, const Origin& origin) {
  MIK_ASSERT(ready());
  Ssl ssl(SSL_new(state_->context.get()));
  if (ssl == nullptr) {
    return nullptr;
  }
  SSL_set_connect_state(ssl.get());

  X509_VERIFY_PARAM* param = SSL_get0_param(ssl.get());
  X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  bool named = false;
  if (origin.literal) {
    named = X509_VERIFY_PARAM_set1_ip_asc(param, origin.host.c_str()) == 1;
  } else {
    // RFC 6066 section 3: without the trailing dot; nor do certificates have it.
    const std::string name = origin.host.ends_with('.') && origin.host.size() > 1
                                 ? origin.host.substr(0, origin.host.size() - 1)
                                 : origin.host;
    named = X509_VERIFY_PARAM_set1_host(param, name.c_str(), name.size()) == 1 &&
            SSL_set_tlsext_host_name(ssl.get(), name.c_str()) == 1;
  }
  if (!named) {
    ERR_clear_error();
    return nullptr;
  }
  const std::string key = origin.key();
  if (const Session session = state_->take(key); session != nullptr) {
    SSL_set_session(ssl.get(), session.get());
  }
  SSL* raw = ssl.get();
  auto transport = std::make_unique<TlsTransport>(std::move(socket), std::move(ssl));
  if (!transport->attach(state_->bio_method.get())) {
    return nullptr;
  }
  // Holds what the transport stands on, too: it may outlive the client by a turn.
  transport->keep_session = [key, state = state_](Session session) {
    state->keep(key, std::move(session));
  };
  SSL_set_app_data(raw, transport.get());
  return transport;
}

}  // namespace mik::http
