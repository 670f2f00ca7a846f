#include "base/result.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace mik::base {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) {
    return Error(ErrorCode::kConfig, "odd").with_help("use an even number");
  }
  return n / 2;
}

Result<int> quarter(int n) {
  MIK_TRY_ASSIGN(const int h, half(n));
  return half(h);
}

Result<void> check(int n) {
  MIK_TRY(quarter(n));
  return {};
}

TEST(Result, CarriesValueOrError) {
  EXPECT_EQ(*quarter(8), 2);
  ASSERT_FALSE(quarter(6).has_value());
  EXPECT_EQ(quarter(6).error().code(), ErrorCode::kConfig);
  EXPECT_EQ(quarter(6).error().help(), "use an even number");
  EXPECT_TRUE(check(4).has_value());
  EXPECT_FALSE(check(5).has_value());
}

TEST(Result, Chains) {
  EXPECT_EQ(*half(8).and_then(half).transform([](int n) { return n + 1; }), 3);
  EXPECT_FALSE(half(6).and_then(half).has_value());
  EXPECT_EQ(half(3).value_or(7), 7);
}

TEST(Result, HoldsMoveOnlyTypes) {
  Result<std::unique_ptr<int>> r(std::make_unique<int>(3));
  EXPECT_EQ(*std::move(r).value(), 3);
}

TEST(Error, KeepsCausesInOrder) {
  const Error e = Error(ErrorCode::kSystem, "a").because("b").because("c");
  EXPECT_EQ(e.to_string(), "c: b: a");
  EXPECT_EQ(label(e.code()), "system");
}

TEST(ResultDeathTest, ValueOfAnErrorIsABug) {
  EXPECT_DEATH(static_cast<void>(half(1).value()), "bug");
}

}  // namespace
}  // namespace mik::base
