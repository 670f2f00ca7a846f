// Which exchange gets which connection: reuse, limits, the queue, dead ones.
#include <algorithm>
#include <array>
#include <list>

#include "http/client_test_support.hpp"

namespace mik::http {
namespace {

constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

class ClientPoolTest : public ClientTest {
 protected:
  std::unique_ptr<TestUpstream> answering(std::string response = std::string(kOk)) {
    return std::make_unique<TestUpstream>(
        *loop_, "127.0.0.1", [response](TestUpstream::Peer& peer) { answer_each(peer, response); });
  }
  // One exchange to its end.
  void one(const TestUpstream& upstream, ClientError error = ClientError::kNone) {
    TestHandler handler;
    get(upstream.authority(), handler);
    ASSERT_TRUE(turn_until([&] { return handler.over(); }));
    EXPECT_EQ(handler.error.value_or(ClientError::kNone), error) << handler.detail;
  }
};

TEST_F(ClientPoolTest, AThousandRequestsUseOneConnection) {
  const auto upstream = answering();
  for (int i = 0; i < 1000; ++i) {
    one(*upstream);
  }
  EXPECT_EQ(upstream->peers.size(), 1U);
  EXPECT_EQ(upstream->peers[0]->requests, 1000U);
  const ClientCounters counters = client().counters();
  EXPECT_EQ(counters.opened, 1U);
  EXPECT_EQ(counters.reused, 999U);
  EXPECT_EQ(counters.completed, 1000U);
  EXPECT_EQ(counters.idle, 1U);
  EXPECT_EQ(counters.active, 0U);
}

TEST_F(ClientPoolTest, ARequestBegunInOnEndFindsTheConnectionFree) {
  const auto upstream = answering();
  TestHandler second;
  TestHandler first;
  first.at_end = [&] { get(upstream->authority(), second); };
  get(upstream->authority(), first);
  ASSERT_TRUE(turn_until([&] { return second.over(); }));
  EXPECT_EQ(second.body, "ok");
  EXPECT_EQ(upstream->peers.size(), 1U);
}

TEST_F(ClientPoolTest, LastUsedIsUsedFirst) {
  const auto upstream = answering();
  std::array<TestHandler, 3> handlers;
  for (TestHandler& handler : handlers) {
    get(upstream->authority(), handler);
  }
  ASSERT_TRUE(
      turn_until([&] { return handlers[0].over() && handlers[1].over() && handlers[2].over(); }));
  EXPECT_EQ(upstream->peers.size(), 3U);
  EXPECT_EQ(client().counters().idle, 3U);
  for (int i = 0; i < 10; ++i) {
    one(*upstream);
  }
  std::size_t most = 0;
  for (const auto& peer : upstream->peers) {
    most = std::max(most, peer->requests);
  }
  EXPECT_EQ(most, 11U);
}

TEST_F(ClientPoolTest, ResponsesThatForbidItAreNotReused) {
  for (const char* response :
       {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=0\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n"}) {
    const auto upstream = answering(response);
    one(*upstream);
    EXPECT_EQ(client().counters().connections, 0U) << response;
    one(*upstream);
    EXPECT_EQ(upstream->peers.size(), 2U) << response;
  }
}

// A pooled connection on which the server speaks unasked would answer the next request with those
// bytes.
TEST_F(ClientPoolTest, UnaskedBytesEndAPooledConnection) {
  const auto upstream = answering();
  one(*upstream);
  upstream->peers[0]->send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
  ASSERT_TRUE(turn_until([&] { return client().counters().idle == 0; }));
  one(*upstream);
  EXPECT_EQ(upstream->peers.size(), 2U);
  // The same when no turn lies between.
  upstream->peers[1]->send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
  TestHandler handler;
  get(upstream->authority(), handler);
  ASSERT_TRUE(turn_until([&] { return handler.over(); }));
  EXPECT_EQ(handler.body, "ok");
}

TEST_F(ClientPoolTest, ClosedIdleConnectionIsNoticedAtOnce) {
  const auto upstream = answering();
  one(*upstream);
  EXPECT_EQ(client().counters().idle, 1U);
  upstream->peers[0]->close();
  loop_->run_once(std::chrono::milliseconds(1000));
  EXPECT_EQ(client().counters().idle, 0U);
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(ClientPoolTest, IdleConnectionsAreClosedInTime) {
  options_.idle_timeout = std::chrono::milliseconds(50);
  const auto upstream = answering();
  one(*upstream);
  EXPECT_EQ(client().counters().idle, 1U);
  ASSERT_TRUE(turn_until([&] { return upstream->peers[0]->client_closed; }));
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(ClientPoolTest, TheServersHintShortensTheIdleTime) {
  const auto upstream =
      answering("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1\r\nContent-Length: 2\r\n\r\nok");
  one(*upstream);
  ASSERT_GT(options_.idle_timeout, std::chrono::seconds(30));
  ASSERT_TRUE(turn_until([&] { return upstream->peers[0]->client_closed; }));
}

// The server closes a pooled connection while the request is on its way.
TEST_F(ClientPoolTest, DeadPooledConnectionIsTriedAgainOnAFreshOne) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  upstream.script = [&](TestUpstream::Peer& peer) {
    if (&peer == upstream.peers[0].get() && peer.requests > 0) {
      peer.close();  // the second request, unanswered
    } else {
      answer_each(peer, kOk);
    }
  };
  one(upstream);
  one(upstream);
  EXPECT_EQ(upstream.peers.size(), 2U);
  EXPECT_EQ(client().counters().retried, 1U);
  EXPECT_EQ(client().counters().connections, 1U);
}

TEST_F(ClientPoolTest, OnlyOnceAndOnlyBeforeTheFirstResponseByte) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  int answers = 1;
  std::string last;
  upstream.script = [&](TestUpstream::Peer& peer) {
    if (answers-- > 0) {
      answer_each(peer, kOk);
    } else {
      peer.send(last);
      peer.close();
    }
  };
  one(upstream);
  one(upstream, ClientError::kConnectionTerminated);  // the pooled one and the fresh one both die
  EXPECT_EQ(upstream.peers.size(), 2U);
  EXPECT_EQ(client().counters().retried, 1U);
  answers = 1;
  last = "H";
  one(upstream);
  one(upstream, ClientError::kResponseIncomplete);
  EXPECT_EQ(upstream.peers.size(), 3U);
  EXPECT_EQ(client().counters().retried, 1U);
}

TEST_F(ClientPoolTest, WhatMayHaveBeenActedOnIsNotSentTwice) {
  struct Case {
    std::string_view method;
    RequestBody body;
    std::string source;
    bool again;
  };
  const std::array cases = {Case{"POST", RequestBody::kNone, "", false},
                            Case{"DELETE", RequestBody::kNone, "", true},
                            Case{"POST", RequestBody::kStream, "", true},  // no content left yet
                            Case{"PUT", RequestBody::kStream, "abc", false}};  // content is gone
  for (const Case& c : cases) {
    TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
    upstream.script = [&](TestUpstream::Peer& peer) {
      if (&peer == upstream.peers[0].get() && peer.requests > 0) {
        peer.close();
      } else {
        answer_each(peer, kOk);
      }
    };
    one(upstream);
    TestHandler handler;
    handler.source = c.source;
    const std::string authority = upstream.authority();
    client().start({.method = c.method, .scheme = "http", .authority = authority, .body = c.body},
                   handler);
    ASSERT_TRUE(turn_until([&] { return handler.over(); }));
    EXPECT_EQ(!handler.error.has_value(), c.again) << c.method << handler.detail;
    EXPECT_EQ(upstream.peers.size(), c.again ? 2U : 1U) << c.method;
  }
}

// A body that turned out empty is a whole request, though none of its content was taken.
TEST_F(ClientPoolTest, AnEndedEmptyBodyIsNotSentTwice) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  std::string second;
  upstream.script = [&](TestUpstream::Peer& peer) {
    if (&peer != upstream.peers[0].get() || peer.requests == 0) {
      answer_each(peer, kOk);
      return;
    }
    second = peer.received;
    if (second.ends_with("0\r\n\r\n")) {
      peer.close();
    }
  };
  one(upstream);
  TestHandler handler;
  const std::string authority = upstream.authority();
  ClientExchange* exchange = client().start(
      {.method = "POST", .scheme = "http", .authority = authority, .body = RequestBody::kStream},
      handler);
  ASSERT_TRUE(turn_until([&] { return second.ends_with("\r\n\r\n"); }));
  handler.source_state_now = SourceState::kEnd;
  exchange->pump();
  ASSERT_TRUE(turn_until([&] { return handler.over(); }));
  EXPECT_EQ(handler.error, ClientError::kConnectionTerminated);
  EXPECT_EQ(upstream.peers.size(), 1U);
}

TEST_F(ClientPoolTest, KeepsSoManyIdleOnesPerHost) {
  options_.idle_per_host_max = 2;
  const auto upstream = answering();
  std::array<TestHandler, 5> handlers;
  for (TestHandler& handler : handlers) {
    get(upstream->authority(), handler);
  }
  ASSERT_TRUE(turn_until([&] {
    return std::ranges::all_of(handlers, [](const TestHandler& h) { return h.over(); });
  }));
  EXPECT_EQ(upstream->peers.size(), 5U);
  EXPECT_EQ(client().counters().idle, 2U);
  EXPECT_EQ(client().counters().connections, 2U);
}

TEST_F(ClientPoolTest, HostLimitQueuesInOrder) {
  options_.per_host_max = 2;
  const auto upstream = answering();
  std::array<TestHandler, 10> handlers;
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < handlers.size(); ++i) {
    handlers[i].at_end = [&order, i] { order.push_back(i); };
    get(upstream->authority(), handlers[i]);
  }
  EXPECT_EQ(client().counters().waiting, 8U);
  ASSERT_TRUE(turn_until([&] { return order.size() == handlers.size(); }));
  EXPECT_EQ(upstream->peers.size(), 2U);
  EXPECT_LE(order[0], 1U);
  EXPECT_GE(order[9], 8U);
  for (const TestHandler& handler : handlers) {
    EXPECT_EQ(handler.body, "ok") << handler.detail;
  }
  EXPECT_EQ(client().counters().waiting, 0U);
}

TEST_F(ClientPoolTest, AFullHostDoesNotHoldUpOthers) {
  options_.per_host_max = 1;
  TestUpstream silent(*loop_, "127.0.0.1", nullptr);
  const auto upstream = answering();
  TestHandler stuck;
  TestHandler queued;
  ClientExchange* first = get(silent.authority(), stuck);
  ClientExchange* second = get(silent.authority(), queued);
  one(*upstream);
  EXPECT_EQ(client().counters().waiting, 1U);
  second->cancel();
  EXPECT_EQ(client().counters().waiting, 0U);
  first->cancel();
}

TEST_F(ClientPoolTest, TotalLimitMakesRoomByClosingTheOldestIdle) {
  options_.connections_max = 2;
  const auto a = answering();
  const auto b = answering();
  const auto c = answering();
  one(*a);
  one(*b);
  one(*b);
  one(*c);
  EXPECT_EQ(client().counters().connections, 2U);
  ASSERT_TRUE(turn_until([&] { return a->peers[0]->client_closed; }));
  EXPECT_FALSE(b->peers[0]->client_closed);
}

TEST_F(ClientPoolTest, TotalLimitQueuesAcrossHosts) {
  options_.connections_max = 1;
  TestUpstream silent(*loop_, "127.0.0.1", nullptr);
  const auto upstream = answering();
  TestHandler stuck;
  TestHandler waiting;
  ClientExchange* exchange = get(silent.authority(), stuck);
  get(upstream->authority(), waiting);
  turn_some();
  EXPECT_EQ(client().counters().waiting, 1U);
  EXPECT_TRUE(upstream->peers.empty());
  exchange->cancel();
  ASSERT_TRUE(turn_until([&] { return waiting.over(); }));
  EXPECT_EQ(waiting.body, "ok");
}

TEST_F(ClientPoolTest, FullQueueRefuses) {
  options_.per_host_max = 1;
  options_.waiting_max = 2;
  TestUpstream silent(*loop_, "127.0.0.1", nullptr);
  std::array<TestHandler, 4> handlers;
  for (TestHandler& handler : handlers) {
    get(silent.authority(), handler);
  }
  ASSERT_TRUE(turn_until([&] { return handlers[3].over(); }));
  EXPECT_EQ(handlers[3].error, ClientError::kConnectionLimitReached);
  EXPECT_FALSE(handlers[2].over());
  client().close_all();
}

TEST_F(ClientPoolTest, WaitingIsBoundedByDeadlineAndConnectTimeout) {
  options_.per_host_max = 1;
  TestUpstream silent(*loop_, "127.0.0.1", nullptr);
  TestHandler stuck;
  TestHandler by_deadline;
  TestHandler by_timeout;
  get(silent.authority(), stuck);
  const std::string authority = silent.authority();
  client().start({.scheme = "http",
                  .authority = authority,
                  .deadline = loop_->refresh_now() + std::chrono::milliseconds(40)},
                 by_deadline);
  client().start(
      {.scheme = "http", .authority = authority, .connect_timeout = std::chrono::milliseconds(40)},
      by_timeout);
  ASSERT_TRUE(turn_until([&] { return by_deadline.over() && by_timeout.over(); }));
  EXPECT_EQ(by_deadline.error, ClientError::kConnectionLimitReached);
  EXPECT_EQ(by_timeout.error, ClientError::kConnectionLimitReached);
  EXPECT_EQ(client().counters().waiting, 0U);
  client().close_all();
}

TEST_F(ClientPoolTest, AWaiterIsNotStrandedWhenAConnectFails) {
  options_.per_host_max = 1;
  std::uint16_t port = 0;
  {
    TestUpstream gone(*loop_, "127.0.0.1", nullptr);
    port = gone.port();
  }
  std::array<TestHandler, 5> handlers;
  for (TestHandler& handler : handlers) {
    get("127.0.0.1:" + std::to_string(port), handler);
  }
  ASSERT_TRUE(turn_until([&] {
    return std::ranges::all_of(handlers, [](const TestHandler& h) { return h.over(); });
  }));
  for (const TestHandler& handler : handlers) {
    EXPECT_EQ(handler.error, ClientError::kConnectionRefused);
  }
  EXPECT_EQ(client().counters().connections, 0U);
  EXPECT_EQ(client().counters().failed[static_cast<std::size_t>(ClientError::kConnectionRefused)],
            5U);
}

TEST_F(ClientPoolTest, DrainKeepsNothingButLetsExchangesEnd) {
  const auto upstream = answering();
  one(*upstream);
  TestUpstream slow(*loop_, "127.0.0.1", nullptr);
  TestHandler running;
  get(slow.authority(), running);
  ASSERT_TRUE(turn_until([&] { return !slow.peers.empty() && !slow.peers[0]->received.empty(); }));
  client().drain();
  EXPECT_EQ(client().counters().idle, 0U);
  slow.peers[0]->send(kOk);
  ASSERT_TRUE(turn_until([&] { return running.over(); }));
  EXPECT_EQ(running.body, "ok");
  one(*upstream);
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(ClientPoolTest, CloseAllEndsEverythingOnce) {
  options_.per_host_max = 1;
  TestUpstream silent(*loop_, "127.0.0.1", nullptr);
  std::array<TestHandler, 3> handlers;
  TestHandler again;
  TestHandler refused;
  handlers[0].at_end = [&] { get(silent.authority(), again); };
  for (TestHandler& handler : handlers) {
    get(silent.authority(), handler);
  }
  get("not.allowed.example", refused);  // its failure is still to be told
  turn_some(3);
  client().close_all();
  for (const TestHandler& handler : handlers) {
    EXPECT_EQ(handler.error, ClientError::kConnectionTerminated);
  }
  ASSERT_TRUE(turn_until([&] { return again.over(); }));
  EXPECT_EQ(again.error, ClientError::kConnectionTerminated);
  EXPECT_EQ(refused.error, ClientError::kRequestDenied);
  EXPECT_EQ(client().counters().connections, 0U);
  EXPECT_EQ(client().counters().active, 0U);
}

void answer_or_misbehave(TestUpstream::Peer& peer, std::uint32_t mood) {
  switch (mood) {
    case 0:
      peer.close();
      break;
    case 1:
      answer_each(peer, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
      break;
    case 2:
      peer.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf");
      peer.close();
      break;
    default:
      answer_each(peer, kOk);
  }
}

// Random comings and goings against small limits: nothing is lost, nothing leaks, limits hold.
TEST_F(ClientPoolTest, RandomHistoriesLeaveNothingBehind) {
  options_.per_host_max = 3;
  options_.connections_max = 5;
  options_.idle_per_host_max = 2;
  std::uint32_t seed = 20261125;
  SCOPED_TRACE(seed);
  const auto random = [&seed](std::uint32_t below) {
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % below;
  };
  std::vector<std::unique_ptr<TestUpstream>> upstreams;
  for (int i = 0; i < 3; ++i) {
    upstreams.push_back(std::make_unique<TestUpstream>(
        *loop_, "127.0.0.1",
        [&](TestUpstream::Peer& peer) { answer_or_misbehave(peer, random(10)); }));
  }
  struct Running {
    TestHandler handler;
    ClientExchange* exchange = nullptr;
  };
  std::list<Running> all;
  for (int step = 0; step < 3000; ++step) {
    const std::uint32_t action = random(10);
    if (action < 5) {
      Running& running = all.emplace_back();
      running.exchange = get(upstreams[random(3)]->authority(), running.handler);
    } else if (action < 6 && !all.empty()) {
      Running& running = all.back();
      if (running.exchange != nullptr && !running.handler.over()) {
        running.exchange->cancel();
        running.exchange = nullptr;
        running.handler.terminals = 1;  // any callback from now on is a failure
      }
    } else {
      loop_->run_once(base::Duration::zero());
    }
    const ClientCounters counters = client().counters();
    ASSERT_LE(counters.connections, 5U);
    ASSERT_LE(counters.idle, counters.connections);
  }
  ASSERT_TRUE(turn_until(
      [&] { return std::ranges::all_of(all, [](const Running& r) { return r.handler.over(); }); }));
  const ClientCounters counters = client().counters();
  EXPECT_EQ(counters.active, 0U);
  EXPECT_EQ(counters.waiting, 0U);
  EXPECT_EQ(counters.connections, counters.idle);
  std::uint64_t failed = 0;
  for (const std::uint64_t n : counters.failed) {
    failed += n;
  }
  EXPECT_EQ(counters.started, counters.completed + counters.cancelled + failed);
}

}  // namespace
}  // namespace mik::http
