#include "gateway/json.hpp"

#include <gtest/gtest.h>

#include <string>

namespace mik::gateway {
namespace {

std::string again(std::string_view text) {
  auto value = parse_json(text);
  if (!value.has_value()) {
    return "refused: " + value.error().to_string();
  }
  std::string out;
  append_json(out, *value);
  return out;
}

bool refused(std::string_view text) { return !parse_json(text).has_value(); }

TEST(Json, IsReadAndWritten) {
  EXPECT_EQ(again(" { \"b\" : [ 1 , -0.5e+3 , true , false , null ] , \"a\" : { } } "),
            R"({"a":{},"b":[1,-0.5e+3,true,false,null]})");
  EXPECT_EQ(again("[]"), "[]");
  EXPECT_EQ(again("12345678901234567890.0"), "12345678901234567890.0") << "as it was written";
  EXPECT_EQ(again("\xef\xbb\xbf\"x\""), "\"x\"") << "a byte order mark";
}

TEST(Json, MembersAreSortedAndOnce) {
  EXPECT_EQ(again(R"({"b":1,"a":2,"b":3})"), R"({"a":2,"b":3})") << "the last counts";
  Json object = Json::object();
  object.set("b", Json::string("1"));
  object.set("a", Json::string("2"));
  object.set("b", Json::string("3"));
  std::string out;
  append_json(out, object);
  EXPECT_EQ(out, R"({"a":"2","b":"3"})");
  object.erase("a");
  object.erase("c");
  EXPECT_EQ(object.find("a"), nullptr);
  EXPECT_NE(object.find("b"), nullptr);
}

TEST(Json, StringsAreUnicode) {
  EXPECT_EQ(again(R"("\u0041\u00e9\u20ac\ud83d\ude00\n\"\\\/")"),
            "\"A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\\u000a\\\"\\\\/\"");
  for (const char* wrong : {R"("\ud83d")", R"("\ud83dx")", R"("\ud83d\u0041")", R"("\ude00")",
                            R"("\u12g4")", R"("\x")", "\"a\nb\"", "\"open", "\"\xff\"", "\"\\"}) {
    EXPECT_TRUE(refused(wrong)) << wrong;
  }
}

TEST(Json, WhatIsNoneIsRefused) {
  for (const char* wrong :
       {"",           " ",     "{",   "[",    "[1,]", "[1 2]", "{\"a\"}", "{\"a\":}",
        "{\"a\":1,}", "{a:1}", "01",  "-",    "1.",   "1e",    ".5",      "+1",
        "tru",        "nul",   "1 2", "[1]]", "NaN",  "'a'"}) {
    EXPECT_TRUE(refused(wrong)) << wrong;
  }
  EXPECT_EQ(parse_json("[1,x]").error().message(), "no JSON: no value at byte 3");
}

TEST(Json, DepthAndCountAreBounded) {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_FALSE(refused(nested(kJsonDepthMax + 1)));
  EXPECT_TRUE(refused(nested(kJsonDepthMax + 2)));
  EXPECT_TRUE(refused(std::string(1 << 20, '[')));
  const auto list = [](std::size_t items) {
    std::string text = "[0";
    for (std::size_t i = 1; i < items; ++i) {
      text += ",0";
    }
    return text + "]";
  };
  EXPECT_FALSE(refused(list(kJsonValuesMax - 1)));
  EXPECT_TRUE(refused(list(kJsonValuesMax)));
}

}  // namespace
}  // namespace mik::gateway
