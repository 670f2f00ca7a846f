// Brings lines to a sink: by a thread of its own, so that a slow reader never holds who logs, or
// at once, for processes that must have one thread. Confined to who logs; the thread is inside.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "telemetry/log_sink.hpp"

namespace mik::telemetry {

enum class Writing : std::uint8_t { kThread, kDirect };

class LogWriter {
 public:
  virtual ~LogWriter() = default;
  // Whole lines. Those for which there is no room are dropped; false: some were.
  virtual bool offer(std::string_view lines) = 0;
  virtual void reopen() = 0;
  // Lines that were not written: there was no room, or the sink did not take them.
  virtual std::uint64_t dropped() const noexcept = 0;
  // The last lines could not be written.
  virtual bool failing() const noexcept = 0;
  // LogSink::take_trouble.
  virtual int take_trouble() noexcept = 0;
};

// At most `pending_bytes_max` wait. When it is destroyed what waits is written, waiting at most a
// second for a reader that does not read (not at all when writing directly).
std::unique_ptr<LogWriter> make_log_writer(std::unique_ptr<LogSink> sink, Writing writing,
                                           std::size_t pending_bytes_max);

}  // namespace mik::telemetry
