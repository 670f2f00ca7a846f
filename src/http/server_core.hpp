// What all connections of one Server share, and the base class of a connection. Internal to
// src/http. Confined to the loop thread.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "http/date_cache.hpp"
#include "http/exchange.hpp"
#include "http/message.hpp"
#include "http/server.hpp"
#include "http/server_tls.hpp"
#include "net/loop.hpp"

namespace mik::http {

class H2Stream;
class ServerCore;

// Bytes that were read and not yet used: [begin, end).
class InputBuffer {
 public:
  static constexpr std::size_t kBytes = 64 * 1024;  // a request body in few reads

  std::string_view view() const noexcept { return {bytes_.get() + begin_, end_ - begin_}; }
  bool empty() const noexcept { return begin_ == end_; }
  void consume(std::size_t bytes) noexcept;
  void clear() noexcept { begin_ = end_ = 0; }
  // Room behind the bytes; moves them to the front when there is none behind. Empty when the buffer
  // is full.
  std::pair<char*, std::size_t> room() noexcept;
  void grow();
  // Back to kBytes, empty.
  void shrink();
  void commit(std::size_t bytes) noexcept { end_ += bytes; }
  void append(std::string_view bytes);

 private:
  std::unique_ptr<char[]> bytes_ = std::make_unique_for_overwrite<char[]>(kBytes);
  std::size_t capacity_ = kBytes;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

// Bytes of ours that wait for the kernel, and a head whose framing is still open.
struct OutputBuffer {
  std::string bytes;
  std::size_t sent = 0;  // of bytes
  std::string head;

  std::size_t pending() const noexcept { return bytes.size() - sent; }
  void clear();
};

// Keeps what connections gave back, so that an idle connection holds none and a request allocates
// none.
template <class T>
class Pool {
 public:
  std::unique_ptr<T> take() {
    if (free_.empty()) {
      return std::make_unique<T>();
    }
    std::unique_ptr<T> item = std::move(free_.back());
    free_.pop_back();
    return item;
  }
  // `item` is clean.
  void give(std::unique_ptr<T> item) {
    if (free_.size() < kKept) {
      free_.push_back(std::move(item));
    }
  }

 private:
  static constexpr std::size_t kKept = 256;
  std::vector<std::unique_ptr<T>> free_;
};

// One accepted socket, bare or under TLS.
class Connection : public net::IoHandler {
 public:
  // `tls` (null: none) is over this socket.
  Connection(ServerCore& core, base::Fd socket, std::unique_ptr<TlsSession> tls);

  // The server has begun to drain.
  virtual void on_drain() = 0;
  // Ends now; exchanges close with `outcome`. What is queued is offered to the kernel once.
  virtual void end_now(Outcome outcome) = 0;
  // Called once, soon after ServerCore::defer.
  virtual void on_deferred() = 0;

 protected:
  const Peer& peer_of_socket() const;
  // recv(2). `more`: there may be something left; else an event tells (epoll(7), edge-triggered).
  ssize_t read_some(char* to, std::size_t bytes, bool& more);
  // sendmsg(2). What was not taken comes first in the next call.
  ssize_t write_some(std::span<const iovec> pieces);

  // The end of a connection whose last byte is with the kernel. close() would send a reset if the
  // client sends more, and a reset destroys what the client has not read yet (RFC 9112 section
  // 9.6): so it is told that this is the end, and has a moment to close.
  //
  // False: TLS has a last word that the kernel does not take now.
  bool begin_lingering();
  // Drops what comes. True: there is nothing to wait for any more.
  bool linger_over(bool& readable, bool peer_fin);
  base::Time linger_until() const noexcept { return linger_until_; }

  // As lingering does, in no time: drops what has come, then leaves the server. The object lives
  // until the end of the turn.
  void leave();
  // Closes with a reset: the client sees that what it has is not whole.
  void leave_with_reset();

  ServerCore& core_;
  base::Fd socket_;
  std::unique_ptr<TlsSession> tls_;
  bool cut_ = false;  // what was sent is not whole, and under TLS the end must not look like one

 private:
  friend class ServerCore;
  base::Time linger_until_ = base::kNever;
  std::uint64_t linger_left_ = 0;
  std::size_t index_ = 0;
  bool deferred_ = false;
  bool removed_ = false;
  mutable std::unique_ptr<Peer> peer_;
};

class ServerCore {
 public:
  ServerCore(net::Loop& loop_of_server, Service& service_of_server, const Limits& limits_of_server,
             ConnectionObserver& observer);
  ~ServerCore();
  ServerCore(const ServerCore&) = delete;
  ServerCore& operator=(const ServerCore&) = delete;

  // Registers with the loop. False: it could not, and the connection is dropped.
  bool add(std::unique_ptr<Connection> connection);
  // Unregisters; the object is destroyed at the end of the turn.
  void remove(Connection& connection);
  // Calls connection.on_deferred() later in this turn or in the next: for work that must not run on
  // the caller's stack.
  void defer(Connection& connection);
  void handshake_failed(std::string_view why) { observer_.on_handshake_failed(why); }

  void drain(net::Loop::Task done);
  void end_all(Outcome outcome);

  std::size_t connections() const noexcept { return connections_.size(); }

  net::Loop& loop;
  Service& service;
  const Limits limits;
  DateCache date;
  Pool<InputBuffer> inputs;
  Pool<OutputBuffer> outputs;
  std::vector<Field> fields;   // storage of the head that is being looked at
  RequestHead head;            // of the request that on_request is being told of (HTTP/1.x)
  std::string failure_fields;  // scratch of describe_failure
  std::string failure_body;
  std::vector<char> dropped;   // where bytes go that nobody wants
  std::vector<char> received;  // what an HTTP/2 connection reads into: it uses all of it at once
  Pool<H2Stream> streams;
  std::size_t exchanges = 0;
  bool draining = false;

 private:
  // Outlives the core while a posted task refers to it.
  struct Deferred {
    ServerCore* core;
    std::vector<Connection*> list;
    std::vector<Connection*> running;
    bool posted = false;
  };
  static void run_deferred(Deferred& deferred);
  void check_drained();

  ConnectionObserver& observer_;
  std::vector<std::unique_ptr<Connection>> connections_;
  std::shared_ptr<Deferred> deferred_;
  net::Loop::Task drained_;
};

}  // namespace mik::http
