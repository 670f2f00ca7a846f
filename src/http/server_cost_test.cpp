// What a request and an idle connection cost: allocations, bytes. Replaces operator new of this
// test binary.
#include <cstdlib>
#include <new>

#include "http/h1_connection.hpp"
#include "http/server_rig.hpp"

namespace {

std::size_t allocations = 0;

}  // namespace

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

}  // namespace
}  // namespace mik::http::testing
