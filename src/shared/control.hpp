// What supervisor, workers and compile children tell each other, over one SOCK_SEQPACKET pair each:
// a message is a packet. A Channel is confined to the thread that uses it; encode and decode are
// pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "base/error.hpp"
#include "base/fd.hpp"
#include "base/result.hpp"
#include "base/time.hpp"
#include "shared/layout.hpp"

namespace mik::shared {

// Worker to supervisor: the listeners are watched and the component is compiled.
struct Ready {
  friend bool operator==(const Ready&, const Ready&) = default;
};

// Worker to supervisor: there is no usable artefact of this module: compile it. A row belongs to
// the module that was meant as long as its incarnation is the same.
struct NeedArtefact {
  std::uint32_t row = 0;  // of the ModuleTable
  std::uint64_t incarnation = 0;
  friend bool operator==(const NeedArtefact&, const NeedArtefact&) = default;
};

// Worker to supervisor: it found an artefact of a module whose row named none yet.
struct Resolved {
  std::uint32_t row = 0;
  std::uint64_t incarnation = 0;
  Digest digest{};
  std::uint64_t artefact_bytes = 0;
  friend bool operator==(const Resolved&, const Resolved&) = default;
};

// Worker to supervisor: the answer to Prepare.
struct Prepared {
  std::uint32_t row = 0;
  std::uint64_t version = 0;
  bool ok = false;
  std::string text;  // why not
  friend bool operator==(const Prepared&, const Prepared&) = default;
};

// Worker to supervisor: it cannot start, and another try would not help. Before any worker was
// ready this ends the run.
struct Fatal {
  base::ErrorCode code = base::ErrorCode::kInternal;
  std::string text;
  std::string help;
  friend bool operator==(const Fatal&, const Fatal&) = default;
};

// Supervisor to all workers: the row names an artefact, or is broken; it says so already.
struct ArtefactReady {
  std::uint32_t row = 0;
  std::uint64_t incarnation = 0;
  Digest digest{};
  std::uint64_t artefact_bytes = 0;
  friend bool operator==(const ArtefactReady&, const ArtefactReady&) = default;
};

struct ArtefactFailed {
  std::uint32_t row = 0;
  std::uint64_t incarnation = 0;
  base::ErrorCode code = base::ErrorCode::kCompile;
  std::string text;
  std::string help;
  friend bool operator==(const ArtefactFailed&, const ArtefactFailed&) = default;
};

// Supervisor to all workers: a worker that has the module loaded loads this artefact too, off the
// loop, and answers Prepared; one that has not answers at once. New requests go to it once
// ModuleTable::version(row) is `version` or more.
struct Prepare {
  std::uint32_t row = 0;
  std::uint64_t incarnation = 0;
  std::uint64_t version = 0;
  Digest digest{};
  friend bool operator==(const Prepare&, const Prepare&) = default;
};

// Compile child to supervisor.
struct Compiled {
  Digest digest{};
  std::uint64_t artefact_bytes = 0;
  friend bool operator==(const Compiled&, const Compiled&) = default;
};

struct CompileFailed {
  base::ErrorCode code = base::ErrorCode::kCompile;
  std::string text;
  std::string help;
  friend bool operator==(const CompileFailed&, const CompileFailed&) = default;
};

// Supervisor to worker: stop accepting, finish what is in flight, exit 0 by the deadline. End of
// file says the same, with a deadline of the worker's own: the supervisor is dead.
struct Drain {
  std::uint64_t deadline_ns = 0;  // base::to_ns
  // A new generation serves on the same listeners: only stop watching them.
  bool generation_only = false;
  friend bool operator==(const Drain&, const Drain&) = default;
};

// Supervisor to all workers: SIGUSR1 came, log files may have been moved away.
struct ReopenLogs {
  friend bool operator==(const ReopenLogs&, const ReopenLogs&) = default;
};

using Message = std::variant<Ready, NeedArtefact, Fatal, ArtefactReady, ArtefactFailed, Drain,
                             Resolved, Prepared, Prepare, Compiled, CompileFailed, ReopenLogs>;

// A packet is never longer; texts are cut to fit.
inline constexpr std::size_t kMessageMax = 32 * 1024;

std::string encode(const Message& message);
// kBadMessage for anything that encode does not make.
base::Result<Message> decode(std::string_view bytes);

// An Error as a message and back. `help` travels, causes become part of the text.
Fatal to_fatal(const base::Error& error);
CompileFailed to_compile_failed(const base::Error& error);
base::Error to_error(const Fatal& message);
base::Error to_error(const ArtefactFailed& message);
base::Error to_error(const CompileFailed& message);

struct EndOfFile {};
struct NothingYet {};

// One end of a pair. Neither call blocks.
class Channel {
 public:
  Channel() = default;
  explicit Channel(base::Fd fd) noexcept : fd_(std::move(fd)) {}

  // Both ends, non-blocking, close-on-exec.
  static base::Result<std::pair<Channel, Channel>> pair();

  int fd() const noexcept { return fd_.get(); }
  bool open() const noexcept { return fd_.valid(); }
  void close() noexcept { fd_.reset(); }

  // kSystem when the peer is gone or has left too much unread.
  base::Result<void> send(const Message& message);
  // A message; or that the peer has closed its end; or that nothing is there. kBadMessage: skip it
  // and go on.
  base::Result<std::variant<Message, EndOfFile, NothingYet>> receive();

 private:
  base::Fd fd_;
};

}  // namespace mik::shared
