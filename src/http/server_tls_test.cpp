// The server under TLS: what is said, how it ends, who is let in.
#include "http/server_tls.hpp"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <unistd.h>

#include <fstream>

#include "http/h2_client.hpp"
#include "http/test_authority.hpp"
#include "http/tls_end.hpp"

namespace mik::http::testing {
namespace {

constexpr std::string_view kH2 = "\x02h2";
constexpr std::string_view kH1 = "\x08http/1.1";
constexpr std::string_view kBoth = "\x02h2\x08http/1.1";

class ServerTlsTest : public ServerTest {
 protected:
  ServerTls load(std::string_view ticket_key = {}) {
    const TestAuthority::Files files = authority.server_files("DNS:localhost,IP:127.0.0.1");
    auto loaded = ServerTls::load({files.certificate, files.key}, ticket_key);
    EXPECT_TRUE(loaded.has_value()) << loaded.error().to_string();
    return std::move(*loaded);
  }

  std::unique_ptr<TlsEnd> connect_tls(TlsEnd::Options options = {}, int send_bytes = 0) {
    if (server == nullptr) {
      serve();
    }
    if (options.certificates.empty()) {
      options.certificates = authority.file();
    }
    Ends ends = tcp(send_bytes);
    adopt(std::move(ends.server), &tls);
    return std::make_unique<TlsEnd>(ends.client.release(), options);
  }
  bool shake(TlsEnd& client) {
    return until([&] { return SSL_is_init_finished(client.ssl()) != 0; }, {&client});
  }

  TestAuthority authority;
  ServerTls tls = load();
};

constexpr std::string_view kGet = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";

TEST_F(ServerTlsTest, AnswersHttp1InBothVersionsOfTls) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    auto client = connect_tls({.alpn = kBoth.substr(3), .version_max = version});
    bool secure = false;
    script.answer = [&](Exchange& exchange) {
      secure = exchange.secure();
      exchange.respond(ok(), "hello");
    };
    EXPECT_TRUE(has(ask(*client, kGet, "hello"), "HTTP/1.1 200 OK\r\n"));
    EXPECT_TRUE(secure);
    EXPECT_EQ(SSL_version(client->ssl()), version);
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(has(ask(*client, kGet, "hello"), "HTTP/1.1 200 OK\r\n"));
    }
    EXPECT_FALSE(client->over());
  }
}

TEST_F(ServerTlsTest, HandshakesInPiecesOfAnySize) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    for (const std::size_t piece : {1u, 2u, 7u, 100u}) {
      auto client = connect_tls({.version_max = version, .piece = piece});
      EXPECT_TRUE(has(ask(*client, kGet, "hello"), "200 OK")) << piece;
    }
  }
}

TEST_F(ServerTlsTest, AlpnChoosesHttp2First) {
  auto end = connect_tls({.alpn = "\x08http/1.1\x02h2"});
  TlsEnd& tls_end = *end;
  H2Client client(std::move(end));
  bool secure = false;
  script.answer = [&](Exchange& exchange) {
    secure = exchange.secure();
    exchange.respond(ok(), "hello");
  };
  const std::int32_t id = client.ask(H2Client::get());
  ASSERT_TRUE(until([&] {
    client.turn();
    return client.streams[id].closed;
  }));
  EXPECT_EQ(client.streams[id].body, "hello");
  EXPECT_TRUE(secure);
  const unsigned char* chosen = nullptr;
  unsigned int bytes = 0;
  SSL_get0_alpn_selected(tls_end.ssl(), &chosen, &bytes);
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(chosen), bytes), "h2");
}

TEST_F(ServerTlsTest, WithoutAlpnTheFirstBytesDecide) {
  auto plain = connect_tls();
  EXPECT_TRUE(has(ask(*plain, kGet, "hello"), "200 OK"));
  H2Client client(connect_tls());
  const std::int32_t id = client.ask(H2Client::get());
  ASSERT_TRUE(until([&] {
    client.turn();
    return client.streams[id].closed;
  }));
  EXPECT_EQ(client.streams[id].body, "hello");
}

TEST_F(ServerTlsTest, WhoSpeaksNothingOfOursIsRefused) {
  auto client = connect_tls({.alpn = "\x06spdy/3"});
  EXPECT_TRUE(until([&] { return client->over(); }, {client.get()}));
  EXPECT_EQ(client->alert, SSL_AD_NO_APPLICATION_PROTOCOL);
  auto old = connect_tls({.version_max = TLS1_1_VERSION, .version_min = TLS1_VERSION});
  EXPECT_TRUE(until([&] { return old->over(); }, {old.get()}));
  EXPECT_EQ(old->alert, SSL_AD_PROTOCOL_VERSION);
  EXPECT_TRUE(script.seen.empty());
  EXPECT_EQ(counter.failed,
            (std::vector<std::string>{"no application protocol", "unsupported protocol"}));
}

std::string pattern(std::size_t bytes) {
  std::string text(bytes, '\0');
  std::uint32_t state = 1;
  for (char& c : text) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

// Sends back what comes, by the piece.
std::function<void(Recorder&)> echo() {
  return [](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.on_bytes = [&recorder](std::string_view bytes) {
      recorder.give(std::string(bytes));
      return Flow::kGoOn;
    };
    recorder.on_end = [&recorder] { recorder.end(); };
  };
}

TEST_F(ServerTlsTest, LargeBodiesBothWaysThroughSmallBuffers) {
  const std::string body = pattern(3 * 1024 * 1024 + 17);
  for (const int send_bytes : {0, 4096}) {
    script.record(echo());
    auto client = connect_tls({.alpn = kH1}, send_bytes);
    const std::string request =
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " +
        std::to_string(body.size()) + "\r\n\r\n" + body;
    const std::string answer = ask_until_close(*client, request);
    EXPECT_TRUE(client->notified);
    std::string got;
    std::string_view rest = content(answer);
    while (!rest.empty()) {
      const std::size_t line = rest.find("\r\n");
      const std::size_t size = std::stoul(std::string(rest.substr(0, line)), nullptr, 16);
      got.append(rest.substr(line + 2, size));
      rest.remove_prefix(std::min(rest.size(), line + 2 + size + 2));
    }
    EXPECT_EQ(got.size(), body.size());
    EXPECT_TRUE(got == body);
    EXPECT_EQ(script.last().closed->outcome, Outcome::kComplete);
  }
}

TEST_F(ServerTlsTest, LargeBodiesBothWaysOverHttp2) {
  const std::string body = pattern(3 * 1024 * 1024 + 17);
  script.record(echo());
  H2Client client(connect_tls({.alpn = kH2}, 8192));
  const std::int32_t id = client.ask(H2Client::post(), body.c_str(), true);
  client.streams[id].upload = body;
  client.more(id, "", false);
  ASSERT_TRUE(until([&] {
    client.turn();
    return client.streams[id].closed;
  }));
  EXPECT_TRUE(client.streams[id].body == body);
}

TEST_F(ServerTlsTest, ASlowReaderStopsTheSource) {
  script.record([](Recorder& recorder) { recorder.exchange->start(ok()); });
  auto client = connect_tls({}, 4096);
  ASSERT_TRUE(shake(*client));
  client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }, {client.get()}));
  client->reading = false;
  const std::string body = pattern(1024 * 1024);
  script.last().give(body);
  settle();
  const std::size_t taken = script.last().consumed;
  EXPECT_LT(taken, body.size() / 2);
  settle();
  EXPECT_EQ(script.last().consumed, taken);
  client->reading = true;
  script.last().end();
  EXPECT_TRUE(has(ask(*client, "", "\r\n0\r\n\r\n"), "200 OK"));
}

// ---- sessions

SSL_SESSION* kept_session = nullptr;
int keep_session(SSL*, SSL_SESSION* session) {
  SSL_SESSION_free(std::exchange(kept_session, session));
  return 1;
}

TEST_F(ServerTlsTest, ATicketIsGoodForEveryWorkerOfTheFamily) {
  const std::string key = pattern(ServerTls::kTicketKeyBytes);
  const std::string other = pattern(ServerTls::kTicketKeyBytes + 1).substr(1);
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    tls = load(key);
    auto first = connect_tls({.version_max = version});
    SSL_CTX_set_session_cache_mode(SSL_get_SSL_CTX(first->ssl()), SSL_SESS_CACHE_CLIENT);
    SSL_CTX_sess_set_new_cb(SSL_get_SSL_CTX(first->ssl()), keep_session);
    ask(*first, kGet, "hello");
    ASSERT_NE(kept_session, nullptr);
    const tls::Session session(std::exchange(kept_session, nullptr));

    tls = load(key);
    auto again = connect_tls({.version_max = version, .session = session.get()});
    EXPECT_TRUE(has(ask(*again, kGet, "hello"), "200 OK"));
    EXPECT_EQ(SSL_session_reused(again->ssl()), 1);

    tls = load(other);
    auto stranger = connect_tls({.version_max = version, .session = session.get()});
    EXPECT_TRUE(has(ask(*stranger, kGet, "hello"), "200 OK"));
    EXPECT_EQ(SSL_session_reused(stranger->ssl()), 0);
  }
}

TEST_F(ServerTlsTest, RenegotiationIsRefused) {
  auto client = connect_tls({.version_max = TLS1_2_VERSION});
  ASSERT_TRUE(shake(*client));
  ASSERT_EQ(SSL_renegotiate(client->ssl()), 1);
  SSL_do_handshake(client->ssl());
  EXPECT_TRUE(until([&] { return client->failed || client->over(); }, {client.get()}));
  EXPECT_TRUE(script.seen.empty());
}

// ---- the end

TEST_F(ServerTlsTest, AnEndInOrderIsSaid) {
  auto client = connect_tls();
  ask_until_close(*client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(client->notified);
  EXPECT_FALSE(client->reset);

  auto polite = connect_tls();
  ask(*polite, kGet, "hello");
  polite->say_end();
  EXPECT_TRUE(until([&] { return polite->over(); }, {polite.get()}));
  EXPECT_TRUE(polite->notified);
  EXPECT_TRUE(until([&] { return server->connections() == 1; }, {client.get()}));
}

TEST_F(ServerTlsTest, ACutResponseDoesNotEndInOrder) {
  for (const bool length : {true, false}) {
    script.record([length](Recorder& recorder) {
      recorder.exchange->start(ok(length ? std::optional<std::uint64_t>(100) : std::nullopt));
      recorder.give("some of it");
    });
    auto client = connect_tls();
    ask(*client, kGet, "some of it");
    script.last().end(SourceState::kCut);
    EXPECT_TRUE(until([&] { return client->over(); }, {client.get()}));
    EXPECT_FALSE(client->notified);
  }
  // HTTP/1.0, where nothing else could tell.
  auto old = connect_tls();
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.give("some of it");
  });
  ask(*old, "GET / HTTP/1.0\r\n\r\n", "some of it");
  script.last().end(SourceState::kCut);
  EXPECT_TRUE(until([&] { return old->over(); }, {old.get()}));
  EXPECT_FALSE(old->notified);
}

// What waits for a client that does not read is not whole either.
TEST_F(ServerTlsTest, AnEndThatCannotBeWrittenIsNotSaid) {
  auto client = connect_tls({}, 4096);
  script.record([](Recorder& recorder) {
    recorder.exchange->start(ok());
    recorder.give(pattern(1024 * 1024));
    recorder.end();
  });
  ASSERT_TRUE(shake(*client));
  client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }));
  client->reading = false;
  settle();
  server->close_all();
  EXPECT_EQ(script.last().closed->outcome, Outcome::kShutdown);
  client->reading = true;
  EXPECT_TRUE(until([&] { return client->over(); }, {client.get()}));
  EXPECT_FALSE(client->notified);
}

TEST_F(ServerTlsTest, AClientThatClosesItsSideOnlyIsAnswered) {
  // By close_notify, and by a FIN without it, as many do.
  for (const bool polite : {true, false}) {
    script.record();
    auto client = connect_tls();
    ASSERT_TRUE(shake(*client));
    client->send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    if (polite) {
      client->say_end();
    }
    client->half_close();
    ASSERT_TRUE(until([&] { return !script.recorders.empty(); }, {client.get()}));
    settle(client.get());
    ASSERT_FALSE(script.last().closed.has_value());
    script.last().exchange->respond(ok(), "late");
    EXPECT_TRUE(has(ask_until_close(*client, ""), "late"));
    EXPECT_TRUE(client->notified);
    script.recorders.clear();
  }
}

TEST_F(ServerTlsTest, AClientThatIsKilledIsGone) {
  script.record();
  auto client = connect_tls();
  ASSERT_TRUE(shake(*client));
  client->send(kGet);
  ASSERT_TRUE(until([&] { return !script.recorders.empty(); }, {client.get()}));
  client->close();
  EXPECT_TRUE(until([&] { return script.last().closed.has_value(); }));
  EXPECT_EQ(script.last().closed->outcome, Outcome::kClientGone);

  auto uploading = connect_tls();
  ASSERT_TRUE(shake(*uploading));
  uploading->send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc");
  ASSERT_TRUE(until([&] { return script.recorders.size() == 2; }, {uploading.get()}));
  uploading->close();
  EXPECT_TRUE(until([&] { return script.last().closed.has_value(); }));
  EXPECT_EQ(script.last().body_error, BodyError::kGone);
}

TEST_F(ServerTlsTest, BrokenRecordsEndTheConnection) {
  script.record();
  auto client = connect_tls();
  ask(*client, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
      "100 Continue");
  constexpr char kRecord[] = "\x17\x03\x03\x00\x20this is no sealed record at all!";
  client->Client::send({kRecord, sizeof kRecord - 1});
  EXPECT_TRUE(until([&] { return script.last().closed.has_value(); }, {client.get()}));
  EXPECT_EQ(script.last().closed->outcome, Outcome::kClientGone);
}

// ---- who does not come so far

TEST_F(ServerTlsTest, AHandshakeHasItsTime) {
  serve(quick());
  const base::Time begin = base::Clock::now();
  auto silent = connect_tls();
  auto slow = connect_tls({.piece = 1});
  std::size_t sent = 0;
  EXPECT_TRUE(until([&] {
    if (sent < 50) {  // a byte a turn, and never all
      slow->take();
      ++sent;
    }
    return counter.now == 0;
  }));
  EXPECT_GE(base::Clock::now() - begin, quick().header_timeout);
  // That of the one that had begun.
  EXPECT_EQ(counter.failed, std::vector<std::string>{"the client is too slow"});
}

TEST_F(ServerTlsTest, WhoOnlyLooksAtThePortHasFailedNothing) {
  for (const std::string_view said : {"", "\x16\x03\x01"}) {
    serve();
    Ends ends = tcp();
    adopt(std::move(ends.server), &tls);
    Client client(ends.client.release());
    client.send(said);
    client.close();
    EXPECT_TRUE(until([&] { return counter.now == 0; }));
    EXPECT_EQ(counter.failed.size(), said.empty() ? 0u : 1u);
  }
  EXPECT_EQ(counter.failed.front(), "the client has closed the connection");
  auto good = connect_tls();
  EXPECT_TRUE(shake(*good));
  EXPECT_EQ(counter.failed.size(), 1u);
}

TEST_F(ServerTlsTest, PlainHttpIsToldWhatIsWrong) {
  serve();
  Ends ends = tcp();
  adopt(std::move(ends.server), &tls);
  Client client(ends.client.release());
  const std::string answer = ask_until_close(client, kGet);
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 400 Bad Request\r\n")) << answer;
  EXPECT_TRUE(has(answer, "https://"));
  EXPECT_FALSE(client.reset);
  EXPECT_TRUE(script.seen.empty());
  EXPECT_EQ(counter.failed, std::vector<std::string>{"HTTP without TLS"});

  Ends others = tcp();
  adopt(std::move(others.server), &tls);
  Client noise(others.client.release());
  ask_until_close(noise, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  EXPECT_EQ(server->connections(), 0u);
}

TEST_F(ServerTlsTest, ADrainEndsHandshakesAndIdleConnections) {
  auto idle = connect_tls();
  ask(*idle, kGet, "hello");
  auto silent = connect_tls();
  bool done = false;
  server->drain([&] { done = true; });
  EXPECT_TRUE(until([&] { return idle->over(); }, {idle.get()}));
  EXPECT_TRUE(idle->notified);
  idle->close();
  EXPECT_TRUE(until([&] { return done; }));
}

// ---- files

class ServerTlsFiles : public ::testing::Test {
 protected:
  std::string write(const std::string& name, const std::string& text) {
    const std::string path = ::testing::TempDir() + "mik_tls_" + name;
    std::ofstream(path) << text;
    written.push_back(path);
    return path;
  }
  ~ServerTlsFiles() override {
    for (const std::string& path : written) {
      ::unlink(path.c_str());
    }
  }
  static std::string problem(const ServerTls::Files& files) {
    const auto loaded = ServerTls::load(files, {});
    return loaded.has_value() ? "" : loaded.error().to_string();
  }

  TestAuthority authority;
  std::vector<std::string> written;
};

TEST_F(ServerTlsFiles, WhatIsWrongIsSaid) {
  const TestAuthority::Files good = authority.server_files("DNS:localhost");
  const TestAuthority::Files other = authority.server_files("DNS:localhost");
  EXPECT_EQ(problem({good.certificate, good.key}), "");

  EXPECT_TRUE(has(problem({"/nonexistent/cert.pem", good.key}),
                  "tls_cert: cannot read /nonexistent/cert.pem"));
  EXPECT_TRUE(has(problem({good.certificate, "/nonexistent/key.pem"}),
                  "tls_key: cannot read /nonexistent/key.pem"));
  EXPECT_TRUE(
      has(problem({good.certificate, other.key}),
          "tls_key: " + other.key + ": is not the key of the certificate " + good.certificate));
  EXPECT_TRUE(has(problem({good.key, good.key}), "tls_cert: " + good.key + ": has no certificate"));
  EXPECT_TRUE(has(problem({good.certificate, good.certificate}),
                  "tls_key: " + good.certificate + ": has no private key"));
  const std::string text = write("text", "no PEM at all\n");
  EXPECT_TRUE(has(problem({text, good.key}), "has no certificate"));
  EXPECT_TRUE(has(problem({good.certificate, text}), "has no private key"));
  const std::string broken =
      write("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
  EXPECT_TRUE(has(problem({broken, good.key}), "tls_cert: " + broken + ": "));
  EXPECT_TRUE(has(problem({::testing::TempDir(), good.key}), "tls_cert: "));

  EVP_PKEY* const key = EVP_EC_gen("P-256");
  const std::string locked = ::testing::TempDir() + "mik_tls_locked";
  written.push_back(locked);
  BIO* const file = BIO_new_file(locked.c_str(), "w");
  PEM_write_bio_PrivateKey(file, key, EVP_aes_128_cbc(), nullptr, 0, nullptr,
                           const_cast<char*>("secret"));
  BIO_free(file);
  EVP_PKEY_free(key);
  EXPECT_TRUE(has(problem({good.certificate, locked}), "tls_key: " + locked + ": is encrypted"));
}

}  // namespace
}  // namespace mik::http::testing
