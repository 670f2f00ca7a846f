// Which connection an exchange gets: kept ones per origin, last used first, and the limits on how
// many there are. Confined to the loop thread. Pure bookkeeping: it neither connects nor reads.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/time.hpp"
#include "http/client_connection.hpp"
#include "http/client_request.hpp"
#include "net/loop.hpp"

namespace mik::http {

struct ClientPoolLimits {
  base::Duration idle_timeout = std::chrono::seconds(60);
  std::uint32_t idle_per_host_max = 32;
  std::uint32_t per_host_max = 256;
  std::uint32_t connections_max = 1024;
  std::uint32_t waiting_max = 1024;
};

// The connections of one origin. Lives while it has any, or somebody waits.
struct ClientHost {
  Origin origin;
  std::vector<std::unique_ptr<ClientConnection>> idle;  // last used at the back
  std::uint32_t total = 0;                              // idle, busy and being opened
  std::uint32_t waiting = 0;
};

class ClientPool final : private ClientConnection::IdleObserver {
 public:
  // Who wants a connection.
  class Waiter {
   public:
    virtual ~Waiter() = default;  // not in the queue any more
    // A kept connection, or nullptr: the permit to open one. Either is to be given back by
    // release() or discard(). Must not destroy the pool.
    virtual void on_granted(ClientHost& host, std::unique_ptr<ClientConnection> kept) = 0;

   private:
    friend class ClientPool;
    ClientHost* waits_for_ = nullptr;  // while queued
    std::list<Waiter*>::iterator place_;
  };

  enum class Acquired : std::uint8_t { kGranted, kQueued, kFull };

  ClientPool(net::Loop& loop, const ClientPoolLimits& limits);
  ~ClientPool();  // closes what is idle
  ClientPool(const ClientPool&) = delete;
  ClientPool& operator=(const ClientPool&) = delete;

  // Grants before it returns, queues (first come first served among those that could go), or has no
  // more room to.
  Acquired acquire(const Origin& origin, Waiter& waiter);
  // Leaves the queue; nothing if not in it. May destroy the host.
  void leave(Waiter& waiter);

  // A connection is through with its exchange and may serve another until `keep` from now. Takes it
  // even when it is closed instead of kept.
  void release(ClientHost& host, std::unique_ptr<ClientConnection> connection, base::Duration keep);
  // A permit comes back without a connection. May destroy the host.
  void discard(ClientHost& host);

  // Closes what is idle now; drain(): and keeps nothing from now on.
  void close_idle();
  void drain();

  std::size_t connections() const noexcept { return total_; }
  std::size_t idle() const noexcept { return idle_total_; }
  std::size_t waiting() const noexcept { return queue_.size(); }

 private:
  void on_idle_over(ClientConnection& connection) override;
  bool grant(ClientHost& host, Waiter& waiter);
  std::unique_ptr<ClientConnection> take_kept(ClientHost& host);
  bool evict_oldest();
  void drop(ClientHost& host, std::unique_ptr<ClientConnection> connection);
  void serve();
  void forget_if_empty(ClientHost& host);

  net::Loop& loop_;
  ClientPoolLimits limits_;
  std::unordered_map<std::string, std::unique_ptr<ClientHost>> hosts_;
  std::list<Waiter*> queue_;
  std::size_t total_ = 0;
  std::size_t idle_total_ = 0;
  bool draining_ = false;
  bool serving_ = false;
};

}  // namespace mik::http
