// The file of a log: several writers, rotation, other people's rotation, a full disk.
#include "telemetry/log_file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "telemetry/log.hpp"

namespace mik::telemetry {
namespace {

namespace fs = std::filesystem;

class LogFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "mik-log-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path() const { return (folder_ / "mik.log").string(); }
  static std::string read(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  LogFileOptions options(std::uint64_t bytes_max, std::uint32_t rotated_max = 5) const {
    return {.path = path(), .bytes_max = bytes_max, .rotated_max = rotated_max};
  }
  static void write_all(LogSink& sink, std::string_view lines) {
    for (int i = 0; i < 1000 && !lines.empty(); ++i) {
      const ssize_t n = sink.write_some(lines);
      ASSERT_GE(n, 0);
      lines.remove_prefix(static_cast<std::size_t>(n));
    }
    ASSERT_TRUE(lines.empty());
  }

  fs::path folder_;
};

TEST_F(LogFileTest, IsRotatedBeforeItIsLongerThanItMayBe) {
  LogFile file(options(100, 2));
  for (int i = 0; i < 40; ++i) {
    write_all(file, "0123456789abcdef" + std::to_string(1000 + i) + "\n");
  }
  EXPECT_EQ(read(path()).size(), 84u);
  EXPECT_EQ(read(path() + ".1").size(), 84u);
  EXPECT_EQ(read(path() + ".2").size(), 84u);
  EXPECT_FALSE(fs::exists(path() + ".3"));
  EXPECT_NE(read(path()).find("1039\n"), std::string::npos);
  EXPECT_NE(read(path() + ".1").find("1035\n"), std::string::npos);
}

TEST_F(LogFileTest, ABatchIsSplitBetweenLines) {
  LogFile file(options(100));
  std::string batch;
  for (int i = 0; i < 20; ++i) {
    batch += "0123456789abcdef" + std::to_string(1000 + i) + "\n";
  }
  write_all(file, batch);
  EXPECT_EQ(read(path() + ".4") + read(path() + ".3") + read(path() + ".2") + read(path() + ".1") +
                read(path()),
            batch);
  for (const auto& entry : fs::directory_iterator(folder_)) {
    EXPECT_LE(entry.file_size(), 100u) << entry.path();
  }
}

// Each child writes numbered lines through a log of its own while all of them rotate.
TEST_F(LogFileTest, NoLineOfSeveralProcessesIsLostOrSplit) {
  constexpr int kWriters = 4;
  constexpr int kLines = 3000;
  std::vector<pid_t> children;
  for (int writer = 0; writer < kWriters; ++writer) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      {
        LogOptions log_options;
        log_options.file = options(20'000, 1000);
        log_options.file->lock_patience = std::chrono::seconds(30);
        log_options.writing = writer == 0 ? Writing::kDirect : Writing::kThread;
        log_options.pending_bytes_max = 64 << 20;
        Log log(log_options);
        for (int i = 0; i < kLines; ++i) {
          log.line(Level::kInfo, "x")
              .num("writer", writer)
              .num("i", i)
              .str("pad", std::string(static_cast<std::size_t>(i % 97), 'p'));
          if (i % 7 == 0) {
            log.flush();
          }
        }
      }
      ::_exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
  }
  std::map<int, std::vector<bool>> seen;
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    ++files;
    EXPECT_LE(entry.file_size(), 20'000u);
    std::istringstream lines(read(entry.path().string()));
    for (std::string line; std::getline(lines, line);) {
      int writer = -1;
      int i = -1;
      const std::size_t at = line.find("\"writer\":");
      ASSERT_NE(at, std::string::npos) << line;
      ASSERT_EQ(std::sscanf(line.c_str() + at, "\"writer\":%d,\"i\":%d,", &writer, &i), 2) << line;
      ASSERT_TRUE(line.starts_with("{\"timestamp\"") && line.ends_with("\"}")) << line;
      std::vector<bool>& of_writer = seen[writer];
      of_writer.resize(kLines);
      EXPECT_FALSE(of_writer.at(static_cast<std::size_t>(i))) << "twice: " << line;
      of_writer[static_cast<std::size_t>(i)] = true;
    }
  }
  EXPECT_GT(files, 20u);
  EXPECT_EQ(seen.size(), static_cast<std::size_t>(kWriters));
  for (const auto& [writer, lines] : seen) {
    EXPECT_EQ(std::ranges::count(lines, true), kLines) << writer;
  }
}

// Field case 68.
TEST_F(LogFileTest, SomebodyElseMayEmptyOrMoveIt) {
  LogFile file(options(1 << 20));
  write_all(file, "one\n");
  ASSERT_EQ(::truncate(path().c_str(), 0), 0);
  write_all(file, "two\n");
  EXPECT_EQ(read(path()), "two\n") << "no NUL, from the beginning";
  fs::rename(path(), path() + ".old");
  write_all(file, "three\n");
  EXPECT_EQ(read(path()), "three\n");
  EXPECT_EQ(read(path() + ".old"), "two\n");
  fs::remove(path());
  file.reopen();
  EXPECT_TRUE(fs::exists(path()));
}

TEST_F(LogFileTest, ALinkStaysALink) {
  const std::string link = (folder_ / "link.log").string();
  std::ofstream(path()) << "";
  fs::create_symlink(path(), link);
  LogFile file({.path = link, .bytes_max = 10});
  write_all(file, "0123456\n");
  write_all(file, "abcdefg\n");
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(read(path()), "abcdefg\n");
  EXPECT_EQ(read(path() + ".1"), "0123456\n");
}

TEST_F(LogFileTest, AWriterThatStoppedWithTheLockHoldsNobody) {
  LogFile file({.path = path(), .bytes_max = 10, .lock_patience = std::chrono::milliseconds(2)});
  const base::Fd other(::open(path().c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::flock(other.get(), LOCK_EX), 0);
  write_all(file, "0123456\n");
  write_all(file, "abcdefg\n");
  EXPECT_EQ(read(path()), "0123456\nabcdefg\n") << "longer than it may be, but there";
}

TEST_F(LogFileTest, WhereItCannotBeRotatedItGrowsAndThatIsSaid) {
  fs::create_directory(path() + ".1");
  std::ofstream(path() + ".1/full") << "x";
  LogOptions log_options;
  log_options.file = options(150, 1);
  log_options.writing = Writing::kDirect;
  Log log(log_options);
  for (int i = 0; i < 4; ++i) {
    log.line(Level::kInfo, "line");
    log.flush();
  }
  EXPECT_NE(read(path()).find("The log file cannot be rotated"), std::string::npos) << read(path());
}

// RLIMIT_FSIZE cuts a write as a full disk does.
TEST_F(LogFileTest, AFullDiskCostsWholeLinesWhichAreCountedAndSaid) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 1000;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    LogOptions log_options;
    log_options.file = options(1 << 20);
    log_options.writing = Writing::kDirect;
    Log log(log_options);
    for (int i = 0; i < 100; ++i) {
      log.line(Level::kInfo, "line").num("i", i);
      log.flush();
    }
    const bool counted = log.dropped() > 50;
    limit.rlim_cur = before;
    ::setrlimit(RLIMIT_FSIZE, &limit);
    for (int i = 0; i < 3; ++i) {
      log.line(Level::kInfo, "after");
      log.flush();
    }
    ::_exit(counted ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  const std::string text = read(path());
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_TRUE(line.starts_with("{\"timestamp\"") && line.ends_with("}")) << line;
  }
  EXPECT_NE(text.find("Log lines were dropped"), std::string::npos) << text;
}

TEST_F(LogFileTest, APathThatCannotBeOpenedIsAnErrorWithItsName) {
  EXPECT_TRUE(check_log_file(path()).has_value());
  const auto checked = check_log_file((folder_ / "none/x.log").string());
  ASSERT_FALSE(checked.has_value());
  EXPECT_NE(checked.error().to_string().find("none/x.log"), std::string::npos);
}

}  // namespace
}  // namespace mik::telemetry
