#include "telemetry/log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <regex>

#include "base/fd.hpp"

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
      std::regex(
          R"re(\{"timestamp":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z","level":"INFO","message":"hello",)re"
          R"re("path":"/a\\"b\\u000a","status":200,"duration_ms":1\.234\}\n)re")))
      << text;
}

TEST(Log, TextQuotesWhatCouldBeTakenForTwoFields) {
  Pipe pipe;
  {
    Log log(pipe.write_end.get(), Level::kInfo, Format::kText);
    log.line(Level::kWarn, "m").str("a", "x y").str("b", "x").str("c", "");
  }
  EXPECT_NE(pipe.all().find("WARN m a=\"x y\" b=x c=\"\"\n"), std::string::npos);
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
    for (int i = 0; i < 1000 && log.pending_bytes() > 0; ++i) {
      text.append(block.data(), static_cast<std::size_t>(
                                    ::read(pipe.read_end.get(), block.data(), block.size())));
      log.flush();
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

TEST(RustLog, TakesLevelsAndDirectives) {
  bool bad = true;
  EXPECT_EQ(parse_rust_log("debug", bad), Level::kDebug);
  EXPECT_FALSE(bad);
  EXPECT_EQ(parse_rust_log("warn,mik=TRACE", bad), Level::kTrace);
  EXPECT_EQ(parse_rust_log("hyper=debug", bad), Level::kInfo);
  EXPECT_FALSE(bad);
  EXPECT_EQ(parse_rust_log("off", bad), Level::kOff);
  EXPECT_EQ(parse_rust_log("loud", bad), Level::kInfo);
  EXPECT_TRUE(bad);
  EXPECT_EQ(parse_rust_log("", bad), Level::kInfo);
  EXPECT_FALSE(bad);
}

}  // namespace
}  // namespace mik::telemetry
