// The chunked decoder against a slow one that reads the whole body, and against itself with other
// splits.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/chunked.hpp"
#include "http/request_grammar.hpp"

namespace {

using namespace mik::http;
using Status = ChunkedDecoder::Status;

void require(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "the decoder is wrong: %s\n", what);
    std::abort();
  }
}

struct Decoded {
  Status status = Status::kNeedMore;
  std::string content;
  std::size_t consumed = 0;  // at the end
  std::vector<std::pair<std::string, std::string>> trailers;

  friend bool operator==(const Decoded&, const Decoded&) = default;
};

// `next` says how long the next piece is, at least 1.
template <class Next>
Decoded decode(std::string_view bytes, const Limits& limits, Next next) {
  Decoded decoded;
  ChunkedDecoder decoder;
  std::size_t at = 0;
  while (at < bytes.size()) {
    std::string_view piece = bytes.substr(at, next());
    const ChunkedDecoder::Step step = decoder.decode(piece, limits);
    require(step.consumed <= piece.size(), "consumed more than there was");
    require(
        step.data.empty() || (step.data.data() >= piece.data() &&
                              step.data.data() + step.data.size() <= piece.data() + step.consumed),
        "data from elsewhere");
    require(step.status != Status::kNeedMore || step.consumed == piece.size(), "left something");
    require(step.status != Status::kData || !step.data.empty(), "data of no bytes");
    decoded.content += step.data;
    at += step.consumed;
    if (step.status == Status::kBad) {
      decoded.status = Status::kBad;
      return decoded;
    }
    if (step.status == Status::kEnd) {
      decoded.status = Status::kEnd;
      decoded.consumed = at;
      for (const Field& field : decoder.trailers()) {
        decoded.trailers.emplace_back(field.name, field.value);
      }
      return decoded;
    }
  }
  return decoded;
}

// Of a whole, correct size line without its CRLF: the size, or -1.
__int128 read_size(const std::string& line) {
  std::size_t digits = 0;
  __int128 size = 0;
  while (digits < line.size() && testing::hex(line[digits])) {
    size = size * 16 + std::stoi(line.substr(digits, 1), nullptr, 16);
    if (++digits > 16) {
      return -1;
    }
  }
  const std::string rest = line.substr(digits);
  const std::size_t semicolon = rest.find_first_not_of(" \t");
  if (digits == 0 ||
      (!rest.empty() && (semicolon == std::string::npos || rest[semicolon] != ';'))) {
    return -1;
  }
  bool quoted = false;
  for (std::size_t i = 0; i < rest.size(); ++i) {
    if (!testing::vchar(rest[i]) && !testing::obs_text(rest[i]) &&
        !testing::one_of(rest[i], " \t")) {
      return -1;
    }
    if (quoted && rest[i] == '\\') {
      ++i;
      if (i < rest.size() && !testing::vchar(rest[i]) && !testing::obs_text(rest[i]) &&
          !testing::one_of(rest[i], " \t")) {
        return -1;
      }
    } else if (rest[i] == '"') {
      quoted = !quoted;
    }
  }
  return quoted ? -1 : size;
}

// Straight from the grammar; true when `bytes` begin with a whole body. Limits that the decoder has
// are not known here.
bool read_body(std::string_view bytes, std::string& content, std::size_t& end) {
  std::size_t at = 0;
  while (true) {
    const std::size_t line_end = bytes.find("\r\n", at);
    if (line_end == std::string_view::npos) {
      return false;
    }
    const __int128 size = read_size(std::string(bytes.substr(at, line_end - at)));
    at = line_end + 2;
    if (size == 0) {
      break;
    }
    if (size < 0 || size + 2 > static_cast<__int128>(bytes.size() - at)) {
      return false;
    }
    content += bytes.substr(at, static_cast<std::size_t>(size));
    at += static_cast<std::size_t>(size);
    if (bytes.substr(at, 2) != "\r\n") {
      return false;
    }
    at += 2;
  }
  while (true) {
    const std::size_t line_end = bytes.find("\r\n", at);
    if (line_end == std::string_view::npos) {
      return false;
    }
    const std::string line(bytes.substr(at, line_end - at));
    at = line_end + 2;
    if (line.empty()) {
      end = at;
      return true;
    }
    testing::GrammarHead head;
    testing::read_field_line(line, head);
    if (!head.errors.empty()) {
      return false;
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const Limits usual;
  const Limits tight{.head_bytes_max = 24, .fields_max = 2};
  for (const Limits& limits : {usual, tight}) {
    const Decoded whole = decode(bytes, limits, [&bytes] { return bytes.size(); });
    require(decode(bytes, limits, [] { return std::size_t{1}; }) == whole, "byte by byte");
    std::uint64_t seed = size * 0x9e3779b97f4a7c15U + 1;
    for (int round = 0; round < 4; ++round) {
      const auto next = [&seed] {
        seed = seed * 6364136223846793005U + 1442695040888963407U;
        return static_cast<std::size_t>(seed >> 60U) + 1;
      };
      require(decode(bytes, limits, next) == whole, "split at random");
    }
    std::string content;
    std::size_t end = 0;
    const bool accepted = read_body(bytes, content, end);
    if (whole.status == Status::kEnd) {
      require(accepted && content == whole.content && end == whole.consumed, "accepted");
    } else if (accepted) {
      // Only for a limit: each needs more bytes than the decoder allows somewhere.
      require(whole.status == Status::kBad && size > (limits.fields_max == 2 ? 12U : 512U),
              "refused");
    }
  }
  return 0;
}
