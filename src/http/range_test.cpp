#include "http/range.hpp"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

namespace mik::http {
namespace {

constexpr std::uint64_t kSize = 1000;

RangeAnswer ask(std::string_view value, ByteRange& part, std::uint64_t size = kSize) {
  const std::vector<Field> fields = {{"Range", value}};
  return wanted_range(fields, size, part);
}

void expect_part(std::string_view value, std::uint64_t first, std::uint64_t bytes) {
  ByteRange part;
  EXPECT_EQ(ask(value, part), RangeAnswer::kPart) << value;
  EXPECT_EQ(part.first, first) << value;
  EXPECT_EQ(part.bytes, bytes) << value;
}

TEST(Range, One) {
  expect_part("bytes=0-0", 0, 1);
  expect_part("bytes=0-999", 0, 1000);
  expect_part("bytes=500-", 500, 500);
  expect_part("bytes=-1", 999, 1);
  expect_part("bytes=-5000", 0, 1000);
  expect_part("bytes=990-5000", 990, 10);
  expect_part("Bytes= 10-19 , ", 10, 10);
  expect_part("bytes=999-99999999999999999999999999", 999, 1);
}

TEST(Range, ThatCannotBe) {
  ByteRange part;
  for (const std::string_view value :
       {"bytes=1000-", "bytes=1000-2000", "bytes=-0", "bytes=99999999999999999999999-"}) {
    EXPECT_EQ(ask(value, part), RangeAnswer::kUnsatisfiable) << value;
  }
  EXPECT_EQ(ask("bytes=0-", part, 0), RangeAnswer::kUnsatisfiable);
}

TEST(Range, PassedOver) {
  ByteRange part;
  for (const std::string_view value :
       {"", "bytes", "bytes=", "bytes=-", "bytes=5", "bytes=5-4", "bytes=a-b", "bytes=1-2-3",
        "bytes=+1-2", "bytes=1 -2", "items=0-1", "bytes=0-1,5-6", "bytes:0-1"}) {
    EXPECT_EQ(ask(value, part), RangeAnswer::kWhole) << value;
  }
  EXPECT_EQ(ask("bytes=-5", part, 0), RangeAnswer::kWhole) << "206 cannot say nothing";
  const std::vector<Field> two = {{"Range", "bytes=0-1"}, {"Range", "bytes=0-1"}};
  EXPECT_EQ(wanted_range(two, kSize, part), RangeAnswer::kWhole);
  EXPECT_EQ(wanted_range({}, kSize, part), RangeAnswer::kWhole);
}

}  // namespace
}  // namespace mik::http
