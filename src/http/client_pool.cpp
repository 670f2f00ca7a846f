#include "http/client_pool.hpp"

#include <algorithm>
#include <utility>

#include "base/assert.hpp"

namespace mik::http {

ClientPool::ClientPool(net::Loop& loop, const ClientPoolLimits& limits)
    : loop_(loop), limits_(limits) {}

ClientPool::~ClientPool() { drain(); }

ClientPool::Acquired ClientPool::acquire(const Origin& origin, Waiter& waiter) {
  std::unique_ptr<ClientHost>& entry = hosts_[origin.key()];
  if (entry == nullptr) {
    entry = std::make_unique<ClientHost>(ClientHost{.origin = origin});
  }
  ClientHost& host = *entry;
  if (grant(host, waiter)) {
    return Acquired::kGranted;
  }
  if (queue_.size() >= limits_.waiting_max) {
    forget_if_empty(host);
    return Acquired::kFull;
  }
  waiter.waits_for_ = &host;
  waiter.place_ = queue_.insert(queue_.end(), &waiter);
  ++host.waiting;
  return Acquired::kQueued;
}

void ClientPool::leave(Waiter& waiter) {
  if (ClientHost* host = std::exchange(waiter.waits_for_, nullptr); host != nullptr) {
    queue_.erase(waiter.place_);
    --host->waiting;
    forget_if_empty(*host);
  }
}

void ClientPool::release(ClientHost& host, std::unique_ptr<ClientConnection> connection,
                         base::Duration keep) {
  if (draining_ || keep <= base::Duration::zero() || limits_.idle_per_host_max == 0) {
    connection->close();
    loop_.retire(std::move(connection));
    discard(host);
    return;
  }
  if (host.idle.size() >= limits_.idle_per_host_max) {
    std::unique_ptr<ClientConnection> oldest = std::move(host.idle.front());
    host.idle.erase(host.idle.begin());
    --idle_total_;
    drop(host, std::move(oldest));
  }
  connection->park(*this, host, std::min(keep, limits_.idle_timeout));
  host.idle.push_back(std::move(connection));
  ++idle_total_;
  serve();
}

void ClientPool::discard(ClientHost& host) {
  MIK_ASSERT(host.total > 0 && total_ > 0);
  --host.total;
  --total_;
  forget_if_empty(host);
  serve();
}

void ClientPool::drain() {
  draining_ = true;
  close_idle();
}

void ClientPool::close_idle() {
  for (auto next = hosts_.begin(); next != hosts_.end();) {
    ClientHost& host = *next->second;
    ++next;  // the host may be forgotten
    while (!host.idle.empty()) {
      std::unique_ptr<ClientConnection> connection = std::move(host.idle.back());
      host.idle.pop_back();
      --idle_total_;
      drop(host, std::move(connection));
    }
    forget_if_empty(host);
  }
  serve();
}

void ClientPool::on_idle_over(ClientConnection& connection) {
  ClientHost& host = *connection.home();
  const auto found =
      std::ranges::find(host.idle, &connection, &std::unique_ptr<ClientConnection>::get);
  MIK_ASSERT(found != host.idle.end());
  std::unique_ptr<ClientConnection> owned = std::move(*found);
  host.idle.erase(found);
  --idle_total_;
  drop(host, std::move(owned));
  forget_if_empty(host);
  serve();
}

bool ClientPool::grant(ClientHost& host, Waiter& waiter) {
  std::unique_ptr<ClientConnection> kept = take_kept(host);
  if (kept == nullptr) {
    if (host.total >= limits_.per_host_max ||
        (total_ >= limits_.connections_max && !evict_oldest())) {
      return false;
    }
    ++host.total;
    ++total_;
  }
  waiter.on_granted(host, std::move(kept));
  return true;
}

std::unique_ptr<ClientConnection> ClientPool::take_kept(ClientHost& host) {
  while (!host.idle.empty()) {
    std::unique_ptr<ClientConnection> connection = std::move(host.idle.back());
    host.idle.pop_back();
    --idle_total_;
    if (connection->unpark()) {
      return connection;
    }
    drop(host, std::move(connection));
  }
  return nullptr;
}

// Makes room by closing the connection of any host that has been idle longest. Rare: a walk over
// the hosts will do.
bool ClientPool::evict_oldest() {
  ClientHost* victim = nullptr;
  for (const auto& [key, host] : hosts_) {
    if (!host->idle.empty() && (victim == nullptr || host->idle.front()->parked_at() <
                                                         victim->idle.front()->parked_at())) {
      victim = host.get();
    }
  }
  if (victim == nullptr) {
    return false;
  }
  std::unique_ptr<ClientConnection> connection = std::move(victim->idle.front());
  victim->idle.erase(victim->idle.begin());
  --idle_total_;
  drop(*victim, std::move(connection));
  forget_if_empty(*victim);
  return true;
}

// Closes a connection that is no longer in `idle`, and counts it out.
void ClientPool::drop(ClientHost& host, std::unique_ptr<ClientConnection> connection) {
  connection->close();
  loop_.retire(std::move(connection));
  --host.total;
  --total_;
}

// Grants what can be granted, the longest waiting first. A waiter whose host is full does not hold
// up the others.
void ClientPool::serve() {
  if (std::exchange(serving_, true)) {
    return;  // a grant below gave something back: the walk goes on there
  }
  for (auto next = queue_.begin();
       next != queue_.end() && (total_ < limits_.connections_max || idle_total_ > 0);) {
    Waiter& waiter = **next;
    ClientHost& host = *waiter.waits_for_;
    if (host.idle.empty() && host.total >= limits_.per_host_max) {
      ++next;
      continue;
    }
    // Out of the queue before it is told; a refused one goes back to its place.
    next = queue_.erase(next);
    waiter.waits_for_ = nullptr;
    if (grant(host, waiter)) {
      --host.waiting;
      forget_if_empty(host);
      next = queue_.begin();
      continue;
    }
    waiter.waits_for_ = &host;
    waiter.place_ = queue_.insert(next, &waiter);
  }
  serving_ = false;
}

void ClientPool::forget_if_empty(ClientHost& host) {
  if (host.total == 0 && host.waiting == 0) {
    hosts_.erase(host.origin.key());
  }
}

}  // namespace mik::http
