// The response parser: what it accepts is made of what a response may be made of, lies in the
// buffer, and does not depend on how the bytes come.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "http/request_grammar.hpp"
#include "http/response_parser.hpp"

namespace {

using namespace mik::http;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "the response parser is wrong: %s\n", what);
    std::abort();
  }
}

struct Parsed {
  ParseResult result;
  ResponseStatus response;
  std::array<Field, 64> storage;
};

bool inside(std::string_view part, std::string_view whole) {
  return part.data() >= whole.data() && part.data() + part.size() <= whole.data() + whole.size();
}

void check_fields(const Parsed& parsed, std::string_view head) {
  std::uint64_t lengths = 0;
  std::uint64_t codings = 0;
  for (const Field& field : parsed.response.fields) {
    require(inside(field.name, head) && inside(field.value, head), "a field from elsewhere");
    require(testing::token(field.name), "a name that is no token");
    require(std::ranges::all_of(field.value,
                                [](char c) {
                                  return testing::vchar(c) || testing::obs_text(c) ||
                                         testing::one_of(c, " \t");
                                }),
            "a value with a control character");
    require(field.value.empty() || (!testing::one_of(field.value.front(), " \t") &&
                                    !testing::one_of(field.value.back(), " \t")),
            "blanks around a value");
    lengths += equals_lower(field.name, "content-length") ? 1 : 0;
    codings += equals_lower(field.name, "transfer-encoding") ? 1 : 0;
  }
  const ResponseStatus& response = parsed.response;
  require(codings <= 1, "two codings");
  require(
      !response.keep_alive || lengths == 0 || codings == 0 || response.body == ResponseBody::kNone,
      "kept with two framings");
  require(response.body != ResponseBody::kUntilClose || !response.keep_alive, "kept until close");
  require((response.body == ResponseBody::kLength) == (response.content_length > 0), "length");
  require(response.body != ResponseBody::kChunked || codings == 1, "chunked without a coding");
  require(response.body != ResponseBody::kLength || lengths > 0, "length from nowhere");
  require(response.status >= 100 && response.status <= 999, "status");
}

void check(std::string_view bytes, std::string_view method, const Limits& limits) {
  Parsed whole;
  std::size_t scanned = 0;
  const auto storage = [&limits](Parsed& parsed) {
    return std::span(parsed.storage).first(limits.fields_max);
  };
  whole.result =
      parse_response_head(bytes, limits, storage(whole), method, scanned, whole.response);
  if (whole.result.status == ParseStatus::kDone) {
    require(whole.result.head_bytes <= std::min(bytes.size(), limits.head_bytes_max), "head_bytes");
    const std::string_view head = bytes.substr(0, whole.result.head_bytes);
    require(head.ends_with("\n\n") || head.ends_with("\n\r\n"), "end");
    require(head.find("\n\n") >= head.size() - 2 && head.find("\n\r\n") >= head.size() - 3,
            "an earlier end");
    check_fields(whole, head);
  } else {
    require(whole.result.problem.empty() == (whole.result.status == ParseStatus::kNeedMore),
            "word");
  }
  if (bytes.size() > 4096) {
    return;
  }
  Parsed split;
  scanned = 0;
  for (std::size_t shown = 0; shown <= bytes.size(); ++shown) {
    split.result = parse_response_head(bytes.substr(0, shown), limits, storage(split), method,
                                       scanned, split.response);
    if (split.result.status != ParseStatus::kNeedMore) {
      break;
    }
  }
  const bool ended = bytes.find("\n\n") != std::string_view::npos ||
                     bytes.find("\n\r\n") != std::string_view::npos;
  if (split.result.status == ParseStatus::kNeedMore && !ended) {
    return;
  }
  require(split.result.status == whole.result.status &&
              split.result.head_bytes == whole.result.head_bytes &&
              split.result.problem == whole.result.problem &&
              (split.result.status != ParseStatus::kDone ||
               (split.response.body == whole.response.body &&
                split.response.content_length == whole.response.content_length &&
                split.response.keep_alive == whole.response.keep_alive)),
          "another answer when split");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const Limits usual{.fields_max = 64};
  const Limits tight{.head_bytes_max = 80, .fields_max = 2};
  for (const std::string_view method : {"GET", "HEAD", "CONNECT"}) {
    check(bytes, method, usual);
    check(bytes, method, tight);
  }
  return 0;
}
