// SHA-256 (FIPS 180-4) and HMAC (RFC 2104) with it, by OpenSSL's plain functions: EVP would first
// read openssl.cnf and set up its providers, 0.6 ms of each start of a worker that may never need
// TLS. Neither can fail. An object belongs to one thread at a time.
#pragma once

#include <openssl/sha.h>

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace mik::runtime {

using Sha256Digest = std::array<std::uint8_t, SHA256_DIGEST_LENGTH>;

class Sha256 {
 public:
  Sha256() noexcept;
  void update(std::string_view bytes) noexcept;
  void update(std::span<const std::uint8_t> bytes) noexcept;
  // Once, and the last call.
  Sha256Digest finish() noexcept;

 private:
  SHA256_CTX context_;
};

class HmacSha256 {
 public:
  // `key`: of any size.
  explicit HmacSha256(std::span<const std::uint8_t> key) noexcept;
  void update(std::string_view bytes) noexcept { inner_.update(bytes); }
  // Once, and the last call.
  Sha256Digest finish() noexcept;

 private:
  Sha256 inner_;
  Sha256 outer_;
};

}  // namespace mik::runtime
