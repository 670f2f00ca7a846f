#include "http/client_request.hpp"

#include <gtest/gtest.h>

#include <array>

namespace mik::http {
namespace {

std::string whole_head(const ClientRequest& request, Framing framing, std::uint64_t length = 0) {
  std::string head = write_head(request);
  finish_head(head, request.method, framing, length);
  return head;
}

TEST(ClientRequest, WritesTheHeadByteForByte) {
  const std::array<Field, 2> fields = {Field{"accept", "*/*"}, Field{"x-empty", ""}};
  EXPECT_EQ(whole_head({.authority = "localhost:81", .path_query = "/a?b=1", .fields = fields},
                       Framing::kNone),
            "GET /a?b=1 HTTP/1.1\r\nHost: localhost:81\r\naccept: */*\r\nx-empty: \r\n\r\n");
}

TEST(ClientRequest, HostIsWhatTheGuestWrote) {
  for (const char* authority : {"[::1]:8080", "Example.COM", "example.com:443", "h:"}) {
    const std::string head = whole_head({.authority = authority}, Framing::kNone);
    EXPECT_EQ(head, std::string("GET / HTTP/1.1\r\nHost: ") + authority + "\r\n\r\n");
  }
}

TEST(ClientRequest, RootsAPathThatIsMissing) {
  EXPECT_TRUE(write_head({.path_query = "?q"}).starts_with("GET /?q HTTP/1.1\r\n"));
  EXPECT_TRUE(write_head({.path_query = ""}).starts_with("GET / HTTP/1.1\r\n"));
  EXPECT_TRUE(write_head({.method = "OPTIONS", .path_query = "*"}).starts_with("OPTIONS * HTTP"));
}

TEST(ClientRequest, LeavesOutWhatBelongsToAConnection) {
  const std::array<Field, 13> fields = {Field{"Connection", "close, X-Private"},
                                        Field{"x-private", "1"},
                                        Field{"Keep-Alive", "timeout=5"},
                                        Field{"TE", "trailers"},
                                        Field{"Trailer", "x"},
                                        Field{"Transfer-Encoding", "chunked"},
                                        Field{"Upgrade", "h2c"},
                                        Field{"Host", "evil"},
                                        Field{"Content-Length", "99"},
                                        Field{"Expect", "100-continue"},
                                        Field{"Proxy-Authorization", "Basic x"},
                                        Field{"HTTP2-Settings", "x"},
                                        Field{"kept", "yes"}};
  EXPECT_EQ(whole_head({.authority = "h", .fields = fields}, Framing::kNone),
            "GET / HTTP/1.1\r\nHost: h\r\nkept: yes\r\n\r\n");
}

TEST(ClientRequest, SaysTheLengthWhereOneIsExpected) {
  for (const char* method : {"POST", "PUT", "PATCH"}) {
    std::string head;
    finish_head(head, method, Framing::kNone, 0);
    EXPECT_EQ(head, "Content-Length: 0\r\n\r\n") << method;
  }
  for (const char* method : {"GET", "HEAD", "DELETE", "OPTIONS"}) {
    std::string head;
    finish_head(head, method, Framing::kNone, 0);
    EXPECT_EQ(head, "\r\n") << method;
  }
  std::string head;
  finish_head(head, "DELETE", Framing::kLength, 5);
  EXPECT_EQ(head, "Content-Length: 5\r\n\r\n");
  head.clear();
  finish_head(head, "POST", Framing::kChunked, 0);
  EXPECT_EQ(head, "Transfer-Encoding: chunked\r\n\r\n");
}

TEST(ClientRequest, RefusesBytesThatWouldChangeTheMessage) {
  using E = ClientError;
  EXPECT_EQ(check_head({.method = "GET", .path_query = "/"}), E::kNone);
  EXPECT_EQ(check_head({.method = "M-SEARCH"}), E::kNone);
  EXPECT_EQ(check_head({.method = "GET /x HTTP/1.1\r\n"}), E::kProtocolError);
  EXPECT_EQ(check_head({.method = ""}), E::kProtocolError);
  EXPECT_EQ(check_head({.method = "CONNECT"}), E::kProtocolError);
  using std::string_view_literals::operator""sv;
  for (const std::string_view path :
       {"/a b"sv, "/a\r\nX: y"sv, "x"sv, "http://h/"sv, "/#f"sv, "*"sv, "/\0"sv}) {
    EXPECT_EQ(check_head({.path_query = path}), E::kRequestUriInvalid) << path;
  }
  for (const Field field :
       {Field{"a b", "x"}, Field{"", "x"}, Field{"a:", "x"}, Field{"a", "x\r\ny"},
        Field{"a", "x\n"}, Field{"a", std::string_view("\0", 1)}}) {
    EXPECT_EQ(check_head({.fields = {&field, 1}}), E::kProtocolError) << field.name;
  }
  const Field fine{"a", "caf\xc3\xa9\t1"};
  EXPECT_EQ(check_head({.fields = {&fine, 1}}), E::kNone);
}

TEST(ClientRequest, FindsTheOrigin) {
  const auto origin = [](std::string_view scheme, std::string_view authority) {
    Origin parsed;
    const ClientError error = parse_origin(scheme, authority, parsed);
    return error == ClientError::kNone ? parsed.key() : std::string(label(error));
  };
  EXPECT_EQ(origin("http", "Example.com"), "http://example.com:80");
  EXPECT_EQ(origin("", "example.com"), "https://example.com:443");
  EXPECT_EQ(origin("HTTPS", "example.com:8443"), "https://example.com:8443");
  EXPECT_EQ(origin("http", "[0:0:0:0:0:0:0:1]:81"), "http://::1:81");
  EXPECT_EQ(origin("http", "2852039166"), "http://169.254.169.254:80");
  EXPECT_EQ(origin("http", "[::ffff:a9fe:a9fe]"), "http://169.254.169.254:80");
  EXPECT_EQ(origin("ftp", "example.com"), "protocol_error");
  for (const char* authority : {"", "user@host", "[::1%25lo]", "host:99999", "host:0", "a b", ":80",
                                "ho%73t", "h/x", "[::1"}) {
    EXPECT_EQ(origin("http", authority), "request_uri_invalid") << authority;
  }
}

TEST(ClientRequest, ReadsTheKeepAliveHint) {
  const auto hint = [](std::string_view value) {
    const Field field{"Keep-Alive", value};
    return keep_alive_timeout({&field, 1});
  };
  EXPECT_EQ(hint("timeout=5, max=100"), 5U);
  EXPECT_EQ(hint("max=100 , Timeout=7"), 7U);
  EXPECT_EQ(hint("max=100"), std::nullopt);
  EXPECT_EQ(hint("timeout=x"), std::nullopt);
  EXPECT_EQ(hint("timeout=99999999999"), std::nullopt);
  EXPECT_EQ(keep_alive_timeout({}), std::nullopt);
}

TEST(ClientRequest, EveryErrorHasALabel) {
  EXPECT_EQ(label(ClientError::kNone), "none");
  EXPECT_EQ(label(ClientError::kDnsTimeout), "dns_timeout");
  EXPECT_EQ(label(ClientError::kRequestDenied), "request_denied");
  EXPECT_EQ(label(ClientError::kInternalError), "internal_error");
  EXPECT_EQ(static_cast<std::size_t>(ClientError::kInternalError) + 1, kClientErrorCount);
}

}  // namespace
}  // namespace mik::http
