#include "supervisor/compile_memory.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string>

#include "base/fd.hpp"

namespace mik::supervisor {

namespace {

// Measured over components of 0.4 to 4.5 MiB of code: some 30 MiB, and 80 bytes a byte of code.
// What is mostly data needs less; what needs more is seen by look().
constexpr std::uint64_t kBase = 32 << 20;
constexpr std::uint64_t kPerByte = 48;

// Second number of /proc/PID/statm: resident pages.
std::uint64_t resident_bytes(pid_t pid) {
  const base::Fd fd(
      ::open(("/proc/" + std::to_string(pid) + "/statm").c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 128> text{};
  if (!fd.valid() || ::read(fd.get(), text.data(), text.size() - 1) <= 0) {
    return 0;
  }
  char* end = nullptr;
  std::strtoull(text.data(), &end, 10);
  return std::strtoull(end, nullptr, 10) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

void CompileMemory::take(std::uint64_t bytes) noexcept {
  if (bytes == taken_) {
    return;
  }
  // Two children have one cell; the supervisor alone writes it.
  segment_->header().compile_bytes.fetch_add(bytes - taken_);
  taken_ = bytes;
}

bool CompileMemory::reserve(std::uint64_t wasm_bytes) noexcept {
  if (!bounded()) {
    return true;
  }
  take(std::min(kBase + kPerByte * wasm_bytes, budget_bytes_ / 2));
  std::uint64_t used = segment_->header().compile_bytes.load();
  for (std::size_t slot = 0; slot < segment_->slots(); ++slot) {
    used += segment_->row(slot).gauges.memory_bytes.load(std::memory_order_relaxed);
  }
  return used <= budget_bytes_;
}

bool CompileMemory::look(pid_t pid) {
  if (!bounded()) {
    return true;
  }
  const std::uint64_t bytes = resident_bytes(pid);
  take(std::max(taken_, bytes));
  return bytes <= budget_bytes_;
}

}  // namespace mik::supervisor
