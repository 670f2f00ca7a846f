#include "telemetry/log_sink.hpp"

#include <limits.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <ctime>

namespace mik::telemetry {

namespace {

// The descriptor is shared with who started us, so it stays blocking.
class FdSink final : public LogSink {
 public:
  explicit FdSink(int fd) noexcept : fd_(fd) {
    struct stat info{};
    file_ = ::fstat(fd, &info) == 0 && S_ISREG(info.st_mode);
  }

  ssize_t write_some(std::string_view bytes) noexcept override {
    ssize_t n = 0;
    if (file_) {
      n = ::write(fd_, bytes.data(), bytes.size());
    } else {
      // Whole lines of up to PIPE_BUF bytes, which no line exceeds: they come out whole however
      // many workers write, and where RWF_NOWAIT is unknown such a write does not wait once poll
      // has seen room.
      std::string_view piece = bytes.substr(0, PIPE_BUF);
      if (piece.size() < bytes.size()) {
        const std::size_t end = piece.rfind('\n');
        piece = piece.substr(0, end == std::string_view::npos ? piece.size() : end + 1);
      }
      n = write_piece(piece);
    }
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) {
      return 0;
    }
    return n == 0 ? -1 : n;
  }

  void wait(int timeout_ms) noexcept override {
    pollfd poll_fd{fd_, POLLOUT, 0};
    if (::poll(&poll_fd, 1, timeout_ms) > 0) {
      // Room by poll and yet none: others of the family take it.
      const timespec pause{0, 1'000'000};
      // lint: allow sleep: the writer's own thread
      ::clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr);
    }
  }

 private:
  ssize_t write_piece(std::string_view piece) noexcept {
    if (nowait_) {
      iovec vector{const_cast<char*>(piece.data()),
                   piece.size()};  // writev's type; it changes nothing
      const ssize_t n = ::pwritev2(fd_, &vector, 1, -1, RWF_NOWAIT);
      if (n >= 0 || (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)) {
        return n;
      }
      nowait_ = false;  // terminals, sockets, pipes of older kernels
    }
    pollfd poll_fd{fd_, POLLOUT, 0};
    if (::poll(&poll_fd, 1, 0) <= 0) {
      errno = EAGAIN;
      return -1;
    }
    return ::write(fd_, piece.data(), piece.size());
  }

  int fd_;
  bool file_ = false;
  bool nowait_ = true;
};

}  // namespace

std::unique_ptr<LogSink> sink_of(int fd) { return std::make_unique<FdSink>(fd); }

}  // namespace mik::telemetry
