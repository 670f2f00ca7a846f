// Every wait has its end, and an exchange may be given up at every step.
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "http/client_test_support.hpp"
#include "net/socket.hpp"

namespace mik::http {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view kHead = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";

// A listener whose queue is full: the kernel drops what would connect, as a host that is gone does.
class BlackHole {
 public:
  BlackHole(net::Loop& loop, const char* address, std::uint16_t port) {
    auto parsed = net::parse_socket_address(std::string(address) + ":" + std::to_string(port));
    listener_ = std::move(*net::listen_tcp(*parsed, 0));
    bound_ = *net::local_address(listener_.get());
    for (base::Fd& filler : fillers_) {
      filler = base::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
      ::connect(filler.get(), bound_.get(), bound_.length);
    }
    static_cast<void>(loop);
  }
  std::uint16_t port() const { return bound_.port(); }

 private:
  base::Fd listener_;
  net::SocketAddress bound_;
  std::array<base::Fd, 4> fillers_;
};

class ClientTimeoutTest : public ClientTest {
 protected:
  // The error of a request with these limits.
  ClientError outcome(const std::string& authority, ClientRequest request, TestHandler& handler) {
    request.scheme = "http";
    request.authority = authority;
    client().start(request, handler);
    EXPECT_TRUE(turn_until([&] { return handler.over(); }));
    return handler.error.value_or(ClientError::kNone);
  }
};

TEST_F(ClientTimeoutTest, ConnectingIsBounded) {
  const BlackHole hole(*loop_, "127.0.0.1", 0);
  TestHandler handler;
  EXPECT_EQ(outcome("127.0.0.1:" + std::to_string(hole.port()),
                    {.connect_timeout = milliseconds(60)}, handler),
            ClientError::kConnectionTimeout);
  TestHandler by_deadline;
  EXPECT_EQ(outcome("127.0.0.1:" + std::to_string(hole.port()),
                    {.deadline = loop_->refresh_now() + milliseconds(60)}, by_deadline),
            ClientError::kConnectionTimeout);
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(ClientTimeoutTest, NothingBeginsAfterTheDeadline) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  TestHandler handler;
  EXPECT_EQ(outcome(upstream.authority(), {.deadline = loop_->refresh_now()}, handler),
            ClientError::kConnectionTimeout);
  EXPECT_TRUE(upstream.peers.empty());
}

TEST_F(ClientTimeoutTest, SilentUpstreamMeetsTheFirstByteTimeout) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  TestHandler handler;
  EXPECT_EQ(outcome(upstream.authority(), {.first_byte_timeout = milliseconds(60)}, handler),
            ClientError::kConnectionReadTimeout);
  ASSERT_TRUE(turn_until([&] { return upstream.peers[0]->client_closed; }));
}

TEST_F(ClientTimeoutTest, SilentUpstreamMeetsTheDeadline) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  TestHandler handler;
  EXPECT_EQ(outcome(upstream.authority(),
                    {.first_byte_timeout = std::chrono::hours(1),
                     .deadline = loop_->refresh_now() + milliseconds(60)},
                    handler),
            ClientError::kResponseTimeout);
}

TEST_F(ClientTimeoutTest, StalledBodyMeetsTheBetweenBytesTimeout) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
    peer.send(kHead);
    peer.send("some");
  });
  TestHandler handler;
  EXPECT_EQ(outcome(upstream.authority(), {.between_bytes_timeout = milliseconds(60)}, handler),
            ClientError::kConnectionReadTimeout);
  EXPECT_EQ(handler.body, "some");
}

// Field case 30: each byte keeps the between-bytes timer happy; the deadline does not care.
TEST_F(ClientTimeoutTest, DrippingUpstreamIsCutAtTheDeadline) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
  });
  TestHandler handler;
  const std::string authority = upstream.authority();
  const base::Time begun = loop_->refresh_now();
  client().start({.scheme = "http",
                  .authority = authority,
                  .between_bytes_timeout = milliseconds(200),
                  .deadline = begun + milliseconds(400)},
                 handler);
  ASSERT_TRUE(turn_until([&] {
    if (handler.heads == 1 && upstream.peers[0]->open()) {
      upstream.peers[0]->send("x");
    }
    return handler.over();
  }));
  EXPECT_EQ(handler.error, ClientError::kResponseTimeout);
  EXPECT_GE(base::Clock::now(), begun + milliseconds(400));
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(ClientTimeoutTest, AnUpstreamThatDoesNotReadMeetsTheWriteTimeout) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  upstream.on_accept = [](TestUpstream::Peer& peer) { peer.reading = false; };
  TestHandler handler;
  handler.source = std::string(16 << 20, 'x');
  EXPECT_EQ(
      outcome(
          upstream.authority(),
          {.method = "POST", .body = RequestBody::kStream, .first_byte_timeout = milliseconds(100)},
          handler),
      ClientError::kConnectionWriteTimeout);
}

TEST_F(ClientTimeoutTest, APausedReaderIsNotTheUpstreamsFault) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
    peer.send(kHead);
    peer.send("some");
  });
  TestHandler handler;
  handler.flow = Flow::kPause;
  const std::string authority = upstream.authority();
  ClientExchange* exchange = client().start(
      {.scheme = "http", .authority = authority, .between_bytes_timeout = milliseconds(40)},
      handler);
  ASSERT_TRUE(turn_until([&] { return !handler.body.empty(); }));
  const base::Time until = base::Clock::now() + milliseconds(200);
  ASSERT_TRUE(turn_until([&] { return base::Clock::now() >= until; }));
  EXPECT_FALSE(handler.over());
  exchange->resume();
  ASSERT_TRUE(turn_until([&] { return handler.over(); }));
  EXPECT_EQ(handler.error, ClientError::kConnectionReadTimeout);
}

TEST_F(ClientTimeoutTest, APausedReaderMeetsTheDeadline) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
    peer.send(kHead);
    peer.send("some");
  });
  TestHandler handler;
  handler.flow = Flow::kPause;
  EXPECT_EQ(
      outcome(upstream.authority(), {.deadline = loop_->refresh_now() + milliseconds(80)}, handler),
      ClientError::kResponseTimeout);
}

// ---- giving up

struct CancelCase {
  const char* name;
  // Brings the exchange to where it is cancelled.
  std::function<bool(const TestUpstream&, const TestHandler&)> reached;
};

class ClientCancelTest : public ClientTest {};

TEST_F(ClientCancelTest, AtEveryStepFreesEverything) {
  const std::array cases = {
      CancelCase{"at once", [](const auto&, const auto&) { return true; }},
      CancelCase{"connected", [](const auto& u, const auto&) { return u.peers.size() == 1; }},
      CancelCase{"sending", [](const auto& u,
                               const auto& h) { return u.peers.size() == 1 && h.consumed > 0; }},
      CancelCase{"answered", [](const auto&, const auto& h) { return h.heads == 1; }},
      CancelCase{"reading", [](const auto&, const auto& h) { return !h.body.empty(); }}};
  for (const CancelCase& c : cases) {
    SCOPED_TRACE(c.name);
    TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
      if (peer.requests++ == 0) {
        peer.send(kHead);
        peer.send("some");
      }
    });
    TestHandler handler;
    handler.source = "part";
    const std::string authority = upstream.authority();
    ClientExchange* exchange = client().start(
        {.method = "POST", .scheme = "http", .authority = authority, .body = RequestBody::kStream},
        handler);
    ASSERT_TRUE(turn_until([&] { return c.reached(upstream, handler); }));
    exchange->cancel();
    const std::size_t body = handler.body.size();
    turn_some(10);
    EXPECT_FALSE(handler.over());
    EXPECT_EQ(handler.body.size(), body);
    EXPECT_EQ(client().counters().active, 0U);
    EXPECT_EQ(client().counters().connections, 0U);
    for (const auto& peer : upstream.peers) {
      EXPECT_FALSE(peer->open());
    }
  }
}

TEST_F(ClientCancelTest, FromInsideCallbacks) {
  for (const bool at_head : {true, false}) {
    TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
      peer.send(
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n");
    });
    TestHandler handler;
    ClientExchange* exchange = nullptr;
    (at_head ? handler.at_head : handler.at_body) = [&] { exchange->cancel(); };
    exchange = get(upstream.authority(), handler);
    ASSERT_TRUE(
        turn_until([&] { return client().counters().cancelled > 0 && handler.heads == 1; }));
    turn_some();
    EXPECT_FALSE(handler.over());
    EXPECT_EQ(handler.body, at_head ? "" : "a");
    EXPECT_EQ(client().counters().connections, 0U);
    remake_client();
  }
}

TEST_F(ClientCancelTest, WhileARefusalIsStillToBeTold) {
  TestHandler handler;
  ClientExchange* exchange = get("not.allowed.example", handler);
  exchange->cancel();
  turn_some();
  EXPECT_FALSE(handler.over());
  EXPECT_EQ(client().counters().active, 0U);
}

TEST_F(ClientCancelTest, WhileConnecting) {
  const BlackHole hole(*loop_, "127.0.0.1", 0);
  TestHandler handler;
  ClientExchange* exchange = get("127.0.0.1:" + std::to_string(hole.port()), handler);
  turn_some();
  exchange->cancel();
  turn_some();
  EXPECT_FALSE(handler.over());
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(ClientCancelTest, DestroyingTheClientEndsWhatRuns) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  TestHandler handler;
  get(upstream.authority(), handler);
  ASSERT_TRUE(turn_until([&] { return upstream.peers.size() == 1; }));
  client_.reset();
  EXPECT_EQ(handler.error, ClientError::kConnectionTerminated);
}

}  // namespace
}  // namespace mik::http
