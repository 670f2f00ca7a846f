// For tests: a supervisor as a real process with fake workers, what it reports, and clients of it.
// Confined to the test's thread; every wait has a limit.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "base/time.hpp"
#include "config/settings.hpp"

namespace mik::supervisor {

// A sanitizer maps terabytes of shadow memory, which a limit on memory forbids.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
#else
inline constexpr bool kSanitized = false;
#endif
inline constexpr std::uint64_t kDataFloor = kSanitized ? 1ull << 60 : 1ull << 30;

inline constexpr base::Duration kPatience = std::chrono::seconds(20);

class Client {
 public:
  explicit Client(std::uint16_t port);
  explicit Client(const std::string& unix_path);
  bool connected() const noexcept { return fd_.valid(); }
  void say(std::string_view line);
  // The next line; nothing when the connection ends, or at the limit.
  std::optional<std::string> hear(base::Duration limit = kPatience);
  // The pid of its worker; 0 when there is no answer.
  pid_t worker();

 private:
  base::Fd fd_;
  std::string input_;
};

class TestFamily {
 public:
  struct Plan {
    std::string mode = "serve";
    std::uint32_t workers = 2;
    std::vector<std::string> binds = {"127.0.0.1:0"};
    base::Duration shutdown_timeout = std::chrono::seconds(10);
    std::string executable = "/proc/self/exe";
    int compile_cpu_s = 120;
    int compile_wall_s = 180;
    bool pin = false;
    bool reloads = false;  // SIGHUP reads what set() wrote
  };
  explicit TestFamily(const Plan& setup);
  ~TestFamily();  // kills what is left
  TestFamily(const TestFamily&) = delete;
  TestFamily& operator=(const TestFamily&) = delete;

  pid_t pid() const noexcept { return pid_; }
  std::uint16_t port() const noexcept { return port_; }
  // Of the plan only what is a setting counts.
  void set(const Plan& plan);
  // What is no configuration.
  void set_garbage();
  void signal(int number) const;
  // Reads reports until one contains the text; nothing at the limit or when the supervisor is gone.
  std::optional<std::string> await(std::string_view text, base::Duration limit = kPatience);
  bool await_ready(std::uint32_t workers);
  // Until it has so many children.
  bool await_workers(std::size_t count, base::Duration limit = kPatience);
  // Its exit code, or 1000 + signal; -1 at the limit.
  int await_exit(base::Duration limit = kPatience);
  std::vector<pid_t> workers() const;  // now, from /proc
  const std::string& log() const noexcept { return log_; }

 private:
  pid_t pid_ = 0;
  std::uint16_t port_ = 0;
  std::string settings_file_;  // empty: SIGHUP has nothing to read
  base::Fd report_;
  std::string input_;
  std::string log_;
};

// True when the process ends within the limit.
class Watched {
 public:
  explicit Watched(pid_t pid);
  bool ends_within(base::Duration limit) const;

 private:
  base::Fd fd_;
};

// What /proc/PID/NAME says.
std::string proc(pid_t pid, const std::string& name);

}  // namespace mik::supervisor
