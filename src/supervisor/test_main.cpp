// The test binary's main: the tests, or one of the processes that they need.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "config/settings.hpp"
#include "shared/boot.hpp"
#include "supervisor/fake_worker.hpp"
#include "supervisor/supervisor.hpp"
#include "supervisor/test_family.hpp"

namespace mik::supervisor {
namespace {

// Tells the test what happens, a line each.
class Reporter final : public Observer {
 public:
  explicit Reporter(int fd) : fd_(fd) {}
  void on_listening(const std::vector<std::string>& addresses) override {
    for (const std::string& address : addresses) {
      line("listening " + address);
    }
  }
  void on_ready() override { line("first"); }
  void on_event(Severity severity, const std::string& text) override {
    line((severity == Severity::kInfo ? "info " : "problem ") + text);
  }
  void line(const std::string& text) {
    const std::string bytes = text + "\n";
    [[maybe_unused]] const ssize_t wrote = ::write(fd_, bytes.data(), bytes.size());
  }

 private:
  int fd_;
};

// argv: name, __supervise, executable of the children, CPU seconds and wall seconds of a compile
// child, file of the settings for a reload or nothing. Descriptors: settings, report.
int supervise(char** argv) {
  const base::Fd settings_block(shared::kFirstFd);
  const base::Fd report(shared::kFirstFd + 1);
  ::fcntl(settings_block.get(), F_SETFD, FD_CLOEXEC);
  ::fcntl(report.get(), F_SETFD, FD_CLOEXEC);
  Reporter reporter(report.get());
  auto bytes = shared::read_block(settings_block.get());
  auto settings = config::deserialize(bytes.value());
  Options options;
  options.executable = argv[2];
  options.compile.cpu_seconds = static_cast<std::uint64_t>(std::atoi(argv[3]));
  options.compile.data_floor = kDataFloor;
  options.compile.wall = std::chrono::seconds(std::atoi(argv[4]));
  const std::string file = argv[5];
  if (!file.empty()) {
    options.reload = [file] {
      std::ifstream stream(file, std::ios::binary);
      std::ostringstream text;
      text << stream.rdbuf();
      return config::deserialize(text.str());
    };
  }
  const auto result = run(settings.value(), reporter, options);
  if (!result) {
    reporter.line("error " + result.error().to_string() + " | " + result.error().help());
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace mik::supervisor

int main(int argc, char** argv) {
  if (mik::shared::is_worker(argc, argv)) {
    return mik::supervisor::fake_worker_main(argc, argv);
  }
  if (mik::shared::is_compile_child(argc, argv)) {
    return mik::supervisor::fake_compile_main(argc, argv);
  }
  if (argc == 6 && std::string_view(argv[1]) == "__supervise") {
    return mik::supervisor::supervise(argv);
  }
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
