// The chunked decoder: content, trailers, limits, and that splits do not matter.
#include "http/chunked.hpp"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

namespace mik::http {
namespace {

using Status = ChunkedDecoder::Status;

struct Decoded {
  Status status = Status::kNeedMore;
  std::string content;
  std::vector<std::pair<std::string, std::string>> trailers;
  std::size_t consumed = 0;

  friend bool operator==(const Decoded&, const Decoded&) = default;
};

// Feeds pieces that end at `splits` and at the end.
Decoded decode(std::string_view bytes, std::vector<std::size_t> splits = {},
               const Limits& limits = {}) {
  splits.push_back(bytes.size());
  Decoded decoded;
  ChunkedDecoder decoder;
  std::size_t at = 0;
  for (const std::size_t split : splits) {
    while (at < split && (decoded.status == Status::kNeedMore || decoded.status == Status::kData)) {
      const ChunkedDecoder::Step step = decoder.decode(bytes.substr(at, split - at), limits);
      decoded.status = step.status;
      decoded.content += step.data;
      at += step.consumed;
    }
  }
  if (decoded.status == Status::kData) {
    decoded.status = Status::kNeedMore;
  }
  if (decoded.status == Status::kEnd) {
    decoded.consumed = at;
  }
  for (const Field& field : decoder.trailers()) {
    decoded.trailers.emplace_back(field.name, field.value);
  }
  return decoded;
}

TEST(Chunked, GivesContentAndTrailersAndLeavesTheRest) {
  const std::string body =
      "5\r\nhello\r\n7;ext=\"q;\\\"\"\r\n, world\r\n000\r\nX-Sum: 1\r\nX-Sum:2 \r\n\r\n";
  const Decoded decoded = decode(body + "GET /next");
  EXPECT_EQ(decoded.status, Status::kEnd);
  EXPECT_EQ(decoded.content, "hello, world");
  EXPECT_EQ(decoded.consumed, body.size());
  ASSERT_EQ(decoded.trailers.size(), 2U);
  EXPECT_EQ(decoded.trailers[0], (std::pair<std::string, std::string>("X-Sum", "1")));
  EXPECT_EQ(decoded.trailers[1], (std::pair<std::string, std::string>("X-Sum", "2")));
}

TEST(Chunked, GivesTheSameWhereverTheBytesAreSplit) {
  const std::vector<std::string> bodies = {
      "5\r\nhello\r\nA ;x=\"\\\"\";y\r\n0123456789\r\n0\r\nA: b\r\nContent-Length: 3\r\n\r\nrest",
      "0\r\n\r\n",
      "1\r\nab\r\n",
      "1\r\na\rb",
      "fffffffffffffffff\r\n",
      "3;a=\"\r\n",
      "3;a=\"b\"\n",
      "3\r\nabc\r\n0\r\nA b: c\r\n\r\n",
      "3\r\nabc\r\n0\r\nA: b\r\n\n",
      "3\r\nab",
  };
  for (const std::string& body : bodies) {
    const Decoded whole = decode(body);
    std::vector<std::size_t> every;
    for (std::size_t first = 0; first <= body.size(); ++first) {
      every.push_back(first);
      for (std::size_t second = first; second <= body.size(); ++second) {
        EXPECT_EQ(decode(body, {first, second}), whole) << body << first << ' ' << second;
      }
    }
    EXPECT_EQ(decode(body, every), whole) << body << " byte by byte";
  }
}

TEST(Chunked, DropsTrailersThatMustNotBeThere) {
  const Decoded decoded = decode(
      "0\r\nHost: evil\r\ntransfer-encoding: chunked\r\nContent-Length: 7\r\nAuthorization: x\r\n"
      "Set-Cookie: a=b\r\nContent-Type: x/y\r\nX-Kept: yes\r\nTrailer: z\r\n\r\n");
  EXPECT_EQ(decoded.status, Status::kEnd);
  ASSERT_EQ(decoded.trailers.size(), 1U);
  EXPECT_EQ(decoded.trailers[0].first, "X-Kept");
}

TEST(Chunked, LimitsDigits) {
  EXPECT_EQ(decode("0000000000000001\r\na\r\n0\r\n\r\n").status, Status::kEnd);
  EXPECT_EQ(decode("00000000000000001\r\na\r\n0\r\n\r\n").status, Status::kBad);
  EXPECT_EQ(decode("ffffffffffffffff\r\nabc").content, "abc");
}

TEST(Chunked, LimitsExtensions) {
  const auto one = [](std::size_t bytes) {
    return decode("1;" + std::string(bytes - 1, 'x') + "\r\na\r\n0\r\n\r\n").status;
  };
  EXPECT_EQ(one(1023), Status::kEnd);
  EXPECT_EQ(one(1024), Status::kBad);  // the CR counts
  const auto many = [](int chunks) {
    std::string body;
    for (int i = 0; i < chunks; ++i) {
      body += "1;" + std::string(1022, 'x') + "\r\na\r\n";  // 1024 with the CR
    }
    return decode(body + "0\r\n\r\n").status;
  };
  EXPECT_EQ(many(16), Status::kEnd);
  EXPECT_EQ(many(17), Status::kBad);
}

TEST(Chunked, LimitsTrailers) {
  const std::string trailers = "A: b\r\nC: d\r\n\r\n";
  EXPECT_EQ(decode("0\r\n" + trailers, {}, {.head_bytes_max = trailers.size()}).status,
            Status::kEnd);
  EXPECT_EQ(decode("0\r\n" + trailers, {}, {.head_bytes_max = trailers.size() - 1}).status,
            Status::kBad);
  EXPECT_EQ(decode("0\r\n" + trailers, {}, {.fields_max = 2}).status, Status::kEnd);
  EXPECT_EQ(decode("0\r\n" + trailers, {}, {.fields_max = 1}).status, Status::kBad);
  // Bytes that never end a line are bounded too.
  EXPECT_EQ(decode("0\r\n" + std::string(101, 'a'), {}, {.head_bytes_max = 100}).status,
            Status::kBad);
}

TEST(Chunked, SaysTheSameAgainAfterTheEndAndAfterAnError) {
  const Limits limits;
  ChunkedDecoder decoder;
  ChunkedDecoder::Step step = decoder.decode("0\r\n\r\n", limits);
  EXPECT_EQ(step.status, Status::kEnd);
  step = decoder.decode("junk", limits);
  EXPECT_EQ(step.status, Status::kEnd);
  EXPECT_EQ(step.consumed, 0U);
  decoder.reset();
  EXPECT_EQ(decoder.decode("x", limits).status, Status::kBad);
  step = decoder.decode("0\r\n\r\n", limits);
  EXPECT_EQ(step.status, Status::kBad);
  EXPECT_EQ(step.consumed, 0U);
}

TEST(Chunked, IsAsNewAfterReset) {
  const Limits limits;
  ChunkedDecoder decoder;
  EXPECT_EQ(decoder.decode("0;aaaa\r\nA: b\r\n\r\n", limits).status, Status::kEnd);
  EXPECT_EQ(decoder.trailers().size(), 1U);
  decoder.reset();
  EXPECT_TRUE(decoder.trailers().empty());
  EXPECT_EQ(decoder.decode("5\r\nab", limits).data, "ab");
  decoder.reset();
  EXPECT_EQ(decoder.decode("0\r\n\r\n", limits).status, Status::kEnd);
  EXPECT_TRUE(decoder.trailers().empty());
}

}  // namespace
}  // namespace mik::http
