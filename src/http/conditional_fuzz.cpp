// Conditional requests and Range. Input: lines "name: value"; the first line is the entity tag of
// the file, the second its size. What must hold whatever the fields say.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "http/conditional.hpp"
#include "http/http_date.hpp"
#include "http/range.hpp"
#include "http/request_grammar.hpp"

namespace {

using namespace mik::http;

constexpr std::int64_t kNow = 1'700'000'000;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "conditional fields are read wrongly: %s\n", what);
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::vector<std::string> lines =
      testing::split(std::string_view(reinterpret_cast<const char*>(data), size), '\n');
  std::string tag = "\"";
  for (const char c : lines.front()) {
    if (static_cast<unsigned char>(c) > 0x20 && c != '"' && c != 0x7f) {
      tag += c;
    }
  }
  tag += '"';
  const std::string weak = "W/" + tag;
  const std::uint64_t bytes = lines.size() > 1 ? std::strtoull(lines[1].c_str(), nullptr, 10) : 0;

  std::vector<Field> fields;
  bool asked = false;
  bool has_range = false;
  for (std::size_t i = 2; i < lines.size(); ++i) {
    const std::string_view line = lines[i];
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) {
      continue;
    }
    fields.push_back({line.substr(0, colon), line.substr(colon + 1)});
    asked = asked || testing::folded(fields.back().name).starts_with("if-");
    has_range = has_range || equals_lower(fields.back().name, "range");
    const std::string_view value = fields.back().value;
    require(!lists_etag_strong(value, tag) || value.find(tag) != std::string_view::npos,
            "a tag that is not there");
    require(!lists_etag_strong(value, tag) || lists_etag_weak(value, tag), "strong but not weak");
    require(!lists_etag_strong(value, weak), "a weak tag that matches strongly");
    require(lists_etag_weak(value, tag) == lists_etag_weak(value, weak), "weak comparison");
    if (const auto date = parse_http_date(value, kNow); date.has_value()) {
      require(value.size() >= 24 && value.size() <= 33, "a date of that length");
    }
  }
  const Validators file{.etag = tag, .modified = kNow - 100};
  require(lists_etag_weak("\"a\", " + weak, tag) && lists_etag_strong(tag, tag), "itself");
  const Precondition found = check_preconditions("GET", fields, file, kNow);
  require(asked || found == Precondition::kHolds, "nothing was asked");
  if (check_preconditions("PUT", fields, file, kNow) == Precondition::kNotModified) {
    require(false, "304 to PUT");
  }
  static_cast<void>(if_range_holds(fields, file, kNow));

  ByteRange part;
  const RangeAnswer answer = wanted_range(fields, bytes, part);
  require(has_range || answer == RangeAnswer::kWhole, "no range");
  if (answer == RangeAnswer::kPart) {
    require(part.bytes > 0 && part.first < bytes && part.bytes <= bytes - part.first,
            "a part that lies outside");
  }
  return 0;
}
