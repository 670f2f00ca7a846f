// What the tests of the server stand on: a loop, a server with a scripted service, and clients on
// real sockets, all on one thread, so that a test decides who moves when. Tests only.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "http/server.hpp"
#include "net/loop.hpp"

namespace mik::http::testing {

inline ResponseHead ok(std::optional<std::uint64_t> length = std::nullopt) {
  return {.status = 200, .fields = {}, .content_length = length};
}

// A handler that writes down what it is told and streams what it is given.
class Recorder : public ExchangeHandler {
 public:
  explicit Recorder(Exchange& of) : exchange(&of) { of.attach(*this); }

  Flow on_body(std::string_view bytes) override {
    body.append(bytes);
    ++pieces_in;
    if (on_bytes) {
      return on_bytes(bytes);
    }
    return Flow::kGoOn;
  }
  void on_body_end(std::span<const Field> fields) override {
    ++ends;
    for (const Field& field : fields) {
      trailers_in.append(field.name).append("=").append(field.value).append(";");
    }
    if (on_end) {
      on_end();
    }
  }
  void on_body_error(BodyError error) override {
    body_error = error;
    if (on_error) {
      on_error(error);
    }
  }
  std::size_t peek(std::span<iovec> shown) override {
    std::size_t count = 0;
    for (const std::string& piece : source) {
      if (count == shown.size()) {
        break;
      }
      const std::size_t skip = count == 0 ? taken : 0;
      shown[count++] = {.iov_base = const_cast<char*>(piece.data()) + skip,
                        .iov_len = piece.size() - skip};
    }
    return count;
  }
  void consume(std::size_t bytes) override {
    consumed += bytes;
    while (bytes > 0) {
      ASSERT_FALSE(source.empty());
      const std::size_t left = source.front().size() - taken;
      if (bytes < left) {
        taken += bytes;
        return;
      }
      bytes -= left;
      taken = 0;
      source.pop_front();
    }
    if (on_consumed) {
      on_consumed();
    }
  }
  SourceState source_state() override { return state; }
  std::span<const Field> trailers() override { return trailers_out; }
  void on_closed(const Closed& how) override {
    ASSERT_FALSE(closed.has_value()) << "on_closed twice";
    closed = how;
    exchange = nullptr;
    if (on_over) {
      on_over();
    }
  }

  // Streams `piece`.
  void give(std::string piece) {
    source.push_back(std::move(piece));
    if (exchange != nullptr) {
      exchange->pump();
    }
  }
  void end(SourceState how = SourceState::kEnd) {
    state = how;
    if (exchange != nullptr) {
      exchange->pump();
    }
  }

  Exchange* exchange;
  std::string body;
  std::string trailers_in;
  int pieces_in = 0;
  int ends = 0;
  std::optional<BodyError> body_error;
  std::optional<Closed> closed;
  std::deque<std::string> source;
  std::size_t taken = 0;
  std::size_t consumed = 0;
  SourceState state = SourceState::kOpen;
  std::vector<Field> trailers_out;
  std::function<Flow(std::string_view)> on_bytes;
  std::function<void()> on_end;
  std::function<void(BodyError)> on_error;
  std::function<void()> on_consumed;
  std::function<void()> on_over;
};

class Script : public Service {
 public:
  void on_request(Exchange& exchange) override {
    const RequestHead& head = exchange.head();
    seen.push_back(std::string(head.method) + " " + std::string(head.target));
    if (answer) {
      answer(exchange);
    } else {
      exchange.respond(ok(), "hello");
    }
  }
  void describe_failure(int status, std::string_view detail, std::string& field_lines,
                        std::string& body) override {
    failures.push_back(status);
    field_lines.append("content-type: text/plain\r\n");
    body.append(detail);
  }

  // Answers every request by a Recorder, which `then` may set going.
  void record(std::function<void(Recorder&)> then = {}) {
    answer = [this, then = std::move(then)](Exchange& exchange) {
      recorders.push_back(std::make_unique<Recorder>(exchange));
      if (then) {
        then(*recorders.back());
      }
    };
  }
  Recorder& last() { return *recorders.back(); }

  std::function<void(Exchange&)> answer;
  std::vector<std::string> seen;
  std::vector<int> failures;
  std::vector<std::unique_ptr<Recorder>> recorders;
};

class Client {
 public:
  explicit Client(int fd) : fd_(fd) {}
  virtual ~Client() = default;
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Sends what the kernel takes at once.
  virtual std::size_t send(std::string_view bytes) {
    const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? 0 : static_cast<std::size_t>(sent);
  }
  // Takes what has come; how it ended is in `end`.
  virtual void take() {
    std::array<char, 65536> buffer;
    while (!over()) {
      const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (got > 0) {
        text.append(buffer.data(), static_cast<std::size_t>(got));
      } else if (got == 0) {
        fin = true;
      } else if (errno == EAGAIN) {
        return;
      } else {
        reset = true;
      }
    }
  }
  bool over() const { return fin || reset; }
  void half_close() { ::shutdown(fd_.get(), SHUT_WR); }
  void close() { fd_.reset(); }
  void close_with_reset() {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
    fd_.reset();
  }
  int fd() const { return fd_.get(); }
  std::string take_text() { return std::exchange(text, {}); }

  std::string text;
  bool fin = false;
  bool reset = false;

 private:
  base::Fd fd_;
};

class Counter : public ConnectionObserver {
 public:
  void on_connections(std::size_t open) override { now = open; }
  void on_handshake_failed(std::string_view why) override { failed.emplace_back(why); }
  std::size_t now = 0;
  std::vector<std::string> failed;  // handshakes
};

class ServerTest : public ::testing::Test {
 protected:
  static Limits quick() {
    Limits limits;
    limits.header_timeout = std::chrono::milliseconds(200);
    limits.idle_timeout = std::chrono::milliseconds(300);
    limits.body_timeout = std::chrono::milliseconds(200);
    return limits;
  }

  void serve(const Limits& limits = {}) {
    server = std::make_unique<Server>(*loop, script, limits, counter);
  }

  struct Ends {
    base::Fd client;
    base::Fd server;
  };
  // A TCP connection over loopback. `send_bytes` (0: the kernel's own) bounds what the server's
  // kernel buffers.
  static Ends tcp(int send_bytes = 0) {
    base::Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    // Loopback's segments are larger than such buffers: the window would open only by probes, 200
    // ms apart and more.
    const int segment = 536;
    if (send_bytes > 0) {
      ::setsockopt(listener.get(), IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
      ::setsockopt(listener.get(), SOL_SOCKET, SO_SNDBUF, &send_bytes, sizeof send_bytes);
    }
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    base::Fd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (send_bytes > 0) {
      ::setsockopt(client.get(), IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment);
      ::setsockopt(client.get(), SOL_SOCKET, SO_RCVBUF, &send_bytes, sizeof send_bytes);
    }
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    const int one = 1;
    ::setsockopt(client.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    base::Fd accepted(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    EXPECT_TRUE(accepted.valid());
    return {std::move(client), std::move(accepted)};
  }

  std::unique_ptr<Client> connect(int send_bytes = 0) {
    if (server == nullptr) {
      serve();
    }
    Ends ends = tcp(send_bytes);
    adopt(std::move(ends.server), nullptr);
    return std::make_unique<Client>(ends.client.release());
  }
  // As in a turn of the loop: its time is not that of its last turn, or timeouts would be early.
  void adopt(base::Fd accepted, const ServerTls* tls) {
    loop->refresh_now();
    server->adopt(std::move(accepted), tls);
  }

  // Turns the loop until `done`; false when that takes longer than 30 seconds.
  bool until(const std::function<bool()>& done, std::vector<Client*> clients = {},
             base::Duration wait = std::chrono::milliseconds(2)) {
    const base::Time limit = base::Clock::now() + std::chrono::seconds(30);
    while (true) {
      for (Client* client : clients) {
        client->take();
      }
      if (done()) {
        return true;
      }
      if (base::Clock::now() > limit) {
        return false;
      }
      loop->run_once(wait);
    }
  }
  // Turns the loop until nothing has happened for a few turns.
  void settle(Client* client = nullptr) {
    for (int i = 0; i < 5; ++i) {
      loop->run_once(std::chrono::milliseconds(1));
      if (client != nullptr) {
        client->take();
      }
    }
  }

  // Sends all of `bytes` and returns what came back until `marker` or the end of the connection.
  std::string ask(Client& client, std::string_view bytes, std::string_view marker) {
    std::size_t sent = 0;
    EXPECT_TRUE(until(
        [&] {
          if (sent < bytes.size()) {
            sent += client.send(bytes.substr(sent));
          }
          return client.over() || (client.text.find(marker) != std::string::npos);
        },
        {&client}))
        << "no " << marker << " in: " << client.text.substr(0, 2000);
    return client.take_text();
  }
  std::string ask_until_close(Client& client, std::string_view bytes) {
    std::size_t sent = 0;
    EXPECT_TRUE(until(
        [&] {
          if (sent < bytes.size()) {
            sent += client.send(bytes.substr(sent));
          }
          return client.over();
        },
        {&client}))
        << "not closed: " << client.text.substr(0, 2000);
    return client.take_text();
  }

  std::unique_ptr<net::Loop> loop = std::move(*net::Loop::create());
  Script script;
  Counter counter;
  std::unique_ptr<Server> server;
};

inline bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// The content of a response: what follows the empty line.
inline std::string_view content(std::string_view response) {
  const std::size_t end = response.find("\r\n\r\n");
  return end == std::string_view::npos ? std::string_view() : response.substr(end + 4);
}

}  // namespace mik::http::testing
