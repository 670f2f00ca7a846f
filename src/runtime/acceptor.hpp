// How connections come to this worker: from the listeners that it shares with the others, and from
// its inbox, through which others pass what they accepted while it had less to do (docs/adr/0008).
// Also keeps its heart beating in the segment. Confined to the loop thread.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "net/loop.hpp"
#include "shared/handover.hpp"
#include "shared/segment.hpp"

namespace mik::runtime {

// Who serves the sockets.
class AcceptorEvents {
 public:
  virtual ~AcceptorEvents() = default;
  // A connected, non-blocking, close-on-exec stream socket with TCP_NODELAY. Before it returns the
  // connection must be counted in the segment (Segment::set_connections): the next decision rests
  // on it.
  virtual void on_socket(base::Fd socket) = 0;
  // accept fails for want of something (descriptors, memory), and pauses: at most once a pause.
  virtual void on_accept_error(const base::Error& error) { static_cast<void>(error); }
};

class Acceptor {
 public:
  struct Config {
    std::size_t slot = 0;
    std::uint64_t max_connections = 10000;  // of the whole family; more are answered 503
  };

  // Loop, segment and events outlive it. `peers`: the sending ends of the inboxes by slot. Not to
  // be destroyed from within a handler of the loop.
  Acceptor(net::Loop& loop, shared::Segment& segment, const Config& config,
           std::vector<base::Fd> listeners, base::Fd inbox, std::vector<base::Fd> peers,
           AcceptorEvents& events);
  ~Acceptor();
  Acceptor(const Acceptor&) = delete;
  Acceptor& operator=(const Acceptor&) = delete;

  // Accepts from now on. Others pass sockets to us once our state in the segment is kReady.
  base::Result<void> start();

  enum class End : std::uint8_t {
    kFamily,      // nobody goes on: no new connection may reach the listeners any more
    kGeneration,  // others serve on the same listeners
  };
  // Says kDraining in the segment, takes what is already queued at the listeners and closes our
  // copies. What comes to a worker whose generation ends, from there or from the inbox, goes to one
  // that serves on, where there is one. Until the acceptor is destroyed sockets may still come from
  // the inbox. A family may end after a generation did.
  void stop(End end);

 private:
  class Watch;

  base::Result<void> watch_all();
  void accept_some(int listener, int count_max);
  bool accept_one(int listener);
  bool on_accept_failure(int listener, int error);
  void take_from_inbox();
  void place(base::Fd socket);
  bool hand_over(int socket);
  void refuse(base::Fd socket);
  void pause();
  void resume();
  void on_beat();

  net::Loop& loop_;
  shared::Segment& segment_;
  Config config_;
  AcceptorEvents& events_;
  std::vector<std::unique_ptr<Watch>> listeners_;
  std::unique_ptr<Watch> inbox_;
  shared::Outbox outbox_;
  base::Fd spare_;  // given up to accept, and close, one connection when descriptors have run out
  bool paused_ = false;
  bool stopped_ = false;
  bool family_ends_ = false;  // nobody is left to pass anything to
  struct Refused {
    base::Fd socket;
    base::Time until;
  };
  std::deque<Refused> refused_;  // were answered 503, and are given time to read it
  net::Timer resume_timer_ = net::Timer::of<&Acceptor::resume>(this);
  net::Timer beat_timer_ = net::Timer::of<&Acceptor::on_beat>(this);
};

}  // namespace mik::runtime
