// Every case of h1_cases.hpp gets its status, whole, byte by byte and at every split in two.
#include <gtest/gtest.h>

#include <array>
#include <set>
#include <string>

#include "http/chunked.hpp"
#include "http/h1_cases.hpp"
#include "http/request_parser.hpp"

namespace mik::http {
namespace {

int status_of(ParseStatus status) {
  switch (status) {
    case ParseStatus::kDone:
      return 200;
    case ParseStatus::kNeedMore:
      return 0;
    case ParseStatus::kBadRequest:
      return 400;
    case ParseStatus::kTargetTooLong:
      return 414;
    case ParseStatus::kHeadTooLarge:
      return 431;
    case ParseStatus::kVersion:
      return 505;
  }
  return -1;
}

// The status of a request and its body, of which the buffer shows `first` bytes, then `step` more
// each time.
int answer(std::string_view bytes, std::size_t first, std::size_t step) {
  const Limits limits;
  std::array<Field, 128> fields;
  RequestHead head;
  std::size_t scanned = 0;
  std::size_t shown = first;
  ParseResult result = parse_request_head(bytes.substr(0, shown), limits, fields, scanned, head);
  while (result.status == ParseStatus::kNeedMore && shown < bytes.size()) {
    shown += step;
    result = parse_request_head(bytes.substr(0, shown), limits, fields, scanned, head);
  }
  if (result.status != ParseStatus::kDone) {
    return status_of(result.status);
  }
  std::string_view body = bytes.substr(result.head_bytes);
  if (head.body == BodyKind::kLength) {
    return body.size() < head.content_length ? 0 : 200;
  }
  if (head.body == BodyKind::kNone) {
    return 200;
  }
  ChunkedDecoder decoder;
  while (!body.empty()) {
    const std::string_view input = body.substr(0, step);
    const ChunkedDecoder::Step part = decoder.decode(input, limits);
    if (part.status == ChunkedDecoder::Status::kBad) {
      return 400;
    }
    if (part.status == ChunkedDecoder::Status::kEnd) {
      return 200;
    }
    body.remove_prefix(part.consumed);
  }
  return 0;
}

TEST(H1Conformance, EveryCaseGetsItsStatus) {
  std::set<std::string_view> names;
  for (const testing::H1Case& c : testing::kH1Cases) {
    EXPECT_EQ(answer(c.bytes, c.bytes.size(), c.bytes.size() + 1), c.status) << c.name;
    EXPECT_TRUE(names.insert(c.name).second) << c.name << " stands there twice";
  }
}

TEST(H1Conformance, AStatusDoesNotDependOnHowTheBytesCome) {
  for (const testing::H1Case& c : testing::kH1Cases) {
    EXPECT_EQ(answer(c.bytes, 0, 1), c.status) << c.name << " byte by byte";
    for (std::size_t split = 0; split < c.bytes.size(); ++split) {
      EXPECT_EQ(answer(c.bytes, split, c.bytes.size() - split), c.status)
          << c.name << " split at " << split;
    }
  }
}

}  // namespace
}  // namespace mik::http
