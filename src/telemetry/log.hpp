// Structured log lines: JSON (one object a line) or text. A line is built into a buffer on the
// caller's thread; a writer brings it to standard output, a file or both. What finds no room is
// dropped, counted and said. Log and Line are confined to one thread (the loop's).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/time.hpp"
#include "config/settings.hpp"
#include "telemetry/directives.hpp"
#include "telemetry/escape.hpp"
#include "telemetry/log_file.hpp"
#include "telemetry/log_writer.hpp"

namespace mik::telemetry {

using Format = config::LogFormat;

// No line is longer, its newline included: PIPE_BUF, up to which lines of several processes do not
// mingle in a pipe.
inline constexpr std::size_t kLineMax = 4096;
// Nor is a value, which is cut and then ends in U+2026.
inline constexpr std::size_t kValueMax = 2432;

struct LogOptions {
  int fd = -1;  // not owned; -1: none
  std::optional<LogFileOptions> file;
  LogFilter filter;
  Format format = Format::kJson;
  Writing writing = Writing::kThread;
  std::size_t pending_bytes_max = 1 << 20;  // what waits for a writer
  // What every line says of who wrote it; empty or negative: nothing.
  std::string service_name;
  std::string service_version;
  int worker = -1;
};

// What the settings say; a worker's number, or -1 for the supervisor.
LogOptions log_options(const config::Settings& settings, Writing writing, int worker);

class Log {
 public:
  // One line under construction; written when it is destroyed. Keys are ours and need no escaping;
  // values may be anything a client or guest sent. Put first what must not be lost: a value for
  // which there is no room is cut, or left out.
  class Line {
   public:
    Line(Line&& other) noexcept;
    Line(const Line&) = delete;
    Line& operator=(const Line&) = delete;
    Line& operator=(Line&&) = delete;
    ~Line();
    Line& str(std::string_view key, std::string_view value);
    Line& num(std::string_view key, std::int64_t value);
    // Milliseconds with three decimals.
    Line& ms(std::string_view key, base::Duration value);

   private:
    friend class Log;
    Line(Log* log, std::size_t start) noexcept : log_(log), start_(start) {}
    // Begins a member of at most so many bytes, if there is room.
    bool begin(std::string_view key, std::size_t bytes_max);
    Log* log_;
    std::size_t start_;
  };

  explicit Log(LogOptions options);
  // Standard output alone.
  Log(int fd, LogFilter filter, Format format, Writing writing = Writing::kThread,
      std::size_t pending_bytes_max = 1 << 20);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  bool enabled(Level level, Target target = Target::kServer) const noexcept {
    return options_.filter.passes(level, target);
  }
  // The caller asks enabled() first where building the fields costs something; a line below the
  // level is dropped.
  Line line(Level level, std::string_view message) { return line(level, Target::kServer, message); }
  Line line(Level level, Target target, std::string_view message);

  // Hands what was logged to the writers. The loop calls it at the end of turns, so that lines of
  // many requests go out by one write.
  void flush();
  // What waits for flush().
  std::size_t pending_bytes() const noexcept { return buffer_.size(); }
  // Lines that were not written.
  std::uint64_t dropped() const noexcept;
  // The file may be another by now: it is opened again.
  void reopen();

 private:
  void append_time();
  void append_common();
  void finish(std::size_t start);
  void say_what_happened(bool room);

  LogOptions options_;
  std::string common_;  // members of every line
  std::string buffer_;
  std::uint64_t dropped_ = 0;  // here, before a writer had them
  std::uint64_t dropped_said_ = 0;
  std::int64_t second_ = -1;
  std::string second_text_;
  std::vector<std::unique_ptr<LogWriter>> writers_;
};

}  // namespace mik::telemetry
