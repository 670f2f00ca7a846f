// Requests as they go out and responses as they come in, over bare connections.
#include "http/client.hpp"

#include <array>

#include "http/chunked.hpp"
#include "http/client_test_support.hpp"

namespace mik::http {
namespace {

constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Test: yes\r\n\r\nhello";

class ClientExchangeTest : public ClientTest {
 protected:
  // Starts a request with a source and turns until `peer.received` ends with `end`.
  std::string sent_bytes(ClientRequest request, TestHandler& handler, std::string_view end) {
    TestUpstream upstream(*loop_, "127.0.0.1", [end](TestUpstream::Peer& peer) {
      if (peer.received.ends_with(end)) {
        peer.send(kOk);
      }
    });
    const std::string authority = upstream.authority();
    request.scheme = "http";
    request.authority = authority;
    ClientExchange* exchange = client().start(request, handler);
    if (pump) {
      turn_some();
      pump(*exchange);
    }
    EXPECT_TRUE(turn_until([&] { return handler.over(); }));
    EXPECT_EQ(handler.error, std::nullopt) << handler.detail;
    std::string received = upstream.peers.empty() ? "" : upstream.peers[0]->received;
    const std::size_t at = received.find(authority);
    return at == std::string::npos ? received : received.replace(at, authority.size(), "HOST");
  }
  std::function<void(ClientExchange&)> pump;

  // What a whole response does: the upstream sends `response` and closes if `then_close`.
  void exchange_with(std::string_view response, bool then_close, TestHandler& handler,
                     std::string_view method = "GET") {
    TestUpstream upstream(*loop_, "127.0.0.1", [&](TestUpstream::Peer& peer) {
      if (peer.received.ends_with("\r\n\r\n")) {
        peer.send(response);
        if (then_close) {
          peer.close();
        }
      }
    });
    const std::string authority = upstream.authority();
    client().start({.method = method, .scheme = "http", .authority = authority}, handler);
    EXPECT_TRUE(turn_until([&] { return handler.over(); }));
  }
};

TEST_F(ClientExchangeTest, GetIsExactlyThis) {
  TestHandler handler;
  EXPECT_EQ(sent_bytes({.path_query = "/a?b=1"}, handler, "\r\n\r\n"),
            "GET /a?b=1 HTTP/1.1\r\nHost: HOST\r\n\r\n");
  EXPECT_EQ(handler.status, 200);
  EXPECT_EQ(handler.body, "hello");
  EXPECT_EQ(handler.field("x-test"), "yes");
  EXPECT_EQ(handler.field("content-length"), "5");
}

TEST_F(ClientExchangeTest, Ipv6LiteralWorks) {
  TestUpstream upstream(*loop_, "::1", [](TestUpstream::Peer& peer) { peer.send(kOk); });
  for (const std::string host : {"[::1]", "[0:0:0:0:0:0:0:1]"}) {
    TestHandler handler;
    const std::string authority = host + ":" + std::to_string(upstream.port());
    get(authority, handler);
    ASSERT_TRUE(turn_until([&] { return handler.over(); }));
    EXPECT_EQ(handler.body, "hello") << handler.detail;
    EXPECT_NE(upstream.peers[0]->received.find("Host: " + authority + "\r\n"), std::string::npos);
  }
  TestHandler zone;
  get("[::1%25lo]:" + std::to_string(upstream.port()), zone);
  EXPECT_FALSE(zone.over());
  ASSERT_TRUE(turn_until([&] { return zone.over(); }));
  EXPECT_EQ(zone.error, ClientError::kRequestUriInvalid);
}

TEST_F(ClientExchangeTest, PostWithoutABodySaysSo) {
  TestHandler handler;
  EXPECT_EQ(sent_bytes({.method = "POST"}, handler, "\r\n\r\n"),
            "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n");
}

TEST_F(ClientExchangeTest, KnownLengthIsSent) {
  TestHandler handler;
  handler.source = "12345";
  handler.source_state_now = SourceState::kEnd;
  EXPECT_EQ(sent_bytes({.method = "POST", .body = RequestBody::kLength, .content_length = 5},
                       handler, "12345"),
            "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\n12345");
  EXPECT_EQ(handler.consumed, 5U);
}

TEST_F(ClientExchangeTest, StreamThatIsCompleteAtTheStartHasALength) {
  TestHandler handler;
  handler.source = "123456";
  handler.piece_bytes = 2;
  handler.source_state_now = SourceState::kEnd;
  EXPECT_EQ(sent_bytes({.method = "PUT", .body = RequestBody::kStream}, handler, "123456"),
            "PUT / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 6\r\n\r\n123456");
  TestHandler empty;
  empty.source_state_now = SourceState::kEnd;
  EXPECT_EQ(sent_bytes({.method = "GET", .body = RequestBody::kStream}, empty, "\r\n\r\n"),
            "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n");
}

TEST_F(ClientExchangeTest, StreamGoesOutInChunksAsItComes) {
  TestHandler handler;
  handler.source = "first";
  pump = [&](ClientExchange& exchange) {
    exchange.pump();  // nothing new
    handler.source = std::string(26, 'x');
    exchange.pump();
    turn_some();
    handler.source_state_now = SourceState::kEnd;
    exchange.pump();
  };
  EXPECT_EQ(
      sent_bytes({.method = "POST", .body = RequestBody::kStream}, handler, "\r\n0\r\n\r\n"),
      "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n1a\r\n" +
          std::string(26, 'x') + "\r\n0\r\n\r\n");
}

TEST_F(ClientExchangeTest, LastPieceAndLastChunkGoTogether) {
  TestHandler handler;
  pump = [&](ClientExchange& exchange) {
    handler.source = "all";
    handler.source_state_now = SourceState::kEnd;
    exchange.pump();
  };
  EXPECT_EQ(
      sent_bytes({.method = "POST", .body = RequestBody::kStream}, handler, "\r\n0\r\n\r\n"),
      "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n0\r\n\r\n");
}

// More than the socket takes at once, in many small pieces, to an upstream that begins to read
// late.
TEST_F(ClientExchangeTest, LargeBodyWaitsForASlowUpstream) {
  for (const RequestBody kind : {RequestBody::kStream, RequestBody::kLength}) {
    constexpr std::size_t kSize = 8 << 20;
    TestHandler handler;
    handler.source.resize(kSize);
    for (std::size_t i = 0; i < kSize; ++i) {
      handler.source[i] = static_cast<char>('a' + i % 23);
    }
    const std::string whole = handler.source;
    handler.piece_bytes = 70'001;
    handler.source_state_now = SourceState::kEnd;
    TestUpstream upstream(*loop_, "127.0.0.1", [kind](TestUpstream::Peer& peer) {
      const std::size_t head = peer.received.find("\r\n\r\n");
      const bool complete =
          kind == RequestBody::kStream
              ? peer.received.ends_with("\r\n0\r\n\r\n")
              : head != std::string::npos && peer.received.size() == head + 4 + kSize;
      if (complete) {
        peer.send(kOk);
      }
    });
    upstream.on_accept = [](TestUpstream::Peer& peer) { peer.reading = false; };
    const std::string authority = upstream.authority();
    client().start({.method = "POST",
                    .scheme = "http",
                    .authority = authority,
                    .body = kind,
                    .content_length = kSize},
                   handler);
    ASSERT_TRUE(turn_until([&] { return handler.consumed > 0; }));
    turn_some();
    EXPECT_LT(handler.consumed, kSize);  // the kernel's buffers are smaller
    upstream.peers[0]->reading = true;
    upstream.peers[0]->on_io(0);
    ASSERT_TRUE(turn_until([&] { return handler.over(); }));
    EXPECT_EQ(handler.status, 200) << handler.detail;
    EXPECT_EQ(handler.consumed, kSize);
    // The content arrives in order: compare it, without the chunks' frames.
    std::string_view received = upstream.peers[0]->received;
    received.remove_prefix(received.find("\r\n\r\n") + 4);
    if (kind == RequestBody::kLength) {
      EXPECT_TRUE(received == whole);
      continue;
    }
    ChunkedDecoder decoder;
    std::string content;
    ChunkedDecoder::Status status = ChunkedDecoder::Status::kData;
    while (status == ChunkedDecoder::Status::kData) {
      const ChunkedDecoder::Step step = decoder.decode(received, Limits{});
      status = step.status;
      content += step.data;
      received.remove_prefix(step.consumed);
    }
    EXPECT_EQ(status, ChunkedDecoder::Status::kEnd);
    EXPECT_TRUE(content == whole);
  }
}

TEST_F(ClientExchangeTest, SourceThatLiesAboutItsLengthFails) {
  for (const char* source : {"1234", "123456"}) {
    TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
    TestHandler handler;
    handler.source = source;
    handler.source_state_now = SourceState::kEnd;
    const std::string authority = upstream.authority();
    client().start({.method = "POST",
                    .scheme = "http",
                    .authority = authority,
                    .body = RequestBody::kLength,
                    .content_length = 5},
                   handler);
    ASSERT_TRUE(turn_until([&] { return handler.over(); }));
    EXPECT_EQ(handler.error, ClientError::kRequestBodySize);
  }
}

TEST_F(ClientExchangeTest, CutSourceCutsTheConnection) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  TestHandler handler;
  handler.source = "part";
  const std::string authority = upstream.authority();
  ClientExchange* exchange = client().start(
      {.method = "POST", .scheme = "http", .authority = authority, .body = RequestBody::kStream},
      handler);
  ASSERT_TRUE(turn_until([&] { return handler.consumed == 4; }));
  handler.source_state_now = SourceState::kCut;
  exchange->pump();
  EXPECT_EQ(handler.error, ClientError::kConnectionTerminated);
  ASSERT_TRUE(turn_until([&] { return upstream.peers[0]->client_closed; }));
  EXPECT_TRUE(upstream.peers[0]->received.ends_with("4\r\npart"));
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(ClientExchangeTest, ReadsEveryKindOfBody) {
  struct Case {
    std::string_view response;
    bool close;
    int status;
    std::string_view body;
    std::string_view method = "GET";
  };
  const std::array cases = {
      Case{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", false, 200, "abc"},
      Case{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200, ""},
      Case{
          "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n",
          false, 200, "abc"},
      Case{"HTTP/1.1 200 OK\r\n\r\nabc", true, 200, "abc"},
      Case{"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc", true, 200, "abc"},
      Case{"HTTP/1.1 204 No Content\r\n\r\n", false, 204, ""},
      Case{"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", false, 304, ""},
      Case{"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", false, 200, "", "HEAD"},
      Case{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
           "HTTP/1.1 201 Created\r\nContent-Length: 1\r\n\r\nz",
           false, 201, "z"}};
  for (const Case& c : cases) {
    TestHandler handler;
    exchange_with(c.response, c.close, handler, c.method);
    EXPECT_EQ(handler.error, std::nullopt) << c.response << handler.detail;
    EXPECT_EQ(handler.status, c.status) << c.response;
    EXPECT_EQ(handler.body, c.body) << c.response;
  }
}

TEST_F(ClientExchangeTest, TrailersComeAtTheEndAndHopFieldsNever) {
  TestHandler handler;
  exchange_with(
      "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n"
      "Transfer-Encoding: chunked\r\nX-End: 1\r\n\r\n1\r\na\r\n0\r\nX-Sum: 42\r\nX-Two: b\r\n\r\n",
      false, handler);
  ASSERT_EQ(handler.trailers.size(), 2U);
  EXPECT_EQ(handler.trailers[0].second, "42");
  EXPECT_EQ(handler.trailers[1].second, "b");
  ASSERT_EQ(handler.fields.size(), 1U);
  EXPECT_EQ(handler.fields[0].first, "X-End");
}

TEST_F(ClientExchangeTest, BrokenResponsesAreProtocolErrors) {
  for (const std::string_view response :
       {"HTTX/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"}) {
    TestHandler handler;
    exchange_with(response, false, handler);
    EXPECT_EQ(handler.error, ClientError::kProtocolError) << response;
    EXPECT_EQ(client().counters().connections, 0U);
  }
}

TEST_F(ClientExchangeTest, EndlessInterimResponsesEnd) {
  std::string response;
  for (int i = 0; i < 40; ++i) {
    response += "HTTP/1.1 100 Continue\r\n\r\n";
  }
  TestHandler handler;
  exchange_with(response, false, handler);
  EXPECT_EQ(handler.error, ClientError::kProtocolError);
}

// More bytes of interim heads than one turn reads.
TEST_F(ClientExchangeTest, LongInterimResponsesAreReadOverSeveralTurns) {
  std::string response;
  for (int i = 0; i < 10; ++i) {
    response += "HTTP/1.1 103 Early Hints\r\nX: " + std::string(50'000, 'x') + "\r\n\r\n";
  }
  TestHandler handler;
  exchange_with(response + std::string(kOk), false, handler);
  EXPECT_EQ(handler.error, std::nullopt) << handler.detail;
  EXPECT_EQ(handler.body, "hello");
}

TEST_F(ClientExchangeTest, HeadOfTheResponseIsLimited) {
  options_.limits.head_bytes_max = 20'000;
  const auto head = [](std::size_t bytes) {
    std::string text = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: ";
    text.append(bytes - text.size() - 4, 'x');
    return text + "\r\n\r\n";
  };
  TestHandler fits;
  exchange_with(head(20'000), false, fits);
  EXPECT_EQ(fits.error, std::nullopt) << fits.detail;
  TestHandler large;
  exchange_with(head(20'001), false, large);
  EXPECT_EQ(large.error, ClientError::kResponseHeaderSectionSize);
  TestHandler endless;
  exchange_with("HTTP/1.1 200 OK\r\nX: " + std::string(100'000, 'x'), false, endless);
  EXPECT_EQ(endless.error, ClientError::kResponseHeaderSectionSize);
  std::string many = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n";
  for (int i = 0; i < 200; ++i) {
    many += "a: b\r\n";
  }
  TestHandler fields;
  exchange_with(many + "\r\n", false, fields);
  EXPECT_EQ(fields.error, ClientError::kResponseHeaderSectionSize);
}

// The upstream closes after each number of bytes of its response.
TEST_F(ClientExchangeTest, ClosingAfterEveryByteIsToldOnce) {
  const std::array<std::string, 3> responses = {
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      "2\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n",
      "HTTP/1.1 200 OK\r\n\r\nhello"};
  for (const std::string& response : responses) {
    const bool until_close = response == responses[2];
    const std::size_t head = response.rfind("\r\n\r\n", response.find("he")) + 4;
    for (std::size_t n = 0; n <= response.size(); ++n) {
      for (const bool reset : {false, true}) {
        TestUpstream upstream(*loop_, "127.0.0.1", [&](TestUpstream::Peer& peer) {
          if (!peer.received.ends_with("\r\n\r\n")) {
            return;
          }
          peer.send(std::string_view(response).substr(0, n));
          if (!reset) {
            peer.close();
          }
        });
        TestHandler handler;
        get(upstream.authority(), handler);
        if (reset) {
          ASSERT_TRUE(turn_until(
              [&] { return !upstream.peers.empty() && !upstream.peers[0]->received.empty(); }));
          turn_some(3);
          upstream.peers[0]->reset();
        }
        ASSERT_TRUE(turn_until([&] { return handler.over(); })) << n;
        turn_some(1);
        const bool whole = n == response.size() || (until_close && !reset && n >= head);
        if (whole && !(until_close && reset)) {
          EXPECT_EQ(handler.error, std::nullopt) << n << handler.detail;
        } else {
          EXPECT_EQ(handler.error,
                    n == 0 ? ClientError::kConnectionTerminated : ClientError::kResponseIncomplete)
              << n << " of " << response;
        }
        EXPECT_EQ(handler.heads, n >= head ? 1 : 0) << n;
        EXPECT_EQ(client().counters().active, 0U);
      }
    }
  }
}

// The same responses, a byte at a time.
TEST_F(ClientExchangeTest, ResponsesMayComeByteByByte) {
  const std::string response =
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
      "2\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n";
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  TestHandler handler;
  get(upstream.authority(), handler);
  ASSERT_TRUE(turn_until([&] { return upstream.peers.size() == 1; }));
  for (const char c : response) {
    EXPECT_FALSE(handler.over());
    upstream.peers[0]->send({&c, 1});
    loop_->run_once(std::chrono::milliseconds(100));
  }
  ASSERT_TRUE(turn_until([&] { return handler.over(); }));
  EXPECT_EQ(handler.body, "hello");
  EXPECT_EQ(handler.trailers.size(), 1U);
}

TEST_F(ClientExchangeTest, PausedHandlerStopsTheUpstream) {
  constexpr std::size_t kSize = 16 << 20;
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
    peer.send("HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(kSize) + "\r\n\r\n" +
              std::string(kSize, 'z'));
  });
  TestHandler handler;
  handler.flow = Flow::kPause;
  ClientExchange* exchange = get(upstream.authority(), handler);
  ASSERT_TRUE(turn_until([&] { return !handler.body.empty(); }));
  turn_some(20);
  const std::size_t before = handler.body.size();
  EXPECT_LE(before, 64U * 1024);
  EXPECT_GT(upstream.peers[0]->unsent(), 0U);
  exchange->resume();
  EXPECT_GT(handler.body.size(), before);  // at once, and paused again
  EXPECT_LE(handler.body.size(), before + 128 * 1024);
  handler.flow = Flow::kGoOn;
  exchange->resume();
  ASSERT_TRUE(turn_until([&] { return handler.over(); }));
  EXPECT_EQ(handler.error, std::nullopt) << handler.detail;
  EXPECT_EQ(handler.body.size(), kSize);
}

TEST_F(ClientExchangeTest, PausingAfterEveryPieceLosesNothing) {
  std::string response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 100; ++i) {
    response += "3\r\nabc\r\n";
  }
  response += "0\r\n\r\n";
  TestUpstream upstream(*loop_, "127.0.0.1", [&](TestUpstream::Peer& peer) {
    peer.send(response);
    peer.close();
  });
  TestHandler handler;
  handler.flow = Flow::kPause;
  ClientExchange* exchange = get(upstream.authority(), handler);
  ASSERT_TRUE(turn_until([&] { return !handler.body.empty(); }));
  for (int i = 0; i < 1000 && !handler.over(); ++i) {
    exchange->resume();
  }
  EXPECT_TRUE(handler.over());
  EXPECT_EQ(handler.error, std::nullopt) << handler.detail;
  EXPECT_EQ(handler.body.size(), 300U);
}

// RFC 9112 section 9.5: a server may answer and close before it has read the request.
TEST_F(ClientExchangeTest, EarlyAnswerEndsTheUpload) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
    if (peer.requests++ == 0) {
      peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno");
    }
  });
  TestHandler handler;
  handler.source = "part";
  const std::string authority = upstream.authority();
  client().start(
      {.method = "POST", .scheme = "http", .authority = authority, .body = RequestBody::kStream},
      handler);
  ASSERT_TRUE(turn_until([&] { return handler.over(); }));
  EXPECT_EQ(handler.status, 413);
  EXPECT_EQ(handler.body, "no");
  EXPECT_EQ(client().counters().idle, 0U);  // half a request is on that connection
  ASSERT_TRUE(turn_until([&] { return upstream.peers[0]->client_closed; }));
}

TEST_F(ClientExchangeTest, AnswerIsReadEvenWhenWritingFails) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
    peer.send("HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno");
    peer.reading = false;
    peer.close();
  });
  TestHandler handler;
  handler.source = "part";
  const std::string authority = upstream.authority();
  ClientExchange* exchange = client().start(
      {.method = "POST", .scheme = "http", .authority = authority, .body = RequestBody::kStream},
      handler);
  while (!handler.over()) {
    handler.source = "more";
    exchange->pump();
    loop_->run_once(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(handler.status, 413) << handler.detail;
}

}  // namespace
}  // namespace mik::http
