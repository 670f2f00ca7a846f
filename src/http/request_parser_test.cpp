// What the request parser makes of good heads, and where its limits lie; h1_conformance_test.cpp
// has the bad ones.
#include "http/request_parser.hpp"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <string>
#include <vector>

namespace mik::http {
namespace {

using namespace std::string_literals;

struct Parsed {
  ParseResult result;
  RequestHead head;
  std::array<Field, 32> storage;
};

// The head's fields point into `parsed`, its other views into `bytes`.
void parse(std::string_view bytes, Parsed& parsed, const Limits& limits = {}) {
  std::size_t scanned = 0;
  parsed.result = parse_request_head(bytes, limits, parsed.storage, scanned, parsed.head);
}

ParseStatus status(std::string_view bytes, const Limits& limits = {}, std::size_t fields_max = 32) {
  std::vector<Field> fields(fields_max);
  RequestHead head;
  std::size_t scanned = 0;
  return parse_request_head(bytes, limits, fields, scanned, head).status;
}

RequestHead head_of(const std::string& bytes) {
  static Parsed parsed;
  parse(bytes, parsed);
  EXPECT_EQ(parsed.result.status, ParseStatus::kDone) << bytes << parsed.result.problem;
  return parsed.head;
}

TEST(RequestParser, GivesViewsIntoTheBuffer) {
  const std::string bytes =
      "\r\nPOST /a//b?c=%2f HTTP/1.1\r\nHost: Example.com:8080\r\nX-Y:  z\t\r\n"
      "content-length: 5\r\n\r\nhello";
  Parsed parsed;
  parse(bytes, parsed);
  ASSERT_EQ(parsed.result.status, ParseStatus::kDone);
  EXPECT_EQ(parsed.result.head_bytes, bytes.size() - 5);
  const RequestHead& head = parsed.head;
  EXPECT_EQ(head.bytes, bytes.substr(2, bytes.size() - 7));
  EXPECT_EQ(head.method, "POST");
  EXPECT_EQ(head.target, "/a//b?c=%2f");
  EXPECT_EQ(head.path_query, "/a//b?c=%2f");
  EXPECT_EQ(head.authority, "Example.com:8080");
  EXPECT_EQ(head.version, Version::k11);
  EXPECT_EQ(head.body, BodyKind::kLength);
  EXPECT_EQ(head.content_length, 5U);
  ASSERT_EQ(head.fields.size(), 3U);
  EXPECT_EQ(head.fields[0].name, "Host");
  EXPECT_EQ(head.fields[1].name, "X-Y");
  EXPECT_EQ(head.fields[1].value, "z");
  EXPECT_EQ(head.fields[2].name, "content-length");
  for (const std::string_view view :
       {head.method, head.target, head.authority, head.fields[1].value}) {
    EXPECT_GE(view.data(), bytes.data());
    EXPECT_LE(view.data() + view.size(), bytes.data() + bytes.size());
  }
}

// Field case 6.
TEST(RequestParser, HandsOnBytesThatAreNotUtf8InFieldValues) {
  std::string value;
  for (int c = 0x80; c <= 0xff; ++c) {
    value.push_back(static_cast<char>(c));
  }
  const std::string bytes =
      "GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: bot\xA1\xB1\r\nX-A: \xFF\xFE\r\nX: " + value +
      "\r\n\r\n";
  const RequestHead head = head_of(bytes);
  EXPECT_EQ(head.fields[1].value, "bot\xA1\xB1");
  EXPECT_EQ(head.fields[2].value, "\xFF\xFE");
  EXPECT_EQ(head.fields[3].value, value);
}

TEST(RequestParser, TakesTheAuthorityFromTheTargetBeforeHost) {
  const std::string absolute = "GET HTTP://other:81/p?q HTTP/1.1\r\nHost: a\r\n\r\n";
  RequestHead head = head_of(absolute);
  EXPECT_EQ(head.authority, "other:81");
  EXPECT_EQ(head.path_query, "/p?q");
  const std::string bare = "GET http://other HTTP/1.1\r\nHost: a\r\n\r\n";
  head = head_of(bare);
  EXPECT_EQ(head.authority, "other");
  EXPECT_EQ(head.path_query, "/");
  const std::string options = "OPTIONS http://other HTTP/1.1\r\nHost: a\r\n\r\n";
  head = head_of(options);
  EXPECT_EQ(head.path_query, "*");
  const std::string connect = "CONNECT other:443 HTTP/1.1\r\nHost: a\r\n\r\n";
  head = head_of(connect);
  EXPECT_EQ(head.authority, "other:443");
  EXPECT_EQ(head.path_query, "");
  const std::string no_host = "GET / HTTP/1.0\r\n\r\n";
  head = head_of(no_host);
  EXPECT_EQ(head.authority, "");
}

TEST(RequestParser, SaysWhetherTheClientWantsTheConnectionKept) {
  const auto keeps = [](const std::string& version, const std::string& fields) {
    const std::string bytes = "GET / " + version + "\r\nHost: a\r\n" + fields + "\r\n";
    return head_of(bytes).keep_alive;
  };
  EXPECT_TRUE(keeps("HTTP/1.1", ""));
  EXPECT_TRUE(keeps("HTTP/1.1", "Connection: foo, keep-alive\r\n"));
  EXPECT_FALSE(keeps("HTTP/1.1", "Connection: close\r\n"));
  EXPECT_FALSE(keeps("HTTP/1.1", "Connection: x ,\t Close ,,\r\n"));
  EXPECT_FALSE(keeps("HTTP/1.1", "Connection: keep-alive\r\nCONNECTION: close\r\n"));
  EXPECT_TRUE(keeps("HTTP/1.1", "Connection: closed, xclose\r\n"));
  EXPECT_FALSE(keeps("HTTP/1.0", ""));
  EXPECT_TRUE(keeps("HTTP/1.0", "Connection: Keep-Alive\r\n"));
  EXPECT_FALSE(keeps("HTTP/1.0", "Connection: keep-alive, close\r\n"));
}

TEST(RequestParser, ExpectsToContinueOnlyWithABodyInHttp11) {
  const std::string with_body =
      "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n";
  EXPECT_TRUE(head_of(with_body).expect_continue);
  const std::string without =
      "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n";
  EXPECT_FALSE(head_of(without).expect_continue);
  EXPECT_EQ(head_of(without).body, BodyKind::kNone);
  const std::string old = "PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
  EXPECT_FALSE(head_of(old).expect_continue);
  const std::string other =
      "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 5\r\n\r\n";
  EXPECT_FALSE(head_of(other).expect_continue);
}

TEST(RequestParser, KnowsWhoTakesTrailers) {
  const std::string yes = "GET / HTTP/1.1\r\nHost: a\r\nTE: deflate;q=0.5, Trailers\r\n\r\n";
  EXPECT_TRUE(head_of(yes).te_trailers);
  const std::string no = "GET / HTTP/1.1\r\nHost: a\r\nTE: deflate\r\n\r\n";
  EXPECT_FALSE(head_of(no).te_trailers);
  const std::string old = "GET / HTTP/1.0\r\nTE: trailers\r\n\r\n";
  EXPECT_FALSE(head_of(old).te_trailers);
}

TEST(RequestParser, LimitsTheTarget) {
  const Limits limits{.target_bytes_max = 20};
  const auto of = [&limits](std::size_t bytes, std::string_view rest) {
    return status("GET /" + std::string(bytes - 1, 'a') + std::string(rest), limits);
  };
  constexpr std::string_view kRest = " HTTP/1.1\r\nHost: a\r\n\r\n";
  EXPECT_EQ(of(19, kRest), ParseStatus::kDone);
  EXPECT_EQ(of(20, kRest), ParseStatus::kDone);
  EXPECT_EQ(of(21, kRest), ParseStatus::kTargetTooLong);
  EXPECT_EQ(of(20, ""), ParseStatus::kNeedMore);
  EXPECT_EQ(of(21, ""), ParseStatus::kTargetTooLong);
}

TEST(RequestParser, LimitsTheHead) {
  const std::string bytes = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  EXPECT_EQ(status(bytes, {.head_bytes_max = bytes.size() + 1}), ParseStatus::kDone);
  EXPECT_EQ(status(bytes, {.head_bytes_max = bytes.size()}), ParseStatus::kDone);
  EXPECT_EQ(status(bytes, {.head_bytes_max = bytes.size() - 1}), ParseStatus::kHeadTooLarge);
  EXPECT_EQ(status(bytes + "body", {.head_bytes_max = bytes.size()}), ParseStatus::kDone);
  // What is wrong inside the limit is said first.
  EXPECT_EQ(
      status("GET / HTTP/1.1\r\nHo st: a\r\n" + std::string(100, 'a'), {.head_bytes_max = 64}),
      ParseStatus::kBadRequest);
}

TEST(RequestParser, LimitsTheNumberOfFields) {
  const auto with = [](int fields) {
    std::string bytes = "GET / HTTP/1.1\r\nHost: a\r\n";
    for (int i = 1; i < fields; ++i) {
      bytes += "X: y\r\n";
    }
    return bytes + "\r\n";
  };
  EXPECT_EQ(status(with(4), {}, 5), ParseStatus::kDone);
  EXPECT_EQ(status(with(5), {}, 5), ParseStatus::kDone);
  EXPECT_EQ(status(with(6), {}, 5), ParseStatus::kHeadTooLarge);
}

TEST(RequestParser, ReadsPipelinedRequestsOneAfterTheOther) {
  const std::string bytes = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
  Parsed parsed;
  parse(bytes, parsed);
  ASSERT_EQ(parsed.result.status, ParseStatus::kDone);
  EXPECT_EQ(parsed.head.path_query, "/1");
  const std::string_view rest = std::string_view(bytes).substr(parsed.result.head_bytes);
  parse(rest, parsed);
  ASSERT_EQ(parsed.result.status, ParseStatus::kDone);
  EXPECT_EQ(parsed.head.path_query, "/2");
  EXPECT_EQ(parsed.result.head_bytes, rest.size());
}

TEST(RequestParser, FindsAnErrorInAHeadThatNeverEndsBeforeTheLimit) {
  std::string bytes = "GET / HTTP/1.1\r\nHo st: a\r\n";
  const std::size_t wrong = bytes.size();
  std::array<Field, 32> fields;
  RequestHead head;
  std::size_t scanned = 0;
  std::size_t shown = 1;
  bytes += std::string(4096, 'a');
  while (parse_request_head(std::string_view(bytes).substr(0, shown), {}, fields, scanned, head)
             .status == ParseStatus::kNeedMore) {
    ASSERT_LT(shown++, bytes.size());
  }
  EXPECT_LE(shown, 2 * wrong);
}

// Byte by byte costs about what it costs in two pieces: linear, whatever is sent. Counted in
// parses, since a clock on a busy machine proves nothing: 64 KiB of fields must not be gone through
// more often than it doubles.
TEST(RequestParser, TakesLinearTimeForAHeadThatComesByteByByte) {
  std::string bytes = "GET / HTTP/1.1\r\nHost: a\r\n";
  while (bytes.size() < 60000) {
    bytes += "A-field: with some value that is not long but not short\r\n";
  }
  bytes += "\r\n";
  std::vector<Field> fields(4096);
  RequestHead head;
  std::size_t scanned = 0;
  int parsed_times = 0;
  ParseResult result;
  for (std::size_t shown = 1; shown <= bytes.size(); ++shown) {
    head.method = "untouched";
    result =
        parse_request_head(std::string_view(bytes).substr(0, shown), {}, fields, scanned, head);
    parsed_times += head.method != "untouched" ? 1 : 0;
  }
  EXPECT_EQ(result.status, ParseStatus::kDone);
  EXPECT_LE(parsed_times, 18);
}

TEST(RequestParser, SaysWhatIsWrong) {
  const auto problem = [](std::string_view bytes) {
    Parsed parsed;
    parse(bytes, parsed);
    return std::string(parsed.result.problem);
  };
  EXPECT_EQ(problem("GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
            "whitespace before the colon of a field");
  EXPECT_EQ(problem("GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n"),
            "a field line begins with whitespace (obs-fold)");
  EXPECT_EQ(problem("GET / HTTP/1.1\r\nX: a\n\r\n"), "a line that ends with a bare LF");
  EXPECT_EQ(problem("GET / HTTP/1.1\r\n\r\n"), "no Host field");
  EXPECT_EQ(problem("GET / HTTP/1.1\r\n: a\r\n\r\n"), "a field without a name");
}

}  // namespace
}  // namespace mik::http
