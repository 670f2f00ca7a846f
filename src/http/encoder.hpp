// A content coding as a stream: gzip (RFC 1952), brotli (RFC 7932), zstd (RFC 8878). One thread at
// a time, any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "http/accept_encoding.hpp"

namespace mik::http {

enum class EncodeStep : std::uint8_t {
  kMore,   // may keep back what it likes
  kFlush,  // all that was given can be decoded from what comes out
  kEnd,    // the same, and it is the end
};

class Encoder {
 public:
  virtual ~Encoder() = default;
  // Takes all of `input` and appends to `out`. False: out of memory, and the stream is broken.
  [[nodiscard]] virtual bool encode(std::string_view input, EncodeStep step, std::string& out) = 0;
  // Ready for another stream. False: it is of no more use.
  [[nodiscard]] virtual bool reset() = 0;
};

// Null: out of memory. Not for identity. Fast levels: this is work between a request and its
// answer.
std::unique_ptr<Encoder> make_encoder(Coding coding);

// What a stream holds at most.
std::size_t encoder_bytes(Coding coding) noexcept;

}  // namespace mik::http
