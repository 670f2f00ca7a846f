// How long HTTP/1 connections live that do not move: heads, bodies, silence, readers.
#include "http/server_rig.hpp"

namespace mik::http::testing {
namespace {

constexpr std::string_view kGet = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

class H1Time : public ServerTest {};

TEST_F(H1Time, AHeadThatDoesNotComeIs408) {
  serve(quick());
  auto client = connect();
  const std::string answer = ask_until_close(*client, "GET / HT");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n")) << answer;
}

TEST_F(H1Time, AHeadThatDripsIs408) {
  serve(quick());
  auto client = connect();
  client->send("GET / HTTP/1.1\r\nA: ");
  int bytes = 0;
  ASSERT_TRUE(until(
      [&] {
        bytes += static_cast<int>(client->send("a"));
        return client->over();
      },
      {client.get()}));
  EXPECT_TRUE(has(client->text, " 408 ")) << client->text;
  EXPECT_GT(bytes, 3);
}

TEST_F(H1Time, AnIdleConnectionIsClosedWithoutAWord) {
  serve(quick());
  auto client = connect();
  ask(*client, kGet, "hello");
  EXPECT_EQ(ask_until_close(*client, ""), "");
  EXPECT_TRUE(client->fin);
  client->close();
  EXPECT_TRUE(until([&] { return counter.now == 0; }));
}

// Whoever connects means to ask: only between requests is there time.
TEST_F(H1Time, AConnectionThatSaysNothingHasTheTimeOfAHead) {
  Limits limits = quick();
  limits.idle_timeout = std::chrono::seconds(60);
  serve(limits);
  const base::Time begin = base::Clock::now();
  auto client = connect();
  EXPECT_EQ(ask_until_close(*client, ""), "");
  EXPECT_GE(base::Clock::now() - begin, limits.header_timeout);
  EXPECT_FALSE(client->reset);

  // Behind a request it has more.
  auto kept = connect();
  ask(*kept, kGet, "hello");
  const base::Time asked = base::Clock::now();
  until([&] { return base::Clock::now() - asked > 2 * limits.header_timeout; }, {kept.get()});
  EXPECT_TRUE(has(ask(*kept, kGet, "hello"), "200 OK"));
}

// RFC 9112 section 2.2: an empty line before a request, which old clients send behind a body.
TEST_F(H1Time, AnEmptyLineBehindABodyIsNoHead) {
  Limits limits = quick();
  limits.idle_timeout = std::chrono::seconds(60);
  serve(limits);
  auto client = connect();
  ask(*client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab", "hello");
  client->send("\r\n");
  const base::Time sent = base::Clock::now();
  until([&] { return base::Clock::now() - sent > 2 * limits.header_timeout; }, {client.get()});
  EXPECT_EQ(client->text, "");
  EXPECT_TRUE(has(ask(*client, kGet, "hello"), "200 OK"));

  // Alone it keeps nothing open: closed as an idle connection is, without a word.
  serve(quick());
  auto idle = connect();
  ask(*idle, kGet, "hello");
  idle->send("\r\n");
  EXPECT_EQ(ask_until_close(*idle, ""), "");
  EXPECT_TRUE(script.failures.empty());
}

// The next of pipelined requests is begun in the turn after the answer before it, whoever else is
// at work.
TEST_F(H1Time, APipelinedRequestWaitsForNobodyElse) {
  serve();
  script.record();
  auto other = connect();
  other->send(kGet);
  auto client = connect();
  client->send(std::string(kGet) + std::string(kGet));
  ASSERT_TRUE(until([&] { return script.recorders.size() == 2; }));
  script.last().exchange->respond(ok(), "first");
  loop->run_once({});
  EXPECT_EQ(script.recorders.size(), 3u);
  EXPECT_FALSE(script.recorders.front()->closed.has_value());
}

TEST_F(H1Time, AStalledBodyIs408) {
  serve(quick());
  script.record([](Recorder& recorder) {
    recorder.on_error = [&recorder](BodyError) {
      recorder.exchange->respond({.status = 408, .fields = {}, .content_length = std::nullopt},
                                 "slow");
    };
  });
  auto client = connect();
  const std::string answer =
      ask_until_close(*client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc");
  EXPECT_TRUE(has(answer, " 408 ")) << answer;
  EXPECT_EQ(script.last().body_error, BodyError::kTooSlow);
}

TEST_F(H1Time, AHandlerThatPausesIsNotTheClientsFault) {
  serve(quick());
  script.record([](Recorder& recorder) {
    recorder.on_bytes = [](std::string_view) { return Flow::kPause; };
    recorder.on_end = [&recorder] { recorder.exchange->respond(ok(), "in time"); };
  });
  auto client = connect();
  client->send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc");
  ASSERT_TRUE(until([&] { return !script.recorders.empty() && script.last().pieces_in == 1; }));
  const base::Time later = base::Clock::now() + std::chrono::milliseconds(500);
  ASSERT_TRUE(until([&] { return base::Clock::now() > later; }));
  ASSERT_FALSE(script.last().body_error.has_value());
  client->send("def");
  script.last().exchange->resume_body();
  EXPECT_TRUE(has(ask(*client, "", "in time"), "200 OK"));
}

TEST_F(H1Time, AClientThatNeverReadsIsGivenUp) {
  serve(quick());
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.source.push_back(std::string(8u << 20, 'x'));
    recorder.exchange->pump();
  });
  auto client = connect(4096);
  client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty() && script.last().closed.has_value(); }));
  EXPECT_EQ(script.last().closed->outcome, Outcome::kTimeout);
  EXPECT_LT(script.last().consumed, 1u << 20) << "its own source has to wait for a slow client";
  EXPECT_TRUE(until([&] { return counter.now == 0; }));
}

TEST_F(H1Time, APipeliningClientThatNeverReadsIsNotServedOn) {
  serve(quick());
  script.answer = [](Exchange& exchange) { exchange.respond(ok(), std::string(10'000, 'x')); };
  auto client = connect(4096);
  std::string requests;
  for (int i = 0; i < 500; ++i) {
    requests += kGet;
  }
  client->send(requests);
  EXPECT_TRUE(until([&] { return counter.now == 0; }));
  EXPECT_LT(script.seen.size(), 500u);
}

}  // namespace
}  // namespace mik::http::testing
