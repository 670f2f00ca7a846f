// Structured log lines: JSON (one object a line) or text. A line is built into a buffer on the
// caller's thread; a writer thread does the write(2), so a slow pipe never holds a loop. When it
// cannot keep up lines are dropped, counted and said. Log and Line are confined to one thread (the
// loop's); the writer thread is inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/time.hpp"
#include "config/settings.hpp"

namespace mik::telemetry {

using Level = config::LogLevel;
using Format = config::LogFormat;

// RUST_LOG as far as it concerns us: a level, or comma-separated directives of which the bare one
// and those for the target `mik` count ("info", "warn,mik=debug"). Sets `bad` when nothing in it
// could be understood.
Level parse_rust_log(std::string_view text, bool& bad) noexcept;

// Appends `text` as the inside of a JSON string: RFC 8259 section 7; bytes that are not UTF-8
// become U+FFFD.
void append_json_escaped(std::string& out, std::string_view text);

// Who does the write(2): a thread of the log's own, or whoever calls flush(), for processes that
// must have one thread.
enum class Writing : std::uint8_t { kThread, kDirect };

class Log {
 public:
  // One line under construction; written when it is destroyed. Keys are ours and need no escaping;
  // values may be anything a client or guest sent.
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
    Log* log_;
    std::size_t start_;
  };

  // Writes to `fd`, which it does not own. `pending_bytes_max` bounds what waits for the writer.
  Log(int fd, Level level, Format format, Writing writing = Writing::kThread,
      std::size_t pending_bytes_max = 1 << 20);
  // Writes what is pending, waiting at most a second for a reader that does not read.
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  bool enabled(Level level) const noexcept { return level <= level_ && level_ != Level::kOff; }
  // The caller asks enabled() first where building the fields costs something; a line below the
  // level is dropped.
  Line line(Level level, std::string_view message);

  // Hands what was logged to the writer. The loop calls it at the end of turns, so that lines of
  // many requests go out by one write.
  void flush();
  // What waits for flush().
  std::size_t pending_bytes() const noexcept { return buffer_.size(); }
  std::uint64_t dropped() const noexcept { return dropped_; }

 private:
  struct Writer;
  void append_time();
  void write_directly();
  void finish(std::size_t start);

  int fd_;
  Level level_;
  Format format_;
  std::size_t pending_bytes_max_;
  std::string buffer_;
  std::uint64_t dropped_ = 0;
  std::uint64_t dropped_said_ = 0;
  std::int64_t second_ = -1;
  std::string second_text_;
  std::unique_ptr<Writer> writer_;  // null when writing directly
};

}  // namespace mik::telemetry
