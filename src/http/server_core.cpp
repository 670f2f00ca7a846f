#include "http/server_core.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/assert.hpp"
#include "http/h2_stream.hpp"

namespace mik::http {

namespace {

constexpr std::size_t kOutputKept = 4 * 1024;
constexpr std::size_t kScratchBytes = 64 * 1024;
constexpr int kDropsAtClose = 16;
constexpr base::Duration kLingerTime = std::chrono::seconds(2);
constexpr std::uint64_t kLingerBytes = 64 * 1024 * 1024;
// Up to here one piece, copied, costs less than a list that the kernel copies and looks through.
constexpr std::size_t kCopied = 1024;

}  // namespace

void InputBuffer::consume(std::size_t bytes) noexcept {
  begin_ += bytes;
  if (begin_ == end_) {
    clear();
  }
}

std::pair<char*, std::size_t> InputBuffer::room() noexcept {
  if (end_ == capacity_ && begin_ > 0) {
    std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  return {bytes_.get() + end_, capacity_ - end_};
}

void InputBuffer::grow() {
  const std::size_t capacity = capacity_ * 2;
  auto bytes = std::make_unique_for_overwrite<char[]>(capacity);
  std::memcpy(bytes.get(), bytes_.get() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  bytes_ = std::move(bytes);
  capacity_ = capacity;
}

void InputBuffer::shrink() {
  if (capacity_ > kBytes) {
    bytes_ = std::make_unique_for_overwrite<char[]>(kBytes);
    capacity_ = kBytes;
  }
  clear();
}

void InputBuffer::append(std::string_view bytes) {
  while (room().second < bytes.size()) {
    grow();
  }
  std::memcpy(bytes_.get() + end_, bytes.data(), bytes.size());
  end_ += bytes.size();
}

void OutputBuffer::clear() {
  for (std::string* text : {&bytes, &head}) {
    text->clear();
    if (text->capacity() > kOutputKept) {
      std::string().swap(*text);
    }
  }
  sent = 0;
}

Connection::Connection(ServerCore& core, base::Fd socket, std::unique_ptr<TlsSession> tls)
    : core_(core), socket_(std::move(socket)), tls_(std::move(tls)) {}

const Peer& Connection::peer_of_socket() const {
  if (peer_ == nullptr) {
    peer_ = std::make_unique<Peer>();
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    std::array<char, INET6_ADDRSTRLEN> text{};
    if (::getpeername(socket_.get(), reinterpret_cast<sockaddr*>(&storage), &size) == 0) {
      if (storage.ss_family == AF_INET) {
        const auto& address = reinterpret_cast<const sockaddr_in&>(storage);
        ::inet_ntop(AF_INET, &address.sin_addr, text.data(), text.size());
        peer_->port = ntohs(address.sin_port);
      } else if (storage.ss_family == AF_INET6) {
        const auto& address = reinterpret_cast<const sockaddr_in6&>(storage);
        if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) {
          ::inet_ntop(AF_INET, &address.sin6_addr.s6_addr[12], text.data(), text.size());
        } else {
          ::inet_ntop(AF_INET6, &address.sin6_addr, text.data(), text.size());
        }
        peer_->port = ntohs(address.sin6_port);
      }
      peer_->address = storage.ss_family == AF_UNIX ? "unix:" : text.data();
    }
  }
  return *peer_;
}

ssize_t Connection::read_some(char* to, std::size_t bytes, bool& more) {
  if (tls_ != nullptr) {
    return tls_->read(to, bytes, more);
  }
  const ssize_t got = ::recv(socket_.get(), to, bytes, MSG_DONTWAIT);
  more = got == static_cast<ssize_t>(bytes) || (got < 0 && errno == EINTR);
  return got;
}

ssize_t Connection::write_some(std::span<const iovec> pieces) {
  if (tls_ != nullptr) {
    return tls_->write(pieces);
  }
  std::size_t bytes = 0;
  for (const iovec& piece : pieces) {
    bytes += piece.iov_len;
  }
  ssize_t sent = 0;
  if (bytes > kCopied) {
    const msghdr message{.msg_iov = const_cast<iovec*>(pieces.data()), .msg_iovlen = pieces.size()};
    do {
      sent = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    return sent;
  }
  std::array<char, kCopied> whole;
  char* end = whole.data();
  for (const iovec& piece : pieces) {
    end = std::copy_n(static_cast<const char*>(piece.iov_base), piece.iov_len, end);
  }
  do {
    sent = ::send(socket_.get(), whole.data(), bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

bool Connection::begin_lingering() {
  if (tls_ != nullptr && !cut_ && !tls_->say_end()) {
    return false;
  }
  ::shutdown(socket_.get(), SHUT_WR);
  linger_until_ = core_.loop.now() + kLingerTime;
  linger_left_ = kLingerBytes;
  return true;
}

bool Connection::linger_over(bool& readable, bool peer_fin) {
  while (readable) {
    const ssize_t got =
        ::recv(socket_.get(), core_.dropped.data(), core_.dropped.size(), MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0 && errno == EAGAIN) {
      readable = false;
      break;
    }
    if (got <= 0 || static_cast<std::uint64_t>(got) >= linger_left_) {
      return true;
    }
    linger_left_ -= static_cast<std::uint64_t>(got);
  }
  return peer_fin;
}

void Connection::leave() {
  if (tls_ != nullptr && !cut_) {
    static_cast<void>(tls_->say_end());
  }
  ::shutdown(socket_.get(), SHUT_WR);
  for (int i = 0; i < kDropsAtClose; ++i) {
    if (::recv(socket_.get(), core_.dropped.data(), core_.dropped.size(), MSG_DONTWAIT) <= 0) {
      break;
    }
  }
  core_.remove(*this);
}

void Connection::leave_with_reset() {
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  core_.remove(*this);
}

ServerCore::ServerCore(net::Loop& loop_of_server, Service& service_of_server,
                       const Limits& limits_of_server, ConnectionObserver& observer)
    : loop(loop_of_server),
      service(service_of_server),
      limits(limits_of_server),
      fields(limits_of_server.fields_max),
      dropped(kScratchBytes),
      received(kScratchBytes),
      observer_(observer),
      deferred_(std::make_shared<Deferred>(this)) {}

ServerCore::~ServerCore() {
  end_all(Outcome::kShutdown);
  deferred_->core = nullptr;
}

bool ServerCore::add(std::unique_ptr<Connection> connection) {
  Connection& added = *connection;
  if (!loop.watch(added.socket_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP, added)) {
    return false;
  }
  // Every write is whole as far as we know: nothing is gained by waiting for more. Fails on a unix
  // socket, rightly.
  const int one = 1;
  ::setsockopt(added.socket_.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  added.index_ = connections_.size();
  connections_.push_back(std::move(connection));
  observer_.on_connections(connections_.size());
  return true;
}

void ServerCore::remove(Connection& connection) {
  MIK_ASSERT(connection.index_ < connections_.size() &&
             connections_[connection.index_].get() == &connection);
  if (connection.deferred_) {
    std::ranges::replace(deferred_->list, &connection, nullptr);
    std::ranges::replace(deferred_->running, &connection, nullptr);
  }
  connection.removed_ = true;
  loop.unwatch(connection.socket_.get());
  connection.socket_.reset();
  const std::size_t index = connection.index_;
  std::unique_ptr<Connection> removed = std::move(connections_[index]);
  if (index + 1 < connections_.size()) {
    connections_[index] = std::move(connections_.back());
    connections_[index]->index_ = index;
  }
  connections_.pop_back();
  loop.retire(std::move(removed));
  observer_.on_connections(connections_.size());
  check_drained();
}

void ServerCore::defer(Connection& connection) {
  if (connection.deferred_ || connection.removed_) {
    return;
  }
  connection.deferred_ = true;
  deferred_->list.push_back(&connection);
  if (!deferred_->posted) {
    deferred_->posted = true;
    loop.post([deferred = deferred_] { run_deferred(*deferred); });
  }
}

void ServerCore::run_deferred(Deferred& deferred) {
  deferred.posted = false;
  if (deferred.core == nullptr) {
    return;
  }
  // What these defer waits for the next turn.
  deferred.running.swap(deferred.list);
  for (std::size_t i = 0; i < deferred.running.size(); ++i) {
    Connection* connection = deferred.running[i];
    if (connection != nullptr) {
      connection->deferred_ = false;
      deferred.running[i] = nullptr;
      connection->on_deferred();
    }
  }
  deferred.running.clear();
}

void ServerCore::drain(net::Loop::Task done) {
  drained_ = std::move(done);
  if (!draining) {
    draining = true;
    // By index from behind: a connection that ends puts the last one in its place.
    for (std::size_t i = connections_.size(); i > 0; --i) {
      if (i <= connections_.size()) {
        connections_[i - 1]->on_drain();
      }
    }
  }
  check_drained();
}

void ServerCore::end_all(Outcome outcome) {
  while (!connections_.empty()) {
    connections_.back()->end_now(outcome);
  }
}

void ServerCore::check_drained() {
  if (draining && connections_.empty() && drained_) {
    loop.post(std::exchange(drained_, nullptr));
  }
}

}  // namespace mik::http
