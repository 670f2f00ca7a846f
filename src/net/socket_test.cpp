#include "net/socket.hpp"

#include <gtest/gtest.h>

namespace mik::net {
namespace {

TEST(SocketAddress, ParsesAndPrints) {
  EXPECT_EQ(parse_socket_address("127.0.0.1:3000").value().to_string(), "127.0.0.1:3000");
  EXPECT_EQ(parse_socket_address("[::1]:80").value().to_string(), "[::1]:80");
  EXPECT_EQ(parse_socket_address("[::1]:80").value().port(), 80);
}

TEST(SocketAddress, RefusesWhatIsNone) {
  for (const char* text : {"", "x", "localhost:3000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000",
                           "127.0.0.1:1x", "::1:80", "[::1]", "[x]:80", "1.2.3:80"}) {
    EXPECT_FALSE(parse_socket_address(text).has_value()) << text;
  }
}

TEST(Listen, SaysWhenThePortIsTaken) {
  const auto any = parse_socket_address("127.0.0.1:0").value();
  const base::Fd first = listen_tcp(any, 16).value();
  const SocketAddress taken = local_address(first.get()).value();
  EXPECT_NE(taken.port(), 0);
  const auto second = listen_tcp(taken, 16);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), base::ErrorCode::kAddressInUse);
}

}  // namespace
}  // namespace mik::net
