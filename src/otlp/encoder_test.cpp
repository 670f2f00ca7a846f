#include "otlp/encoder.hpp"

#include <gtest/gtest.h>

#include <array>

#include "otlp/protobuf.hpp"
#include "otlp/test_decoder.hpp"

namespace mik::otlp {
namespace {

using namespace std::literals;

Span small() {
  Span span;
  span.trace_high = 0x0102030405060708;
  span.trace_low = 0x090a0b0c0d0e0f10;
  span.id = 0x1112131415161718;
  span.name = "n";
  return span;
}

testing::SeenSpan round_trip(const Span& span) {
  std::string bytes;
  append_span(bytes, span);
  const auto request = testing::request_of(export_request({}, bytes));
  EXPECT_EQ(request.spans.size(), 1u);
  return request.spans.empty() ? testing::SeenSpan() : request.spans.front();
}

TEST(OtlpEncoder, ASpanComesBackAsItWas) {
  const std::array<Attribute, 3> attributes = {
      Attribute{"http.request.method", "GET"sv},
      Attribute{"http.response.status_code", std::int64_t{503}},
      Attribute{"negative", std::int64_t{-5}},
  };
  Span span = small();
  span.parent = 0x2122232425262728;
  span.parent_is_remote = true;
  span.trace_state = "vendor=1,other=2";
  span.name = "GET /run/hello/*";
  span.kind = SpanKind::kServer;
  span.start_unix_ns = 1'800'000'000'000'000'001;
  span.end_unix_ns = 1'800'000'000'000'000'999;
  span.attributes = attributes;
  span.failed = true;
  span.failure = "the module failed";
  const testing::SeenSpan seen = round_trip(span);
  EXPECT_EQ(seen.trace, "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"s);
  EXPECT_EQ(seen.id, "\x11\x12\x13\x14\x15\x16\x17\x18"s);
  EXPECT_EQ(seen.parent, "\x21\x22\x23\x24\x25\x26\x27\x28"s);
  EXPECT_EQ(seen.trace_state, span.trace_state);
  EXPECT_EQ(seen.name, span.name);
  EXPECT_EQ(seen.kind, 2u);
  EXPECT_EQ(seen.start, span.start_unix_ns);
  EXPECT_EQ(seen.end, span.end_unix_ns);
  EXPECT_EQ(seen.flags, 0x301u);
  EXPECT_EQ(seen.status, 2u);
  EXPECT_EQ(seen.status_message, span.failure);
  EXPECT_EQ(seen.attributes, (std::map<std::string, std::string>{
                                 {"http.request.method", "GET"},
                                 {"http.response.status_code", "503"},
                                 {"negative", "-5"},
                             }));
}

// Bytes by hand from the .proto files: what a decoder of ours might agree on with us and nobody
// else.
TEST(OtlpEncoder, BytesAreThoseOfTheSpecification) {
  Span span = small();
  span.start_unix_ns = 1;
  span.end_unix_ns = 2;
  std::string bytes;
  append_span(bytes, span);
  EXPECT_EQ(bytes,
            "\x12\x39"
            "\x0a\x10\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"
            "\x12\x08\x11\x12\x13\x14\x15\x16\x17\x18"
            "\x2a\x01n"
            "\x30\x01"
            "\x39\x01\0\0\0\0\0\0\0"
            "\x41\x02\0\0\0\0\0\0\0"
            "\x85\x01\x01\x01\0\0"s);
}

TEST(OtlpEncoder, ARootHasNoParentAndNoStatusAndTimeDoesNotGoBack) {
  Span span = small();
  span.start_unix_ns = 5;
  span.end_unix_ns = 4;
  const testing::SeenSpan seen = round_trip(span);
  EXPECT_EQ(seen.parent, "");
  EXPECT_EQ(seen.status, 0u);
  EXPECT_EQ(seen.flags, 0x101u);
  EXPECT_EQ(seen.end, 5u);
}

TEST(OtlpEncoder, ARequestNamesItsResourceAndHasAllSpans) {
  std::string bytes;
  for (std::uint64_t i = 1; i <= 600; ++i) {
    Span span = small();
    span.id = i;
    append_span(bytes, span);
  }
  const auto request = testing::request_of(export_request({.service_name = "shop",
                                                           .service_version = "1.2",
                                                           .host_name = "web-1",
                                                           .process_pid = 4711,
                                                           .scope_version = "0.1.0"},
                                                          bytes));
  EXPECT_EQ(request.resource, (std::map<std::string, std::string>{{"service.name", "shop"},
                                                                  {"service.version", "1.2"},
                                                                  {"host.name", "web-1"},
                                                                  {"process.pid", "4711"}}));
  EXPECT_EQ(request.scope, "mik 0.1.0 ");
  ASSERT_EQ(request.spans.size(), 600u);
  EXPECT_EQ(request.spans.back().id, "\0\0\0\0\0\0\x02\x58"s);
}

TEST(OtlpEncoder, WhatIsNotUtf8DoesNotSpoilTheBatch) {
  const std::string long_path(5000, 'x');
  const std::array<Attribute, 4> attributes = {
      Attribute{"a", "\xff\xc3\xa9\xed\xa0\x80"sv},
      Attribute{"b", std::string_view(long_path)},
      Attribute{"empty", ""sv},
      Attribute{"c", "\xf0\x9f\x98\x80"sv},
  };
  Span span = small();
  span.name = "caf\xe9";
  span.attributes = attributes;
  const testing::SeenSpan seen = round_trip(span);
  EXPECT_EQ(seen.name, "caf\xef\xbf\xbd");
  EXPECT_EQ(seen.attributes.at("a"), "\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(seen.attributes.at("b"), std::string(kTextBytesMax, 'x'));
  EXPECT_EQ(seen.attributes.at("c"), "\xf0\x9f\x98\x80");
  EXPECT_FALSE(seen.attributes.contains("empty"));
}

TEST(OtlpEncoder, ALongTextIsCutBetweenCharacters) {
  std::string out;
  put_text(out, 1, "abc\xc3\xa9", 4);
  EXPECT_EQ(out,
            "\x0a\x03"
            "abc"s);
  out.clear();
  put_text(out, 1, "abc\xc3\xa9", 5);
  EXPECT_EQ(out,
            "\x0a\x05"
            "abc\xc3\xa9"s);
}

TEST(OtlpEncoder, ATraceStateThatIsNoneIsLeftOut) {
  Span span = small();
  span.trace_state = "a=\xff";
  EXPECT_EQ(round_trip(span).trace_state, "");
  const std::string long_state(513, 'a');
  span.trace_state = long_state;
  EXPECT_EQ(round_trip(span).trace_state, "");
}

TEST(OtlpEncoder, ReadsWhatACollectorAnswers) {
  EXPECT_EQ(read_export_response("")->rejected_spans, 0u);
  const std::string said = "\x0a\x07\x08\x03\x12\x03why"s;  // the answer is views into it
  const auto partial = read_export_response(said);
  ASSERT_TRUE(partial.has_value());
  EXPECT_EQ(partial->rejected_spans, 3u);
  EXPECT_EQ(partial->error_message, "why");
  // What a later version may add is passed over.
  EXPECT_TRUE(read_export_response("\x10\x01\x1d\x01\x02\x03\x04\x21\1\2\3\4\5\6\7\x08"s));
  for (const std::string& bad : {"\x0a\x05\x08"s, "<html>"s, "\x0b\x0c"s, "\x0a"s, "\0\0"s,
                                 "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"s}) {
    EXPECT_FALSE(read_export_response(bad).has_value()) << ::testing::PrintToString(bad);
  }
}

}  // namespace
}  // namespace mik::otlp
