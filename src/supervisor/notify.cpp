#include "supervisor/notify.hpp"

#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace mik::supervisor {

namespace {

// A manager that does not read must not hold up the supervisor for longer.
constexpr timeval kSendMax{.tv_sec = 1, .tv_usec = 0};
// What an end takes beside the drain: kills, waits, the exit itself.
constexpr base::Duration kEndMargin = std::chrono::seconds(15);
constexpr base::Duration kWatchdogPeriodMin = std::chrono::milliseconds(50);

std::string take_variable(const char* name) {
  const char* value = ::secure_getenv(name);
  std::string out(value != nullptr ? value : "");
  ::unsetenv(name);
  return out;
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const char* begin = text.data();
  const char* end = begin + text.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  return error == std::errc() && stop == end ? std::optional(value) : std::nullopt;
}

std::uint64_t microseconds(base::Duration duration) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, duration / std::chrono::microseconds(1)));
}

}  // namespace

Notifier::Notifier(net::Loop& loop, Observer& observer) : loop_(loop), observer_(observer) {
  const std::string address = take_variable("NOTIFY_SOCKET");
  const std::string period = take_variable("WATCHDOG_USEC");
  const std::string pid = take_variable("WATCHDOG_PID");
  if (address.empty()) {
    return;
  }
  open(address);
  if (!fd_.valid()) {
    return;
  }
  const std::optional<std::uint64_t> limit_us = number(period);
  if (limit_us && *limit_us > 0 &&
      *limit_us <
          static_cast<std::uint64_t>(base::Duration::max() / std::chrono::microseconds(1)) &&
      (pid.empty() || number(pid) == static_cast<std::uint64_t>(::getpid()))) {
    // Twice in the time that the manager waits, as sd_watchdog_enabled(3) advises.
    watchdog_period_ =
        std::max<base::Duration>(std::chrono::microseconds(*limit_us / 2), kWatchdogPeriodMin);
  }
}

// A path, or '@' and an abstract name.
void Notifier::open(std::string_view address) {
  if (address.size() < 2 || address.size() >= sizeof to_.sun_path ||
      (address[0] != '/' && address[0] != '@')) {
    observer_.on_event(Severity::kWarning,
                       "NOTIFY_SOCKET is no address of a unix socket: the service manager is not "
                       "told that this server is ready");
    return;
  }
  to_.sun_family = AF_UNIX;
  std::memcpy(to_.sun_path, address.data(), address.size());
  std::size_t bytes = offsetof(sockaddr_un, sun_path) + address.size();
  if (address[0] == '@') {
    to_.sun_path[0] = '\0';  // and every byte of the name counts
  } else {
    ++bytes;  // the NUL
  }
  to_bytes_ = static_cast<socklen_t>(bytes);
  fd_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd_.valid()) {
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &kSendMax, sizeof kSendMax);
  }
}

void Notifier::ready(std::string_view status) {
  if (state_ == State::kStopping) {
    return;
  }
  const bool first = state_ == State::kStarting;
  state_ = State::kReady;
  tell("READY=1\nSTATUS=" + std::string(status));
  if (first && watchdog_period_ > base::Duration::zero()) {
    on_watchdog();
  }
}

void Notifier::reloading() {
  if (state_ != State::kReady) {
    return;
  }
  state_ = State::kReloading;
  tell("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(base::to_ns(base::Clock::now()) / 1000) +
       "\nSTATUS=Reading the configuration again");
}

void Notifier::stopping(base::Duration limit) {
  if (state_ == State::kStopping) {
    return;
  }
  state_ = State::kStopping;
  const base::Duration most = base::Duration::max() - kEndMargin;
  tell("STOPPING=1\nEXTEND_TIMEOUT_USEC=" +
       std::to_string(microseconds(std::min(limit, most) + kEndMargin)) + "\nSTATUS=Draining");
}

// By address and not connected: the manager may have made its socket anew.
bool Notifier::send(std::string_view text, int flags) {
  ssize_t sent = 0;
  do {
    sent = ::sendto(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL | flags,
                    reinterpret_cast<const sockaddr*>(&to_), to_bytes_);
  } while (sent < 0 && errno == EINTR);
  return sent >= 0;
}

void Notifier::tell(const std::string& text) {
  if (fd_.valid() && !send(text, 0)) {
    observer_.on_event(Severity::kWarning, "The service manager could not be told " +
                                               text.substr(0, text.find('=')) +
                                               ": NOTIFY_SOCKET: " + std::strerror(errno));
  }
}

// From the loop, so that it says that the loop turns. A socket that is full has signs enough.
void Notifier::on_watchdog() {
  send("WATCHDOG=1", MSG_DONTWAIT);
  loop_.wheel().arm(watchdog_, base::Clock::now() + watchdog_period_);
}

}  // namespace mik::supervisor
