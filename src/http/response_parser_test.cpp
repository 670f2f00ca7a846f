// Response heads: framing by RFC 9112 section 6.3, what is forgiven and what is not.
#include "http/response_parser.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace mik::http {
namespace {

struct Parsed {
  ParseResult result;
  ResponseStatus response;
};

Parsed parse(std::string_view bytes, std::string_view method = "GET", const Limits& limits = {}) {
  static std::array<Field, 32> fields;
  Parsed parsed;
  std::size_t scanned = 0;
  parsed.result = parse_response_head(bytes, limits, fields, method, scanned, parsed.response);
  return parsed;
}

struct Case {
  std::string_view name;
  std::string_view method;
  std::string_view head;  // without the empty line
  ResponseBody body;
  std::uint64_t length;
  bool keep_alive;
};

TEST(ResponseParser, FindsTheFramingOfEachKind) {
  const std::vector<Case> cases = {
      {"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", ResponseBody::kLength, 5, true},
      {"length 0", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n", ResponseBody::kNone, 0, true},
      {"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n",
       ResponseBody::kChunked, 0, true},
      {"neither", "GET", "HTTP/1.1 200 OK\r\n", ResponseBody::kUntilClose, 0, false},
      {"close", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n",
       ResponseBody::kLength, 5, false},
      {"1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n", ResponseBody::kLength, 5, false},
      {"1.0 kept", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n",
       ResponseBody::kLength, 5, true},
      {"both", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
       ResponseBody::kChunked, 0, false},
      {"1.0 chunked", "GET",
       "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n",
       ResponseBody::kChunked, 0, false},
      {"equal lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 05\r\n",
       ResponseBody::kLength, 5, true},
      {"head", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", ResponseBody::kNone, 0, true},
      {"head chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n",
       ResponseBody::kNone, 0, true},
      {"head neither", "HEAD", "HTTP/1.1 200 OK\r\n", ResponseBody::kNone, 0, true},
      {"head is case-sensitive", "head", "HTTP/1.1 200 OK\r\n", ResponseBody::kUntilClose, 0,
       false},
      {"interim", "GET", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n", ResponseBody::kNone, 0, true},
      {"204", "GET", "HTTP/1.1 204 No Content\r\n", ResponseBody::kNone, 0, true},
      {"204 with content", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n",
       ResponseBody::kNone, 0, false},
      {"204 chunked", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n",
       ResponseBody::kNone, 0, false},
      {"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n", ResponseBody::kNone, 0,
       true},
      {"connect", "CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", ResponseBody::kNone, 0,
       false},
      {"connect refused", "CONNECT", "HTTP/1.1 403 No\r\nContent-Length: 5\r\n",
       ResponseBody::kLength, 5, true},
      {"no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 5\r\n", ResponseBody::kLength, 5,
       true},
      {"no space", "GET", "HTTP/1.1 200\r\nContent-Length: 5\r\n", ResponseBody::kLength, 5, true},
      {"bare lf", "GET", "HTTP/1.1 200 OK\nContent-Length: 5\nX: y\r\n", ResponseBody::kLength, 5,
       true},
      {"space before colon", "GET", "HTTP/1.1 200 OK\r\nContent-Length \t: 5\r\n",
       ResponseBody::kLength, 5, true},
      {"unknown status", "GET", "HTTP/1.1 999 \xffzz\r\nContent-Length: 5\r\n",
       ResponseBody::kLength, 5, true},
  };
  for (const Case& c : cases) {
    for (const std::string_view end : {"\r\n", "\n"}) {
      const std::string bytes = std::string(c.head) + std::string(end);
      const Parsed parsed = parse(bytes + "rest", c.method);
      ASSERT_EQ(parsed.result.status, ParseStatus::kDone) << c.name << parsed.result.problem;
      EXPECT_EQ(parsed.result.head_bytes, bytes.size()) << c.name;
      EXPECT_EQ(parsed.response.body, c.body) << c.name;
      EXPECT_EQ(parsed.response.content_length, c.length) << c.name;
      EXPECT_EQ(parsed.response.keep_alive, c.keep_alive) << c.name;
    }
  }
}

TEST(ResponseParser, GivesStatusAndFields) {
  const std::string bytes =
      "HTTP/1.1 404 Not Found\r\nSet-Cookie: a\r\nset-cookie: b\r\nX: \xff\r\nContent-Length: "
      "0\r\n\r\n";
  const Parsed parsed = parse(bytes);
  EXPECT_EQ(parsed.response.status, 404);
  ASSERT_EQ(parsed.response.fields.size(), 4U);
  EXPECT_EQ(parsed.response.fields[0].value, "a");
  EXPECT_EQ(parsed.response.fields[1].name, "set-cookie");
  EXPECT_EQ(parsed.response.fields[2].value, "\xff");
}

TEST(ResponseParser, RefusesWhatIsNoResponse) {
  const std::vector<std::string> heads = {
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 5,\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length:\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n",
      "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n",
      "HTTP/1.1 200 OK\r\n : a\r\n",
      "HTTP/1.1 200 OK\r\nX\r\n",
      "HTTP/1.1 200 OK\r\nX: a\rb\r\n",
      "HTTP/1.1 200 OK\r\nX: \x01\r\n",
      "HTTP/1.1 200 O\x01K\r\n",
      "HTTP/1.1 200 O\rK\r\n",
      "HTTP/1.1 200OK\r\n",
      "HTTP/1.1  200 OK\r\n",
      "HTTP/1.1 20 OK\r\n",
      "HTTP/1.1 2000 OK\r\n",
      "HTTP/1.1 099 OK\r\n",
      "HTTP/1.1 +20 OK\r\n",
      "http/1.1 200 OK\r\n",
      "ICY 200 OK\r\n",
      "\r\nHTTP/1.1 200 OK\r\n",
      " HTTP/1.1 200 OK\r\n",
      "<html>\r\n",
  };
  for (const std::string& head : heads) {
    EXPECT_EQ(parse(head + "\r\n").result.status, ParseStatus::kBadRequest) << head;
    EXPECT_FALSE(parse(head + "\r\n").result.problem.empty()) << head;
  }
  EXPECT_EQ(parse("HTTP/2.0 200 OK\r\n\r\n").result.status, ParseStatus::kVersion);
  EXPECT_EQ(parse("HTTP/0.9 200 OK\r\n\r\n").result.status, ParseStatus::kVersion);
}

TEST(ResponseParser, SaysTheSameHoweverTheBytesCome) {
  const std::string bytes =
      "HTTP/1.1 200 OK\r\nX-A: b\nContent-Length : 5\r\nConnection: close\r\n\nhello";
  const std::size_t head_bytes = bytes.size() - 5;
  for (std::size_t first = 0; first < bytes.size(); ++first) {
    std::array<Field, 8> fields;
    ResponseStatus response;
    std::size_t scanned = 0;
    ParseResult result;
    std::size_t shown = first;
    while ((result = parse_response_head(std::string_view(bytes).substr(0, shown), {}, fields,
                                         "GET", scanned, response))
               .status == ParseStatus::kNeedMore) {
      ASSERT_LT(shown++, bytes.size());
    }
    EXPECT_EQ(result.status, ParseStatus::kDone);
    EXPECT_EQ(result.head_bytes, head_bytes);
    EXPECT_GE(shown, head_bytes);
    EXPECT_EQ(response.content_length, 5U);
    EXPECT_FALSE(response.keep_alive);
  }
}

TEST(ResponseParser, LimitsTheHead) {
  const std::string bytes = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
  EXPECT_EQ(parse(bytes, "GET", {.head_bytes_max = bytes.size()}).result.status,
            ParseStatus::kDone);
  EXPECT_EQ(parse(bytes, "GET", {.head_bytes_max = bytes.size() - 1}).result.status,
            ParseStatus::kHeadTooLarge);
  std::string many = "HTTP/1.1 200 OK\r\n";
  for (int i = 0; i < 33; ++i) {
    many += "X: y\r\n";
  }
  EXPECT_EQ(parse(many + "\r\n").result.status, ParseStatus::kHeadTooLarge);
}

}  // namespace
}  // namespace mik::http
