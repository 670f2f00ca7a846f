#include "http/resolver.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace mik::http {

namespace {

Resolved lookup_blocking(const std::string& host) {
  Resolved resolved;
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int code = ::getaddrinfo(host.c_str(), nullptr, &hints, &list);
  if (code != 0) {
    resolved.problem = "cannot look up " + host + ": " + ::gai_strerror(code);
    return resolved;
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(list, ::freeaddrinfo);
  for (const addrinfo* item = list; item != nullptr; item = item->ai_next) {
    if ((item->ai_family != AF_INET && item->ai_family != AF_INET6) ||
        item->ai_addrlen > sizeof(sockaddr_storage)) {
      continue;
    }
    net::SocketAddress address;
    std::memcpy(&address.storage, item->ai_addr, item->ai_addrlen);
    address.length = item->ai_addrlen;
    resolved.addresses.push_back(address);
  }
  if (resolved.addresses.empty()) {
    resolved.problem = "cannot look up " + host + ": no address";
  }
  return resolved;
}

}  // namespace

struct Resolver::Entry {
  Resolved resolved;
  base::Time until = base::kNever;  // while the lookup runs: never
  bool running = true;
  std::vector<ResolveWaiter*> waiters;  // nullptr: has left
};

net::SocketAddress address_literal(std::string_view host) {
  net::SocketAddress address;
  const std::string text(host);
  sockaddr_in v4{};
  sockaddr_in6 v6{};
  if (::inet_pton(AF_INET, text.c_str(), &v4.sin_addr) == 1) {
    v4.sin_family = AF_INET;
    std::memcpy(&address.storage, &v4, sizeof v4);
    address.length = sizeof v4;
  } else if (::inet_pton(AF_INET6, text.c_str(), &v6.sin6_addr) == 1) {
    v6.sin6_family = AF_INET6;
    std::memcpy(&address.storage, &v6, sizeof v6);
    address.length = sizeof v6;
  }
  return address;
}

Resolver::Resolver(net::Loop& loop, net::Offload& offload, ResolverOptions options)
    : loop_(loop),
      offload_(offload),
      options_(std::move(options)),
      self_(std::make_shared<Resolver*>(this)) {
  if (!options_.lookup_blocking) {
    options_.lookup_blocking = lookup_blocking;
  }
  refused_.problem = "too many name lookups at once";
}

Resolver::~Resolver() = default;

const Resolved* Resolver::resolve(const std::string& host, ResolveWaiter& waiter) {
  if (const auto found = entries_.find(host); found != entries_.end()) {
    Entry& entry = *found->second;
    if (entry.running) {
      entry.waiters.push_back(&waiter);
      return nullptr;
    }
    if (loop_.now() < entry.until || !entry.waiters.empty()) {  // waiters: being told right now
      return &entry.resolved;
    }
    entries_.erase(found);
  }
  make_room();
  auto result = std::make_shared<Resolved>();
  const bool taken =
      offload_.submit([result, host, lookup = options_.lookup_blocking] { *result = lookup(host); },
                      [result, host, weak = std::weak_ptr<Resolver*>(self_)] {
                        if (const auto self = weak.lock()) {
                          (*self)->finish(host, std::move(*result));
                        }
                      });
  if (!taken) {
    return &refused_;
  }
  ++lookups_;
  auto entry = std::make_unique<Entry>();
  entry->waiters.push_back(&waiter);
  entries_.emplace(host, std::move(entry));
  return nullptr;
}

void Resolver::leave(const std::string& host, ResolveWaiter& waiter) {
  if (const auto found = entries_.find(host); found != entries_.end()) {
    std::ranges::replace(found->second->waiters, &waiter, nullptr);
  }
}

void Resolver::finish(const std::string& host, Resolved resolved) {
  Entry& entry = *entries_.at(host);
  entry.resolved = std::move(resolved);
  entry.running = false;
  entry.until = base::saturating_add(
      loop_.now(), entry.resolved.addresses.empty() ? options_.keep_failure : options_.keep);
  // By index: one waiter's callback may make another leave. Nobody joins, and the entry stays,
  // since nothing that is running or being told is thrown out.
  for (std::size_t i = 0; i < entry.waiters.size(); ++i) {
    if (ResolveWaiter* waiter = std::exchange(entry.waiters[i], nullptr); waiter != nullptr) {
      waiter->on_resolved(entry.resolved);
    }
  }
  entry.waiters.clear();
}

void Resolver::make_room() {
  if (entries_.size() < options_.names_max) {
    return;
  }
  const base::Time now = loop_.now();
  std::erase_if(entries_, [now](const auto& item) {
    return !item.second->running && item.second->waiters.empty() && item.second->until <= now;
  });
  if (entries_.size() < options_.names_max) {
    return;
  }
  // All fresh: any answered one goes. Running ones are as many as the pool's queue allows.
  const auto victim = std::ranges::find_if(entries_, [](const auto& item) {
    return !item.second->running && item.second->waiters.empty();
  });
  if (victim != entries_.end()) {
    entries_.erase(victim);
  }
}

}  // namespace mik::http
