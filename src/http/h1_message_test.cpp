// HTTP/1.x messages: framing both ways, pipelining, what is added and what is dropped.
#include "http/server_rig.hpp"

namespace mik::http::testing {
namespace {

constexpr std::string_view kGet = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";

class H1Message : public ServerTest {};

TEST_F(H1Message, AnswersAndKeepsTheConnection) {
  auto client = connect();
  for (int i = 0; i < 3; ++i) {
    const std::string answer = ask(*client, kGet, "hello");
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
    EXPECT_TRUE(has(answer, "\r\nContent-Length: 5\r\n")) << answer;
    EXPECT_TRUE(has(answer, "\r\nDate: ")) << answer;
    EXPECT_FALSE(has(answer, "Connection:")) << answer;
  }
  EXPECT_EQ(counter.now, 1u);
  EXPECT_EQ(server->exchanges(), 0u);
}

TEST_F(H1Message, FieldsAreWrittenAsGivenButForThoseOfTheConnection) {
  script.answer = [](Exchange& exchange) {
    const std::vector<Field> fields = {{"X-Mixed-Case", "\xff\xfe"},
                                       {"connection", "keep-alive"},
                                       {"Keep-Alive", "timeout=5"},
                                       {"transfer-encoding", "chunked"},
                                       {"Upgrade", "h2c"},
                                       {"content-length", "999"},
                                       {"bad name", "x"},
                                       {"x-split", "a\r\nevil: 1"},
                                       {"date", "yesterday"},
                                       {"set-cookie", "a=1"},
                                       {"set-cookie", "b=2"}};
    exchange.respond({.status = 201, .fields = fields, .content_length = std::nullopt}, "done.");
  };
  auto client = connect();
  EXPECT_EQ(
      ask(*client, kGet, "done."),
      "HTTP/1.1 201 Created\r\nX-Mixed-Case: \xff\xfe\r\ndate: yesterday\r\nset-cookie: a=1\r\n"
      "set-cookie: b=2\r\nContent-Length: 5\r\n\r\ndone.");
}

TEST_F(H1Message, HundredPipelinedRequestsAreAnsweredInOrder) {
  int number = 0;
  script.answer = [&](Exchange& exchange) {
    exchange.respond(ok(), "<" + std::to_string(number++) + ">");
  };
  auto client = connect();
  std::string requests;
  std::string wanted;
  for (int i = 0; i < 100; ++i) {
    requests += kGet;
    wanted += "<" + std::to_string(i) + ">";
  }
  const std::string answers = ask(*client, requests, "<99>");
  std::string bodies;
  for (std::size_t at = answers.find('<'); at != std::string::npos;
       at = answers.find('<', at + 1)) {
    bodies += answers.substr(at, answers.find('>', at) - at + 1);
  }
  EXPECT_EQ(bodies, wanted);
}

TEST_F(H1Message, APipelinedRequestWaitsUntilTheAnswerBeforeItIsWhole) {
  script.record();
  auto client = connect();
  client->send(std::string(kGet) + std::string(kGet));
  ASSERT_TRUE(until([&] { return script.recorders.size() == 1; }));
  settle(client.get());
  EXPECT_EQ(script.recorders.size(), 1u);
  Recorder& first = script.last();
  first.exchange->start(ok());
  first.give("first");
  settle(client.get());
  EXPECT_EQ(script.recorders.size(), 1u);
  first.end();
  EXPECT_EQ(script.recorders.size(), 1u)
      << "the next request must not begin on the handler's stack";
  ASSERT_TRUE(until([&] { return script.recorders.size() == 2; }));
  EXPECT_EQ(first.closed->outcome, Outcome::kComplete);
  script.last().exchange->respond(ok(), "second");
  const std::string answers = ask(*client, "", "second");
  EXPECT_LT(answers.find("first"), answers.find("second"));
}

TEST_F(H1Message, ASourceThatHasEndedAtTheFirstPumpGetsALength) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.source = {"one,", "two,", "three"};
    recorder.end();
  });
  auto client = connect();
  const std::string answer = ask(*client, kGet, "three");
  EXPECT_TRUE(has(answer, "Content-Length: 13\r\n")) << answer;
  EXPECT_EQ(content(answer), "one,two,three");
  EXPECT_EQ(script.last().closed->body_bytes_out, 13u);
  EXPECT_EQ(script.last().closed->status, 200);
}

TEST_F(H1Message, AnOpenSourceIsSentInChunks) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.exchange->pump();
  });
  auto client = connect();
  std::string answer = ask(*client, kGet, "\r\n\r\n");
  EXPECT_TRUE(has(answer, "Transfer-Encoding: chunked\r\n")) << answer;
  Recorder& recorder = script.last();
  recorder.give("0123456789");
  recorder.give(std::string(20, 'x'));
  answer = ask(*client, "", "xx\r\n");
  EXPECT_EQ(answer, "a\r\n0123456789\r\n14\r\n" + std::string(20, 'x') + "\r\n");
  EXPECT_FALSE(recorder.closed.has_value());
  recorder.end();
  EXPECT_EQ(ask(*client, "", "0\r\n\r\n"), "0\r\n\r\n");
  EXPECT_EQ(recorder.closed->outcome, Outcome::kComplete);
  EXPECT_EQ(recorder.closed->body_bytes_out, 30u);
}

TEST_F(H1Message, MorePiecesThanOneWriteTakesAreAllSent) {
  std::string wanted;
  script.record([&](Recorder& recorder) {
    recorder.exchange->start(ok());
    for (int i = 0; i < 1000; ++i) {
      recorder.source.push_back("piece" + std::to_string(i) + ";");
      wanted += recorder.source.back();
    }
    recorder.end();
  });
  auto client = connect();
  std::string answer = ask(*client, kGet, "\r\n0\r\n\r\n");
  std::string got;
  std::string_view rest = content(answer);
  while (true) {
    const std::size_t size =
        std::stoul(std::string(rest.substr(0, rest.find("\r\n"))), nullptr, 16);
    if (size == 0) {
      break;
    }
    rest.remove_prefix(rest.find("\r\n") + 2);
    got += rest.substr(0, size);
    rest.remove_prefix(size + 2);
  }
  EXPECT_EQ(got, wanted);
}

TEST_F(H1Message, TrailersGoOutOnlyToThoseWhoAskForThem) {
  script.record([](Recorder& recorder) {
    recorder.trailers_out = {{"x-sum", "42"}};
    recorder.exchange->start(ok());
    recorder.source = {"data"};
    recorder.end();
  });
  auto client = connect();
  std::string answer = ask(
      *client, "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE\r\n\r\n", "42\r\n\r\n");
  EXPECT_TRUE(has(answer, "\r\n\r\n4\r\ndata\r\n0\r\nx-sum: 42\r\n\r\n")) << answer;
  answer = ask(*client, kGet, "data");
  EXPECT_FALSE(has(answer, "x-sum")) << answer;
  EXPECT_TRUE(has(answer, "Content-Length: 4")) << answer;
}

TEST_F(H1Message, HeadNoContentAndNotModifiedHaveNoContent) {
  const auto answer_of = [&](std::string_view request, int status) {
    script.answer = [status](Exchange& exchange) {
      exchange.respond({.status = status, .fields = {}, .content_length = std::nullopt}, "hidden");
    };
    auto client = connect();
    return ask_until_close(*client, request);
  };
  constexpr std::string_view kHead = "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  constexpr std::string_view kClose = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  std::string answer = answer_of(kHead, 200);
  EXPECT_TRUE(has(answer, "Content-Length: 6")) << answer;
  EXPECT_FALSE(has(answer, "hidden")) << answer;
  answer = answer_of(kClose, 204);
  EXPECT_FALSE(has(answer, "Content-Length")) << answer;
  EXPECT_FALSE(has(answer, "hidden")) << answer;
  answer = answer_of(kClose, 304);
  EXPECT_FALSE(has(answer, "Content-Length")) << answer;
  EXPECT_FALSE(has(answer, "hidden")) << answer;
}

TEST_F(H1Message, AStreamedAnswerToHeadIsDroppedAndTheConnectionKept) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok(7));
    recorder.give("1234");
  });
  auto client = connect();
  const std::string answer = ask(*client, "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n");
  EXPECT_TRUE(has(answer, "Content-Length: 7")) << answer;
  Recorder& recorder = script.last();
  EXPECT_FALSE(recorder.closed.has_value()) << "the source may still work";
  recorder.give("567");
  recorder.end();
  EXPECT_EQ(recorder.closed->outcome, Outcome::kComplete);
  EXPECT_EQ(recorder.closed->body_bytes_out, 0u);
  script.answer = nullptr;
  EXPECT_EQ(content(ask(*client, kGet, "hello")), "hello");
}

TEST_F(H1Message, BodiesOfEitherFramingArriveWhole) {
  script.record([](Recorder& recorder) {
    recorder.on_end = [&recorder] { recorder.exchange->respond(ok(), "got it"); };
  });
  auto client = connect();
  ask(*client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello world", "got it");
  EXPECT_EQ(script.last().body, "hello world");
  EXPECT_EQ(script.last().closed->body_bytes_in, 11u);
  ask(*client,
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;e=1\r\n "
      "world\r\n"
      "0\r\nX-T: v\r\n\r\n",
      "got it");
  EXPECT_EQ(script.last().body, "hello world");
  EXPECT_EQ(script.last().trailers_in, "X-T=v;");
  EXPECT_EQ(script.last().ends, 1);
}

TEST_F(H1Message, AByteAtATimeIsAsGoodAsAllAtOnce) {
  script.record([](Recorder& recorder) {
    recorder.on_end = [&recorder] { recorder.exchange->respond(ok(), "[" + recorder.body + "]"); };
  });
  auto client = connect();
  const std::string request =
      "POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
      "chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
      "POST /y HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nwxyz";
  for (const char c : request) {
    client->send(std::string_view(&c, 1));
    loop->run_once(std::chrono::milliseconds(1));
  }
  const std::string answers = ask(*client, "", "[wxyz]");
  EXPECT_TRUE(has(answers, "[abcde]")) << answers;
  EXPECT_EQ(script.seen, (std::vector<std::string>{"POST /x", "POST /y"}));
}

TEST_F(H1Message, APausedHandlerStopsTheClient) {
  script.record([](Recorder& recorder) {
    recorder.on_bytes = [](std::string_view) { return Flow::kPause; };
  });
  Limits limits;
  limits.body_bytes_max = 1ull << 30;
  serve(limits);
  auto client = connect();
  const std::size_t length = 64u << 20;
  client->send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(length) +
               "\r\n\r\n");
  const std::string block(65536, 'b');
  std::size_t sent = 0;
  for (int quiet = 0; quiet < 20;) {
    const std::size_t now = client->send(block);
    sent += now;
    quiet = now == 0 ? quiet + 1 : 0;
    loop->run_once(std::chrono::milliseconds(1));
  }
  EXPECT_EQ(script.last().pieces_in, 1);
  EXPECT_LT(sent, length) << "the kernel's buffers took it all: nothing was shown";
  // Goes on one piece at a time, never within resume_body.
  for (int i = 0; i < 3; ++i) {
    const int before = script.last().pieces_in;
    script.last().exchange->resume_body();
    EXPECT_EQ(script.last().pieces_in, before);
    ASSERT_TRUE(until([&] { return script.last().pieces_in == before + 1; }));
  }
}

TEST_F(H1Message, ContinueIsSentWhenTheHandlerWantsTheBody) {
  script.record([](Recorder& recorder) {
    recorder.on_end = [&recorder] { recorder.exchange->respond(ok(), "thanks"); };
  });
  auto client = connect();
  constexpr std::string_view kPost =
      "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
  EXPECT_EQ(ask(*client, kPost, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  EXPECT_TRUE(has(ask(*client, "abc", "thanks"), "HTTP/1.1 200 OK"));
  // A client that does not wait gets none.
  EXPECT_FALSE(has(ask(*client, std::string(kPost) + "abc", "thanks"), "100 Continue"));
}

TEST_F(H1Message, ContinueIsNotSentWhenNobodyWantsTheBody) {
  script.answer = [](Exchange& exchange) {
    exchange.respond({.status = 403, .fields = {}, .content_length = std::nullopt}, "no");
  };
  auto client = connect();
  const std::string answer = ask_until_close(
      *client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 403 Forbidden\r\n")) << answer;
  EXPECT_TRUE(has(answer, "Connection: close\r\n")) << answer;
}

TEST_F(H1Message, AnUnwantedBodyIsDroppedToKeepTheConnection) {
  auto client = connect();
  const std::string body(100'000, 'b');
  ask(*client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + body, "hello");
  EXPECT_TRUE(has(ask(*client, kGet, "hello"), "200 OK"));
  EXPECT_EQ(script.seen.size(), 2u);
}

TEST_F(H1Message, AnUnwantedBodyThatIsTooLongEndsTheConnectionAfterTheAnswer) {
  auto client = connect();
  const std::string body(1'000'000, 'b');
  const std::string answer = ask_until_close(
      *client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + body);
  EXPECT_TRUE(has(answer, "hello")) << answer;
  EXPECT_FALSE(client->reset);
}

TEST_F(H1Message, DiscardingStopsTheHandlerFromBeingTold) {
  script.record([](Recorder& recorder) { recorder.exchange->discard_body(); });
  auto client = connect();
  client->send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345");
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
  settle();
  EXPECT_EQ(script.last().pieces_in, 0);
  EXPECT_EQ(script.last().ends, 0);
  script.last().exchange->respond(ok(), "late");
  ask(*client, "", "late");
  script.answer = nullptr;
  EXPECT_TRUE(has(ask(*client, kGet, "hello"), "200 OK"));
}

TEST_F(H1Message, OldClientsGetPiecesAsTheyAreAndAClose) {  // field case 11
  for (const std::string_view extra : {"", "Connection: keep-alive\r\n"}) {
    script.record([](Recorder& recorder) {
      recorder.exchange->start(ok());
      recorder.give("one");
    });
    auto client = connect();
    client->send("GET / HTTP/1.0\r\n" + std::string(extra) + "\r\n");
    ASSERT_TRUE(until([&] { return has(client->text, "one"); }, {client.get()}));
    script.last().give("two");
    script.last().give("three");
    script.last().end();
    const std::string answer = ask_until_close(*client, "");
    EXPECT_FALSE(has(answer, "Transfer-Encoding")) << answer;
    EXPECT_TRUE(has(answer, "Connection: close")) << answer;
    EXPECT_EQ(content(answer), "onetwothree");
    EXPECT_FALSE(client->reset);
    EXPECT_EQ(script.last().closed->outcome, Outcome::kComplete);
  }
}

TEST_F(H1Message, AnOldClientMayKeepTheConnectionWhenTheLengthIsKnown) {
  auto client = connect();
  for (int i = 0; i < 2; ++i) {
    const std::string answer =
        ask(*client, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "hello");
    EXPECT_TRUE(has(answer, "Connection: keep-alive\r\n")) << answer;
  }
  EXPECT_TRUE(has(ask_until_close(*client, "GET / HTTP/1.0\r\n\r\n"), "hello"));
}

TEST_F(H1Message, AbsoluteFormOptionsAndHealthChecksOfOldReachTheService) {  // field case 17
  std::vector<std::string> seen;
  script.answer = [&](Exchange& exchange) {
    const RequestHead& head = exchange.head();
    seen.push_back(std::string(head.method) + " " + std::string(head.path_query) + " " +
                   std::string(head.authority));
    exchange.respond({.status = 204, .fields = {}, .content_length = std::nullopt}, "");
  };
  auto client = connect();
  ask(*client, "GET http://up.example/p?q HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n");
  ask(*client, "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "\r\n\r\n");
  ask_until_close(*client, "OPTIONS /health HTTP/1.0\r\n\r\n");
  EXPECT_EQ(seen,
            (std::vector<std::string>{"GET /p?q up.example", "OPTIONS * x", "OPTIONS /health "}));
}

TEST_F(H1Message, ThePeerIsKnown) {
  std::string address;
  script.answer = [&](Exchange& exchange) {
    address = exchange.peer().address;
    EXPECT_NE(exchange.peer().port, 0);
    EXPECT_FALSE(exchange.secure());
    exchange.respond(ok(), "hello");
  };
  auto client = connect();
  ask(*client, kGet, "hello");
  EXPECT_EQ(address, "127.0.0.1");
}

TEST_F(H1Message, AnEchoKeepsOrderThroughMegabytes) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.on_bytes = [&recorder](std::string_view bytes) {
      recorder.give(std::string(bytes));
      return recorder.source.size() > 4 ? Flow::kPause : Flow::kGoOn;
    };
    recorder.on_consumed = [&recorder] {
      if (recorder.exchange != nullptr) {
        recorder.exchange->resume_body();
      }
    };
    recorder.on_end = [&recorder] { recorder.end(); };
  });
  auto client = connect();
  std::string body;
  for (int i = 0; body.size() < 3'000'000; ++i) {
    body += std::to_string(i) + ",";
  }
  const std::string answer =
      ask(*client,
          "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body,
          "\r\n0\r\n\r\n");
  std::string got;
  std::string_view rest = content(answer);
  for (std::size_t size = 1; size > 0;) {
    size = std::stoul(std::string(rest.substr(0, rest.find("\r\n"))), nullptr, 16);
    rest.remove_prefix(rest.find("\r\n") + 2);
    got += rest.substr(0, size);
    rest.remove_prefix(size + 2);
  }
  EXPECT_TRUE(got == body);
  EXPECT_EQ(script.last().closed->body_bytes_in, body.size());
  EXPECT_EQ(script.last().closed->body_bytes_out, body.size());
}

}  // namespace
}  // namespace mik::http::testing
