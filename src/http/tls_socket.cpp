#include "http/tls_socket.hpp"

#include <openssl/err.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>

namespace mik::http::tls {

namespace {

Socket& socket_of(BIO* bio) { return *static_cast<Socket*>(BIO_get_data(bio)); }

bool try_again(int errno_value) noexcept {
  return errno_value == EAGAIN || errno_value == EWOULDBLOCK || errno_value == EINTR;
}

int bio_write(BIO* bio, const char* data, int length) {
  BIO_clear_retry_flags(bio);
  const ssize_t put =
      ::send(socket_of(bio).fd, data, static_cast<std::size_t>(length), MSG_NOSIGNAL);
  if (put < 0 && try_again(errno)) {
    BIO_set_retry_write(bio);
  }
  return static_cast<int>(put);
}

int bio_read(BIO* bio, char* data, int length) {
  Socket& socket = socket_of(bio);
  BIO_clear_retry_flags(bio);
  const ssize_t got = ::recv(socket.fd, data, static_cast<std::size_t>(length), 0);
  socket.drained = got < length && !(got < 0 && errno == EINTR);
  socket.heard = socket.heard || got > 0;
  if (got < 0 && try_again(errno)) {
    BIO_set_retry_read(bio);
  }
  if (got == 0) {
    BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
  }
  return static_cast<int>(got);
}

long bio_control(BIO* bio, int command, long /*number*/, void* /*pointer*/) {
  switch (command) {
    case BIO_CTRL_FLUSH:
      return 1;
    case BIO_CTRL_EOF:
      return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
    default:
      return 0;
  }
}

}  // namespace

std::string take_errors() {
  std::array<char, 256> text{};
  const unsigned long code = ERR_get_error();
  ERR_clear_error();
  if (code == 0) {
    return "unknown failure";
  }
  if (const char* reason = ERR_reason_error_string(code); reason != nullptr) {
    return reason;
  }
  ERR_error_string_n(code, text.data(), text.size());
  return text.data();
}

BioMethod make_bio_method() {
  BioMethod method(BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "mik socket"));
  if (method != nullptr) {
    BIO_meth_set_write(method.get(), bio_write);
    BIO_meth_set_read(method.get(), bio_read);
    BIO_meth_set_ctrl(method.get(), bio_control);
  }
  return method;
}

bool attach(SSL* ssl, const BIO_METHOD* method, Socket& socket) {
  BIO* const bio = BIO_new(method);
  if (bio == nullptr) {
    return false;
  }
  BIO_set_data(bio, &socket);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);  // takes it
  return true;
}

}  // namespace mik::http::tls
