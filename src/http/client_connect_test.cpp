// From a name to a connection: the allow-list, lookups, Happy Eyeballs.
#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <iterator>
#include <mutex>

#include "http/client_connector.hpp"
#include "http/client_test_support.hpp"
#include "net/socket.hpp"

namespace mik::http {
namespace {

using std::chrono::milliseconds;

constexpr std::string_view kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

class ClientConnectTest : public ClientTest {
 protected:
  ClientConnectTest() {
    options_.resolver.lookup_blocking = [this](const std::string& host) {
      ++lookups_;
      const std::scoped_lock lock(mutex_);
      Resolved resolved;
      if (host == "svc.test" || host == "svc.test.") {
        for (const std::string& address : addresses_) {
          resolved.addresses.push_back(address_literal(address));
        }
      }
      if (resolved.addresses.empty()) {
        resolved.problem = "no such host: " + host;
      }
      return resolved;
    };
    allow_ = {"svc.test"};
  }
  ~ClientConnectTest() override { client_.reset(); }

  ClientError outcome(const std::string& authority) {
    TestHandler handler;
    get(authority, handler);
    EXPECT_FALSE(handler.over());  // never inside start
    EXPECT_TRUE(turn_until([&] { return handler.over(); }));
    return handler.error.value_or(ClientError::kNone);
  }
  std::string svc(std::uint16_t port) { return "svc.test:" + std::to_string(port); }

  std::mutex mutex_;
  std::vector<std::string> addresses_ = {"127.0.0.1"};
  std::atomic<int> lookups_ = 0;
};

TEST_F(ClientConnectTest, NamesAreLookedUpOnceForManyRequests) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](auto& peer) {
    answer_each(peer, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
  });
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(outcome(svc(upstream.port())), ClientError::kNone);
  }
  EXPECT_EQ(upstream.peers.size(), 5U);
  EXPECT_EQ(lookups_, 1);
  EXPECT_EQ(client().counters().lookups, 1U);
}

TEST_F(ClientConnectTest, LiteralsAreNeverLookedUp) {
  allow_ = {"127.0.0.1"};
  TestUpstream upstream(*loop_, "127.0.0.1", [](auto& peer) { answer_each(peer, kOk); });
  const std::string port = std::to_string(upstream.port());
  for (const std::string host : {"127.0.0.1:", "2130706433:", "0x7f.1:", "[::ffff:127.0.0.1]:"}) {
    EXPECT_EQ(outcome(host + port), ClientError::kNone) << host;
  }
  EXPECT_EQ(lookups_, 0);
  EXPECT_EQ(upstream.peers.size(), 1U);  // they are one host
}

TEST_F(ClientConnectTest, UnknownNameIsADnsErrorAndKept) {
  allow_ = {"*"};
  EXPECT_EQ(outcome("unknown.test"), ClientError::kDnsError);
  EXPECT_EQ(outcome("unknown.test"), ClientError::kDnsError);
  EXPECT_EQ(lookups_, 1);
}

TEST_F(ClientConnectTest, RefusalsAreKnownBeforeAnythingIsAsked) {
  EXPECT_EQ(client().check({.scheme = "http", .authority = "svc.test"}), ClientError::kNone);
  EXPECT_EQ(client().check({.scheme = "http", .authority = "other.test"}),
            ClientError::kRequestDenied);
  EXPECT_EQ(client().check({.scheme = "gopher", .authority = "svc.test"}),
            ClientError::kProtocolError);
  EXPECT_EQ(client().check({.scheme = "http", .authority = ""}), ClientError::kRequestUriInvalid);
  EXPECT_EQ(client().check({.scheme = "http", .authority = "svc.test", .path_query = "/a b"}),
            ClientError::kRequestUriInvalid);
  EXPECT_EQ(outcome("other.test"), ClientError::kRequestDenied);
  EXPECT_EQ(outcome(""), ClientError::kRequestUriInvalid);
  EXPECT_EQ(lookups_, 0);
}

// Whoever is allowed less gains nothing from a connection that another keeps.
TEST_F(ClientConnectTest, EachPartitionHasItsListAndItsConnections) {
  allow_ = {};
  TestUpstream upstream(*loop_, "127.0.0.1", [](auto& peer) { answer_each(peer, kOk); });
  const std::vector<std::string> named = {"svc.test"};
  const std::vector<std::string> wild = {"*"};
  const AllowList may = *AllowList::compile(named);
  const AllowList may_not = *AllowList::compile(wild);
  const std::string authority = svc(upstream.port());
  const auto outcome_of = [&](const AllowList* list, std::uint64_t partition) {
    TestHandler handler;
    ClientRequest request{.scheme = "http", .authority = authority, .path_query = "/"};
    request.allowed = list;
    request.partition = partition;
    EXPECT_EQ(client().check(request),
              request.allowed == nullptr ? ClientError::kRequestDenied : ClientError::kNone);
    client().start(request, handler);
    EXPECT_TRUE(turn_until([&] { return handler.over(); }));
    return handler.error.value_or(ClientError::kNone);
  };
  EXPECT_EQ(outcome_of(&may, 1), ClientError::kNone);
  EXPECT_EQ(client().counters().idle, 1U);
  EXPECT_EQ(outcome_of(&may_not, 2), ClientError::kRequestDenied);  // the name, but not loopback
  EXPECT_EQ(outcome_of(nullptr, 0), ClientError::kRequestDenied);
  EXPECT_EQ(outcome_of(&may, 3), ClientError::kNone);
  EXPECT_EQ(upstream.peers.size(), 2U);
  EXPECT_EQ(outcome_of(&may, 1), ClientError::kNone);
  EXPECT_EQ(outcome_of(&may, 3), ClientError::kNone);
  EXPECT_EQ(upstream.peers.size(), 2U);
}

// Field case 25: the address decides, however it is written and whatever name leads to it.
TEST_F(ClientConnectTest, ProhibitedAddressesAreNotConnectedTo) {
  allow_ = {"*"};
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  const std::string port = ":" + std::to_string(upstream.port());
  for (const std::string host :
       {"127.0.0.1", "2130706433", "0x7F000001", "017700000001", "127.1", "[::ffff:7f00:1]",
        "[::127.0.0.1]", "svc.test", "svc.test.", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376",
        "169.254.43518", "[::ffff:a9fe:a9fe]", "[::169.254.169.254]"}) {
    EXPECT_EQ(outcome(host + port), ClientError::kRequestDenied) << host;
  }
  turn_some();
  EXPECT_TRUE(upstream.peers.empty());
}

// A name that led to a good address yesterday: what counts is where the connection would go now.
TEST_F(ClientConnectTest, RebindingGainsNothing) {
  allow_ = {"*"};
  options_.resolver.keep = base::Duration::zero();
  TestUpstream upstream(*loop_, "127.0.0.1", nullptr);
  EXPECT_EQ(client().check({.scheme = "http", .authority = "svc.test"}), ClientError::kNone);
  EXPECT_EQ(outcome(svc(upstream.port())), ClientError::kRequestDenied);
  {
    const std::scoped_lock lock(mutex_);
    addresses_ = {"169.254.169.254", "127.0.0.1"};
  }
  EXPECT_EQ(outcome(svc(upstream.port())), ClientError::kRequestDenied);
  turn_some();
  EXPECT_TRUE(upstream.peers.empty());
}

TEST_F(ClientConnectTest, RefusedIsToldAsSuch) {
  std::uint16_t port = 0;
  {
    TestUpstream gone(*loop_, "127.0.0.1", nullptr);
    port = gone.port();
  }
  EXPECT_EQ(outcome(svc(port)), ClientError::kConnectionRefused);
}

// Field case 28: nothing listens at the first address.
TEST_F(ClientConnectTest, NextAddressIsTriedWhenOneRefuses) {
  addresses_ = {"::1", "127.0.0.1"};
  TestUpstream upstream(*loop_, "127.0.0.1", [](auto& peer) { answer_each(peer, kOk); });
  EXPECT_EQ(outcome(svc(upstream.port())), ClientError::kNone);
}

// And the first address is silent: RFC 8305 does not wait for it.
TEST_F(ClientConnectTest, NextAddressIsTriedWhileOneIsSilent) {
  addresses_ = {"127.0.0.2", "127.0.0.1"};
  options_.attempt_stagger = milliseconds(50);
  TestUpstream upstream(*loop_, "127.0.0.1", [](auto& peer) { answer_each(peer, kOk); });
  auto address = *net::parse_socket_address("127.0.0.2:" + std::to_string(upstream.port()));
  const base::Fd hole = std::move(*net::listen_tcp(address, 0));
  std::array<base::Fd, 4> fillers;
  for (base::Fd& filler : fillers) {
    filler = base::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    ::connect(filler.get(), address.get(), address.length);
  }
  const base::Time begun = base::Clock::now();
  EXPECT_EQ(outcome(svc(upstream.port())), ClientError::kNone);
  EXPECT_GE(base::Clock::now() - begun, milliseconds(50));
  EXPECT_EQ(client().counters().opened, 1U);
}

// Who writes the name's records must not decide how many descriptors this process has left.
TEST_F(ClientConnectTest, SilentAddressesDoNotPileUpSockets) {
  addresses_.assign(60, "127.0.0.2");
  addresses_.emplace_back("127.0.0.1");
  options_.attempt_stagger = milliseconds(1);
  TestUpstream upstream(*loop_, "127.0.0.1", [](auto& peer) { answer_each(peer, kOk); });
  auto address = *net::parse_socket_address("127.0.0.2:" + std::to_string(upstream.port()));
  const base::Fd hole = std::move(*net::listen_tcp(address, 0));
  std::array<base::Fd, 4> fillers;
  for (base::Fd& filler : fillers) {
    filler = base::Fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    ::connect(filler.get(), address.get(), address.length);
  }
  const auto open_files = [] {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return std::distance(begin(all), end(all));
  };
  static_cast<void>(client());
  const auto before = open_files();
  auto most = before;
  TestHandler handler;
  get(svc(upstream.port()), handler);
  ASSERT_TRUE(turn_until([&] {
    most = std::max(most, open_files());
    return handler.over();
  }));
  EXPECT_EQ(handler.error.value_or(ClientError::kNone), ClientError::kNone) << handler.detail;
  EXPECT_LT(most - before, 30);
}

TEST_F(ClientConnectTest, OneProhibitedAddressDoesNotSpoilTheOthers) {
  addresses_ = {"169.254.169.254", "127.0.0.1"};
  allow_ = {"svc.test"};
  TestUpstream upstream(*loop_, "127.0.0.1", [](auto& peer) { answer_each(peer, kOk); });
  EXPECT_EQ(outcome(svc(upstream.port())), ClientError::kNone);
}

TEST(InterleaveFamilies, TakesThemInTurn) {
  std::vector<net::SocketAddress> addresses;
  for (const char* text : {"::1", "::2", "::3", "127.0.0.1", "127.0.0.2"}) {
    addresses.push_back(address_literal(text));
  }
  std::string order;
  for (const net::SocketAddress& address : interleave_families(addresses)) {
    order += address.host() + " ";
  }
  EXPECT_EQ(order, "::1 127.0.0.1 ::2 127.0.0.2 ::3 ");
}

class SlowLookupTest : public ClientConnectTest {
 protected:
  SlowLookupTest() {
    options_.resolver.lookup_blocking = [this](const std::string&) {
      std::unique_lock lock(gate_);
      opened_.wait(lock, [this] { return open_; });
      return Resolved{.addresses = {address_literal("127.0.0.1")}, .problem = {}};
    };
  }
  ~SlowLookupTest() override { open_gate(); }
  void open_gate() {
    const std::scoped_lock lock(gate_);
    open_ = true;
    opened_.notify_all();
  }
  std::mutex gate_;
  std::condition_variable opened_;
  bool open_ = false;
};

TEST_F(SlowLookupTest, IsADnsTimeoutAndItsAnswerIsStillKept) {
  TestUpstream upstream(*loop_, "127.0.0.1", [](auto& peer) { answer_each(peer, kOk); });
  TestHandler handler;
  const std::string authority = svc(upstream.port());
  client().start({.scheme = "http", .authority = authority, .connect_timeout = milliseconds(50)},
                 handler);
  ASSERT_TRUE(turn_until([&] { return handler.over(); }));
  EXPECT_EQ(handler.error, ClientError::kDnsTimeout);
  open_gate();
  EXPECT_EQ(outcome(authority), ClientError::kNone);
  EXPECT_EQ(client().counters().lookups, 1U);
}

TEST_F(SlowLookupTest, CancelledWhileItRuns) {
  TestHandler handler;
  ClientExchange* exchange = get("svc.test", handler);
  turn_some();
  exchange->cancel();
  open_gate();
  turn_some(20);
  EXPECT_FALSE(handler.over());
  EXPECT_EQ(client().counters().connections, 0U);
}

TEST_F(SlowLookupTest, ClientGoesAwayWhileItRuns) {
  TestHandler handler;
  get("svc.test", handler);
  turn_some();
  client_.reset();
  EXPECT_EQ(handler.error, ClientError::kConnectionTerminated);
  open_gate();
  turn_some(20);
}

}  // namespace
}  // namespace mik::http
