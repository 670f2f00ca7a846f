// Connects to the first of several addresses that answers: Happy Eyeballs, RFC 8305.
// Confined to the loop thread.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "net/loop.hpp"
#include "net/socket.hpp"
#include "net/wheel.hpp"

namespace mik::http {

// RFC 8305 section 4: families in turn, beginning with that of the first address; order within a
// family is kept.
std::vector<net::SocketAddress> interleave_families(std::span<const net::SocketAddress> addresses);

class Connector {
 public:
  class User {
   public:
    // A connected, non-blocking TCP socket with TCP_NODELAY that no loop watches.
    virtual void on_connected(base::Fd socket) = 0;
    // The errno of the attempt that says most.
    virtual void on_connect_failed(int errno_value) = 0;

   protected:
    ~User() = default;
  };

  Connector(net::Loop& loop, User& user);
  ~Connector();  // cancel()
  Connector(const Connector&) = delete;
  Connector& operator=(const Connector&) = delete;

  // Tries the addresses in order: the next one when `stagger` is over or an attempt has failed; the
  // oldest of sixteen attempts makes room. One callback follows, before this returns at the
  // earliest. At least one address.
  void start(std::vector<net::SocketAddress> addresses, base::Duration stagger);
  // Closes all attempts; no callback follows.
  void cancel();

 private:
  class Attempt;
  void try_next();
  void give_up_oldest();
  void on_stagger();
  void attempt_done(Attempt& attempt, int errno_value);
  void note_failure(int errno_value) noexcept;
  void fail_if_over();

  net::Loop& loop_;
  User& user_;
  base::Duration stagger_{};
  std::vector<net::SocketAddress> addresses_;
  std::size_t next_ = 0;
  std::vector<std::unique_ptr<Attempt>> attempts_;
  int failure_ = 0;
  net::Timer timer_;
};

}  // namespace mik::http
