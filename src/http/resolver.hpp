// Names to addresses: getaddrinfo on the offload pool, one lookup per name at a time, answers kept
// for a while. Confined to the loop thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/time.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"
#include "net/socket.hpp"

namespace mik::http {

// What a lookup gave. No addresses: it failed, and `problem` says why.
struct Resolved {
  std::vector<net::SocketAddress> addresses;  // in the system's order (RFC 6724), without ports
  std::string problem;
};

struct ResolverOptions {
  // getaddrinfo tells no TTL.
  base::Duration keep = std::chrono::seconds(30);
  base::Duration keep_failure = std::chrono::seconds(5);
  std::size_t names_max = 1024;
  // Called on pool threads, may block, must not throw; empty means getaddrinfo.
  std::function<Resolved(const std::string& host)> lookup_blocking;
};

// Who waits for a lookup.
class ResolveWaiter {
 public:
  // Valid for the call. Must not destroy the resolver.
  virtual void on_resolved(const Resolved& resolved) = 0;

 protected:
  ~ResolveWaiter() = default;
};

// The address that `host` is the text of: dotted IPv4, or IPv6 without brackets. length 0 when it
// is a name.
net::SocketAddress address_literal(std::string_view host);

class Resolver {
 public:
  // Loop and pool must outlive the resolver.
  Resolver(net::Loop& loop, net::Offload& offload, ResolverOptions options);
  ~Resolver();  // waiters hear nothing any more
  Resolver(const Resolver&) = delete;
  Resolver& operator=(const Resolver&) = delete;

  // The kept answer (valid until the resolver is used again), or nullptr: then `waiter` is told
  // later, unless it leaves. `host` is in lower case. A full pool is a failure that is not kept.
  const Resolved* resolve(const std::string& host, ResolveWaiter& waiter);
  // The waiter's lookup goes on and is kept, without it.
  void leave(const std::string& host, ResolveWaiter& waiter);

  std::uint64_t lookups() const noexcept { return lookups_; }

 private:
  struct Entry;
  void finish(const std::string& host, Resolved resolved);
  void make_room();

  net::Loop& loop_;
  net::Offload& offload_;
  ResolverOptions options_;
  std::unordered_map<std::string, std::unique_ptr<Entry>> entries_;
  Resolved refused_;  // the answer when the pool is full
  std::uint64_t lookups_ = 0;
  std::shared_ptr<Resolver*> self_;  // what done() callbacks hold weakly
};

}  // namespace mik::http
