// The request parser against the grammar of request_grammar.hpp: the same heads accepted, the same
// things read, and the same answer however the bytes come.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "http/request_grammar.hpp"
#include "http/request_parser.hpp"

namespace {

using namespace mik::http;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "the parser and the grammar differ: %s\n", what);
    std::abort();
  }
}

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

struct Parsed {
  ParseResult result;
  RequestHead head;
  std::array<Field, 128> storage;
};

void parse(std::string_view bytes, const Limits& limits, Parsed& parsed) {
  std::size_t scanned = 0;
  parsed.result = parse_request_head(
      bytes, limits, std::span(parsed.storage).first(limits.fields_max), scanned, parsed.head);
}

void same_head(const RequestHead& head, const testing::GrammarHead& expected) {
  require(head.method == expected.method, "method");
  require(head.target == expected.target, "target");
  require(head.path_query == expected.path_query, "path_query");
  require(head.authority == expected.authority, "authority");
  require(head.version == (expected.minor == 0 ? Version::k10 : Version::k11), "version");
  const BodyKind body = expected.chunked      ? BodyKind::kChunked
                        : expected.length > 0 ? BodyKind::kLength
                                              : BodyKind::kNone;
  require(head.body == body, "body");
  require(head.content_length == expected.length, "length");
  require(head.keep_alive == expected.keep_alive, "keep_alive");
  require(head.expect_continue == expected.expect_continue, "expect_continue");
  require(head.te_trailers == expected.te_trailers, "te_trailers");
  require(head.fields.size() == expected.fields.size(), "number of fields");
  for (std::size_t i = 0; i < head.fields.size(); ++i) {
    require(head.fields[i].name == expected.fields[i].first, "name of a field");
    require(head.fields[i].value == expected.fields[i].second, "value of a field");
  }
}

// Whether the grammar finds this error in the head, or in what it becomes with any of some ends.
bool grammar_refuses(std::string_view bytes, const Limits& limits, int status) {
  const std::size_t start = testing::empty_lines(bytes);
  const std::size_t end = bytes.find("\r\n\r\n", start);
  if (end != std::string_view::npos) {
    return testing::read_head(bytes.substr(0, end + 4), limits, limits.fields_max)
        .errors.contains(status);
  }
  for (const std::string_view rest :
       {"\r\n\r\n", "\n\r\n", " / HTTP/1.1\r\nHost: a\r\n\r\n", "/ HTTP/1.1\r\nHost: a\r\n\r\n",
        " HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1\r\nHost: a\r\n\r\n", "\r\nHost: a\r\n\r\n",
        "Host: a\r\n\r\n", ": b\r\nHost: a\r\n\r\n", ": b\r\n\r\n", "1\r\nHost: a\r\n\r\n"}) {
    std::string whole(bytes);
    whole += rest;
    const std::size_t whole_end = whole.find("\r\n\r\n", testing::empty_lines(whole));
    if (whole_end != std::string::npos &&
        testing::read_head(std::string_view(whole).substr(0, whole_end + 4), limits,
                           limits.fields_max)
            .errors.empty()) {
      return false;
    }
  }
  return true;
}

void compare(std::string_view bytes, const Limits& limits) {
  Parsed parsed;
  parse(bytes, limits, parsed);
  const std::size_t end = bytes.find("\r\n\r\n", testing::empty_lines(bytes));
  switch (parsed.result.status) {
    case ParseStatus::kDone: {
      require(end != std::string_view::npos && parsed.result.head_bytes == end + 4, "end");
      const testing::GrammarHead expected =
          testing::read_head(bytes.substr(0, end + 4), limits, limits.fields_max);
      require(expected.errors.empty(), "accepted what the grammar refuses");
      same_head(parsed.head, expected);
      break;
    }
    case ParseStatus::kNeedMore:
      require(end == std::string_view::npos, "waits for an end that is there");
      break;
    default:
      require(!parsed.result.problem.empty(), "an error without a word");
      require(grammar_refuses(bytes, limits, status_of(parsed.result.status)),
              "refused what the grammar accepts, or for another reason");
      break;
  }
}

// Byte by byte the answer is the same, if perhaps later.
void compare_split(std::string_view bytes, const Limits& limits) {
  Parsed whole;
  parse(bytes, limits, whole);
  Parsed split;
  std::size_t scanned = 0;
  for (std::size_t shown = 0; shown <= bytes.size(); ++shown) {
    split.result =
        parse_request_head(bytes.substr(0, shown), limits,
                           std::span(split.storage).first(limits.fields_max), scanned, split.head);
    if (split.result.status != ParseStatus::kNeedMore) {
      break;
    }
  }
  const bool ended = bytes.find("\r\n\r\n", testing::empty_lines(bytes)) != std::string_view::npos;
  require(split.result.status == whole.result.status ||
              (split.result.status == ParseStatus::kNeedMore && !ended),
          "another answer when split");
  require(split.result.status == ParseStatus::kNeedMore ||
              (split.result.head_bytes == whole.result.head_bytes &&
               split.result.problem == whole.result.problem),
          "another result when split");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const Limits usual;
  const Limits tight{.head_bytes_max = 96, .fields_max = 3, .target_bytes_max = 12};
  compare(bytes, usual);
  compare(bytes, tight);
  if (size <= 512) {
    compare_split(bytes, usual);
    compare_split(bytes, tight);
  }
  return 0;
}
