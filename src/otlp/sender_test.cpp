// Both protocols against collectors in process: the project's own server for good ones, scripted
// sockets for bad ones. All on one loop.
#include "otlp/sender.hpp"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "http/server_rig.hpp"
#include "http/server_tls.hpp"
#include "http/test_authority.hpp"
#include "net/socket.hpp"

namespace mik::otlp {
namespace {

using namespace std::literals;
using http::testing::Recorder;
using Kind = Reply::Kind;

const std::string kTaken("\0\0\0\0\0", 5);  // an empty ExportTraceServiceResponse, framed

class Collector final : public net::IoHandler {
 public:
  // `take` is given each connection.
  Collector(net::Loop& loop, std::function<void(base::Fd)> take)
      : loop_(loop), take_(std::move(take)) {
    listener_ = std::move(*net::listen_tcp(*net::parse_socket_address("127.0.0.1:0"), 16));
    EXPECT_TRUE(loop_.watch_level(listener_.get(), EPOLLIN, *this).has_value());
  }
  ~Collector() override { loop_.unwatch(listener_.get()); }
  void on_io(std::uint32_t /*events*/) override {
    ++accepted;
    take_(base::Fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)));
  }
  std::uint16_t port() const { return net::local_address(listener_.get())->port(); }

  int accepted = 0;

 private:
  net::Loop& loop_;
  std::function<void(base::Fd)> take_;
  base::Fd listener_;
};

class OtlpSender : public http::testing::ServerTest, public Sender::User {
 protected:
  ~OtlpSender() override {
    sender_.reset();
    if (server != nullptr) {
      server->close_all();
    }
  }

  void on_reply(Reply reply) override { reply_ = std::move(reply); }

  // A collector that speaks HTTP as it should.
  void good(http::ServerTls* tls = nullptr) {
    serve();
    collector_.emplace(*loop, [this, tls](base::Fd fd) { server->adopt(std::move(fd), tls); });
  }
  // One that says `bytes` and keeps quiet, or ends the connection.
  enum class Then : std::uint8_t { kHang, kClose };
  void bad(std::string bytes, Then then) {
    collector_.emplace(*loop, [this, bytes = std::move(bytes), then](base::Fd fd) {
      static_cast<void>(::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
      if (then == Then::kHang) {
        kept_.push_back(std::move(fd));
      }
    });
  }

  void use(std::string_view protocol, const std::string& host = "127.0.0.1",
           const std::string& scheme = "http", const std::string& userinfo = "") {
    const std::string url =
        scheme + "://" + userinfo + host + ":" + std::to_string(collector_->port());
    sender_ = make_sender({*loop, offload_, authority_.file(), "mik/test"},
                          *Endpoint::parse(url, protocol));
  }
  Reply send(std::string_view message = "spans", base::Duration time = 5s) {
    reply_.reset();
    message_ = message;
    sender_->send(message_, base::Clock::now() + time, *this);
    EXPECT_TRUE(until([this] { return reply_.has_value(); }));
    return reply_.value_or(Reply{.kind = Kind::kRefused, .detail = "no reply"});
  }

  // Answers gRPC calls: fields, then `body`, then trailers.
  void answer_grpc(std::string body, std::vector<http::Field> trailers) {
    script.record([this, body = std::move(body), trailers = std::move(trailers)](Recorder& to) {
      for (const http::Field& field : to.exchange->head().fields) {
        fields_ += std::string(field.name) + "=" + std::string(field.value) + ";";
      }
      to.on_end = [&to, body, trailers] {
        constexpr std::array<http::Field, 1> kFields = {
            http::Field{"content-type", "application/grpc"}};
        to.trailers_out = trailers;
        to.exchange->start({.status = 200, .fields = kFields, .content_length = std::nullopt});
        to.give(body);
        to.end();
      };
    });
  }
  // Answers at once and whole.
  void answer(int status, std::vector<http::Field> fields, std::string body) {
    script.answer = [=](http::Exchange& exchange) {
      exchange.respond({.status = status, .fields = fields, .content_length = body.size()}, body);
    };
  }

  net::Offload offload_{*loop, 1, 16};
  http::TestAuthority authority_;
  std::optional<Collector> collector_;
  std::vector<base::Fd> kept_;
  std::unique_ptr<Sender> sender_;
  std::string message_;
  std::optional<Reply> reply_;
  std::string fields_;
};

TEST_F(OtlpSender, GrpcCallsGoOverOneConnection) {
  good();
  answer_grpc(kTaken, {{"grpc-status", "0"}});
  use("grpc");
  const std::string large(300'000, 'x');  // more than windows and buffers
  for (const std::string& message : {"spans"s, large, ""s}) {
    const Reply reply = send(message);
    EXPECT_EQ(reply.kind, Kind::kTaken) << reply.detail;
    EXPECT_EQ(reply.rejected, 0u);
    std::string framed(1, '\0');
    for (int shift = 24; shift >= 0; shift -= 8) {
      framed += static_cast<char>(message.size() >> shift);
    }
    EXPECT_EQ(script.last().body, framed + message);
  }
  EXPECT_EQ(collector_->accepted, 1);
  EXPECT_EQ(script.seen.front(),
            "POST /opentelemetry.proto.collector.trace.v1.TraceService/Export");
  EXPECT_TRUE(http::testing::has(fields_, "content-type=application/grpc;te=trailers;"));
  EXPECT_FALSE(http::testing::has(fields_, "authorization"));
}

TEST_F(OtlpSender, GrpcOverTls) {
  const auto files = authority_.server_files("DNS:localhost,IP:127.0.0.1");
  auto tls = http::ServerTls::load({files.certificate, files.key}, std::string(80, 'k'));
  ASSERT_TRUE(tls.has_value()) << tls.error().to_string();
  good(&*tls);
  answer_grpc(kTaken, {{"grpc-status", "0"}});
  for (const char* host : {"localhost", "127.0.0.1"}) {
    use("grpc", host, "https", "me:pw@");
    const Reply reply = send();
    EXPECT_EQ(reply.kind, Kind::kTaken) << reply.detail;
  }
  EXPECT_TRUE(http::testing::has(fields_, "authorization=Basic bWU6cHc=;"));
}

TEST_F(OtlpSender, GrpcStatusesAreTakenAtTheirWord) {
  good();
  use("grpc");
  struct Case {
    const char* status;
    Kind kind;
  };
  for (const Case& c :
       {Case{"14", Kind::kRetry}, Case{"4", Kind::kRetry}, Case{"8", Kind::kRefused},
        Case{"3", Kind::kRefused}, Case{"16", Kind::kRefused}, Case{"nonsense", Kind::kRefused}}) {
    answer_grpc("", {{"grpc-status", c.status}, {"grpc-message", "because"}});
    const Reply reply = send();
    EXPECT_EQ(reply.kind, c.kind) << c.status;
    EXPECT_TRUE(reply.detail.ends_with(": because")) << reply.detail;
  }
  answer_grpc("", {{"grpc-status", "8"}, {"grpc-retry-pushback-ms", "1500"}});
  EXPECT_EQ(send().kind, Kind::kRetry);
  EXPECT_EQ(reply_->retry_after, 1500ms);
  answer(200, {{"content-type", "application/grpc"}, {"grpc-status", "14"}}, "");
  EXPECT_EQ(send().kind, Kind::kRetry);  // trailers only
  EXPECT_EQ(collector_->accepted, 1);
}

TEST_F(OtlpSender, GrpcPartialSuccessAndAnswersThatAreNone) {
  good();
  use("grpc");
  answer_grpc("\0\0\0\0\x09\x0a\x07\x08\x03\x12\x03why"s, {{"grpc-status", "0"}});
  EXPECT_EQ(send().kind, Kind::kTaken);
  EXPECT_EQ(reply_->rejected, 3u);
  EXPECT_EQ(reply_->detail, "why");
  for (const std::string& body : {"\x01\0\0\0\0"s, "\0\0\0\0\x09"s, "\0\0\0\0\x01\x0b"s, ""s,
                                  std::string(kAnswerBytesMax + 1, 'x')}) {
    answer_grpc(body, {{"grpc-status", "0"}});
    EXPECT_EQ(send().kind, Kind::kRefused);
    EXPECT_EQ(reply_->detail, "the answer is not OTLP");
  }
  answer(503, {{"retry-after", "7"}}, "busy");
  EXPECT_EQ(send().kind, Kind::kRetry);
  EXPECT_EQ(reply_->retry_after, 7s);
  answer(404, {}, "what?");
  EXPECT_EQ(send().kind, Kind::kRefused);
  EXPECT_EQ(reply_->detail, "HTTP status 404");
  answer(200, {}, "a web page");
  EXPECT_EQ(send().kind, Kind::kRefused);
  script.answer = [](http::Exchange& exchange) {
    Recorder* recorder = new Recorder(exchange);
    recorder->on_over = [recorder] { delete recorder; };
    exchange.abort();
  };
  EXPECT_EQ(send().kind, Kind::kRetry);
}

TEST_F(OtlpSender, AConnectionThatEndedIsReplaced) {
  good();
  answer_grpc(kTaken, {{"grpc-status", "0"}});
  use("grpc");
  EXPECT_EQ(send().kind, Kind::kTaken);
  server->close_all();
  settle();
  EXPECT_EQ(send().kind, Kind::kTaken);
  EXPECT_EQ(collector_->accepted, 2);
}

TEST_F(OtlpSender, NobodyGarbageAndSilenceAreForALaterTime) {
  for (const char* protocol : {"grpc", "http/protobuf"}) {
    SCOPED_TRACE(protocol);
    bad("SSH-2.0-OpenSSH_9.2p1\r\n\r\n" + std::string(100, '\0'), Then::kHang);
    use(protocol);
    EXPECT_EQ(send().kind, Kind::kRetry);
    bad("", Then::kClose);
    use(protocol);
    EXPECT_EQ(send().kind, Kind::kRetry);
    bad("", Then::kHang);
    use(protocol);
    EXPECT_EQ(send("spans", 50ms).kind, Kind::kRetry);
    collector_.reset();
    collector_.emplace(*loop, [](base::Fd) {});
    use(protocol);
    collector_.reset();  // the port is nobody's now
    EXPECT_EQ(send().kind, Kind::kRetry);
    EXPECT_TRUE(http::testing::has(reply_->detail, "refused")) << reply_->detail;
  }
}

TEST_F(OtlpSender, CancelledCallsAreNotHeardOfAgain) {
  for (const char* protocol : {"grpc", "http/protobuf"}) {
    good();
    use(protocol);
    script.record();
    reply_.reset();
    script.seen.clear();
    sender_->send("spans", base::Clock::now() + 5s, *this);
    ASSERT_TRUE(until([this] { return !script.seen.empty(); }));
    sender_->cancel();
    settle();
    EXPECT_FALSE(reply_.has_value());
    answer_grpc(kTaken, {{"grpc-status", "0"}});
    sender_.reset();
    server->close_all();
    settle();
  }
}

TEST_F(OtlpSender, HttpAnswersByStatus) {
  good();
  use("http/protobuf", "127.0.0.1", "http", "me:pw@");
  script.record([this](Recorder& to) {
    for (const http::Field& field : to.exchange->head().fields) {
      fields_ += std::string(field.name) + "=" + std::string(field.value) + ";";
    }
    to.on_end = [&to] { to.exchange->respond(http::testing::ok(0), ""); };
  });
  EXPECT_EQ(send("spans").kind, Kind::kTaken);
  EXPECT_EQ(script.last().body, "spans");
  EXPECT_EQ(script.seen.front(), "POST /v1/traces");
  EXPECT_TRUE(http::testing::has(fields_, "content-type=application/x-protobuf;")) << fields_;
  EXPECT_TRUE(http::testing::has(fields_, "authorization=Basic bWU6cHc=;"));

  answer(200, {}, "\x0a\x02\x08\x02"s);
  EXPECT_EQ(send().kind, Kind::kTaken);
  EXPECT_EQ(reply_->rejected, 2u);
  answer(200, {}, "<html>");
  EXPECT_EQ(send().kind, Kind::kRefused);
  for (const int status : {429, 502, 503, 504}) {
    answer(status, {{"retry-after", "3"}}, "");
    EXPECT_EQ(send().kind, Kind::kRetry) << status;
    EXPECT_EQ(reply_->retry_after, 3s);
  }
  for (const int status : {400, 401, 404, 500}) {
    answer(status, {}, "no");
    EXPECT_EQ(send().kind, Kind::kRefused) << status;
  }
  EXPECT_EQ(collector_->accepted, 1);
}

TEST(OtlpRetryAfter, IsANumberOfSecondsOrADate) {
  constexpr std::int64_t kNow = 784'111'777;  // Sun, 06 Nov 1994 08:49:37 GMT
  EXPECT_EQ(parse_retry_after("120", kNow), 120s);
  EXPECT_EQ(parse_retry_after("4294967295", kNow), kRetryAfterMax);
  EXPECT_EQ(parse_retry_after("Sun, 06 Nov 1994 08:50:07 GMT", kNow), 30s);
  EXPECT_EQ(parse_retry_after("Sunday, 06-Nov-94 08:50:07 GMT", kNow), 30s);
  EXPECT_EQ(parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT", kNow), kRetryAfterMax);
  for (const char* text :
       {"", "-1", "1.5", " 1", "4294967296", "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sat, 01 Jan 0000 00:00:00 GMT", "Sun, 06 Nov 1994 08:50:07 CET", "tomorrow"}) {
    EXPECT_EQ(parse_retry_after(text, kNow), base::Duration::zero()) << text;
  }
  EXPECT_EQ(parse_retry_after("Fri, 31 Dec 9999 23:59:59 GMT"), kRetryAfterMax);
}

}  // namespace
}  // namespace mik::otlp
