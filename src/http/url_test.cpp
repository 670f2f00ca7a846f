// Authorities and URLs: what is split, what is refused.
#include "http/url.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mik::http {
namespace {

TEST(Url, SplitsAuthorities) {
  struct Case {
    std::string_view text;
    std::string_view host;
    Authority::Kind kind;
    int port;  // -1: none
  };
  const std::vector<Case> cases = {
      {"example.com", "example.com", Authority::Kind::kName, -1},
      {"Example.COM:8080", "Example.COM", Authority::Kind::kName, 8080},
      {"a:", "a", Authority::Kind::kName, -1},
      {"a:0", "a", Authority::Kind::kName, 0},
      {"a:00080", "a", Authority::Kind::kName, 80},
      {"a:65535", "a", Authority::Kind::kName, 65535},
      {"127.0.0.1:1", "127.0.0.1", Authority::Kind::kName, 1},
      {"a_b-c.d~!$&'()*+,;=e", "a_b-c.d~!$&'()*+,;=e", Authority::Kind::kName, -1},
      {"a%20b", "a%20b", Authority::Kind::kName, -1},
      {"[::1]", "::1", Authority::Kind::kIpv6, -1},
      {"[::ffff:1.2.3.4]:443", "::ffff:1.2.3.4", Authority::Kind::kIpv6, 443},
  };
  for (const Case& c : cases) {
    const std::optional<Authority> authority = split_authority(c.text);
    ASSERT_TRUE(authority.has_value()) << c.text;
    EXPECT_EQ(authority->host, c.host);
    EXPECT_EQ(authority->kind, c.kind) << c.text;
    EXPECT_EQ(authority->port.has_value() ? *authority->port : -1, c.port) << c.text;
  }
}

TEST(Url, RefusesWhatIsNoAuthority) {
  const std::vector<std::string> texts = {
      "",
      ":80",
      "a:65536",
      "a:-1",
      "a:1a",
      "a:80:80",
      "a b",
      "a/b",
      "a?b",
      "a#b",
      "u@a",
      "u:p@a",
      "a\\b",
      "a\"",
      "a%2",
      "a%zz",
      "%",
      "\xc3\xbc",
      "a\r\n",
      "::1",
      "[::1",
      "::1]",
      "[::1]x",
      "[::1]:x",
      "[]",
      "[1.2.3.4]",
      "[::1%25lo]",
      "[::1%lo]",
      "[v1.x]",
      "[g::]",
      "[1:2:3:4:5:6:7:8:9]",
      "[::1.]",
      "a:18446744073709551696",
      std::string("a\0b", 3),
      std::string("[::1\0]", 6),
  };
  for (const std::string& text : texts) {
    EXPECT_FALSE(split_authority(text).has_value()) << text;
  }
}

TEST(Url, KnowsNamesThatDnsCanKnow) {
  EXPECT_TRUE(is_dns_name("a"));
  EXPECT_TRUE(is_dns_name("a-b_c.D9."));
  EXPECT_TRUE(is_dns_name(std::string(63, 'a')));
  EXPECT_FALSE(is_dns_name(std::string(64, 'a')));
  EXPECT_FALSE(is_dns_name(""));
  EXPECT_FALSE(is_dns_name("."));
  EXPECT_FALSE(is_dns_name("a..b"));
  EXPECT_FALSE(is_dns_name("a.."));
  EXPECT_FALSE(is_dns_name(".a"));
  EXPECT_FALSE(is_dns_name("a b"));
  EXPECT_FALSE(is_dns_name("a%20"));
  EXPECT_FALSE(is_dns_name("\xc3\xbc"));
  std::string longest;
  for (int i = 0; i < 126; ++i) {
    longest += "a.";
  }
  EXPECT_TRUE(is_dns_name(longest + "a"));    // 253
  EXPECT_TRUE(is_dns_name(longest + "a."));   // and its dot
  EXPECT_FALSE(is_dns_name(longest + "ab"));  // 254
}

TEST(Url, ParsesUrls) {
  const base::Result<Url> plain = parse_url("http://Example.com.:8080/a//b?c=%2F?d");
  ASSERT_TRUE(plain.has_value());
  EXPECT_EQ(*plain, (Url{.secure = false,
                         .host = "example.com",
                         .kind = Authority::Kind::kName,
                         .port = 8080,
                         .authority = "Example.com.:8080",
                         .path_query = "/a//b?c=%2F?d"}));
  const base::Result<Url> secure = parse_url("HTTPS://[2001:DB8::1]?x");
  ASSERT_TRUE(secure.has_value());
  EXPECT_EQ(*secure, (Url{.secure = true,
                          .host = "2001:db8::1",
                          .kind = Authority::Kind::kIpv6,
                          .port = 443,
                          .authority = "[2001:DB8::1]",
                          .path_query = "/?x"}));
  EXPECT_EQ(parse_url("http://a").value().path_query, "/");
  EXPECT_EQ(parse_url("http://a").value().port, 80);
}

TEST(Url, RefusesUrlsWithASentence) {
  const std::vector<std::string> texts = {
      "",
      "a",
      "/a",
      "//a/b",
      "ftp://a/",
      "http:/a",
      "http://",
      "http:///a",
      "http://a:0/",
      "http://u@a/",
      "http://a#b",
      "http://a/ b",
      "http://a\n",
      "http://\xc3\xbc/",
      "http://a/\xc3\xbc",
      "http://a%20b/",
      "http://a,b/",
      "http://[::1",
      "http://[fe80::1%25lo]/",
      "http://a..b/",
  };
  for (const std::string& text : texts) {
    const base::Result<Url> url = parse_url(text);
    ASSERT_FALSE(url.has_value()) << text;
    EXPECT_EQ(url.error().code(), base::ErrorCode::kUsage);
    for (const char c : url.error().message()) {
      EXPECT_TRUE(c >= 0x20 && c < 0x7f) << text;
    }
  }
}

}  // namespace
}  // namespace mik::http
