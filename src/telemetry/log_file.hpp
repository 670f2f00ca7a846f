// A log file that several processes append to: whole lines only, rotated by size into NAME.1,
// NAME.2 and so on by whichever process finds it full. Whoever writes holds the lock of the file
// that the name means at that moment, so no line goes astray while names move; external rotation
// (a moved or emptied file) is noticed before the next line. Confined to who writes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/fd.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "telemetry/log_sink.hpp"

namespace mik::telemetry {

struct LogFileOptions {
  std::string path;
  std::uint64_t bytes_max = 10 << 20;
  std::uint32_t rotated_max = 5;
  // How long another writer's lock is waited for. Then the line is appended without it: the other
  // one was stopped, and a log that stops with it helps nobody.
  base::Duration lock_patience = std::chrono::milliseconds(50);
};

class LogFile final : public LogSink {
 public:
  explicit LogFile(LogFileOptions options);

  ssize_t write_some(std::string_view lines) noexcept override;
  void wait(int timeout_ms) noexcept override;
  void reopen() noexcept override;
  int take_trouble() noexcept override;

 private:
  class Lock;
  bool open() noexcept;
  bool is_current() const noexcept;
  ssize_t append(std::string_view lines, bool locked) noexcept;
  void rotate() noexcept;

  const LogFileOptions options_;
  std::string path_;
  base::Fd fd_;
  std::unique_ptr<LogSink> plain_;  // when the path is a pipe, a terminal
  mode_t mode_ = 0640;
  base::Time rotate_again_{};  // not before: the last try failed
  int trouble_ = 0;
};

// Whether lines can be appended to the file at `path`, which is made if there is none. kConfig.
base::Result<void> check_log_file(const std::string& path);

}  // namespace mik::telemetry
