#include "http/tls_handshake.hpp"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <string>
#include <utility>

#include "http/h1_connection.hpp"
#include "http/h2_connection.hpp"
#include "http/response_writer.hpp"

namespace mik::http {

namespace {

constexpr base::Duration kDrainIdle = std::chrono::seconds(1);
constexpr std::string_view kClosed = "the client has closed the connection";

}  // namespace

TlsHandshake::TlsHandshake(ServerCore& core, base::Fd socket, std::unique_ptr<TlsSession> tls)
    : Connection(core, std::move(socket), std::move(tls)),
      timer_(net::Timer::of<&TlsHandshake::on_timer>(this)) {
  const base::Duration limit = core.draining ? kDrainIdle : core.limits.header_timeout;
  core.loop.wheel().arm(timer_, core.loop.now() + limit);
}

void TlsHandshake::on_io(std::uint32_t events) {
  if (over_) {
    return;
  }
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) {
    fail(kClosed);
    return;
  }
  switch (tls_->shake_hands()) {
    case TlsSession::Handshake::kDone:
      hand_over();
      break;
    case TlsSession::Handshake::kAgain:
      if ((events & EPOLLRDHUP) != 0) {
        fail(kClosed);  // no answer of ours can be answered any more
      }
      break;
    case TlsSession::Handshake::kPlainHttp:
      refuse_plain_http();
      break;
    case TlsSession::Handshake::kFailed:
      fail(tls_->failure());
      break;
  }
}

void TlsHandshake::on_drain() {
  core_.loop.wheel().arm(timer_, std::min(timer_.deadline(), core_.loop.now() + kDrainIdle));
}

void TlsHandshake::end_now(Outcome /*outcome*/) { end(); }

void TlsHandshake::on_timer() {
  if (!over_) {
    fail("the client is too slow");
  }
}

void TlsHandshake::fail(std::string_view why) {
  if (tls_->heard()) {
    core_.handshake_failed(why);
  }
  end();
}

void TlsHandshake::end() {
  over_ = true;
  timer_.disarm();
  leave();
}

void TlsHandshake::hand_over() {
  over_ = true;
  timer_.disarm();
  core_.loop.unwatch(socket_.get());
  if (tls_->http2()) {
    auto heir = std::make_unique<H2Connection>(core_, std::move(socket_), std::move(tls_));
    H2Connection& connection = *heir;
    if (core_.add(std::move(heir))) {
      connection.begin({});
    }
  } else {
    auto heir = std::make_unique<H1Connection>(core_, std::move(socket_), std::move(tls_));
    H1Connection& connection = *heir;
    if (core_.add(std::move(heir))) {
      connection.begin();
    }
  }
  core_.remove(*this);
}

// In the clear, for a client that would understand nothing else.
void TlsHandshake::refuse_plain_http() {
  core_.failure_fields.clear();
  core_.failure_body.clear();
  core_.service.describe_failure(400, "this port speaks HTTPS: the URL begins with https://",
                                 core_.failure_fields, core_.failure_body);
  std::string answer;
  append_head(answer, 400, {}, core_.date.line());
  answer.append(core_.failure_fields);
  append_framing(answer, {.framing = Framing::kLength,
                          .keep_alive = KeepAlive::kClose,
                          .has_length = true,
                          .length = core_.failure_body.size()});
  answer.append(core_.failure_body);
  static_cast<void>(
      ::send(socket_.get(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
  fail("HTTP without TLS");
}

}  // namespace mik::http
