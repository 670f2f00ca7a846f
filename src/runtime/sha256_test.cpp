#include "runtime/sha256.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include <fmt/format.h>

namespace mik::runtime {
namespace {

std::string hex(const Sha256Digest& digest) {
  std::string out;
  for (const std::uint8_t byte : digest) {
    out += fmt::format("{:02x}", byte);
  }
  return out;
}

std::string mac(const std::vector<std::uint8_t>& key, std::string_view text) {
  HmacSha256 hmac(key);
  hmac.update(text.substr(0, text.size() / 2));
  hmac.update(text.substr(text.size() / 2));
  return hex(hmac.finish());
}

// FIPS 180-4, examples of NIST.
TEST(Sha256, GivesTheStandardsDigests) {
  Sha256 empty;
  EXPECT_EQ(hex(empty.finish()),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 abc;
  abc.update("a");
  abc.update("bc");
  EXPECT_EQ(hex(abc.finish()), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 long_one;
  long_one.update("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq");
  EXPECT_EQ(hex(long_one.finish()),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

// RFC 4231, sections 4.2, 4.3, 4.4 and 4.7: keys shorter and longer than a block.
TEST(HmacSha256, GivesTheStandardsCodes) {
  EXPECT_EQ(mac(std::vector<std::uint8_t>(20, 0x0b), "Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
  EXPECT_EQ(mac({'J', 'e', 'f', 'e'}, "what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  EXPECT_EQ(mac(std::vector<std::uint8_t>(20, 0xaa), std::string(50, '\xdd')),
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
  EXPECT_EQ(mac(std::vector<std::uint8_t>(131, 0xaa),
                "Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

}  // namespace
}  // namespace mik::runtime
