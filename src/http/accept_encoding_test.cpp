#include "http/accept_encoding.hpp"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace mik::http {
namespace {

constexpr std::array kAll = {Coding::kZstd, Coding::kBrotli, Coding::kGzip};

Coding best(std::vector<std::string> lines) {
  std::vector<Field> fields = {{"Host", "x"}};
  for (const std::string& line : lines) {
    fields.push_back({"Accept-Encoding", line});
  }
  return best_coding(accepted_codings(fields), kAll);
}

TEST(AcceptEncoding, NothingSaidMeansIdentity) {
  EXPECT_EQ(best({}), Coding::kIdentity);
  EXPECT_EQ(best({""}), Coding::kIdentity);
  EXPECT_EQ(best({"identity"}), Coding::kIdentity);
  EXPECT_EQ(best({"deflate, compress"}), Coding::kIdentity);
}

TEST(AcceptEncoding, NamesCompareWithoutCaseAndWhole) {
  EXPECT_EQ(best({"GZip"}), Coding::kGzip);
  EXPECT_EQ(best({"x-gzip"}), Coding::kGzip);
  EXPECT_EQ(best({"BR"}), Coding::kBrotli);
  EXPECT_EQ(best({"notgzip, gzipped"}), Coding::kIdentity);
}

TEST(AcceptEncoding, ZeroRefuses) {
  EXPECT_EQ(best({"gzip;q=0"}), Coding::kIdentity);
  EXPECT_EQ(best({"gzip;q=0.000, br;q=0.001"}), Coding::kBrotli);
  EXPECT_EQ(best({"*;q=0, gzip"}), Coding::kGzip);
  EXPECT_EQ(best({"identity;q=0"}), Coding::kIdentity) << "there is nothing else";
}

TEST(AcceptEncoding, TheHighestQualityWinsAndOfEqualsTheFirstOffered) {
  EXPECT_EQ(best({"gzip, deflate, br, zstd"}), Coding::kZstd);
  EXPECT_EQ(best({"gzip, deflate, br"}), Coding::kBrotli);
  EXPECT_EQ(best({"gzip;q=0.9, br;q=0.8, zstd;q=0.7"}), Coding::kGzip);
  EXPECT_EQ(best({"gzip ; q=0.5", "br;Q=0.6"}), Coding::kBrotli);
}

TEST(AcceptEncoding, IdentityCountsWhereItIsNamed) {
  EXPECT_EQ(best({"gzip;q=0.5, identity"}), Coding::kIdentity);
  EXPECT_EQ(best({"gzip;q=0.5, identity;q=0.5"}), Coding::kGzip);
  EXPECT_EQ(best({"gzip;q=0.5"}), Coding::kGzip);
}

TEST(AcceptEncoding, AStarIsWhatWasNotNamed) {
  EXPECT_EQ(best({"*"}), Coding::kZstd);
  EXPECT_EQ(best({"zstd;q=0, br;q=0, *;q=0.1"}), Coding::kGzip);
}

TEST(AcceptEncoding, WhatIsNoWeightIsPassedOver) {
  for (const std::string bad : {"gzip;q=", "gzip;q=2", "gzip;q=1.001", "gzip;q=0.0001", "gzip;q=a",
                                "gzip;", "gzip;level=9", "gzip;q=-1", "gzip;q=.5", "gzip q=1"}) {
    EXPECT_EQ(best({bad}), Coding::kIdentity) << bad;
    EXPECT_EQ(best({bad + ", br;q=0.1"}), Coding::kBrotli) << bad;
  }
}

}  // namespace
}  // namespace mik::http
