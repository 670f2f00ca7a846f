// http_allowed: patterns of runtime.md 15.6 with ports, and what no pattern opens by accident.
// Field cases 24, 25, 26.
#include "http/allow_list.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <cstring>
#include <string>
#include <vector>

namespace mik::http {
namespace {

AllowList list(const std::vector<std::string>& patterns,
               PrivatePolicy policy = PrivatePolicy::kNamed) {
  base::Result<AllowList> compiled = AllowList::compile(patterns, policy);
  EXPECT_TRUE(compiled.has_value()) << compiled.error().to_string();
  return std::move(compiled).value();
}

// As the client asks: with the host of the request and the address that connect(2) would get.
bool reaches(const AllowList& allowed, std::string_view host, const char* address,
             std::uint16_t port = 80) {
  sockaddr_storage storage{};
  if (std::strchr(address, ':') != nullptr) {
    auto& in6 = reinterpret_cast<sockaddr_in6&>(storage);
    in6.sin6_family = AF_INET6;
    EXPECT_EQ(inet_pton(AF_INET6, address, &in6.sin6_addr), 1);
  } else {
    auto& in = reinterpret_cast<sockaddr_in&>(storage);
    in.sin_family = AF_INET;
    EXPECT_EQ(inet_pton(AF_INET, address, &in.sin_addr), 1);
  }
  return allowed.allows_name(host, port) &&
         allowed.allows_address(reinterpret_cast<const sockaddr&>(storage), host, port);
}

constexpr const char* kPublic = "93.184.216.34";

TEST(AllowList, DeniesEverythingWhenEmpty) {
  EXPECT_FALSE(AllowList().allows_name("example.com", 443));
  EXPECT_FALSE(reaches(list({}), "example.com", kPublic));
  EXPECT_TRUE(list({}).empty());
}

TEST(AllowList, MatchesNamesAsTheTableSays) {
  const AllowList exact = list({"api.example.com"});
  EXPECT_TRUE(exact.allows_name("api.example.com", 1));
  EXPECT_TRUE(exact.allows_name("API.Example.COM", 65535));
  EXPECT_TRUE(exact.allows_name("api.example.com.", 80));
  EXPECT_FALSE(exact.allows_name("example.com", 80));
  EXPECT_FALSE(exact.allows_name("x.api.example.com", 80));
  EXPECT_FALSE(exact.allows_name("api.example.com.evil", 80));
  const AllowList below = list({"*.Example.com"});
  EXPECT_TRUE(below.allows_name("example.com", 80));
  EXPECT_TRUE(below.allows_name("a.b.example.com", 80));
  EXPECT_TRUE(below.allows_name("a.example.com.", 80));
  EXPECT_FALSE(below.allows_name("notexample.com", 80));
  EXPECT_FALSE(below.allows_name("example.com.evil", 80));
  EXPECT_FALSE(below.allows_name(".example.com", 80));
  const AllowList any = list({"*"});
  EXPECT_TRUE(any.allows_name("anything", 80));
  EXPECT_FALSE(any.allows_name("", 80));
  EXPECT_FALSE(any.allows_name("a b", 80));
  EXPECT_FALSE(any.allows_name("a%2eb", 80));
  EXPECT_TRUE(list({"*.com."}).allows_name("a.com", 80));
}

// Field case 26.
TEST(AllowList, HonoursPorts) {
  const AllowList allowed = list({"localhost:3001", "*.example.com:8443", "[::1]:9000"});
  EXPECT_TRUE(reaches(allowed, "localhost", "127.0.0.1", 3001));
  EXPECT_FALSE(reaches(allowed, "localhost", "127.0.0.1", 3002));
  EXPECT_TRUE(reaches(allowed, "a.example.com", kPublic, 8443));
  EXPECT_FALSE(reaches(allowed, "a.example.com", kPublic, 443));
  EXPECT_TRUE(reaches(allowed, "[::1]", "::1", 9000));
  EXPECT_FALSE(reaches(allowed, "[::1]", "::1", 9001));
  const AllowList any = list({"*:443"});
  EXPECT_TRUE(reaches(any, "a", kPublic, 443));
  EXPECT_FALSE(reaches(any, "a", kPublic, 80));
}

// Field case 26.
TEST(AllowList, RefusesPatternsThatCanNeverMatch) {
  struct Case {
    std::string pattern;
    std::string_view said;  // in the message or the help
  };
  const std::vector<Case> cases = {
      {"", "http_allowed = []"},
      {"https://api.example.com", "write \"api.example.com\""},
      {"https://api.example.com:8443/v1", "write \"api.example.com:8443\""},
      {"http://u:p@h", "write \"h\""},
      {"api.example.com/v1", "write \"api.example.com\""},
      {"10.0.0.0/8", "accepted are"},
      {"api.*.com", "a wildcard stands alone"},
      {"*foo", "a wildcard stands alone"},
      {"*foo.com", "a wildcard stands alone"},
      {"foo.*", "a wildcard stands alone"},
      {"**", "a wildcard stands alone"},
      {"*.*.com", "a wildcard stands alone"},
      {"*.", "neither a name"},
      {"*.[::1]", "1 to 65535"},
      {"*.127.0.0.1", "no names below"},
      {"*.0.0.1", "no names below"},
      {"*.1", "no names below"},
      {".example.com", "neither a name"},
      {"a..b", "neither a name"},
      {" a", "spaces"},
      {"a ", "spaces"},
      {"b\xc3\xbc"
       "cher.example",
       "xn--"},
      {"a:", "1 to 65535"},
      {"a:0", "1 to 65535"},
      {"a:65536", "1 to 65535"},
      {"a:http", "1 to 65535"},
      {"a:*", "1 to 65535"},
      {":80", "neither a name"},
      {"::1", "write \"[::1]\""},
      {"fe80::1%lo", "1 to 65535"},
      {"[fe80::1%25lo]", "without a zone"},
      {"[::1", "IPv6 address in brackets"},
      {"[127.0.0.1]", "IPv6 address in brackets"},
      {"[]", "IPv6 address in brackets"},
      {"[::1]x", "IPv6 address in brackets"},
      {"2130706433", "write \"127.0.0.1\""},
      {"0x7f.1", "write \"127.0.0.1\""},
      {"a,b", "neither a name"},
      {"a%20b", "neither a name"},
  };
  for (const Case& c : cases) {
    const base::Result<AllowList> compiled =
        AllowList::compile(std::vector<std::string>{"ok.example.com", c.pattern});
    ASSERT_FALSE(compiled.has_value()) << c.pattern;
    EXPECT_EQ(compiled.error().code(), base::ErrorCode::kConfig);
    const std::string said = compiled.error().message() + "\n" + compiled.error().help();
    EXPECT_NE(said.find(c.said), std::string::npos) << c.pattern << ": " << said;
  }
  EXPECT_TRUE(AllowList::compile(std::vector<std::string>{"10.0.0.1"}).has_value());
  EXPECT_FALSE(
      AllowList::compile(std::vector<std::string>{"10.0.0.1"}, PrivatePolicy::kDeny).has_value());
}

// Field case 24.
TEST(AllowList, ComparesIpv6LiteralsAsAddresses) {
  const AllowList allowed = list({"[::1]"});
  EXPECT_TRUE(reaches(allowed, "[::1]", "::1"));
  EXPECT_TRUE(reaches(allowed, "::1", "::1"));
  EXPECT_TRUE(reaches(allowed, "[0:0:0:0:0:0:0:1]", "::1"));
  EXPECT_FALSE(reaches(allowed, "[::2]", "::2"));
  EXPECT_FALSE(reaches(allowed, "localhost", "::1"));
  EXPECT_FALSE(allowed.allows_name("[::1%25lo]", 80));
  EXPECT_TRUE(reaches(list({"127.0.0.1"}), "[::ffff:7f00:1]", "::ffff:7f00:1"));
  EXPECT_TRUE(reaches(list({"[::FFFF:127.0.0.1]"}), "127.0.0.1", "127.0.0.1"));
}

// Field case 25.
TEST(AllowList, RefusesTheMetadataAddressInEverySpelling) {
  const AllowList any = list({"*"});
  for (const std::string_view host :
       {"169.254.169.254", "169.254.169.254.", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376",
        "169.254.43518", "[::ffff:a9fe:a9fe]", "[::169.254.169.254]", "[64:ff9b::a9fe:a9fe]",
        "[fd00:ec2::254]", "[2002:a9fe:a9fe::]"}) {
    EXPECT_FALSE(any.allows_name(host, 80)) << host;  // without any look-up
  }
  for (const char* address : {"169.254.169.254", "::ffff:a9fe:a9fe", "::169.254.169.254",
                              "64:ff9b::a9fe:a9fe", "fd00:ec2::254"}) {
    for (const std::string_view host : {"rebound.example.com", "rebound.example.com."}) {
      EXPECT_TRUE(any.allows_name(host, 80));
      EXPECT_FALSE(reaches(any, host, address)) << host << ' ' << address;
      EXPECT_FALSE(reaches(list({"*.example.com"}), host, address)) << host << ' ' << address;
    }
  }
  EXPECT_FALSE(reaches(list({"*"}, PrivatePolicy::kAllow), "x", "169.254.169.254"));
  EXPECT_TRUE(reaches(list({"169.254.169.254"}), "169.254.169.254", "169.254.169.254"));
  EXPECT_TRUE(reaches(list({"169.254.169.254"}), "2852039166", "169.254.169.254"));
  EXPECT_TRUE(
      reaches(list({"metadata.google.internal"}), "metadata.google.internal", "169.254.169.254"));
}

TEST(AllowList, OpensLoopbackAndLinkLocalOnlyToWhoeverIsNamed) {
  for (const char* address : {"127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "::", "169.254.1.1",
                              "fe80::1", "224.0.0.1", "ff02::1", "255.255.255.255"}) {
    EXPECT_FALSE(reaches(list({"*"}), "svc.example.com", address)) << address;
    EXPECT_FALSE(reaches(list({"*.example.com"}), "svc.example.com", address)) << address;
    EXPECT_FALSE(reaches(list({"*.example.com"}), "example.com", address)) << address;
    EXPECT_TRUE(reaches(list({"svc.example.com"}), "svc.example.com", address)) << address;
    EXPECT_TRUE(reaches(list({"*", "svc.example.com"}), "svc.example.com", address)) << address;
  }
  EXPECT_FALSE(reaches(list({"*"}), "127.0.0.1", "127.0.0.1"));
  EXPECT_FALSE(reaches(list({"*"}), "localhost", "127.0.0.1"));
  EXPECT_TRUE(reaches(list({"localhost"}), "localhost", "::1"));
  EXPECT_TRUE(reaches(list({"127.0.0.1:9001"}), "127.0.0.1", "127.0.0.1", 9001));
  EXPECT_FALSE(reaches(list({"127.0.0.1:9001"}), "127.0.0.1", "127.0.0.1", 9002));
  EXPECT_FALSE(reaches(list({"127.0.0.1"}), "127.0.0.2", "127.0.0.2"));
}

TEST(AllowList, AnAddressNamedExactlyIsOpenUnderWhateverNameAnotherPatternAllows) {
  const AllowList allowed = list({"*", "127.0.0.1:9001"});
  EXPECT_TRUE(reaches(allowed, "localhost", "127.0.0.1", 9001));
  EXPECT_FALSE(reaches(allowed, "localhost", "127.0.0.1", 9002));
  EXPECT_FALSE(reaches(allowed, "localhost", "::1", 9001));
  EXPECT_FALSE(reaches(list({"127.0.0.1"}), "localhost", "127.0.0.1"));
}

TEST(AllowList, OpensPrivateRangesByPolicy) {
  for (const char* address : {"10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "fc00::1",
                              "::ffff:10.0.0.1", "64:ff9b::a00:1"}) {
    const std::string_view host = "svc.internal.example.com";
    const std::string below = "*.internal.example.com";
    EXPECT_FALSE(reaches(list({"*"}), host, address)) << address;
    EXPECT_TRUE(reaches(list({below}), host, address)) << address;
    EXPECT_TRUE(reaches(list({"*", below}), host, address)) << address;
    EXPECT_TRUE(reaches(list({std::string(host)}), host, address)) << address;
    EXPECT_TRUE(reaches(list({"*"}, PrivatePolicy::kAllow), host, address)) << address;
    EXPECT_FALSE(reaches(list({"*"}, PrivatePolicy::kDeny), host, address)) << address;
    EXPECT_FALSE(reaches(list({below}, PrivatePolicy::kDeny), host, address)) << address;
    EXPECT_FALSE(reaches(list({std::string(host)}, PrivatePolicy::kDeny), host, address))
        << address;
  }
  EXPECT_FALSE(reaches(list({"*"}), "10.0.0.1", "10.0.0.1"));
  EXPECT_TRUE(reaches(list({"10.0.0.1"}), "10.0.0.1", "10.0.0.1"));
  EXPECT_TRUE(reaches(list({"localhost"}, PrivatePolicy::kDeny), "localhost", "127.0.0.1"));
}

TEST(AllowList, ALiteralLeadsOnlyToItself) {
  EXPECT_TRUE(reaches(list({"*"}), "93.184.216.34", kPublic));
  EXPECT_FALSE(reaches(list({"*"}), "93.184.216.35", kPublic));
  EXPECT_FALSE(reaches(list({"*", "10.0.0.1"}), "93.184.216.34", "10.0.0.1"));
}

TEST(AllowList, RefusesAddressesThatAreNotIp) {
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  EXPECT_FALSE(list({"*"}).allows_address(reinterpret_cast<const sockaddr&>(un), "a", 80));
}

}  // namespace
}  // namespace mik::http
