#define OPENSSL_SUPPRESS_DEPRECATED  // see the header
#include "runtime/sha256.hpp"

#include <algorithm>

namespace mik::runtime {

Sha256::Sha256() noexcept { ::SHA256_Init(&context_); }

void Sha256::update(std::string_view bytes) noexcept {
  ::SHA256_Update(&context_, bytes.data(), bytes.size());
}

void Sha256::update(std::span<const std::uint8_t> bytes) noexcept {
  ::SHA256_Update(&context_, bytes.data(), bytes.size());
}

Sha256Digest Sha256::finish() noexcept {
  Sha256Digest digest;
  ::SHA256_Final(digest.data(), &context_);
  return digest;
}

HmacSha256::HmacSha256(std::span<const std::uint8_t> key) noexcept {
  std::array<std::uint8_t, SHA256_CBLOCK> block{};
  if (key.size() > block.size()) {
    Sha256 shorter;
    shorter.update(key);
    std::ranges::copy(shorter.finish(), block.begin());
  } else {
    std::ranges::copy(key, block.begin());
  }
  constexpr std::uint8_t kInner = 0x36;
  constexpr std::uint8_t kOuter = 0x5c;
  std::ranges::for_each(block, [](std::uint8_t& byte) { byte ^= kInner; });
  inner_.update(block);
  std::ranges::for_each(block, [](std::uint8_t& byte) { byte ^= kInner ^ kOuter; });
  outer_.update(block);
}

Sha256Digest HmacSha256::finish() noexcept {
  outer_.update(inner_.finish());
  return outer_.finish();
}

}  // namespace mik::runtime
