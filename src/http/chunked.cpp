#include "http/chunked.hpp"

#include <algorithm>
#include <array>

#include "http/scan.hpp"

namespace mik::http {
namespace {

constexpr std::uint32_t kDigitsMax = 16;
constexpr std::size_t kExtensionBytesMax = 1024;
constexpr std::size_t kExtensionBytesTotalMax = 16 * 1024;

// RFC 9110 section 6.5.1: framing, routing, request modifiers, authentication, response control,
// and how to process the content. Hop-by-hop fields are of no use there either.
constexpr auto kForbiddenTrailers = std::to_array<std::string_view>({
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "retry-after",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "vary",
    "via",
    "warning",
    "www-authenticate",
});

}  // namespace

bool is_forbidden_trailer(std::string_view name) noexcept {
  return std::ranges::any_of(kForbiddenTrailers, [name](std::string_view forbidden) {
    return equals_lower(name, forbidden);
  });
}

ChunkedDecoder::Step ChunkedDecoder::decode(std::string_view input, const Limits& limits) {
  std::size_t at = 0;
  while (true) {
    if (state_ == State::kEnd) {
      return {.status = Status::kEnd, .consumed = at, .data = {}};
    }
    if (state_ == State::kBad) {
      return {.status = Status::kBad, .consumed = at, .data = {}};
    }
    if (at == input.size()) {
      return {.status = Status::kNeedMore, .consumed = at, .data = {}};
    }
    switch (state_) {
      case State::kData: {
        const auto size =
            static_cast<std::size_t>(std::min<std::uint64_t>(left_, input.size() - at));
        left_ -= size;
        if (left_ == 0) {
          state_ = State::kDataCr;
        }
        return {.status = Status::kData, .consumed = at + size, .data = input.substr(at, size)};
      }
      case State::kDataCr:
        state_ = input[at++] == '\r' ? State::kDataLf : State::kBad;
        break;
      case State::kDataLf:
        state_ = input[at++] == '\n' ? State::kSizeStart : State::kBad;
        break;
      case State::kTrailer: {
        std::size_t consumed = 0;
        state_ = trailer_bytes(input.substr(at), limits, consumed);
        at += consumed;
        break;
      }
      default:
        state_ = size_byte(input[at++]);
        break;
    }
  }
}

// One byte of a size line.
ChunkedDecoder::State ChunkedDecoder::size_byte(char c) {
  switch (state_) {
    case State::kSizeStart:
      left_ = 0;
      digits_ = 0;
      extension_bytes_ = 0;
      [[fallthrough]];
    case State::kSize:
      if (scan::is(c, scan::kHex)) {
        left_ = left_ << 4U | scan::hex_digit(c);
        return ++digits_ <= kDigitsMax ? State::kSize : State::kBad;
      }
      if (digits_ == 0) {
        return State::kBad;
      }
      if (c == '\r') {
        return State::kSizeLf;
      }
      [[fallthrough]];
    case State::kSizeBlank:
    case State::kExtension:
      return extension_byte(c);
    case State::kSizeLf:
      if (c != '\n') {
        return State::kBad;
      }
      return left_ == 0 ? State::kTrailer : State::kData;
    default:
      return State::kBad;
  }
}

// One byte behind a size and before its CRLF. What extensions say is of no use here (RFC 9112
// section 7.1.1: ignore those that are not known), so only their end has to be found, and the same
// end that any other reader finds: no control character, no unfinished quoted string.
ChunkedDecoder::State ChunkedDecoder::extension_byte(char c) {
  ++extension_bytes_;
  ++extension_bytes_total_;
  if (extension_bytes_ > kExtensionBytesMax || extension_bytes_total_ > kExtensionBytesTotalMax) {
    return State::kBad;
  }
  if (state_ != State::kExtension) {
    if (c == ';') {
      quoted_ = false;
      escaped_ = false;
      return State::kExtension;
    }
    return scan::is_blank(c) ? State::kSizeBlank : State::kBad;
  }
  if (c == '\r') {
    return quoted_ ? State::kBad : State::kSizeLf;
  }
  if (!scan::is(c, scan::kValue)) {
    return State::kBad;
  }
  if (escaped_) {
    escaped_ = false;
  } else if (quoted_ && c == '\\') {
    escaped_ = true;
  } else if (c == '"') {
    quoted_ = !quoted_;
  }
  return State::kExtension;
}

// Takes what belongs to the line that is unfinished.
ChunkedDecoder::State ChunkedDecoder::trailer_bytes(std::string_view input, const Limits& limits,
                                                    std::size_t& consumed) {
  const std::size_t lf = input.find('\n');
  const bool finished = lf != std::string_view::npos;
  consumed = finished ? lf + 1 : input.size();
  if (consumed > limits.head_bytes_max - std::min(limits.head_bytes_max, trailer_bytes_.size())) {
    return State::kBad;
  }
  trailer_bytes_.append(input.substr(0, consumed));
  if (!finished) {
    return State::kTrailer;
  }
  const std::string_view line = std::string_view(trailer_bytes_).substr(trailer_line_);
  trailer_line_ = trailer_bytes_.size();
  return trailer_line(line, limits);
}

ChunkedDecoder::State ChunkedDecoder::trailer_line(std::string_view line, const Limits& limits) {
  const char* at = line.data();
  Field field;
  std::string_view problem;
  switch (scan::next_field<scan::Rules::kStrict>(at, at + line.size(), field, problem)) {
    case scan::Line::kField:
      return ++trailer_count_ <= limits.fields_max ? State::kTrailer : State::kBad;
    case scan::Line::kEnd:
      collect_trailers();
      return State::kEnd;
    default:
      return State::kBad;
  }
}

// All lines are there and were found good, so their bytes do not move any more.
void ChunkedDecoder::collect_trailers() {
  const char* at = trailer_bytes_.data();
  const char* const end = at + trailer_bytes_.size();
  Field field;
  std::string_view problem;
  while (scan::next_field<scan::Rules::kStrict>(at, end, field, problem) == scan::Line::kField) {
    if (!is_forbidden_trailer(field.name)) {
      trailers_.push_back(field);
    }
  }
}

void ChunkedDecoder::reset() {
  state_ = State::kSizeStart;
  extension_bytes_total_ = 0;
  trailer_bytes_.clear();
  trailer_line_ = 0;
  trailer_count_ = 0;
  trailers_.clear();
}

}  // namespace mik::http
