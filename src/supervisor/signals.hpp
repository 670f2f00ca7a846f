// The signals of the supervisor as events of its loop. Confined to the loop thread.
#pragma once

#include <csignal>
#include <functional>
#include <memory>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "net/loop.hpp"

namespace mik::supervisor {

// While it lives, SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 and SIGCHLD do nothing but call the
// function; SIGPIPE does nothing. Only one at a time, in a process with one thread.
class Signals final : public net::IoHandler {
 public:
  using OnSignal = std::function<void(int signal)>;

  static base::Result<std::unique_ptr<Signals>> create(net::Loop& loop, OnSignal on_signal);
  ~Signals() override;
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  void on_io(std::uint32_t events) override;

 private:
  Signals(net::Loop& loop, OnSignal on_signal) : loop_(loop), on_signal_(std::move(on_signal)) {}

  net::Loop& loop_;
  OnSignal on_signal_;
  base::Fd fd_;
  sigset_t previous_{};
};

}  // namespace mik::supervisor
