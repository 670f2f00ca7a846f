// What a request and an idle connection cost: allocations, bytes. Replaces operator new of this
// test binary.
#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <new>

#include "http/h1_connection.hpp"
#include "http/h2_client.hpp"
#include "http/server_tls.hpp"
#include "http/test_authority.hpp"
#include "http/tls_end.hpp"

namespace {

std::size_t allocations = 0;

}  // namespace

#if !defined(__has_feature)
#define __has_feature(feature) 0
#endif
#if !__has_feature(thread_sanitizer)  // which brings its own: nothing is counted there
// NOLINTBEGIN(misc-definitions-in-headers,cppcoreguidelines-no-malloc): counting is the purpose.
void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) {
    return memory;
  }
  std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
// NOLINTEND(misc-definitions-in-headers,cppcoreguidelines-no-malloc)
#endif

namespace mik::http::testing {
namespace {

constexpr std::string_view kGet =
    "GET /some/path?with=query HTTP/1.1\r\nHost: example.com\r\nAccept: */*\r\nUser-Agent: "
    "test\r\n\r\n";

class ServerCost : public ServerTest {
 protected:
  // One request and its answer without std::string at this end.
  void round(Client& client) {
    ASSERT_EQ(client.send(kGet), kGet.size());
    std::array<char, 1024> buffer;
    for (int turn = 0; turn < 1000; ++turn) {
      loop->run_once(std::chrono::milliseconds(1));
      if (::recv(client.fd(), buffer.data(), buffer.size(), MSG_DONTWAIT) > 0) {
        return;
      }
    }
    FAIL() << "no answer";
  }
  void count_rounds() {
    auto client = connect();
    for (int i = 0; i < 100; ++i) {
      round(*client);
    }
    const std::size_t before = allocations;
    for (int i = 0; i < 1000; ++i) {
      round(*client);
    }
    EXPECT_EQ(allocations - before, 0u);
  }
};

// Answers "hello" from a handler, with nothing of its own on the heap.
class Fixed final : public Service, public ExchangeHandler {
 public:
  void on_request(Exchange& exchange) override {
    given_ = false;
    exchange.attach(*this);
    exchange.start({.status = 200, .fields = fields_, .content_length = std::nullopt});
    exchange.pump();
  }
  void describe_failure(int, std::string_view, std::string&, std::string&) override {}
  Flow on_body(std::string_view) override { return Flow::kGoOn; }
  void on_body_end(std::span<const Field>) override {}
  void on_body_error(BodyError) override {}
  std::size_t peek(std::span<iovec> pieces) override {
    if (given_) {
      return 0;
    }
    pieces[0] = {.iov_base = text_.data(), .iov_len = text_.size()};
    return 1;
  }
  void consume(std::size_t) override { given_ = true; }
  SourceState source_state() override { return SourceState::kEnd; }
  std::span<const Field> trailers() override { return {}; }
  void on_closed(const Closed& closed) override { EXPECT_EQ(closed.outcome, Outcome::kComplete); }

 private:
  std::array<Field, 1> fields_{{{"content-type", "text/plain; charset=utf-8"}}};
  std::string text_ = "hello";
  bool given_ = false;
};

TEST_F(ServerCost, ARequestAnsweredAtOnceAllocatesNothing) {
  script.answer = nullptr;
  // Script itself writes down what it saw, so the plain service is used here.
  class Plain final : public Service {
   public:
    void on_request(Exchange& exchange) override { exchange.respond(ok(), "hello"); }
    void describe_failure(int, std::string_view, std::string&, std::string&) override {}
  } plain;
  server = std::make_unique<Server>(*loop, plain, Limits{}, counter);
  count_rounds();
  server.reset();
}

TEST_F(ServerCost, AStreamedAnswerAllocatesNothing) {
  Fixed fixed;
  server = std::make_unique<Server>(*loop, fixed, Limits{}, counter);
  count_rounds();
  server.reset();
}

TEST_F(ServerCost, AnIdleConnectionIsSmall) { EXPECT_LE(sizeof(H1Connection), 640u); }

// What the server holds of memory for a connection that had its request and is idle: the
// difference between what many and what few of them give back.
class IdleCost : public ServerCost {
 protected:
  enum class Kind { kPlain, kTls, kHttp2 };

  std::size_t per_connection(Kind kind) {
    constexpr std::size_t kFew = 8;
    constexpr std::size_t kMany = 72;
    return (given_back(kind, kMany) - given_back(kind, kFew)) / (kMany - kFew);
  }

 private:
  static std::size_t held() {
    const struct mallinfo2 info = ::mallinfo2();
    return info.uordblks + info.hblkhd;
  }
  std::size_t given_back(Kind kind, std::size_t count) {
    std::vector<std::unique_ptr<Client>> clients;
    std::vector<std::unique_ptr<H2Client>> h2_clients;
    server = std::make_unique<Server>(*loop, fixed_, Limits{}, counter);
    for (std::size_t i = 0; i < count; ++i) {
      Ends ends = tcp();
      server->adopt(std::move(ends.server), kind == Kind::kTls ? &tls_ : nullptr);
      auto client = kind == Kind::kTls
                        ? std::make_unique<TlsEnd>(ends.client.release(), TlsEnd::Options{})
                        : std::make_unique<Client>(ends.client.release());
      if (kind == Kind::kHttp2) {
        H2Client& h2 = *h2_clients.emplace_back(std::make_unique<H2Client>(std::move(client)));
        const std::int32_t id = h2.ask(H2Client::get());
        EXPECT_TRUE(until([&] {
          h2.turn();
          return h2.streams[id].closed;
        }));
      } else {
        ask(*client, kGet, "hello");
        clients.push_back(std::move(client));
      }
    }
    settle();
    EXPECT_EQ(counter.now, count);
    const std::size_t before = held();
    server.reset();
    loop->run_once({});
    return before - held();
  }

  Fixed fixed_;
  TestAuthority authority_;
  TestAuthority::Files files_ = authority_.server_files("DNS:localhost");
  ServerTls tls_ = std::move(*ServerTls::load({files_.certificate, files_.key}, {}));
};

TEST_F(IdleCost, AnIdleConnectionHoldsNoBuffer) {
  if (::mallinfo2().uordblks == 0) {
    GTEST_SKIP() << "this allocator does not count";
  }
  per_connection(Kind::kPlain);  // what only grows has grown
  const std::size_t plain = per_connection(Kind::kPlain);
  const std::size_t tls = per_connection(Kind::kTls);
  const std::size_t http2 = per_connection(Kind::kHttp2);
  std::printf("idle: %zu bytes, under TLS %zu, HTTP/2 %zu\n", plain, tls, http2);
  EXPECT_GT(plain, sizeof(H1Connection) / 2);  // it was counted at all
  EXPECT_LE(plain, 1024u);
  // OpenSSL's state is 14 KiB, nghttp2's 26 KiB (one frame of 16 KiB); neither can be had for less.
  EXPECT_LE(tls, 20 * 1024u);
  EXPECT_LE(http2, 32 * 1024u);
}

}  // namespace
}  // namespace mik::http::testing
