// Accept-Encoding, RFC 9110 section 12.5.3: which content codings a client takes, and which of
// those that can be had it likes best. Pure functions: thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "http/message.hpp"

namespace mik::http {

enum class Coding : std::uint8_t { kIdentity, kGzip, kBrotli, kZstd };

// As in Content-Encoding; "" for identity.
std::string_view coding_name(Coding coding) noexcept;

// Quality of each coding in thousandths; 0: not taken.
struct AcceptedCodings {
  std::uint16_t gzip = 0;
  std::uint16_t brotli = 0;
  std::uint16_t zstd = 0;
  // Only as far as it was named: what nobody named is taken, but liked least.
  std::uint16_t identity = 0;

  std::uint16_t of(Coding coding) const noexcept;
  bool any() const noexcept { return (gzip | brotli | zstd) != 0; }
};

// Over all lines of the field. What is no coding with a weight is passed over; of a coding that is
// named twice the last one counts. No field: identity alone. Allocates nothing.
AcceptedCodings accepted_codings(std::span<const Field> fields) noexcept;

// The best of `offered` for the client; of equals the first. kIdentity when it takes none of them
// or likes that better. A client that refuses even identity gets it, since any answer is better
// than 406.
Coding best_coding(const AcceptedCodings& accepted, std::span<const Coding> offered) noexcept;

}  // namespace mik::http
