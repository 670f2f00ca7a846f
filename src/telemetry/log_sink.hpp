// Where the lines of a log go: standard output here, a file in log_file.hpp. Confined to whoever
// writes: the writer's thread, or the owner of a log that writes directly.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string_view>

namespace mik::telemetry {

class LogSink {
 public:
  virtual ~LogSink() = default;
  // Given whole lines, takes whole lines unless the reader of a pipe stops half-way. How much was
  // taken; 0: no room now; -1: what was given cannot be written.
  virtual ssize_t write_some(std::string_view lines) noexcept = 0;
  // Until there may be room, at most so long.
  virtual void wait(int timeout_ms) noexcept = 0;
  virtual void reopen() noexcept {}
  // The errno of something that is to be said, once; 0: nothing.
  virtual int take_trouble() noexcept { return 0; }
};

// A descriptor that is not its own: a pipe, a terminal, a file. Never waits for a reader.
std::unique_ptr<LogSink> sink_of(int fd);

}  // namespace mik::telemetry
