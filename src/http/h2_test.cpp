// The server's HTTP/2 side, asked by nghttp2's client over real sockets.
#include "http/h2_client.hpp"

namespace mik::http::testing {
namespace {

class H2 : public ServerTest {
 protected:
  std::unique_ptr<H2Client> open(bool open_windows = true) {
    return std::make_unique<H2Client>(connect(), open_windows);
  }
  bool run(H2Client& client, const std::function<bool()>& done) {
    return until(
        [&] {
          client.turn();
          return done();
        },
        {}, std::chrono::milliseconds(1));
  }
  H2Client::Stream& finish(H2Client& client, std::int32_t id) {
    EXPECT_TRUE(run(client, [&] { return client.streams[id].closed; })) << client.streams[id].head;
    return client.streams[id];
  }
  void spin(H2Client& client, int turns = 20) {
    for (int i = 0; i < turns; ++i) {
      client.turn();
      loop->run_once(std::chrono::milliseconds(1));
    }
  }
};

TEST_F(H2, AnswersManyStreamsOnOneConnection) {
  auto client = open();
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 50; ++i) {
    ids.push_back(client->ask(H2Client::get("/" + std::to_string(i))));
  }
  for (const std::int32_t id : ids) {
    const H2Client::Stream& stream = finish(*client, id);
    EXPECT_TRUE(has(stream.head, ":status=200;")) << stream.head;
    EXPECT_TRUE(has(stream.head, "content-length=5;")) << stream.head;
    EXPECT_TRUE(has(stream.head, "date=")) << stream.head;
    EXPECT_EQ(stream.body, "hello");
    EXPECT_EQ(stream.error, 0u);
  }
  EXPECT_EQ(counter.now, 1u);
  EXPECT_EQ(server->exchanges(), 0u);
}

TEST_F(H2, ThePrefaceMayComeByteByByte) {
  auto client = connect();
  const std::string preface =
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string("\0\0\0\4\0\0\0\0\0", 9);
  for (const char c : preface) {
    client->send(std::string_view(&c, 1));
    loop->run_once(std::chrono::milliseconds(1));
  }
  // The server's SETTINGS come back: a frame of type 4 on stream 0.
  ASSERT_TRUE(until([&] { return client->text.size() >= 9; }, {client.get()}));
  EXPECT_EQ(client->text[3], 4);
}

TEST_F(H2, AWordThatBeginsLikeThePrefaceIsHttp1) {
  auto client = connect();
  EXPECT_TRUE(has(ask(*client, "PRIVET / HTTP/1.1\r\nHost: x\r\n\r\n", "hello"), "200 OK"));
}

TEST_F(H2, TheHeadIsWhole) {
  std::string seen;
  script.answer = [&](Exchange& exchange) {
    const RequestHead& head = exchange.head();
    EXPECT_EQ(head.version, Version::k2);
    EXPECT_EQ(head.method, "GET");
    EXPECT_EQ(head.path_query, "/p?q=%20//");
    EXPECT_EQ(head.target, "/p?q=%20//");
    EXPECT_EQ(head.authority, "x");
    EXPECT_EQ(head.body, BodyKind::kNone);
    EXPECT_TRUE(head.te_trailers);
    const auto inside = [&](std::string_view view) {
      return view.data() >= head.bytes.data() &&
             view.data() + view.size() <= head.bytes.data() + head.bytes.size();
    };
    EXPECT_TRUE(inside(head.method) && inside(head.path_query) && inside(head.authority));
    for (const Field& field : head.fields) {
      EXPECT_TRUE(inside(field.name) && inside(field.value));
      seen.append(field.name).append("=").append(field.value).append("|");
    }
    exchange.respond(ok(), "");
  };
  auto client = open();
  H2Client::Fields fields = H2Client::get("/p?q=%20//");
  for (const auto& [name, value] : H2Client::Fields{
           {"cookie", "a=1"}, {"x-a", "1"}, {"cookie", "b=2"}, {"x-a", "2"}, {"cookie", "c=3"}}) {
    fields.emplace_back(name, value);
  }
  finish(*client, client->ask(fields));
  EXPECT_EQ(seen, "x-a=1|x-a=2|cookie=a=1; b=2; c=3|");  // field case 12
}

TEST_F(H2, BodiesAndTrailersGoBothWays) {
  script.record([](Recorder& recorder) {
    recorder.trailers_out = {{"X-Sum", "42"}};
    recorder.exchange->start(ok());
    recorder.on_bytes = [&recorder](std::string_view bytes) {
      recorder.give(std::string(bytes));
      return Flow::kGoOn;
    };
    recorder.on_end = [&recorder] { recorder.end(); };
  });
  auto client = open();
  const std::int32_t id = client->ask(H2Client::post(), "first,", true);
  ASSERT_TRUE(run(*client, [&] { return client->streams[id].body == "first,"; }));
  client->more(id, "second", false);
  const H2Client::Stream& stream = finish(*client, id);
  EXPECT_EQ(stream.body, "first,second");
  EXPECT_EQ(stream.trailers, "x-sum=42;");
  EXPECT_EQ(script.last().closed->outcome, Outcome::kComplete);
  EXPECT_EQ(script.last().closed->body_bytes_in, 12u);
  EXPECT_EQ(script.last().closed->body_bytes_out, 12u);
  EXPECT_EQ(script.last().ends, 1);
}

TEST_F(H2, MegabytesComeBackUnchanged) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.on_bytes = [&recorder](std::string_view bytes) {
      recorder.give(std::string(bytes));
      return recorder.source.size() > 2 ? Flow::kPause : Flow::kGoOn;
    };
    recorder.on_consumed = [&recorder] {
      if (recorder.exchange != nullptr) {
        recorder.exchange->resume_body();
      }
    };
    recorder.on_end = [&recorder] { recorder.end(); };
  });
  auto client = open();
  std::string body;
  for (int i = 0; body.size() < 2'000'000; ++i) {
    body += std::to_string(i) + ",";
  }
  const std::int32_t id = client->ask(H2Client::post(), body.c_str());
  EXPECT_TRUE(finish(*client, id).body == body);
}

TEST_F(H2, APausedHandlerStopsItsStreamAndNoOther) {
  script.answer = [this](Exchange& exchange) {
    if (exchange.head().method == "GET") {
      exchange.respond(ok(), "hello");
      return;
    }
    script.recorders.push_back(std::make_unique<Recorder>(exchange));
    script.last().on_bytes = [](std::string_view) { return Flow::kPause; };
  };
  auto client = open();
  const std::string big(3'000'000, 'u');
  const std::int32_t id = client->ask(H2Client::post(), big.c_str());
  spin(*client);
  EXPECT_EQ(script.last().pieces_in, 1);
  EXPECT_LE(client->streams[id].uploaded, 65535u + 16384u);
  EXPECT_EQ(finish(*client, client->ask(H2Client::get())).body, "hello");
  // Resumed, it gets what was held and the window opens again.
  const std::size_t before = client->streams[id].uploaded;
  ASSERT_TRUE(run(*client, [&] {
    script.last().exchange->resume_body();
    return client->streams[id].uploaded > before;
  }));
  script.last().on_bytes = nullptr;
  script.last().on_end = [this] { script.last().exchange->respond(ok(), "all"); };
  script.last().exchange->resume_body();
  EXPECT_EQ(finish(*client, id).body, "all");
  EXPECT_TRUE(script.last().body == big);
}

TEST_F(H2, AClientThatOpensNoWindowStopsTheSource) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    for (int i = 0; i < 300; ++i) {
      recorder.source.push_back(std::string(10'000, 'x'));
    }
    recorder.exchange->pump();
  });
  serve(quick());
  auto client = open(false);
  client->ask(H2Client::get());
  spin(*client);
  EXPECT_LE(script.last().consumed, 65535u);
  ASSERT_TRUE(run(*client, [&] { return script.last().closed.has_value(); }));
  EXPECT_EQ(script.last().closed->outcome, Outcome::kTimeout);
}

TEST_F(H2, HeadHasNoContentAndEndsWithItsSource) {
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok(7));
    recorder.give("1234");
  });
  auto client = open();
  H2Client::Fields fields = H2Client::get();
  fields[0].second = "HEAD";
  const std::int32_t id = client->ask(fields);
  ASSERT_TRUE(run(*client, [&] { return has(client->streams[id].head, "content-length=7"); }));
  EXPECT_FALSE(script.last().closed.has_value());
  script.last().give("567");
  script.last().end();
  EXPECT_EQ(finish(*client, id).body, "");
  EXPECT_EQ(script.last().closed->outcome, Outcome::kComplete);
}

TEST_F(H2, CutsAndAbortsAreResets) {
  auto client = open();
  for (int how = 0; how < 4; ++how) {
    script.record([how](Recorder& recorder) {
      if (how == 3) {
        recorder.exchange->abort();
        return;
      }
      recorder.exchange->start(ok(how == 2 ? std::optional<std::uint64_t>(9) : std::nullopt));
      recorder.give("part");
    });
    const std::int32_t id = client->ask(H2Client::get());
    if (how != 3) {
      ASSERT_TRUE(run(*client, [&] { return client->streams[id].body == "part"; }));
      if (how == 0) {
        script.last().exchange->abort();
      } else {
        script.last().end(how == 1 ? SourceState::kCut : SourceState::kEnd);
      }
    }
    const H2Client::Stream& stream = finish(*client, id);
    EXPECT_EQ(stream.error, static_cast<std::uint32_t>(NGHTTP2_INTERNAL_ERROR)) << how;
    EXPECT_FALSE(stream.ended) << how;
    EXPECT_EQ(script.last().closed->outcome, Outcome::kCut) << how;
  }
  EXPECT_EQ(counter.now, 1u) << "the connection goes on";
}

TEST_F(H2, AResetByTheClientIsClientGone) {
  script.record([](Recorder& recorder) { recorder.exchange->start(ok()); });
  auto client = open();
  const std::int32_t id = client->ask(H2Client::post(), "abc", true);
  ASSERT_TRUE(
      run(*client, [&] { return !script.recorders.empty() && script.last().body == "abc"; }));
  client->reset(id);
  ASSERT_TRUE(run(*client, [&] { return script.last().closed.has_value(); }));
  EXPECT_EQ(script.last().closed->outcome, Outcome::kClientGone);
  EXPECT_EQ(script.last().body_error, BodyError::kGone);
  EXPECT_EQ(counter.now, 1u);
}

TEST_F(H2, AClosedConnectionEndsAllStreams) {
  script.record();
  auto client = open();
  for (int i = 0; i < 10; ++i) {
    client->ask(H2Client::get());
  }
  ASSERT_TRUE(run(*client, [&] { return script.recorders.size() == 10; }));
  client->socket().close();
  ASSERT_TRUE(until([&] { return counter.now == 0; }));
  for (const auto& recorder : script.recorders) {
    EXPECT_EQ(recorder->closed->outcome, Outcome::kClientGone);
  }
  EXPECT_EQ(server->exchanges(), 0u);
}

TEST_F(H2, LimitsHaveTheirStatus) {
  Limits limits;
  limits.head_bytes_max = 8192;
  limits.target_bytes_max = 1000;
  limits.body_bytes_max = 1000;
  serve(limits);
  auto client = open();
  const auto status_of = [&](const H2Client::Fields& fields) {
    return finish(*client, client->ask(fields)).head.substr(0, 11);
  };
  EXPECT_EQ(status_of(H2Client::get("/" + std::string(2000, 'a'))), ":status=414");
  H2Client::Fields many = H2Client::get();
  for (int i = 0; i < 200; ++i) {
    many.emplace_back("x-" + std::to_string(i), "v");
  }
  EXPECT_EQ(status_of(many), ":status=431");
  H2Client::Fields large = H2Client::get();
  large.emplace_back("x", std::string(9000, 'v'));
  EXPECT_EQ(status_of(large), ":status=431");
  EXPECT_EQ(status_of(H2Client::get("/\xc0\xaf")), ":status=400");
  const std::int32_t id = client->ask(H2Client::post({{"content-length", "1001"}}), "x", true);
  ASSERT_TRUE(run(*client, [&] { return client->streams[id].ended; }));
  EXPECT_TRUE(has(client->streams[id].head, ":status=413;")) << client->streams[id].head;
  EXPECT_TRUE(script.seen.empty());
}

TEST_F(H2, ABodyThatGrowsTooLargeIsTheHandlersToAnswer) {
  Limits limits;
  limits.body_bytes_max = 1000;
  serve(limits);
  script.record([](Recorder& recorder) {
    recorder.on_error = [&recorder](BodyError) {
      recorder.exchange->respond({.status = 413, .fields = {}, .content_length = std::nullopt},
                                 "big");
    };
  });
  auto client = open();
  const std::int32_t id = client->ask(H2Client::post(), std::string(5000, 'b').c_str());
  EXPECT_TRUE(has(finish(*client, id).head, ":status=413;"));
  EXPECT_EQ(script.last().body_error, BodyError::kTooLarge);
}

TEST_F(H2, ContinueIsSentWhenTheHandlerWantsTheBody) {
  script.record([](Recorder& recorder) {
    recorder.on_end = [&recorder] { recorder.exchange->respond(ok(), "thanks"); };
  });
  auto client = open();
  const std::int32_t id = client->ask(H2Client::post({{"expect", "100-continue"}}), "", true);
  ASSERT_TRUE(run(*client, [&] { return has(client->streams[id].head, ":status=100;"); }));
  client->more(id, "abc", false);
  EXPECT_EQ(finish(*client, id).body, "thanks");
}

TEST_F(H2, AStalledBodyIs408) {
  serve(quick());
  script.record([](Recorder& recorder) {
    recorder.on_error = [&recorder](BodyError) {
      recorder.exchange->respond({.status = 408, .fields = {}, .content_length = std::nullopt},
                                 "slow");
    };
  });
  auto client = open();
  const std::int32_t id = client->ask(H2Client::post(), "abc", true);
  ASSERT_TRUE(run(*client, [&] { return client->streams[id].ended; }));
  EXPECT_TRUE(has(client->streams[id].head, ":status=408;"));
  EXPECT_EQ(script.last().body_error, BodyError::kTooSlow);
}

TEST_F(H2, AFloodOfResetsEndsTheConnection) {
  script.record();
  auto client = open();
  for (int i = 0; i < 2000 && !client->socket().over(); ++i) {
    const std::int32_t id = client->ask(H2Client::get());
    client->turn();
    client->reset(id);
    client->turn();
    loop->run_once(base::Duration::zero());
  }
  ASSERT_TRUE(run(*client, [&] { return client->socket().over(); }));
  EXPECT_LT(script.recorders.size(), 600u);
  EXPECT_EQ(server->exchanges(), 0u);
}

TEST_F(H2, MoreStreamsThanAllowedAreRefused) {
  Limits limits;
  limits.streams_max = 5;
  serve(limits);
  script.record();
  auto client = open();
  // Asked before the server's SETTINGS are known.
  for (int i = 0; i < 20; ++i) {
    client->ask(H2Client::get());
  }
  spin(*client);
  EXPECT_EQ(script.recorders.size(), 5u);
}

TEST_F(H2, ADrainSaysGoAwayAndEndsWhatIsRunning) {
  script.record();
  auto client = open();
  const std::int32_t id = client->ask(H2Client::get());
  ASSERT_TRUE(run(*client, [&] { return !script.recorders.empty(); }));
  int done = 0;
  server->drain([&] { ++done; });
  ASSERT_TRUE(run(*client, [&] { return client->goaways == 1; }));
  EXPECT_EQ(client->goaway_error, 0u);
  script.last().exchange->respond(ok(), "last words");
  EXPECT_EQ(finish(*client, id).body, "last words");
  ASSERT_TRUE(run(*client, [&] { return client->socket().over(); }));
  EXPECT_FALSE(client->socket().reset);
  client->socket().close();
  EXPECT_TRUE(until([&] { return done == 1; }));
}

TEST_F(H2, AnIdleConnectionIsToldToGo) {
  serve(quick());
  auto client = open();
  finish(*client, client->ask(H2Client::get()));
  ASSERT_TRUE(run(*client, [&] { return client->socket().over(); }));
  EXPECT_EQ(client->goaways, 1);
  EXPECT_FALSE(client->socket().reset);
}

TEST_F(H2, RubbishIsAnsweredByGoAway) {
  auto client = open();
  finish(*client, client->ask(H2Client::get()));
  client->socket().send(std::string("\0\0\x01\x00\x00\0\0\0\0x", 10));  // DATA on stream 0
  ASSERT_TRUE(run(*client, [&] { return client->socket().over(); }));
  EXPECT_EQ(client->goaways, 1);
  EXPECT_EQ(client->goaway_error, static_cast<std::uint32_t>(NGHTTP2_PROTOCOL_ERROR));
}

TEST_F(H2, AClientThatClosesAfterAnyByteLeavesNothingBehind) {
  // The bytes of a real conversation, cut at every place.
  const std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  std::string bytes = preface + std::string("\0\0\0\4\0\0\0\0\0", 9);
  const std::string head = "\x83\x86\x84\x41\x01x";  // POST http / authority x
  bytes += std::string("\0\0\x06\x01\x04\0\0\0\x01", 9) + head;
  bytes += std::string("\0\0\x03\x00\x00\0\0\0\x01", 9) + "abc";
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.give("part");
  });
  for (std::size_t n = 0; n <= bytes.size(); ++n) {
    auto client = connect();
    client->send(std::string_view(bytes).substr(0, n));
    loop->run_once(std::chrono::milliseconds(0));
    loop->run_once(std::chrono::milliseconds(0));
    n % 2 == 0 ? client->close_with_reset() : client->close();
    ASSERT_TRUE(until([&] { return counter.now == 0; })) << n;
  }
  EXPECT_FALSE(script.recorders.empty());
  EXPECT_EQ(server->exchanges(), 0u);
  for (const auto& recorder : script.recorders) {
    EXPECT_TRUE(recorder->closed.has_value());
  }
}

TEST_F(H2, EndingAllTellsTheHandlers) {
  script.record();
  auto client = open();
  client->ask(H2Client::get());
  ASSERT_TRUE(run(*client, [&] { return !script.recorders.empty(); }));
  server->close_all();
  EXPECT_EQ(script.last().closed->outcome, Outcome::kShutdown);
  EXPECT_EQ(counter.now, 0u);
  settle();
}

}  // namespace
}  // namespace mik::http::testing
