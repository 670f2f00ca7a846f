// What systemd (or whoever gave us NOTIFY_SOCKET) is told of the run: sd_notify(3), by hand, since
// it is one datagram a message. Confined to the thread of the loop.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "net/loop.hpp"
#include "supervisor/observer.hpp"

namespace mik::supervisor {

// Mute when nobody asked to be told; what cannot be sent is said as a warning. After stopping()
// only the watchdog speaks.
class Notifier {
 public:
  // Takes what it reads (NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID) out of the environment, so
  // that no child has it: to be made before the first.
  Notifier(net::Loop& loop, Observer& observer);
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;

  // The first time READY, and from there on signs of life; later: the reload is over.
  void ready(std::string_view status);
  // A reload has begun. Nothing before the first ready(): the manager is still waiting for that.
  void reloading();
  // The end has begun, and may take so long. The manager's own limit is extended where it is less.
  void stopping(base::Duration limit);

 private:
  enum class State : std::uint8_t { kStarting, kReady, kReloading, kStopping };

  void open(std::string_view address);
  bool send(std::string_view text, int flags);
  void tell(const std::string& text);
  void on_watchdog();

  net::Loop& loop_;
  Observer& observer_;
  base::Fd fd_;  // invalid: mute
  sockaddr_un to_{};
  socklen_t to_bytes_ = 0;
  State state_ = State::kStarting;
  base::Duration watchdog_period_{};  // 0: no watchdog
  net::Timer watchdog_ = net::Timer::of<&Notifier::on_watchdog>(this);
};

}  // namespace mik::supervisor
