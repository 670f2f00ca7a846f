#include "runtime/acceptor.hpp"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <limits>
#include <string_view>
#include <utility>

#include "net/socket.hpp"

namespace mik::runtime {

namespace {

constexpr int kPerEventMax = 16;        // then the other connections have their turn
constexpr int kPerStopMax = 64 * 1024;  // more than any backlog
constexpr base::Duration kPause = std::chrono::milliseconds(100);
// The wheel adds up to 33 ms, and a turn may take 25: still within shared::kHeartbeatMax.
constexpr base::Duration kBeat = std::chrono::milliseconds(30);
constexpr base::Duration kLinger = std::chrono::seconds(1);
constexpr std::size_t kRefusedMax = 64;

constexpr std::string_view kBusy =
    "HTTP/1.1 503 Service Unavailable\r\n"
    "Content-Type: application/problem+json\r\n"
    "Content-Length: 128\r\n"
    "Retry-After: 1\r\n"
    "Connection: close\r\n"
    "\r\n"
    R"({"type":"about:blank","title":"Service Unavailable","status":503,"detail":"too many connections","error":"too_many_connections"})";

// Reads what the client has sent, so that closing sends no reset, which could overtake our answer.
void discard_input(int socket) noexcept {
  std::array<char, 16 * 1024> buffer;
  for (int i = 0; i < 8; ++i) {
    if (::recv(socket, buffer.data(), buffer.size(), MSG_DONTWAIT) <= 0) {
      return;
    }
  }
}

}  // namespace

class Acceptor::Watch final : public net::IoHandler {
 public:
  enum class Kind : std::uint8_t { kListener, kInbox };
  Watch(Acceptor& owner, Kind kind, base::Fd watched)
      : fd(std::move(watched)), owner_(owner), kind_(kind) {}

  void on_io(std::uint32_t /*events*/) override {
    if (!fd.valid() || owner_.paused_) {
      return;  // the event was fetched before we closed or paused
    }
    if (kind_ == Kind::kListener) {
      owner_.accept_some(fd.get(), kPerEventMax);
    } else {
      owner_.take_from_inbox();
    }
  }

  base::Fd fd;

 private:
  Acceptor& owner_;
  Kind kind_;
};

Acceptor::Acceptor(net::Loop& loop, shared::Segment& segment, const Config& config,
                   std::vector<base::Fd> listeners, base::Fd inbox, std::vector<base::Fd> peers,
                   AcceptorEvents& events)
    : loop_(loop),
      segment_(segment),
      config_(config),
      events_(events),
      inbox_(std::make_unique<Watch>(*this, Watch::Kind::kInbox, std::move(inbox))),
      outbox_(std::move(peers)),
      spare_(::open("/dev/null", O_RDONLY | O_CLOEXEC)) {
  for (base::Fd& listener : listeners) {
    listeners_.push_back(
        std::make_unique<Watch>(*this, Watch::Kind::kListener, std::move(listener)));
  }
}

Acceptor::~Acceptor() {
  loop_.unwatch(inbox_->fd.get());
  for (const auto& listener : listeners_) {
    loop_.unwatch(listener->fd.get());
  }
}

base::Result<void> Acceptor::start() {
  on_beat();
  return watch_all();
}

base::Result<void> Acceptor::watch_all() {
  MIK_TRY(loop_.watch_level(inbox_->fd.get(), EPOLLIN, *inbox_));
  for (const auto& listener : listeners_) {
    if (listener->fd.valid()) {
      // One worker is woken for a connection, not all.
      MIK_TRY(loop_.watch_level(listener->fd.get(), EPOLLIN | EPOLLEXCLUSIVE, *listener));
    }
  }
  return {};
}

void Acceptor::accept_some(int listener, int count_max) {
  for (int i = 0; i < count_max && accept_one(listener); ++i) {
  }
}

// False: there is no more for now.
bool Acceptor::accept_one(int listener) {
  base::Fd socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!socket.valid()) {
    return on_accept_failure(listener, errno);
  }
  shared::count(segment_.row(config_.slot).counters.accepted);
  place(std::move(socket));
  return true;
}

bool Acceptor::on_accept_failure(int listener, int error) {
  switch (error) {
    case EAGAIN:
      return false;
    case EINTR:
    case ECONNABORTED:
    // Errors of the new connection's network, which accept(2) says to treat like EAGAIN by going
    // on.
    case EPROTO:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EPERM:
      return true;
    default:
      break;
  }
  shared::count(segment_.row(config_.slot).counters.accept_errors);
  if (error == EMFILE || error == ENFILE) {
    // One client is told, in place of all being left in the dark.
    spare_.reset();
    const base::Fd socket(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.valid()) {
      static_cast<void>(
          ::send(socket.get(), kBusy.data(), kBusy.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
      discard_input(socket.get());
    }
  }
  if (!spare_.valid()) {
    spare_.reset(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  }
  events_.on_accept_error(base::Error::from_errno("cannot accept a connection", error));
  pause();
  return false;
}

void Acceptor::take_from_inbox() {
  for (int i = 0; i < kPerEventMax; ++i) {
    base::Fd socket = shared::take_socket(inbox_->fd.get());
    if (!socket.valid()) {
      return;
    }
    shared::count(segment_.row(config_.slot).counters.handed_in);
    // A socket moves once, unless it was passed to us as our generation ended.
    if (!stopped_ || !hand_over(socket.get())) {
      events_.on_socket(std::move(socket));
    }
  }
}

void Acceptor::place(base::Fd socket) {
  if (segment_.connections() >= config_.max_connections) {
    refuse(std::move(socket));
    return;
  }
  if (hand_over(socket.get())) {
    return;
  }
  events_.on_socket(std::move(socket));
}

bool Acceptor::hand_over(int socket) {
  // Fewer than ours without this one is at least two fewer than ours with it.
  // One that cannot answer yet, or never will, keeps nothing that another could answer.
  const bool ready = segment_.state(config_.slot) == shared::WorkerState::kReady;
  const std::uint64_t own =
      ready ? segment_.row(config_.slot).gauges.connections.load(std::memory_order_relaxed)
            : std::numeric_limits<std::uint64_t>::max();
  if (own == 0 || family_ends_ || outbox_.size() < 2) {
    return false;
  }
  const auto lightest = segment_.lightest(
      config_.slot, own, loop_.now(), [this](std::size_t slot) { return outbox_.queued(slot); });
  if (!lightest || !outbox_.pass(lightest->slot, socket)) {
    return false;
  }
  shared::count(segment_.row(config_.slot).counters.handed_out);
  return true;
}

void Acceptor::refuse(base::Fd socket) {
  shared::count(segment_.row(config_.slot).counters.refused);
  static_cast<void>(::send(socket.get(), kBusy.data(), kBusy.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  ::shutdown(socket.get(), SHUT_WR);
  if (refused_.size() >= kRefusedMax) {
    discard_input(refused_.front().socket.get());
    refused_.pop_front();
  }
  refused_.push_back({std::move(socket), base::saturating_add(loop_.now(), kLinger)});
}

void Acceptor::pause() {
  if (paused_ || stopped_) {
    return;
  }
  paused_ = true;
  // The inbox too: what is read from it without a free descriptor is lost.
  loop_.unwatch(inbox_->fd.get());
  for (const auto& listener : listeners_) {
    loop_.unwatch(listener->fd.get());
  }
  loop_.wheel().arm(resume_timer_, base::saturating_add(loop_.now(), kPause));
}

void Acceptor::resume() {
  paused_ = false;
  if (auto watched = watch_all(); !watched) {
    events_.on_accept_error(watched.error());
    pause();
  }
}

void Acceptor::stop(End end) {
  family_ends_ = family_ends_ || end == End::kFamily;
  if (std::exchange(stopped_, true)) {
    return;
  }
  segment_.set_state(config_.slot, shared::WorkerState::kDraining);
  if (paused_) {
    resume_timer_.disarm();
    resume();
  }
  for (const auto& listener : listeners_) {
    if (family_ends_) {
      net::drop_new_connections(listener->fd.get());
    }
    // First not watched, then emptied: of a connection that comes in between another worker is
    // told, while one of which only we were told is taken.
    loop_.unwatch(listener->fd.get());
    accept_some(listener->fd.get(), kPerStopMax);
    listener->fd.reset();
  }
}

void Acceptor::on_beat() {
  const base::Time now = loop_.now();
  segment_.beat(config_.slot, now);
  loop_.wheel().arm(beat_timer_, base::saturating_add(now, kBeat));
  while (!refused_.empty() && refused_.front().until <= now) {
    discard_input(refused_.front().socket.get());
    refused_.pop_front();
  }
}

}  // namespace mik::runtime
