// The scans that look at sixteen bytes at a time say what the table says, for every byte at every
// place.
#include "http/scan.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mik::http {
namespace {

using Skip = const char* (*)(const char*, const char*);

void compare(Skip fast, Skip slow, char filler) {
  for (std::size_t size = 0; size <= 40; ++size) {
    for (std::size_t at = 0; at < size; ++at) {
      for (int c = 0; c < 256; ++c) {
        std::string text(size, filler);
        text[at] = static_cast<char>(c);
        const char* const end = text.data() + text.size();
        ASSERT_EQ(fast(text.data(), end) - text.data(), slow(text.data(), end) - text.data())
            << "byte " << c << " at " << at << " of " << size;
      }
    }
  }
}

TEST(Scan, TheFastScansAgreeWithTheTable) {
  compare(scan::skip_value, scan::skip_slow<scan::kValue>, ' ');
  compare(scan::skip_target, scan::skip_slow<scan::kTarget>, '/');
  compare(scan::skip_token, scan::skip_slow<scan::kToken>, 'a');
  compare(scan::skip_token, scan::skip_slow<scan::kToken>, '_');
}

TEST(Scan, KnowsTheClassesOfTheRfcs) {
  for (int c = 0; c < 256; ++c) {
    const auto byte = static_cast<char>(c);
    const bool visible = c > 0x20 && c != 0x7f;
    EXPECT_EQ(scan::is(byte, scan::kValue), visible || c == ' ' || c == '\t') << c;
    EXPECT_EQ(scan::is(byte, scan::kTarget), visible && c != '#') << c;
    const bool delimiter =
        std::string_view("\"(),/:;<=>?@[\\]{}").find(byte) != std::string_view::npos;
    EXPECT_EQ(scan::is(byte, scan::kToken), visible && c < 0x80 && !delimiter) << c;
  }
}

TEST(Scan, ReadsLengths) {
  std::uint64_t length = 7;
  EXPECT_TRUE(scan::parse_length("18446744073709551615", length));
  EXPECT_EQ(length, 18446744073709551615U);
  EXPECT_FALSE(scan::parse_length("18446744073709551616", length));
  EXPECT_FALSE(scan::parse_length("28446744073709551615", length));
  EXPECT_FALSE(scan::parse_length("", length));
  EXPECT_FALSE(scan::parse_length("1 ", length));
}

}  // namespace
}  // namespace mik::http
