#include "telemetry/log_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <utility>

namespace mik::telemetry {

namespace {

// A pipe without a reader is an error, not a wait; for files it changes nothing.
constexpr int kFlags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
constexpr base::Duration kRotateAgain = std::chrono::seconds(60);

void nap() noexcept {
  const timespec pause{0, 1'000'000};
  // lint: allow sleep: the writer's own thread, or a supervisor for a few milliseconds
  ::clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr);
}

// A link is followed once and for all, or rotation would move the link.
std::string real_path(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) {
    return path;
  }
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), &std::free);
  return real == nullptr ? path : std::string(real.get());
}

}  // namespace

// flock(2) of the open file: it goes when its holder dies.
class LogFile::Lock {
 public:
  Lock(int fd, base::Time give_up) noexcept : fd_(fd) {
    while (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      if ((errno != EWOULDBLOCK && errno != EINTR) || base::Clock::now() >= give_up) {
        return;
      }
      nap();
    }
    held_ = true;
  }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
  ~Lock() {
    if (held_) {
      ::flock(fd_, LOCK_UN);
    }
  }
  bool held() const noexcept { return held_; }

 private:
  int fd_;
  bool held_ = false;
};

LogFile::LogFile(LogFileOptions options)
    : options_(std::move(options)), path_(real_path(options_.path)) {
  open();
}

bool LogFile::open() noexcept {
  plain_.reset();
  fd_.reset(::open(path_.c_str(), kFlags, mode_));
  struct stat info{};
  if (!fd_.valid() || ::fstat(fd_.get(), &info) != 0) {
    return false;
  }
  if (!S_ISREG(info.st_mode)) {
    plain_ = sink_of(fd_.get());
  }
  return true;
}

void LogFile::reopen() noexcept { open(); }

int LogFile::take_trouble() noexcept { return std::exchange(trouble_, 0); }

// The name means the file that is open.
bool LogFile::is_current() const noexcept {
  struct stat named{};
  struct stat opened{};
  return fd_.valid() && ::stat(path_.c_str(), &named) == 0 && ::fstat(fd_.get(), &opened) == 0 &&
         named.st_dev == opened.st_dev && named.st_ino == opened.st_ino;
}

void LogFile::wait(int timeout_ms) noexcept {
  if (plain_ != nullptr) {
    plain_->wait(timeout_ms);
  } else {
    nap();
  }
}

ssize_t LogFile::write_some(std::string_view lines) noexcept {
  const base::Time give_up = base::Clock::now() + options_.lock_patience;
  do {
    if (!is_current() && !open()) {
      return -1;
    }
    if (plain_ != nullptr) {
      return plain_->write_some(lines);
    }
    const Lock lock(fd_.get(), give_up);
    if (!is_current()) {
      continue;  // it was rotated while we waited for its lock
    }
    struct stat info{};
    if (lock.held() && ::fstat(fd_.get(), &info) == 0 && info.st_size > 0 &&
        static_cast<std::uint64_t>(info.st_size) + lines.find('\n') + 1 > options_.bytes_max &&
        base::Clock::now() >= rotate_again_) {
      mode_ = info.st_mode & 0777;
      rotate();
      continue;
    }
    return append(lines, lock.held());
  } while (base::Clock::now() < give_up);
  return append(lines, false);  // somebody moves it all the time
}

// Lines that fit, one at least.
ssize_t LogFile::append(std::string_view lines, bool locked) noexcept {
  struct stat info{};
  if (::fstat(fd_.get(), &info) != 0) {
    return -1;
  }
  const auto size = static_cast<std::uint64_t>(info.st_size);
  const std::uint64_t room = options_.bytes_max > size ? options_.bytes_max - size : 0;
  std::string_view piece = lines;
  if (piece.size() > room) {
    const std::size_t last = room == 0 ? std::string_view::npos : piece.rfind('\n', room - 1);
    piece = piece.substr(0, (last == std::string_view::npos ? piece.find('\n') : last) + 1);
  }
  const ssize_t n = ::write(fd_.get(), piece.data(), piece.size());
  if (n < 0) {
    return errno == EINTR ? 0 : -1;
  }
  const auto written = static_cast<std::size_t>(n);
  if (written == piece.size()) {
    return n;
  }
  // The disk is full: half a line does not stay.
  const std::size_t end = piece.substr(0, written).rfind('\n');
  const std::size_t whole = end == std::string_view::npos ? 0 : end + 1;
  if (locked) {
    static_cast<void>(::ftruncate(fd_.get(), static_cast<off_t>(size + whole)) == 0);
  }
  return whole == 0 ? -1 : static_cast<ssize_t>(whole);
}

// Under the lock of the file that has the name. The last step makes the name mean another file, so
// that all who wait for the lock look again.
void LogFile::rotate() noexcept {
  const auto numbered = [this](std::uint32_t number) {
    return path_ + '.' + std::to_string(number);
  };
  for (std::uint32_t i = options_.rotated_max; i > 1; --i) {
    static_cast<void>(std::rename(numbered(i - 1).c_str(), numbered(i).c_str()));
  }
  if (std::rename(path_.c_str(), numbered(1).c_str()) != 0) {
    trouble_ = errno;
    rotate_again_ = base::Clock::now() + kRotateAgain;
  }
}

base::Result<void> check_log_file(const std::string& path) {
  const base::Fd fd(::open(path.c_str(), kFlags, 0640));
  if (!fd.valid()) {
    return base::Error::from_errno("cannot open the log file '" + path + "'", errno)
        .with_help("server.log_file names it: its folder must exist, and be ours to write in");
  }
  return {};
}

}  // namespace mik::telemetry
