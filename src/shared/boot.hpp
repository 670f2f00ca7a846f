// How a worker or compile child is started: the arguments and descriptors that the supervisor gives
// it, both sides of the contract. Called at the start of a process, before other threads.
//
// A worker is the binary executed again as `mik: worker N` `__worker`
// `1.N.SLOTS.GENERATION.LISTENERS`. Its descriptors stand at fixed places from kFirstFd on:
// control socket, segment, settings, inbox, the sending ends of all workers' inboxes by slot, the
// listeners. Everything else is closed. A compile child is `mik: compile` `__compile` COMPONENT
// RESULT_FD SETTINGS_FD; it answers with one ArtefactReady or ArtefactFailed on its result
// descriptor (shared::Channel) and exits.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace mik::shared {

inline constexpr std::string_view kWorkerArgument = "__worker";
inline constexpr std::string_view kCompileArgument = "__compile";
inline constexpr int kFirstFd = 3;

// What a worker was given. All descriptors are close-on-exec.
struct WorkerBoot {
  std::uint32_t slot = 0;
  std::uint32_t slots = 1;
  std::uint64_t generation = 0;
  base::Fd control;                 // Channel
  base::Fd segment;                 // Segment::attach
  base::Fd settings;                // read_block, then config::deserialize
  base::Fd inbox;                   // receiving end: Inbox
  std::vector<base::Fd> peers;      // sending ends by slot, one's own among them: Outbox
  std::vector<base::Fd> listeners;  // non-blocking
};

// What a compile child was given.
struct CompileBoot {
  std::string component;
  base::Fd result;  // Channel
  base::Fd settings;
};

// The same, borrowed, for the one who starts a worker.
struct WorkerPlan {
  std::uint32_t slot = 0;
  std::uint32_t slots = 1;
  std::uint64_t generation = 0;
  int control = -1;
  int segment = -1;
  int settings = -1;
  int inbox = -1;
  std::vector<int> peers;
  std::vector<int> listeners;
};

// The argument vector of a child and, in their order from kFirstFd on, its descriptors.
struct ChildPlan {
  std::vector<std::string> arguments;
  std::vector<int> descriptors;
};
ChildPlan plan_worker(const WorkerPlan& plan);
ChildPlan plan_compile(std::string component, int result, int settings);

// The process was started by a supervisor: main's first question.
bool is_worker(int argc, char** argv) noexcept;
bool is_compile_child(int argc, char** argv) noexcept;

// Takes over what the arguments name, checks that it is there, and names the process. kUsage when
// somebody typed the hidden argument.
base::Result<WorkerBoot> enter_worker(int argc, char** argv);
base::Result<CompileBoot> enter_compile_child(int argc, char** argv);

// Only the supervisor counts signals: those that reach the whole family (kill $(pgrep mik), Ctrl+C)
// mean nothing to a child. Survives exec. A worker whose supervisor is dead restores them, so that
// it can be ended.
void ignore_family_signals() noexcept;
void restore_family_signals() noexcept;

// The process's name as pgrep and ps see it, cut to 15 bytes.
void name_process(const std::string& name) noexcept;

// A sealed, anonymous file with these bytes, and what is in one. Errors: kSystem.
base::Result<base::Fd> write_block(std::string_view bytes);
base::Result<std::string> read_block(int fd);

}  // namespace mik::shared
