// A server that answers by itself, to measure src/http without a guest: mik_http_bench PORT.
//   /          a small answer, given at once          /sized N  N bytes of known length
//   /streamed  a handler, chunked                     /echo     the request's content
// One thread. SIGINT or SIGTERM end it.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <array>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

#include "http/server.hpp"
#include "net/loop.hpp"

namespace {

using namespace mik;

constexpr std::array<http::Field, 1> kPlain{{{"content-type", "text/plain"}}};

// Sends back what comes; at most 64 KiB wait.
class Echo final : public http::ExchangeHandler {
 public:
  explicit Echo(http::Exchange& exchange) : exchange_(exchange) {}

  http::Flow on_body(std::string_view bytes) override {
    kept_.append(bytes);
    exchange_.pump();
    paused_ = kept_.size() - taken_ >= 64 * 1024;
    return paused_ ? http::Flow::kPause : http::Flow::kGoOn;
  }
  void on_body_end(std::span<const http::Field>) override {
    ended_ = true;
    exchange_.pump();
  }
  void on_body_error(http::BodyError) override { exchange_.abort(); }
  std::size_t peek(std::span<iovec> pieces) override {
    if (taken_ == kept_.size()) {
      return 0;
    }
    pieces[0] = {.iov_base = kept_.data() + taken_, .iov_len = kept_.size() - taken_};
    return 1;
  }
  void consume(std::size_t bytes) override {
    taken_ += bytes;
    if (taken_ == kept_.size()) {
      kept_.clear();
      taken_ = 0;
    }
    if (paused_ && kept_.size() - taken_ < 64 * 1024) {
      paused_ = false;
      exchange_.resume_body();
    }
  }
  http::SourceState source_state() override {
    return ended_ ? http::SourceState::kEnd : http::SourceState::kOpen;
  }
  std::span<const http::Field> trailers() override { return {}; }
  void on_closed(const http::Closed&) override { delete this; }

 private:
  http::Exchange& exchange_;
  std::string kept_;
  std::size_t taken_ = 0;
  bool ended_ = false;
  bool paused_ = false;
};

class Hello final : public http::Service {
 public:
  void on_request(http::Exchange& exchange) override {
    const http::RequestHead& head = exchange.head();
    if (head.path_query == "/echo" || head.path_query == "/streamed") {
      const bool empty = head.body == http::BodyKind::kNone;
      auto* echo = new Echo(exchange);
      exchange.attach(*echo);
      exchange.start({.status = 200, .fields = kPlain, .content_length = std::nullopt});
      if (head.path_query == "/streamed") {
        exchange.pump();
        echo->on_body("Hello, World!");
      }
      if (empty) {
        echo->on_body_end({});
      }
      return;
    }
    if (head.path_query.starts_with("/sized/")) {
      std::size_t bytes = 0;
      std::from_chars(head.path_query.data() + 7, head.path_query.data() + head.path_query.size(),
                      bytes);
      big_.resize(std::min<std::size_t>(bytes, 64u << 20), 'x');
      exchange.respond({.status = 200, .fields = kPlain, .content_length = std::nullopt}, big_);
      return;
    }
    exchange.respond({.status = 200, .fields = kPlain, .content_length = std::nullopt},
                     "Hello, World!");
  }
  void describe_failure(int, std::string_view detail, std::string& field_lines,
                        std::string& body) override {
    field_lines.append("content-type: text/plain\r\n");
    body.append(detail);
  }

 private:
  std::string big_;
};

class Acceptor final : public net::IoHandler {
 public:
  Acceptor(http::Server& server, base::Fd socket) : server_(server), socket_(std::move(socket)) {}
  void on_io(std::uint32_t) override {
    while (true) {
      base::Fd accepted(::accept4(socket_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!accepted.valid()) {
        return;
      }
      server_.adopt(std::move(accepted));
    }
  }
  int fd() const { return socket_.get(); }

 private:
  http::Server& server_;
  base::Fd socket_;
};

class Signals final : public net::IoHandler {
 public:
  explicit Signals(net::Loop& loop) : loop_(loop) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    fd_ = base::Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  void on_io(std::uint32_t) override { loop_.stop(); }
  int fd() const { return fd_.get(); }

 private:
  net::Loop& loop_;
  base::Fd fd_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: mik_http_bench PORT\n");
    return 2;
  }
  auto loop = net::Loop::create();
  base::Fd socket(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  const int one = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(std::atoi(argv[1])));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (!loop || ::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket.get(), 1024) != 0) {
    std::perror("mik_http_bench");
    return 1;
  }
  Hello hello;
  http::ConnectionObserver observer;
  http::Limits limits;
  limits.body_bytes_max = 1ull << 40;
  http::Server server(**loop, hello, limits, observer);
  Acceptor acceptor(server, std::move(socket));
  Signals signals(**loop);
  if (!(*loop)->watch(acceptor.fd(), EPOLLIN, acceptor) ||
      !(*loop)->watch(signals.fd(), EPOLLIN, signals)) {
    return 1;
  }
  (*loop)->run();
  return 0;
}
