#include "supervisor/signals.hpp"

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

namespace mik::supervisor {

base::Result<std::unique_ptr<Signals>> Signals::create(net::Loop& loop, OnSignal on_signal) {
  std::unique_ptr<Signals> signals(new Signals(loop, std::move(on_signal)));
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD}) {
    ::sigaddset(&set, signal);
    // Under nohup SIGHUP is ignored, which is right; under some parents SIGCHLD is, which loses
    // exits.
    if (signal != SIGHUP) {
      std::signal(signal, SIG_DFL);
    }
  }
  std::signal(SIGPIPE, SIG_IGN);
  if (::sigprocmask(SIG_BLOCK, &set, &signals->previous_) != 0) {
    return base::Error::from_errno("sigprocmask", errno);
  }
  signals->fd_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals->fd_.valid()) {
    return base::Error::from_errno("signalfd", errno);
  }
  MIK_TRY(loop.watch_level(signals->fd_.get(), EPOLLIN, *signals));
  return signals;
}

Signals::~Signals() {
  if (fd_.valid()) {
    loop_.unwatch(fd_.get());
  }
  ::sigprocmask(SIG_SETMASK, &previous_, nullptr);
}

void Signals::on_io(std::uint32_t /*events*/) {
  // One at a time, level-triggered: the callback may end the loop.
  signalfd_siginfo info{};
  if (::read(fd_.get(), &info, sizeof info) == sizeof info) {
    on_signal_(static_cast<int>(info.ssi_signo));
  }
}

}  // namespace mik::supervisor
