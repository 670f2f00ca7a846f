#include "shared/boot.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <string>
#include <vector>

namespace mik::shared {
namespace {

// Calls `enter` with these arguments in a child that owns its descriptors; the child's exit code is
// what `inside` gives.
template <class F>
int in_child(std::vector<std::string> arguments, F inside) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::vector<char*> argv;
    for (std::string& argument : arguments) {
      argv.push_back(argument.data());
    }
    const int argc = static_cast<int>(argv.size());
    argv.push_back(nullptr);
    ::_exit(inside(argc, argv.data()));
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Makes 3 to 3 + count - 1 open, each a memory file that says which one it was.
void fill_descriptors(const std::vector<int>& planned) {
  std::vector<int> high;
  for (const int fd : planned) {
    high.push_back(::fcntl(fd, F_DUPFD, 200));
  }
  for (std::size_t i = 0; i < high.size(); ++i) {
    ::dup2(high[i], kFirstFd + static_cast<int>(i));
  }
}

base::Fd marked(const std::string& text) { return write_block(text).value(); }

TEST(Boot, AWorkerFindsWhatThePlanSays) {
  const std::array<base::Fd, 8> fds = {marked("control"),  marked("segment"), marked("settings"),
                                       marked("inbox"),    marked("peer 0"),  marked("peer 1"),
                                       marked("listener"), marked("unused")};
  const ChildPlan plan = plan_worker({.slot = 1,
                                      .slots = 2,
                                      .generation = 7,
                                      .control = fds[0].get(),
                                      .segment = fds[1].get(),
                                      .settings = fds[2].get(),
                                      .inbox = fds[3].get(),
                                      .peers = {fds[4].get(), fds[5].get()},
                                      .listeners = {fds[6].get()}});
  EXPECT_EQ(plan.arguments[0], "mik: worker 1");
  EXPECT_EQ(plan.descriptors.size(), 7u);
  const int failed_check = in_child(plan.arguments, [&plan](int argc, char** argv) {
    fill_descriptors(plan.descriptors);
    if (!is_worker(argc, argv) || is_compile_child(argc, argv)) {
      return 1;
    }
    auto boot = enter_worker(argc, argv);
    if (!boot || boot->slot != 1 || boot->slots != 2 || boot->generation != 7) {
      return 2;
    }
    const auto says = [](const base::Fd& fd, std::string_view text) {
      return read_block(fd.get()).value() == text;
    };
    if (!says(boot->control, "control") || !says(boot->segment, "segment") ||
        !says(boot->settings, "settings") || !says(boot->inbox, "inbox")) {
      return 3;
    }
    if (boot->peers.size() != 2 || !says(boot->peers[1], "peer 1") || boot->listeners.size() != 1 ||
        !says(boot->listeners[0], "listener")) {
      return 4;
    }
    if ((::fcntl(boot->listeners[0].get(), F_GETFD) & FD_CLOEXEC) == 0) {
      return 5;
    }
    std::array<char, 16> name{};
    ::prctl(PR_GET_NAME, name.data());
    return std::string(name.data()) == "mik: worker 1" ? 0 : 6;
  });
  EXPECT_EQ(failed_check, 0);
}

TEST(Boot, ACompileChildFindsWhatThePlanSays) {
  const base::Fd result = marked("result");
  const base::Fd settings = marked("settings");
  const ChildPlan plan = plan_compile("/srv/my app.wasm", result.get(), settings.get());
  const int failed_check = in_child(plan.arguments, [&plan](int argc, char** argv) {
    fill_descriptors(plan.descriptors);
    auto boot = enter_compile_child(argc, argv);
    if (!boot || boot->component != "/srv/my app.wasm") {
      return 1;
    }
    return read_block(boot->result.get()).value() == "result" &&
                   read_block(boot->settings.get()).value() == "settings"
               ? 0
               : 2;
  });
  EXPECT_EQ(failed_check, 0);
}

TEST(Boot, WhoTypesAHiddenArgumentIsToldWhatToDo) {
  const std::vector<std::vector<std::string>> typed = {
      {"mik", "__worker"},
      {"mik", "__worker", ""},
      {"mik", "__worker", "1.0.1.1"},
      {"mik", "__worker", "1.0.1.1.1.1"},
      {"mik", "__worker", "1.0.1.1.x"},
      {"mik", "__worker", "2.0.1.1.1"},
      {"mik", "__worker", "1.1.1.1.1"},
      {"mik", "__worker", "1.0.0.1.1"},
      {"mik", "__worker", "1.0.4096.1.4096"},
      {"mik", "__worker", "1.0.99999999999999999999.1.1"},
      {"mik", "__compile"},
      {"mik", "__compile", "a.wasm", "3", "3"},
      {"mik", "__compile", "a.wasm", "1", "2"},
      {"mik", "__compile", "a.wasm", "900", "901"},
      {"mik", "run", "app.wasm"},
      {"mik"},
  };
  for (const std::vector<std::string>& arguments : typed) {
    const int result = in_child(arguments, [](int argc, char** argv) {
      const auto worker = enter_worker(argc, argv);
      const auto compile = enter_compile_child(argc, argv);
      const bool refused = !worker && worker.error().code() == base::ErrorCode::kUsage &&
                           !worker.error().help().empty() && !compile &&
                           compile.error().code() == base::ErrorCode::kUsage;
      return refused ? 0 : 1;
    });
    EXPECT_EQ(result, 0) << testing::PrintToString(arguments);
  }
}

TEST(Boot, BlocksAreSealedAndReadWithoutAPosition) {
  const std::string bytes(300'000, 'b');
  const base::Fd block = write_block(bytes).value();
  EXPECT_EQ(read_block(block.get()).value(), bytes);
  EXPECT_EQ(read_block(block.get()).value(), bytes);
  EXPECT_LT(::write(block.get(), "x", 1), 0);
  EXPECT_EQ(read_block(write_block("").value().get()).value(), "");
  EXPECT_FALSE(read_block(-1).has_value());
}

}  // namespace
}  // namespace mik::shared
