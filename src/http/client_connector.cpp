#include "http/client_connector.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/assert.hpp"

namespace mik::http {

namespace {

// Attempts at a time. With the usual stagger each has 4 s before it must go.
constexpr std::size_t kAttemptsMax = 16;

// How much an errno tells: a refusal comes from the host itself, a missing route from this machine.
int weight(int errno_value) noexcept {
  switch (errno_value) {
    case ECONNREFUSED:
      return 3;
    case ETIMEDOUT:
      return 2;
    case 0:
      return 0;
    default:
      return 1;
  }
}

}  // namespace

std::vector<net::SocketAddress> interleave_families(std::span<const net::SocketAddress> addresses) {
  std::vector<net::SocketAddress> first;
  std::vector<net::SocketAddress> second;
  for (const net::SocketAddress& address : addresses) {
    const bool same = address.storage.ss_family == addresses.front().storage.ss_family;
    (same ? first : second).push_back(address);
  }
  std::vector<net::SocketAddress> mixed;
  for (std::size_t i = 0; i < std::max(first.size(), second.size()); ++i) {
    if (i < first.size()) {
      mixed.push_back(first[i]);
    }
    if (i < second.size()) {
      mixed.push_back(second[i]);
    }
  }
  return mixed;
}

class Connector::Attempt final : public net::IoHandler {
 public:
  explicit Attempt(Connector& owner) : owner_(&owner) {}

  // 0: connected or under way (see `connected`); else errno.
  int start(net::Loop& loop, const net::SocketAddress& address, bool& connected) {
    socket_ = base::Fd(::socket(address.storage.ss_family,
                                SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
    if (!socket_.valid()) {
      return errno;
    }
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connected = ::connect(socket_.get(), address.get(), address.length) == 0;
    if (connected) {
      return 0;
    }
    if (errno != EINPROGRESS) {
      return errno;
    }
    watched_ = loop.watch(socket_.get(), EPOLLOUT, *this).has_value();
    return watched_ ? 0 : ENOBUFS;
  }

  void on_io(std::uint32_t /*events*/) override {
    if (owner_ == nullptr) {
      return;
    }
    int error = 0;
    socklen_t length = sizeof error;
    if (::getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) {
      error = errno;
    }
    sockaddr_storage peer{};
    socklen_t peer_length = sizeof peer;
    if (error == 0 &&
        ::getpeername(socket_.get(), reinterpret_cast<sockaddr*>(&peer), &peer_length) != 0) {
      return;  // woken too early
    }
    owner_->attempt_done(*this, error);
  }

  // The socket, no longer watched; the attempt is deaf from now on.
  base::Fd give_up(net::Loop& loop) {
    owner_ = nullptr;
    if (watched_ && socket_.valid()) {
      loop.unwatch(socket_.get());
    }
    return std::move(socket_);
  }

 private:
  Connector* owner_;
  base::Fd socket_;
  bool watched_ = false;
};

Connector::Connector(net::Loop& loop, User& user)
    : loop_(loop), user_(user), timer_(net::Timer::of<&Connector::on_stagger>(this)) {}

Connector::~Connector() { cancel(); }

void Connector::start(std::vector<net::SocketAddress> addresses, base::Duration stagger) {
  MIK_ASSERT(!addresses.empty() && attempts_.empty());
  addresses_ = std::move(addresses);
  stagger_ = stagger;
  next_ = 0;
  failure_ = 0;
  try_next();
}

void Connector::cancel() {
  timer_.disarm();
  next_ = addresses_.size();
  for (std::unique_ptr<Attempt>& attempt : attempts_) {
    attempt->give_up(loop_).reset();
    loop_.retire(std::move(attempt));
  }
  attempts_.clear();
}

void Connector::try_next() {
  while (next_ < addresses_.size()) {
    if (attempts_.size() == kAttemptsMax) {
      give_up_oldest();
    }
    const net::SocketAddress& address = addresses_[next_++];
    auto attempt = std::make_unique<Attempt>(*this);
    bool connected = false;
    const int error = attempt->start(loop_, address, connected);
    if (error != 0) {
      note_failure(error);
      continue;
    }
    Attempt& begun = *attempts_.emplace_back(std::move(attempt));
    if (connected) {
      attempt_done(begun, 0);
      return;
    }
    if (next_ < addresses_.size()) {
      loop_.wheel().arm(timer_, base::saturating_add(loop_.now(), stagger_));
    }
    return;
  }
  fail_if_over();
}

// Who writes the name's records must not decide how many descriptors are left.
void Connector::give_up_oldest() {
  attempts_.front()->give_up(loop_).reset();
  loop_.retire(std::move(attempts_.front()));
  attempts_.erase(attempts_.begin());
  note_failure(ETIMEDOUT);
}

void Connector::on_stagger() { try_next(); }

void Connector::attempt_done(Attempt& attempt, int errno_value) {
  const auto found = std::ranges::find(attempts_, &attempt, &std::unique_ptr<Attempt>::get);
  base::Fd socket = attempt.give_up(loop_);
  loop_.retire(std::move(*found));
  attempts_.erase(found);
  if (errno_value == 0) {
    cancel();
    user_.on_connected(std::move(socket));
    return;
  }
  socket.reset();
  note_failure(errno_value);
  timer_.disarm();
  try_next();
}

void Connector::note_failure(int errno_value) noexcept {
  if (weight(errno_value) > weight(failure_)) {
    failure_ = errno_value;
  }
}

void Connector::fail_if_over() {
  if (attempts_.empty()) {
    user_.on_connect_failed(failure_);
  }
}

}  // namespace mik::http
