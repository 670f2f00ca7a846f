#include "http/client_test_support.hpp"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "net/socket.hpp"

namespace mik::http {

// ---- upstream

TestUpstream::Peer::Peer(TestUpstream& upstream, base::Fd socket, SSL_CTX* context)
    : upstream_(upstream), socket_(std::move(socket)) {
  if (context != nullptr) {
    ssl_ = SSL_new(context);
    SSL_set_bio(ssl_, BIO_new_socket(socket_.get(), BIO_NOCLOSE), BIO_new(BIO_s_mem()));
    SSL_set_accept_state(ssl_);
  }
  EXPECT_TRUE(
      upstream_.loop_.watch(socket_.get(), EPOLLIN | EPOLLOUT | EPOLLRDHUP, *this).has_value());
}

TestUpstream::Peer::~Peer() {
  close_now();
  SSL_free(ssl_);
}

void TestUpstream::Peer::send(std::string_view bytes) {
  out_ += bytes;
  write();
}

void TestUpstream::Peer::close() {
  close_after_ = true;
  write();
}

void TestUpstream::Peer::reset() {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  close_now();
}

void TestUpstream::Peer::close_now() {
  if (socket_.valid()) {
    upstream_.loop_.unwatch(socket_.get());
    socket_.reset();
  }
}

void TestUpstream::Peer::on_io(std::uint32_t /*events*/) {
  if (reading && socket_.valid()) {
    read();
  }
  if (socket_.valid()) {
    write();
  }
}

void TestUpstream::Peer::read() {
  bool news = false;
  char buffer[16384];
  while (socket_.valid() && !client_closed) {
    ssize_t got = 0;
    if (ssl_ != nullptr) {
      ERR_clear_error();
      got = SSL_read(ssl_, buffer, sizeof buffer);
      if (got <= 0) {
        const int reason = SSL_get_error(ssl_, static_cast<int>(got));
        if (reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE) {
          break;
        }
        got = 0;
      }
    } else {
      got = ::recv(socket_.get(), buffer, sizeof buffer, 0);
      if (got < 0 && errno == EAGAIN) {
        break;
      }
    }
    news = true;
    if (got <= 0) {
      client_closed = true;
    } else {
      received.append(buffer, static_cast<std::size_t>(got));
    }
  }
  if (ssl_ != nullptr && server_name.empty()) {
    if (const char* name = SSL_get_servername(ssl_, TLSEXT_NAMETYPE_host_name); name != nullptr) {
      server_name = name;
    }
  }
  if (news && upstream_.script) {
    upstream_.script(*this);
  }
  if (client_closed) {
    flush_wire();  // an alert, perhaps
    close_now();
  }
}

void TestUpstream::Peer::write() {
  if (ssl_ == nullptr) {
    wire_ += std::exchange(out_, {});
  } else if (!encrypt()) {
    flush_wire();  // of the handshake
    return;
  }
  flush_wire();
  if (close_after_ && wire_.empty()) {
    close_now();
  }
}

// False while the handshake keeps the bytes back.
bool TestUpstream::Peer::encrypt() {
  ERR_clear_error();
  if (!out_.empty() && SSL_write(ssl_, out_.data(), static_cast<int>(out_.size())) <= 0) {
    return close_after_ && SSL_is_init_finished(ssl_) == 0;
  }
  out_.clear();
  if (close_after_ && !std::exchange(said_goodbye_, true)) {
    SSL_shutdown(ssl_);
  }
  return true;
}

void TestUpstream::Peer::flush_wire() {
  if (ssl_ != nullptr) {
    char buffer[16384];
    int got = 0;
    while ((got = BIO_read(SSL_get_wbio(ssl_), buffer, sizeof buffer)) > 0) {
      wire_.append(buffer, static_cast<std::size_t>(got));
    }
  }
  while (!wire_.empty() && socket_.valid()) {
    const std::size_t most = std::min(wire_.size(), upstream_.cut_after - wire_sent_);
    const ssize_t put = ::send(socket_.get(), wire_.data(), most, MSG_NOSIGNAL);
    if (put < 0) {
      return;
    }
    wire_sent_ += static_cast<std::size_t>(put);
    wire_.erase(0, static_cast<std::size_t>(put));
    if (wire_sent_ >= upstream_.cut_after) {
      close_now();
    }
  }
}

TestUpstream::TestUpstream(net::Loop& loop, const char* host, std::function<void(Peer&)> script_in,
                           SSL_CTX* context, std::uint16_t port)
    : script(std::move(script_in)), loop_(loop), host_(host), context_(context) {
  if (host_.find(':') != std::string::npos) {
    host_ = "[" + host_ + "]";
  }
  auto address = net::parse_socket_address(host_ + ":" + std::to_string(port));
  EXPECT_TRUE(address.has_value());
  auto listener = net::listen_tcp(*address, 512);
  EXPECT_TRUE(listener.has_value());
  listener_ = std::move(*listener);
  port_ = net::local_address(listener_.get())->port();
  EXPECT_TRUE(loop_.watch(listener_.get(), EPOLLIN, *this).has_value());
}

TestUpstream::~TestUpstream() { close_listener(); }

void TestUpstream::close_listener() {
  if (listener_.valid()) {
    loop_.unwatch(listener_.get());
    listener_.reset();
  }
}

void TestUpstream::on_io(std::uint32_t /*events*/) {
  for (;;) {
    base::Fd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket.valid()) {
      return;
    }
    peers.push_back(std::make_unique<Peer>(*this, std::move(socket), context_));
    if (on_accept) {
      on_accept(*peers.back());
    }
  }
}

void answer_each(TestUpstream::Peer& peer, std::string_view response) {
  for (;;) {
    const std::size_t end = peer.received.find("\r\n\r\n");
    if (end == std::string::npos) {
      return;
    }
    peer.received.erase(0, end + 4);
    ++peer.requests;
    peer.send(response);
  }
}

// ---- handler

std::size_t TestHandler::peek(std::span<iovec> pieces) {
  std::size_t count = 0;
  std::size_t at = 0;
  while (at < source.size() && count < pieces.size()) {
    const std::size_t take = std::min(piece_bytes, source.size() - at);
    pieces[count++] = {source.data() + at, take};
    at += take;
  }
  return count;
}

void TestHandler::consume(std::size_t bytes) {
  consumed += bytes;
  source.erase(0, bytes);
}

void TestHandler::on_head(int head_status, std::span<const Field> head_fields) {
  EXPECT_EQ(terminals, 0);
  ++heads;
  status = head_status;
  for (const Field& item : head_fields) {
    fields.emplace_back(item.name, item.value);
  }
  if (at_head) {
    at_head();
  }
}

Flow TestHandler::on_body(std::string_view bytes) {
  EXPECT_EQ(heads, 1);
  EXPECT_EQ(terminals, 0);
  EXPECT_FALSE(bytes.empty());
  body += bytes;
  if (at_body) {
    at_body();
  }
  return flow;
}

void TestHandler::on_end(std::span<const Field> end_trailers) {
  EXPECT_EQ(++terminals, 1);
  EXPECT_EQ(heads, 1);
  for (const Field& item : end_trailers) {
    trailers.emplace_back(item.name, item.value);
  }
  if (at_end) {
    at_end();
  }
}

void TestHandler::on_error(ClientError failure, std::string_view words) {
  EXPECT_EQ(++terminals, 1);
  error = failure;
  detail = words;
  if (at_end) {
    at_end();
  }
}

std::string TestHandler::field(std::string_view name) const {
  for (const auto& [field_name, value] : fields) {
    if (equals_lower(field_name, name)) {
      return value;
    }
  }
  return {};
}

// ---- fixture

ClientTest::ClientTest() {
  auto loop = net::Loop::create();
  EXPECT_TRUE(loop.has_value());
  loop_ = std::move(*loop);
  offload_ = std::make_unique<net::Offload>(*loop_, 2, 64);
}

ClientTest::~ClientTest() {
  client_.reset();
  offload_.reset();
  loop_->run_once(base::Duration::zero());
}

Client& ClientTest::client() {
  if (client_ == nullptr) {
    remake_client();
  }
  return *client_;
}

void ClientTest::remake_client() {
  client_.reset();
  auto list = AllowList::compile(allow_);
  EXPECT_TRUE(list.has_value());
  list_ = std::move(*list);
  client_ = std::make_unique<Client>(*loop_, *offload_, options_, list_);
}

ClientExchange* ClientTest::get(const std::string& authority, TestHandler& handler,
                                std::string_view path) {
  return client().start({.scheme = "http", .authority = authority, .path_query = path}, handler);
}

ClientExchange* ClientTest::get_tls(const std::string& authority, TestHandler& handler) {
  return client().start({.scheme = "https", .authority = authority, .path_query = "/"}, handler);
}

bool ClientTest::turn_until(const std::function<bool()>& done) {
  const base::Time until = base::Clock::now() + std::chrono::seconds(10);
  while (!done() && base::Clock::now() < until) {
    loop_->run_once(std::chrono::milliseconds(100));
  }
  return done();
}

void ClientTest::turn_some(int turns) {
  for (int i = 0; i < turns; ++i) {
    loop_->run_once(std::chrono::milliseconds(1));
  }
}

}  // namespace mik::http
