#include "http/client_transport.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace mik::http {

namespace {

class PlainTransport final : public Transport {
 public:
  explicit PlainTransport(base::Fd socket) : socket_(std::move(socket)) {}

  int fd() const noexcept override { return socket_.get(); }
  IoResult handshake() override { return {}; }
  IoResult flush() override { return {}; }
  void close() noexcept override { socket_.reset(); }
  bool short_read_is_all() const noexcept override { return true; }

  IoResult read(std::span<char> buffer) override {
    for (;;) {
      const ssize_t got = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
      if (got > 0) {
        return {.bytes = static_cast<std::size_t>(got)};
      }
      if (got == 0) {
        return {.status = IoStatus::kEof};
      }
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return {.status = IoStatus::kAgain};
      }
      if (errno != EINTR) {
        return system_failure("cannot read", errno);
      }
    }
  }

  IoResult write(std::span<const iovec> pieces) override {
    msghdr message{};
    message.msg_iov = const_cast<iovec*>(pieces.data());
    message.msg_iovlen = pieces.size();
    for (;;) {
      const ssize_t put = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
      if (put >= 0) {
        return {.bytes = static_cast<std::size_t>(put)};
      }
      if (errno == EAGAIN || errno == EWOULDBLOCK) {
        return {.status = IoStatus::kAgain};
      }
      if (errno != EINTR) {
        return system_failure("cannot write", errno);
      }
    }
  }

 private:
  base::Fd socket_;
};

}  // namespace

IoResult Transport::system_failure(const char* what, int errno_value) {
  problem_ = what;
  problem_ += ": ";
  problem_ += std::generic_category().message(errno_value);
  return {.status = IoStatus::kFailed,
          .error = errno_value == ETIMEDOUT ? ClientError::kConnectionTimeout
                                            : ClientError::kConnectionTerminated};
}

std::unique_ptr<Transport> make_plain_transport(base::Fd socket) {
  return std::make_unique<PlainTransport>(std::move(socket));
}

}  // namespace mik::http
