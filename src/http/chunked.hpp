// The chunked transfer coding, RFC 9112 section 7.1: an incremental decoder for both directions of
// bodies. Externally synchronised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "http/message.hpp"

namespace mik::http {

// Whether RFC 9110 section 6.5.1 forbids a field in trailers: framing, routing, authentication,
// content fields. Any case.
bool is_forbidden_trailer(std::string_view name) noexcept;

//   chunked-body = *chunk last-chunk trailer-section CRLF
//   chunk        = chunk-size [ chunk-ext ] CRLF chunk-data CRLF
//   last-chunk   = 1*"0" [ chunk-ext ] CRLF
//   chunk-ext    = *( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )
class ChunkedDecoder {
 public:
  enum class Status : std::uint8_t {
    kData,      // `data` is content; call again with what is left
    kNeedMore,  // everything was consumed: call again with more
    kEnd,       // the last chunk and the trailer section are through
    kBad,  // not chunked coding: a bad size, a missing CRLF, a bare LF, an extension or trailer
           // section too long
  };
  struct Step {
    Status status;
    std::size_t consumed;   // bytes of the input that are done with
    std::string_view data;  // part of the input
  };

  ChunkedDecoder() = default;
  ChunkedDecoder(const ChunkedDecoder&) = delete;  // trailers are views into the decoder
  ChunkedDecoder& operator=(const ChunkedDecoder&) = delete;

  // Looks at the front of `input`. What it finds does not depend on how the bytes were split into
  // inputs. Never allocates but for trailers. Sizes have at most 16 hex digits; extensions are
  // skipped, at most 1 KiB per chunk and 16 KiB in all; the trailer section is at most
  // `head_bytes_max` and `fields_max`. After kEnd or kBad each further call says the same and
  // consumes nothing.
  Step decode(std::string_view input, const Limits& limits);

  // After kEnd, in order, without those that are forbidden there. Valid until the decoder is reset
  // or destroyed.
  std::span<const Field> trailers() const noexcept { return trailers_; }

  void reset();

 private:
  enum class State : std::uint8_t {
    kSizeStart,  // the first digit of a size
    kSize,
    kSizeBlank,  // blanks behind a size, before ';'
    kExtension,
    kSizeLf,
    kData,
    kDataCr,
    kDataLf,
    kTrailer,
    kEnd,
    kBad,
  };

  State size_byte(char c);
  State extension_byte(char c);
  State trailer_bytes(std::string_view input, const Limits& limits, std::size_t& consumed);
  State trailer_line(std::string_view line, const Limits& limits);
  void collect_trailers();

  State state_ = State::kSizeStart;
  bool quoted_ = false;   // inside a quoted string of an extension
  bool escaped_ = false;  // behind a backslash in it
  std::uint64_t left_ = 0;
  std::uint32_t digits_ = 0;
  std::size_t extension_bytes_ = 0;
  std::size_t extension_bytes_total_ = 0;
  std::string trailer_bytes_;
  std::size_t trailer_line_ = 0;   // where the unfinished line begins
  std::size_t trailer_count_ = 0;  // lines, forbidden ones included
  std::vector<Field> trailers_;
};

}  // namespace mik::http
