// Whole connections against any bytes: the first byte says how the rest is cut into sends and how
// the handlers behave, the rest is what a client sends. What must hold: nothing crashes, each
// exchange is closed once, nothing is left.
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "base/assert.hpp"
#include "http/server.hpp"
#include "net/loop.hpp"

namespace {

using namespace mik;

// Answers in one of several ways, some of them unkind.
class Odd final : public http::ExchangeHandler {
 public:
  Odd(http::Exchange& exchange, unsigned way) : exchange_(exchange), way_(way) {
    exchange_.attach(*this);
    if ((way_ & 1) != 0) {
      start();
    }
    if ((way_ & 2) != 0) {
      exchange_.discard_body();
    }
  }
  http::Flow on_body(std::string_view bytes) override {
    if ((way_ & 4) != 0) {
      exchange_.abort();
      return http::Flow::kPause;
    }
    left_ += bytes.size() % 7;
    exchange_.pump();
    if ((way_ & 8) != 0) {
      exchange_.resume_body();
      return http::Flow::kPause;
    }
    return http::Flow::kGoOn;
  }
  void on_body_end(std::span<const http::Field>) override { answer(); }
  void on_body_error(http::BodyError) override { answer(); }
  std::size_t peek(std::span<iovec> pieces) override {
    if (left_ == 0) {
      return 0;
    }
    pieces[0] = {.iov_base = text_.data(), .iov_len = std::min<std::size_t>(left_, text_.size())};
    return 1;
  }
  void consume(std::size_t bytes) override {
    left_ -= bytes;
    if ((way_ & 8) != 0) {
      exchange_.resume_body();
    }
  }
  http::SourceState source_state() override {
    if (!over_ || left_ > text_.size()) {
      return http::SourceState::kOpen;
    }
    return (way_ & 16) != 0 ? http::SourceState::kCut : http::SourceState::kEnd;
  }
  std::span<const http::Field> trailers() override { return {}; }
  void on_closed(const http::Closed&) override { delete this; }

 private:
  void start() {
    started_ = true;
    exchange_.start({.status = 200, .fields = {}, .content_length = std::nullopt});
    exchange_.pump();
  }
  void answer() {
    over_ = true;
    if (started_) {
      exchange_.pump();
    } else {
      exchange_.respond({.status = 400, .fields = {}, .content_length = std::nullopt}, text_);
    }
  }

  http::Exchange& exchange_;
  unsigned way_;
  std::string text_ = "some text";
  std::size_t left_ = 20;
  bool over_ = false;
  bool started_ = false;
};

class Service final : public http::Service {
 public:
  void on_request(http::Exchange& exchange) override {
    const http::RequestHead& head = exchange.head();
    MIK_ASSERT(head.bytes.size() < (1u << 20) && !head.method.empty());
    if ((way & 32) == 0 && head.body == http::BodyKind::kNone) {
      exchange.respond({.status = 200, .fields = head.fields, .content_length = std::nullopt},
                       "ok");
      return;
    }
    const bool empty = head.body == http::BodyKind::kNone;
    auto* handler = new Odd(exchange, way);  // destroys itself
    if (empty) {
      handler->on_body_end({});
    }
  }
  void describe_failure(int, std::string_view detail, std::string& field_lines,
                        std::string& body) override {
    field_lines.append("content-type: text/plain\r\n");
    body.append(detail);
  }
  unsigned way = 0;
};

struct Rig {
  std::unique_ptr<net::Loop> loop = std::move(*net::Loop::create());
  Service service;
  http::ConnectionObserver observer;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Rig rig;
  if (size < 2) {
    return 0;
  }
  rig.service.way = data[0];
  const std::size_t step = 1 + std::size_t{data[1]} * data[1];
  std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  int ends[2] = {-1, -1};
  MIK_ASSERT(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0);
  base::Fd client(ends[0]);
  {
    http::Limits limits;
    limits.body_bytes_max = 100;
    http::Server server(*rig.loop, rig.service, limits, rig.observer);
    server.adopt(base::Fd(ends[1]));
    const auto turn = [&] {
      char buffer[4096];
      rig.loop->run_once(base::Duration::zero());
      while (::recv(client.get(), buffer, sizeof buffer, MSG_DONTWAIT) > 0) {
      }
    };
    for (int turns = 0; !bytes.empty() && turns < 200; ++turns) {
      const ssize_t sent = ::send(client.get(), bytes.data(), std::min(step, bytes.size()),
                                  MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent > 0) {
        bytes.remove_prefix(static_cast<std::size_t>(sent));
      }
      turn();
    }
    turn();
    if ((data[0] & 64) != 0) {
      client.reset();
      for (int turns = 0; server.connections() > 0 && turns < 100; ++turns) {
        rig.loop->run_once(base::Duration::zero());
      }
      MIK_ASSERT(server.connections() == 0);
    } else {
      server.close_all();
    }
    MIK_ASSERT(server.exchanges() == 0);
  }
  rig.loop->run_once(base::Duration::zero());
  rig.loop->run_once(base::Duration::zero());
  return 0;
}
