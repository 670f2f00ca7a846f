// How HTTP/1.x connections end: errors, cuts, clients that vanish, drains.
#include <array>

#include "http/server_rig.hpp"

namespace mik::http::testing {
namespace {

constexpr std::string_view kGet = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

class H1End : public ServerTest {
 protected:
  // Streams `first` by chunks to a fresh client and waits until it has it.
  std::unique_ptr<Client> streaming(std::string_view request, std::string_view first) {
    script.record([first](Recorder& recorder) {
      recorder.exchange->start(ok());
      recorder.give(std::string(first));
    });
    auto client = connect();
    client->send(request);
    EXPECT_TRUE(until([&] { return has(client->text, first); }, {client.get()}));
    return client;
  }
};

TEST_F(H1End, WhatIsNotARequestIsAnsweredAndClosed) {
  Limits limits;
  limits.head_bytes_max = 8192;
  limits.target_bytes_max = 1000;
  limits.body_bytes_max = 1000;
  serve(limits);
  const struct {
    std::string request;
    int status;
  } cases[] = {
      {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400},
      {"GET / HTTP/1.1\nHost: x\n\n", 400},
      {"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
       400},
      {"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505},
      {"GET /" + std::string(2000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", 414},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(9000, 'a') + "\r\n\r\n", 431},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n" + std::string(1001, 'b'), 413},
      {"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n", 413},
  };
  for (const auto& [request, status] : cases) {
    auto client = connect();
    const std::string answer = ask_until_close(*client, request);
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 " + std::to_string(status) + " "))
        << request << answer;
    EXPECT_TRUE(has(answer, "Connection: close\r\n")) << answer;
    EXPECT_TRUE(has(answer, "content-type: text/plain\r\n")) << answer;
    EXPECT_FALSE(content(answer).empty());
    EXPECT_FALSE(client->reset) << request;
    EXPECT_EQ(script.failures.back(), status);
  }
  EXPECT_TRUE(script.seen.empty());
}

TEST_F(H1End, AnErrorAnswerSurvivesInputThatNobodyReads) {
  Limits limits;
  limits.body_bytes_max = 1000;
  serve(limits);
  auto client = connect();
  const std::string answer =
      ask_until_close(*client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" +
                                   std::string(4'000'000, 'b'));
  EXPECT_TRUE(has(answer, " 413 ")) << answer;
  EXPECT_FALSE(client->reset);
}

TEST_F(H1End, AGoodRequestBeforeABadOneIsAnswered) {
  auto client = connect();
  const std::string answer = ask_until_close(*client, std::string(kGet) + "rubbish\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK")) << answer;
  EXPECT_TRUE(has(answer, "HTTP/1.1 400 ")) << answer;
}

TEST_F(H1End, ABodyThatGrowsTooLargeIsTheHandlersToAnswer) {
  Limits limits;
  limits.body_bytes_max = 1000;
  serve(limits);
  script.record([](Recorder& recorder) {
    recorder.on_error = [&recorder](BodyError) {
      recorder.exchange->respond({.status = 413, .fields = {}, .content_length = std::nullopt},
                                 "big");
    };
  });
  auto client = connect();
  std::string body;
  for (int i = 0; i < 20; ++i) {
    body += "64\r\n" + std::string(100, 'b') + "\r\n";
  }
  const std::string answer = ask_until_close(
      *client, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body);
  EXPECT_TRUE(has(answer, " 413 ")) << answer;
  EXPECT_TRUE(has(answer, "Connection: close")) << answer;
  EXPECT_EQ(script.last().body_error, BodyError::kTooLarge);
  EXPECT_EQ(script.last().body.size(), 1000u);
}

TEST_F(H1End, ABodyOfExactlyTheLimitIsTaken) {
  Limits limits;
  limits.body_bytes_max = 1000;
  serve(limits);
  script.record([](Recorder& recorder) {
    recorder.on_end = [&recorder] { recorder.exchange->respond(ok(), "fits"); };
  });
  auto client = connect();
  ask(*client,
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n" + std::string(1000, 'b'),
      "fits");
  ask(*client,
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" +
          std::string(1000, 'b') + "\r\n0\r\n\r\n",
      "fits");
}

TEST_F(H1End, ABadChunkIsTheHandlersToAnswer) {
  script.record([](Recorder& recorder) {
    recorder.on_error = [&recorder](BodyError) {
      recorder.exchange->respond({.status = 400, .fields = {}, .content_length = std::nullopt},
                                 "bad");
    };
  });
  auto client = connect();
  const std::string answer = ask_until_close(
      *client, "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n");
  EXPECT_TRUE(has(answer, " 400 ")) << answer;
  EXPECT_EQ(script.last().body_error, BodyError::kMalformed);
}

TEST_F(H1End, ACutSourceIsVisibleInChunks) {  // field case 1
  auto client = streaming(kGet, "part");
  script.last().end(SourceState::kCut);
  EXPECT_EQ(script.last().closed->outcome, Outcome::kCut);
  const std::string answer = ask_until_close(*client, "");
  EXPECT_FALSE(has(answer, "0\r\n\r\n")) << answer;
  EXPECT_TRUE(has(answer, "4\r\npart\r\n")) << answer;
}

TEST_F(H1End, WhatTheSourceHasBeforeACutIsStillSent) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.source = {"before"};
    recorder.end(SourceState::kCut);
  });
  auto client = connect();
  const std::string answer = ask_until_close(*client, kGet);
  EXPECT_TRUE(has(answer, "6\r\nbefore\r\n")) << answer;
  EXPECT_FALSE(has(answer, "0\r\n\r\n")) << answer;
}

TEST_F(H1End, ACutSourceIsAResetWhereOnlyTheCloseTellsTheEnd) {
  auto client = streaming("GET / HTTP/1.0\r\n\r\n", "part");
  script.last().end(SourceState::kCut);
  ask_until_close(*client, "");
  EXPECT_TRUE(client->reset);
}

TEST_F(H1End, FewerOrMoreBytesThanDeclaredAreACut) {
  for (const std::uint64_t declared : {3u, 7u}) {
    script.record([declared](Recorder& recorder) {
      recorder.exchange->start(ok(declared));
      recorder.source = {"12345"};
      recorder.end();
    });
    auto client = connect();
    const std::string answer = ask_until_close(*client, kGet);
    EXPECT_TRUE(has(answer, "Content-Length: " + std::to_string(declared))) << answer;
    EXPECT_LT(content(answer).size(), declared) << answer;
    EXPECT_EQ(script.last().closed->outcome, Outcome::kCut);
  }
}

TEST_F(H1End, AbortBeforeTheHeadClosesWithoutAnAnswer) {
  script.record();
  auto client = connect();
  client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
  Recorder& recorder = script.last();
  recorder.exchange->start(ok());
  recorder.exchange->abort();
  EXPECT_EQ(recorder.closed->outcome, Outcome::kCut);
  EXPECT_EQ(recorder.closed->status, 0);
  EXPECT_EQ(ask_until_close(*client, ""), "");
}

TEST_F(H1End, AbortWhileStreamingIsVisible) {
  auto client = streaming(kGet, "part");
  Recorder& recorder = script.last();
  recorder.exchange->abort();
  EXPECT_EQ(recorder.closed->outcome, Outcome::kCut);
  EXPECT_EQ(recorder.closed->status, 200);
  EXPECT_FALSE(has(ask_until_close(*client, ""), "0\r\n\r\n"));
}

TEST_F(H1End, AbortFromEveryCallbackIsSafe) {
  for (int where = 0; where < 4; ++where) {
    script.record([where](Recorder& recorder) {
      const auto abort = [&recorder] { recorder.exchange->abort(); };
      switch (where) {
        case 0:
          abort();
          break;
        case 1:
          recorder.on_bytes = [abort](std::string_view) { return abort(), Flow::kPause; };
          break;
        case 2:
          recorder.on_end = abort;
          break;
        default:
          recorder.exchange->start(ok());
          recorder.on_consumed = abort;
          recorder.give("x");
      }
    });
    auto client = connect();
    ask_until_close(*client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
    EXPECT_EQ(script.last().closed->outcome, Outcome::kCut) << where;
  }
  EXPECT_TRUE(until([&] { return counter.now == 0; }));
  EXPECT_EQ(server->exchanges(), 0u);
}

TEST_F(H1End, AClientThatClosesIsGoneAtOnce) {
  script.record();
  auto client = connect();
  client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
  client->close();
  loop->run_once({});  // no timer, no write that fails: one look at the sockets
  ASSERT_TRUE(script.last().closed.has_value());
  EXPECT_EQ(script.last().closed->outcome, Outcome::kClientGone);
  EXPECT_TRUE(until([&] { return counter.now == 0; }));
}

TEST_F(H1End, AClientThatResetsIsGone) {
  for (const std::string_view request : {kGet, std::string_view("GET / HTTP/1.0\r\n\r\n")}) {
    script.record();
    auto client = connect();
    client->send(request);
    const std::size_t before = script.recorders.size();
    ASSERT_TRUE(until([&] { return script.recorders.size() > before; }));
    client->close_with_reset();
    ASSERT_TRUE(until([&] { return script.last().closed.has_value(); }));
    EXPECT_EQ(script.last().closed->outcome, Outcome::kClientGone);
  }
}

TEST_F(H1End, AClientThatClosesInItsBodyIsGone) {
  for (const bool paused : {false, true}) {
    script.record([paused](Recorder& recorder) {
      recorder.on_bytes = [paused](std::string_view) {
        return paused ? Flow::kPause : Flow::kGoOn;
      };
    });
    auto client = connect();
    client->send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc");
    const std::size_t before = script.recorders.size();
    ASSERT_TRUE(
        until([&] { return script.recorders.size() > before && script.last().pieces_in == 1; }));
    client->close();
    ASSERT_TRUE(until([&] { return script.last().closed.has_value(); })) << paused;
    EXPECT_EQ(script.last().closed->outcome, Outcome::kClientGone);
    EXPECT_EQ(script.last().body_error, BodyError::kGone);
  }
}

TEST_F(H1End, AHalfClosedOldClientStillGetsItsAnswer) {
  for (const std::string_view request :
       {"GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"}) {
    script.record();
    auto client = connect();
    client->send(request);
    client->half_close();
    const std::size_t before = script.recorders.size();
    ASSERT_TRUE(until([&] { return script.recorders.size() > before; }));
    settle();
    ASSERT_FALSE(script.last().closed.has_value());
    script.last().exchange->respond(ok(), "still here");
    EXPECT_TRUE(has(ask_until_close(*client, ""), "still here"));
    EXPECT_FALSE(client->reset);
    EXPECT_EQ(script.last().closed->outcome, Outcome::kComplete);
  }
}

TEST_F(H1End, AnswersGivenAtOnceReachAClientThatHasClosedItsSide) {
  auto client = connect();
  client->send(std::string(kGet) + std::string(kGet));
  client->half_close();
  const std::string answers = ask_until_close(*client, "");
  EXPECT_EQ(answers.find("hello", answers.find("hello") + 1) != std::string::npos, true) << answers;
  EXPECT_FALSE(client->reset);
}

TEST_F(H1End, AClientThatClosesAfterAnyByteLeavesNothingBehind) {
  const std::string request =
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: "
      "v\r\n\r\n" +
      std::string(kGet);
  script.record([](Recorder& recorder) { recorder.exchange->start(ok()); });
  for (std::size_t n = 0; n <= request.size(); ++n) {
    for (const bool reset : {false, true}) {
      auto client = connect();
      client->send(std::string_view(request).substr(0, n));
      loop->run_once(std::chrono::milliseconds(0));
      loop->run_once(std::chrono::milliseconds(0));
      reset ? client->close_with_reset() : client->close();
      ASSERT_TRUE(until([&] { return counter.now == 0; })) << n;
    }
  }
  EXPECT_EQ(server->exchanges(), 0u);
  for (const auto& recorder : script.recorders) {
    ASSERT_TRUE(recorder->closed.has_value());
    EXPECT_EQ(recorder->closed->outcome, Outcome::kClientGone);
  }
}

TEST_F(H1End, EveryPlaceAWriteCanStopAtIsContinuedRightly) {
  // Send buffers of a few KiB and a client that reads in odd steps: writes stop inside heads, chunk
  // sizes, chunks and their ends.
  for (std::size_t step = 16; step < 60'000; step = step * 2 + 7) {
    std::string wanted;
    script.recorders.clear();
    script.record([&wanted](Recorder& recorder) {
      recorder.exchange->start(ok());
      for (int i = 0; i < 120; ++i) {
        recorder.source.push_back(std::to_string(i) +
                                  std::string(static_cast<std::size_t>(i * 7), 'p'));
        wanted += recorder.source.back();
      }
      recorder.exchange->pump();
    });
    auto client = connect(4096);
    client->send(kGet);
    std::string answer;
    std::array<char, 65536> buffer;
    bool ended = false;
    ASSERT_TRUE(until(
        [&] {
          const ssize_t got =
              ::recv(client->fd(), buffer.data(),
                     std::min(step + answer.size() % 13, buffer.size()), MSG_DONTWAIT);
          if (got > 0) {
            answer.append(buffer.data(), static_cast<std::size_t>(got));
          }
          if (!script.recorders.empty() && !ended && script.last().source.empty()) {
            ended = true;
            script.last().end();
          }
          return answer.ends_with("\r\n0\r\n\r\n");
        },
        {}, base::Duration::zero()))
        << step << " " << answer.size() << " of " << wanted.size() << ", consumed "
        << script.last().consumed << " " << script.last().source.size() << " ended " << ended;
    std::string got;
    std::string_view rest = content(answer);
    for (std::size_t size = 1; size > 0;) {
      size = std::stoul(std::string(rest.substr(0, rest.find("\r\n"))), nullptr, 16);
      rest.remove_prefix(rest.find("\r\n") + 2);
      got += rest.substr(0, size);
      rest.remove_prefix(size);
      ASSERT_TRUE(rest.starts_with("\r\n"));
      rest.remove_prefix(2);
    }
    ASSERT_TRUE(got == wanted) << step;
    EXPECT_EQ(script.last().closed->body_bytes_out, wanted.size());
  }
}

TEST_F(H1End, ALargeAnswerGivenAtOnceReachesASlowReaderWhole) {
  script.answer = [](Exchange& exchange) {
    exchange.respond(ok(), std::string(300'000, 'x') + "!");
  };
  auto client = connect(4096);
  EXPECT_EQ(content(ask(*client, kGet, "!")).size(), 300'001u);
  EXPECT_EQ(content(ask(*client, kGet, "!")).size(), 300'001u);
}

TEST_F(H1End, APumpBeforeTheHeadIsNothing) {
  script.record([](Recorder& recorder) { recorder.exchange->pump(); });
  auto client = connect();
  client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
  settle();
  script.last().exchange->respond(ok(), "late");
  EXPECT_TRUE(has(ask(*client, "", "late"), "200 OK"));
}

TEST_F(H1End, ADrainLetsRequestsEndAndSaysClose) {
  script.record();
  auto busy = connect();
  auto idle = connect();
  busy->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
  int done = 0;
  server->drain([&] { ++done; });
  script.last().exchange->respond(ok(), "last words");
  const std::string answer = ask_until_close(*busy, "");
  EXPECT_TRUE(has(answer, "Connection: close")) << answer;
  EXPECT_TRUE(has(answer, "last words")) << answer;
  // The idle one still gets its next request answered.
  script.answer = nullptr;
  const std::string late = ask_until_close(*idle, kGet);
  EXPECT_TRUE(has(late, "Connection: close")) << late;
  EXPECT_TRUE(has(late, "hello")) << late;
  busy->close();
  idle->close();
  EXPECT_TRUE(until([&] { return done > 0; }));
  settle();
  EXPECT_EQ(done, 1);
}

TEST_F(H1End, ADrainClosesIdleConnectionsAfterASecond) {
  auto client = connect();
  ask(*client, kGet, "hello");
  int done = 0;
  const base::Time before = base::Clock::now();
  server->drain([&] { ++done; });
  ask_until_close(*client, "");
  EXPECT_GT(base::Clock::now() - before, std::chrono::milliseconds(900));
  client->close();
  EXPECT_TRUE(until([&] { return done == 1; }));
}

TEST_F(H1End, ADrainOfNothingIsDoneAtOnce) {
  serve();
  int done = 0;
  server->drain([&] { ++done; });
  EXPECT_TRUE(until([&] { return done == 1; }));
}

TEST_F(H1End, EndingAllResetsNoAnswer) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.give("part");
  });
  auto streaming_client = connect();
  auto answered = connect();
  streaming_client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
  script.answer = nullptr;
  answered->send(std::string(kGet) + "GET /unfinished");
  ASSERT_TRUE(until([&] { return script.seen.size() == 2; }));
  // More that nobody will read: a plain close would reset.
  answered->send(" HTTP/1.1\r\nHost");
  server->close_all();
  EXPECT_EQ(script.recorders.front()->closed->outcome, Outcome::kShutdown);
  EXPECT_EQ(counter.now, 0u);
  EXPECT_TRUE(has(ask_until_close(*answered, ""), "hello"));
  EXPECT_FALSE(answered->reset);
  EXPECT_TRUE(has(ask_until_close(*streaming_client, ""), "part"));
}

// Where only the end of the connection tells the end, a FIN would say that the response is whole.
TEST_F(H1End, WhateverCutsAResponseWithoutFramingResets) {
  serve(quick());
  auto client = streaming("GET / HTTP/1.0\r\n\r\n", "part");
  server->close_all();
  ask_until_close(*client, "");
  EXPECT_TRUE(client->reset) << "the server's end";

  client = streaming("POST / HTTP/1.0\r\nContent-Length: 9\r\n\r\nabc", "part");
  ask_until_close(*client, "");
  EXPECT_TRUE(client->reset) << "a body that stalls";
  EXPECT_EQ(script.last().closed->outcome, Outcome::kTimeout);
}

TEST_F(H1End, DestroyingTheServerTellsTheHandlers) {
  script.record();
  auto client = connect();
  client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
  server.reset();
  EXPECT_EQ(script.last().closed->outcome, Outcome::kShutdown);
  settle();
}

}  // namespace
}  // namespace mik::http::testing
