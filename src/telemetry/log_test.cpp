#include "telemetry/log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <regex>

#include "base/fd.hpp"
#include "telemetry/log_budget.hpp"

namespace mik::telemetry {
namespace {

struct Pipe {
  base::Fd read_end, write_end;
  Pipe() {
    std::array<int, 2> fds{};
    if (::pipe2(fds.data(), O_CLOEXEC) == 0) {
      read_end.reset(fds[0]);
      write_end.reset(fds[1]);
    }
  }
  std::string all() {
    write_end.reset();
    std::string text;
    std::array<char, 4096> block;
    for (ssize_t n = 0; (n = ::read(read_end.get(), block.data(), block.size())) > 0;) {
      text.append(block.data(), static_cast<std::size_t>(n));
    }
    return text;
  }
};

TEST(Log, WritesOneJsonObjectALine) {
  Pipe pipe;
  {
    Log log(pipe.write_end.get(), Level::kInfo, Format::kJson);
    log.line(Level::kInfo, "hello")
        .str("path", "/a\"b\n")
        .num("status", 200)
        .ms("duration_ms", std::chrono::microseconds(1234));
    log.line(Level::kDebug, "unseen");
  }
  const std::string text = pipe.all();
  EXPECT_TRUE(std::regex_match(
      text,
      std::regex(R"re(\{"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z","level":"INFO",)re"
                 R"re("target":"mik::server","message":"hello",)re"
                 R"re("path":"/a\\"b\\u000a","status":200,"duration_ms":1\.234\}\n)re")))
      << text;
}

TEST(Log, TextQuotesWhatCouldBeTakenForTwoFields) {
  Pipe pipe;
  {
    Log log(pipe.write_end.get(), Level::kInfo, Format::kText);
    log.line(Level::kWarn, "m").str("a", "x y").str("b", "x").str("c", "");
  }
  EXPECT_NE(pipe.all().find("WARN mik::server m a=\"x y\" b=x c=\"\"\n"), std::string::npos);
}

// Field case 6: a log line stays valid JSON whatever a client sends.
TEST(Log, ForeignBytesBecomeReplacementCharacters) {
  std::string out;
  append_json_escaped(out, "a\xFF\xFE\xC3\xA9\xED\xA0\x80\x01\xF0\x9F\x98\x80\xC3");
  EXPECT_EQ(out,
            "a\xEF\xBF\xBD\xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\\u0001\xF0\x9F"
            "\x98\x80\xEF\xBF\xBD");
}

TEST(Log, AReaderThatDoesNotReadCostsLinesNotTime) {
  Pipe pipe;
  Log log(pipe.write_end.get(), Level::kInfo, Format::kJson, Writing::kThread, 4096);
  const std::string big(512, 'x');
  for (int i = 0; i < 1000; ++i) {
    log.line(Level::kInfo, big);
    log.flush();
  }
  EXPECT_GT(log.dropped(), 0u);
}

TEST(Log, DirectWritingNeedsNoThread) {
  Pipe pipe;
  Log log(pipe.write_end.get(), Level::kInfo, Format::kJson, Writing::kDirect);
  log.line(Level::kInfo, "now");
  log.flush();
  std::array<char, 256> block{};
  EXPECT_GT(::read(pipe.read_end.get(), block.data(), block.size()), 0);
}

// A supervisor whose log nobody reads still takes signals: `mik run | less`, a collector that
// hangs.
TEST(Log, DirectWritingDoesNotWaitForAReader) {
  Pipe pipe;
  Log log(pipe.write_end.get(), Level::kInfo, Format::kJson, Writing::kDirect);
  const std::string big(2000, 'x');
  for (int i = 0; i < 2000; ++i) {
    log.line(Level::kInfo, big);
    log.flush();
  }
  EXPECT_GT(log.dropped(), 0u);
  std::array<char, 4096> block{};
  ASSERT_GT(::read(pipe.read_end.get(), block.data(), block.size()), 0);
  EXPECT_TRUE(std::string_view(block.data(), block.size()).starts_with("{\"timestamp\""));
}

// 1 MiB pending and a pipe of 64 KiB: a plain write would hold the end of the process for ever.
TEST(Log, TheEndWaitsASecondForAReaderThatDoesNotRead) {
  Pipe pipe;
  const base::Time start = base::Clock::now();
  {
    Log log(pipe.write_end.get(), Level::kInfo, Format::kJson);
    const std::string big(2000, 'x');
    for (int i = 0; i < 300; ++i) {
      log.line(Level::kInfo, big);
      log.flush();
    }
  }
  EXPECT_LT(base::Clock::now() - start, std::chrono::seconds(5));
}

TEST(Log, LinesAreWholeWhenTheReaderIsSlow) {
  Pipe pipe;
  std::string text;
  {
    Log log(pipe.write_end.get(), Level::kInfo, Format::kJson, Writing::kDirect);
    const std::string big(700, 'x');
    std::array<char, 4096> block;
    for (int i = 0; i < 400; ++i) {
      log.line(Level::kInfo, big);
      log.flush();
      if (i % 3 == 0) {
        text.append(block.data(), static_cast<std::size_t>(
                                      ::read(pipe.read_end.get(), block.data(), block.size())));
      }
    }
    for (int i = 0; i < 1000 && std::ranges::count(text, '\n') < 400; ++i) {
      log.flush();
      text.append(block.data(), static_cast<std::size_t>(
                                    ::read(pipe.read_end.get(), block.data(), block.size())));
    }
  }
  text += pipe.all();
  EXPECT_EQ(std::ranges::count(text, '\n'), 400);
  EXPECT_EQ(text.size() % 400, 0u);
}

TEST(Log, OffWritesNothing) {
  Pipe pipe;
  {
    Log log(pipe.write_end.get(), Level::kOff, Format::kJson);
    log.line(Level::kError, "x");
  }
  EXPECT_EQ(pipe.all(), "");
}

TEST(Log, EveryLineNamesItsTargetAndWhoWroteIt) {
  Pipe pipe;
  {
    LogOptions options;
    options.fd = pipe.write_end.get();
    options.service_name = "shop\"s";
    options.service_version = "1.2.3";
    options.worker = 3;
    Log log(options);
    log.line(Level::kInfo, Target::kGuest, "m").num("a", 1);
  }
  const std::string text = pipe.all();
  EXPECT_TRUE(text.ends_with(
      R"(,"level":"INFO","target":"mik_guest","message":"m","a":1,"service.name":"shop\"s","service.version":"1.2.3","worker":3})"
      "\n"))
      << text;
}

TEST(Log, ATargetHasALevelOfItsOwn) {
  Pipe pipe;
  {
    bool bad = false;
    Log log(pipe.write_end.get(), LogFilter::parse("warn,mik::http=debug", bad), Format::kText);
    log.line(Level::kDebug, Target::kHttp, "seen");
    log.line(Level::kInfo, Target::kModules, "unseen");
    EXPECT_FALSE(log.enabled(Level::kInfo));
  }
  const std::string text = pipe.all();
  EXPECT_NE(text.find("DEBUG mik::http seen\n"), std::string::npos) << text;
  EXPECT_EQ(text.find("unseen"), std::string::npos);
}

// Longer ones of two workers would mingle in a pipe.
TEST(Log, NoLineIsLongerThanAPipeTakesWhole) {
  for (const Format format : {Format::kJson, Format::kText}) {
    for (const std::size_t length : {100u, 2000u, 4000u, 70000u}) {
      for (const std::string_view unit : {"x", "\"", "\x01", "\xF0\x9F\x98\x80", "\xFF"}) {
        std::string value;
        while (value.size() < length) {
          value += unit;
        }
        Pipe pipe;
        {
          Log log(pipe.write_end.get(), Level::kInfo, format);
          auto line = log.line(Level::kInfo, value);
          for (int i = 0; i < 4; ++i) {
            line.str("key", value).num("n", INT64_MIN).ms("t", std::chrono::hours(1));
          }
          line.num("last", 7);
        }
        const std::string text = pipe.all();
        EXPECT_LE(text.size(), kLineMax) << length;
        EXPECT_EQ(std::ranges::count(text, '\n'), 1);
        EXPECT_TRUE(text.ends_with(format == Format::kJson ? ",\"last\":7}\n" : " last=7\n"))
            << "numbers have room: " << text.substr(text.size() - 80);
      }
    }
  }
}

TEST(Log, WhatTerminalsAndReadersActOnIsEscapedEverywhere) {
  const std::string evil =
      "a\x1b[31m\r\nb\xC2\x9B"
      "2J\xE2\x80\xA8x\xE2\x80\xAEy\x7f";
  for (const Format format : {Format::kJson, Format::kText}) {
    Pipe pipe;
    {
      Log log(pipe.write_end.get(), Level::kInfo, format);
      log.line(Level::kInfo, evil).str("v", evil);
    }
    const std::string text = pipe.all();
    for (const std::string_view raw :
         {"\x1b", "\r", "\xC2\x9B", "\xE2\x80\xA8", "\xE2\x80\xAE", "\x7f"}) {
      EXPECT_EQ(text.find(raw), std::string::npos) << text;
    }
    EXPECT_EQ(std::ranges::count(text, '\n'), 1);
    EXPECT_NE(text.find(R"(a\u001b[31m\u000d\u000ab\u009b2J\u2028x\u202ey\u007f)"),
              std::string::npos)
        << text;
  }
  EXPECT_EQ(visible("a \"b\"\n\\"), "a \"b\"\\u000a\\");
}

TEST(Log, AValueIsCutBetweenCharacters) {
  const auto cut = [](std::string_view text, std::size_t bytes_max) {
    std::string out = "-";
    append_json_escaped(out, text, bytes_max);
    return out.substr(1);
  };
  EXPECT_EQ(cut("abcdef", 6), "abcdef");
  EXPECT_EQ(cut("abcdefg", 6), "abc\xE2\x80\xA6");
  EXPECT_EQ(cut("ab\xC3\xA9\xC3\xA9", 6), "ab\xC3\xA9\xC3\xA9");
  EXPECT_EQ(cut("ab\xC3\xA9\xC3\xA9g", 6), "ab\xE2\x80\xA6");
  EXPECT_EQ(cut("a\n\n", 11), "a\\u000a\xE2\x80\xA6");
  EXPECT_EQ(cut("abc", 0), "");
  EXPECT_EQ(cut("abc", 2), "");
}

TEST(LogBudget, OfOneSourceASecond) {
  LogBudget budget;
  const base::Time start = base::Clock::now();
  const LogBudget::Limits limits{.lines = 2, .bytes = 100};
  EXPECT_TRUE(budget.take(start, 10, limits));
  EXPECT_TRUE(budget.take(start, 10, limits));
  EXPECT_FALSE(budget.take(start, 10, limits));
  EXPECT_EQ(budget.over(start).lines, 0u) << "it goes on";
  const base::Time later = start + std::chrono::seconds(1);
  const LogBudget::Dropped dropped = budget.over(later);
  EXPECT_EQ(dropped.lines, 1u);
  EXPECT_EQ(dropped.bytes, 10u);
  EXPECT_EQ(budget.over(later).lines, 0u) << "said once";
  EXPECT_TRUE(budget.take(later, 100, limits));
  EXPECT_FALSE(budget.take(later, 1, limits));
}

}  // namespace
}  // namespace mik::telemetry
