// TLS: who is trusted, what is offered, what a failure is called.
#include <openssl/ssl.h>

#include <array>
#include <cstdlib>
#include <fstream>

#include "http/client_test_support.hpp"

namespace mik::http {
namespace {

constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

class ClientTlsTest : public ClientTest {
 protected:
  ClientTlsTest() { options_.ca_file = authority_.file(); }
  ~ClientTlsTest() override { client_.reset(); }

  std::unique_ptr<TestUpstream> secure(SSL_CTX* context, std::string response = std::string(kOk)) {
    return std::make_unique<TestUpstream>(
        *loop_, "127.0.0.1", [response](TestUpstream::Peer& peer) { answer_each(peer, response); },
        context);
  }
  static std::string local(const char* host, const TestUpstream& upstream) {
    return std::string(host) + ":" + std::to_string(upstream.port());
  }
  ClientError outcome(const std::string& authority) {
    TestHandler handler;
    get_tls(authority, handler);
    EXPECT_TRUE(turn_until([&] { return handler.over(); }));
    detail_ = handler.detail;
    EXPECT_TRUE(handler.error.has_value() || handler.body == "ok");
    return handler.error.value_or(ClientError::kNone);
  }

  TestAuthority authority_;
  std::string detail_;
};

TEST_F(ClientTlsTest, TrustsTheCaFileAndSendsTheName) {
  const auto upstream = secure(authority_.server_context("DNS:localhost,IP:127.0.0.1"));
  EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kNone) << detail_;
  EXPECT_EQ(upstream->peers[0]->server_name, "localhost");
}

TEST_F(ClientTlsTest, AddressLiteralsAreCheckedAsAddressesWithoutAName) {
  const auto upstream = secure(authority_.server_context("DNS:localhost,IP:127.0.0.1"));
  EXPECT_EQ(outcome(local("127.0.0.1", *upstream)), ClientError::kNone) << detail_;
  EXPECT_EQ(upstream->peers[0]->server_name, "");
  // A name that looks like the address does not do.
  const auto other = secure(authority_.server_context("DNS:127.0.0.1"));
  EXPECT_EQ(outcome(local("127.0.0.1", *other)), ClientError::kTlsCertificateError);
}

TEST_F(ClientTlsTest, CertificatesThatDoNotFitAreRefused) {
  struct Case {
    const char* names;
    bool expired;
    const char* detail;
  };
  for (const Case& c : {Case{"DNS:other.test", false, "hostname mismatch"},
                        Case{"DNS:localhost", true, "certificate has expired"}}) {
    const auto upstream = secure(authority_.server_context(c.names, c.expired));
    EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kTlsCertificateError);
    EXPECT_EQ(detail_, c.detail);
    EXPECT_EQ(upstream->peers[0]->received, "");  // nothing was said to it
  }
  options_.ca_file.clear();
  remake_client();
  const auto upstream = secure(authority_.server_context("DNS:localhost"));
  EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kTlsCertificateError);
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(ClientTlsTest, HonoursSslCertFileBesidesTheOthers) {
  options_.ca_file.clear();
  ::setenv("SSL_CERT_FILE", authority_.file().c_str(), 1);
  const auto upstream = secure(authority_.server_context("DNS:localhost"));
  EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kNone) << detail_;
  ::unsetenv("SSL_CERT_FILE");
}

TEST_F(ClientTlsTest, ATrustFileThatCannotBeReadIsSaid) {
  options_.ca_file = "/nonexistent/ca.pem";
  const auto upstream = secure(authority_.server_context("DNS:localhost"));
  EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kInternalError);
  EXPECT_NE(detail_.find("/nonexistent/ca.pem"), std::string::npos) << detail_;
  EXPECT_TRUE(upstream->peers.empty());
  EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kInternalError);
}

TEST_F(ClientTlsTest, ManyAtOnceWaitForOneTrustStore) {
  const auto upstream = secure(authority_.server_context("DNS:localhost,IP:127.0.0.1"));
  std::array<TestHandler, 8> handlers;
  for (TestHandler& handler : handlers) {
    get_tls(local("127.0.0.1", *upstream), handler);
  }
  get_tls(local("127.0.0.1", *upstream), handlers[0])->cancel();
  for (TestHandler& handler : handlers) {
    ASSERT_TRUE(turn_until([&] { return handler.over(); }));
    EXPECT_EQ(handler.body, "ok") << handler.detail;
  }
}

TEST_F(ClientTlsTest, ConnectionsAreReused) {
  const auto upstream = secure(authority_.server_context("DNS:localhost"));
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(outcome(local("localhost", *upstream)), ClientError::kNone) << detail_;
  }
  EXPECT_EQ(upstream->peers.size(), 1U);
  EXPECT_EQ(client().counters().reused, 99U);
}

TEST_F(ClientTlsTest, SessionsAreResumed) {
  for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
    SSL_CTX* context = authority_.server_context("DNS:localhost");
    SSL_CTX_set_max_proto_version(context, version);
    const auto upstream =
        secure(context, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    const std::uint64_t before = client().counters().resumed;
    for (int i = 0; i < 5; ++i) {
      ASSERT_EQ(outcome(local("localhost", *upstream)), ClientError::kNone) << detail_;
    }
    EXPECT_EQ(upstream->peers.size(), 5U);
    EXPECT_EQ(client().counters().resumed - before, 4U) << version;
  }
}

TEST_F(ClientTlsTest, OldVersionsAreRefused) {
  SSL_CTX* context = authority_.server_context("DNS:localhost");
  SSL_CTX_set_security_level(context, 0);
  SSL_CTX_set_min_proto_version(context, TLS1_VERSION);
  SSL_CTX_set_max_proto_version(context, TLS1_1_VERSION);
  const auto upstream = secure(context);
  const ClientError error = outcome(local("localhost", *upstream));
  EXPECT_TRUE(error == ClientError::kTlsAlertReceived || error == ClientError::kTlsProtocolError)
      << label(error);
}

TEST_F(ClientTlsTest, OffersHttp11) {
  SSL_CTX* context = authority_.server_context("DNS:localhost");
  static std::string offered;
  SSL_CTX_set_alpn_select_cb(
      context,
      [](SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* in,
         unsigned int length, void*) {
        offered.assign(reinterpret_cast<const char*>(in), length);
        *out = in + 1;
        *out_length = in[0];
        return SSL_TLSEXT_ERR_OK;
      },
      nullptr);
  const auto upstream = secure(context);
  EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kNone) << detail_;
  EXPECT_EQ(offered, "\x08http/1.1");
}

TEST_F(ClientTlsTest, AnAlertOfTheServerIsToldAsSuch) {
  SSL_CTX* context = authority_.server_context("DNS:localhost");
  SSL_CTX_set_alpn_select_cb(
      context,
      [](SSL*, const unsigned char**, unsigned char*, const unsigned char*, unsigned int, void*) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
      },
      nullptr);
  const auto upstream = secure(context);
  EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kTlsAlertReceived) << detail_;
}

TEST_F(ClientTlsTest, AServerWithoutTlsIsAProtocolError) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) {
    peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
  });
  EXPECT_EQ(outcome(local("localhost", upstream)), ClientError::kTlsProtocolError) << detail_;
}

TEST_F(ClientTlsTest, ClosingInsideTheHandshakeIsATermination) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](TestUpstream::Peer& peer) { peer.close(); });
  EXPECT_EQ(outcome(local("localhost", upstream)), ClientError::kConnectionTerminated) << detail_;
}

TEST_F(ClientTlsTest, ASilentHandshakeIsATimeout) {
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  TestHandler handler;
  const std::string authority = local("localhost", upstream);
  client().start({.scheme = "https",
                  .authority = authority,
                  .connect_timeout = std::chrono::milliseconds(100)},
                 handler);
  ASSERT_TRUE(turn_until([&] { return handler.over(); }));
  EXPECT_EQ(handler.error, ClientError::kConnectionTimeout);
  EXPECT_EQ(client().counters().connections, 0U);
}

// Without close_notify anybody on the way may have cut what ends with the connection.
TEST_F(ClientTlsTest, ATruncatedBodyIsIncomplete) {
  SSL_CTX* context = authority_.server_context("DNS:localhost");
  for (const bool orderly : {true, false}) {
    TestUpstream upstream(
        *loop_, "127.0.0.1",
        [orderly](TestUpstream::Peer& peer) {
          peer.send("HTTP/1.1 200 OK\r\n\r\nok");
          if (orderly) {
            peer.close();
          }
        },
        context);
    TestHandler handler;
    get_tls(local("localhost", upstream), handler);
    ASSERT_TRUE(turn_until([&] { return handler.over() || (!orderly && !handler.body.empty()); }));
    if (!orderly) {
      upstream.peers[0]->cut();
      ASSERT_TRUE(turn_until([&] { return handler.over(); }));
    }
    EXPECT_EQ(handler.error.value_or(ClientError::kNone),
              orderly ? ClientError::kNone : ClientError::kResponseIncomplete);
    EXPECT_EQ(handler.body, "ok");
  }
}

TEST_F(ClientTlsTest, LargeBodiesBothWays) {
  constexpr std::size_t kSize = 5'000'001;
  TestUpstream upstream(
      *loop_, "127.0.0.1",
      [](TestUpstream::Peer& peer) {
        const std::size_t head = peer.received.find("\r\n\r\n");
        if (head != std::string::npos && peer.received.size() == head + 4 + kSize) {
          const std::string body = peer.received.substr(head + 4);
          peer.received.clear();
          peer.send("HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) +
                    "\r\n\r\n" + body);
        }
      },
      authority_.server_context("DNS:localhost"));
  TestHandler handler;
  for (std::size_t i = 0; i < kSize; ++i) {
    handler.source += static_cast<char>('a' + i % 26);
  }
  const std::string whole = handler.source;
  handler.piece_bytes = 5'003;
  handler.source_state_now = SourceState::kEnd;
  const std::string authority = local("localhost", upstream);
  ClientExchange* exchange = client().start({.method = "POST",
                                             .authority = authority,
                                             .body = RequestBody::kLength,
                                             .content_length = kSize},
                                            handler);
  int turns = 0;
  handler.at_body = [&] { handler.flow = ++turns % 40 == 0 ? Flow::kPause : Flow::kGoOn; };
  ASSERT_TRUE(turn_until([&] {
    if (!handler.over() && handler.flow == Flow::kPause) {
      handler.flow = Flow::kGoOn;
      exchange->resume();
    }
    return handler.over();
  }));
  EXPECT_EQ(handler.error, std::nullopt) << handler.detail;
  EXPECT_TRUE(handler.body == whole);
  EXPECT_EQ(client().counters().idle, 1U);
}

TEST_F(ClientTlsTest, ClosedIdleConnectionIsNoticed) {
  const auto upstream = secure(authority_.server_context("DNS:localhost"));
  ASSERT_EQ(outcome(local("localhost", *upstream)), ClientError::kNone);
  EXPECT_EQ(client().counters().idle, 1U);
  upstream->peers[0]->close();
  ASSERT_TRUE(turn_until([&] { return client().counters().idle == 0; }));
  EXPECT_EQ(outcome(local("localhost", *upstream)), ClientError::kNone);
}

// The socket ends after each number of bytes that the server would have sent: handshake, tickets,
// response.
TEST_F(ClientTlsTest, CuttingAfterEveryByteIsToldOnce) {
  SSL_CTX* context = authority_.server_context("DNS:localhost");
  // Tickets are sent and then not known: each handshake is whole.
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  // How much a whole exchange is.
  std::size_t whole = 0;
  {
    const auto upstream = secure(context);
    ASSERT_EQ(outcome(local("localhost", *upstream)), ClientError::kNone) << detail_;
    whole = upstream->peers[0]->wire_bytes();
  }
  client().drain();
  ASSERT_GT(whole, 500U);
  for (std::size_t n = 0; n < whole; n += n < 64 ? 1 : 13) {
    const auto upstream = secure(context);
    upstream->cut_after = n;
    TestHandler handler;
    get_tls(local("localhost", *upstream), handler);
    ASSERT_TRUE(turn_until([&] { return handler.over(); })) << n;
    ASSERT_TRUE(handler.error.has_value()) << n;
    EXPECT_TRUE(*handler.error == ClientError::kConnectionTerminated ||
                *handler.error == ClientError::kResponseIncomplete)
        << n << " " << label(*handler.error) << " " << handler.detail;
    EXPECT_EQ(client().counters().connections, 0U);
  }
}

}  // namespace
}  // namespace mik::http
