// The chunked transfer coding, RFC 9112 section 7.1: an incremental decoder for both directions of bodies.
// Externally synchronised.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "http/message.hpp"

namespace mik::http {

class ChunkedDecoder {
 public:
  enum class Status : std::uint8_t {
    kData,      // `data` is content; call again with what is left
    kNeedMore,  // everything was consumed (or what is left is an unfinished line): call again with more
    kEnd,       // the last chunk and the trailer section are through
    kBad,       // not chunked coding: a bad size, a missing CRLF, a bare LF, an extension or trailer section too long
  };
  struct Step {
    Status status;
    std::size_t consumed;   // bytes of the input that are done with
    std::string_view data;  // part of the input
  };

  // Looks at the front of `input`. Never allocates but for trailers. Sizes have at most 16 hex digits; extensions are
  // skipped, at most 1 KiB per chunk and 16 KiB in all; the trailer section is at most `head_bytes_max`.
  Step decode(std::string_view input, const Limits& limits);

  // After kEnd: valid until the decoder is reset or destroyed.
  std::span<const Field> trailers() const noexcept { return trailers_; }

  void reset();

 private:
  enum class State : std::uint8_t { kSize, kSizeStart, kExtension, kSizeLf, kData, kDataCr, kDataLf, kTrailer, kEnd, kBad };
  State state_ = State::kSizeStart;
  std::uint64_t left_ = 0;
  std::uint32_t digits_ = 0;
  std::size_t extension_bytes_ = 0;
  std::size_t extension_bytes_total_ = 0;
  std::string trailer_bytes_;
  std::vector<Field> trailers_;
};

}  // namespace mik::http
