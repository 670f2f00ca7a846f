#include "supervisor/supervisor.hpp"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <map>
#include <sstream>

#include "supervisor/test_family.hpp"

namespace mik::supervisor {
namespace {

using namespace std::chrono_literals;
using Plan = TestFamily::Plan;

std::string status_of(pid_t pid, const std::string& field) {
  std::istringstream lines(proc(pid, "status"));
  std::string line;
  while (std::getline(lines, line)) {
    if (line.starts_with(field + ":")) {
      return line.substr(field.size() + 1);
    }
  }
  return {};
}

TEST(Supervisor, StartsWorkersThatServeAndEndsWithExitCodeZero) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2)) << family.log();
  EXPECT_EQ(family.workers().size(), 2u);
  EXPECT_NE(Client(family.port()).worker(), 0);
  family.signal(SIGTERM);
  EXPECT_EQ(family.await_exit(), 0) << family.log();
}

TEST(Supervisor, PgrepFindsTheWholeFamily) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  std::vector<std::string> names;
  for (const pid_t worker : family.workers()) {
    names.push_back(proc(worker, "comm"));
  }
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"mik: worker 0\n", "mik: worker 1\n"}));
}

TEST(Supervisor, WorkersHaveNoDescriptorThatTheyWereNotGiven) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  const std::vector<pid_t> workers = family.workers();
  ASSERT_FALSE(workers.empty());
  // 0-2; control, inbox, two peers, listener; epoll, event, spare. The segment and settings were
  // closed by the worker.
  for (int fd = 0; fd < 64; ++fd) {
    std::string path = "/proc/" + std::to_string(workers[0]) + "/fd/" + std::to_string(fd);
    std::array<char, 128> target{};
    const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
    if (length > 0) {
      const std::string_view name(target.data(), static_cast<std::size_t>(length));
      EXPECT_FALSE(fd > 2 && name.starts_with("pipe:")) << fd << " " << name;
      EXPECT_FALSE(name.find("signalfd") != std::string_view::npos) << fd;
    }
  }
}

TEST(Supervisor, WorkersHaveTheirTunablesUnlessTheOperatorHasOthers) {
  for (const char* given : {"", "glibc.malloc.perturb=0"}) {
    if (*given != '\0') {
      ::setenv("GLIBC_TUNABLES", given, 1);
    }
    TestFamily family(Plan{.workers = 1});
    ASSERT_TRUE(family.await_ready(1));
    const std::string environment = proc(family.workers().at(0), "environ");
    ::unsetenv("GLIBC_TUNABLES");
    const bool ours =
        environment.find("GLIBC_TUNABLES=glibc.malloc.tcache_count=127") != std::string::npos;
    EXPECT_EQ(ours, *given == '\0') << environment;
  }
}

TEST(Supervisor, AWorkerThatIsKilledIsReplacedWithin500Ms) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  std::vector<pid_t> before = family.workers();
  ASSERT_EQ(before.size(), 2u);
  const base::Time since = base::Clock::now();
  ::kill(before[0], SIGKILL);
  ASSERT_TRUE(family.await(" is ready", 500ms)) << family.log();
  RecordProperty("replaced_after_ms",
                 static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                      base::Clock::now() - since)
                                      .count()));
  const std::vector<pid_t> after = family.workers();
  ASSERT_EQ(after.size(), 2u);
  EXPECT_TRUE(std::ranges::find(after, before[0]) == after.end());
  EXPECT_TRUE(std::ranges::find(after, before[1]) != after.end());
}

TEST(Supervisor, AWorkerThatKeepsDyingIsStartedEverMoreRarely) {
  TestFamily family(Plan{.workers = 1});
  ASSERT_TRUE(family.await_ready(1));
  std::vector<base::Duration> waits;
  for (int death = 0; death < 4; ++death) {
    const std::vector<pid_t> workers = family.workers();
    ASSERT_EQ(workers.size(), 1u);
    const base::Time since = base::Clock::now();
    ::kill(workers[0], SIGKILL);
    ASSERT_TRUE(family.await_ready(1)) << family.log();
    waits.push_back(base::Clock::now() - since);
  }
  EXPECT_GE(waits[1], 100ms);
  EXPECT_GE(waits[2], 200ms);
  EXPECT_GE(waits[3], 400ms);
}

TEST(Supervisor, EightConnectionsAreSpreadOverTwoWorkersInEveryRound) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  for (int round = 0; round < 20; ++round) {
    std::vector<Client> clients;
    std::map<pid_t, int> counts;
    for (int i = 0; i < 8; ++i) {
      clients.emplace_back(family.port());
    }
    for (Client& client : clients) {
      ++counts[client.worker()];
    }
    for (const auto& [worker, count] : counts) {
      ASSERT_NE(worker, 0) << "no answer in round " << round;
      ASSERT_LE(count, 5) << "round " << round;
    }
    // The next round begins when the workers have seen that these are gone.
    clients.clear();
    std::string open;
    for (int i = 0; i < 10'000 && open != "1"; ++i) {
      Client asks(family.port());
      asks.say("total");
      open = asks.hear().value_or("");
    }
    ASSERT_EQ(open, "1") << "connections that have ended are still counted";
  }
}

TEST(Supervisor, ADrainLetsWorkInFlightFinish) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  Client busy(family.port());
  const pid_t worker = busy.worker();
  busy.say("hold");
  Client idle(family.port());
  ASSERT_NE(idle.worker(), 0);
  family.signal(SIGTERM);
  ASSERT_TRUE(family.await("draining"));
  EXPECT_FALSE(idle.hear()) << "an idle connection ends";
  busy.say("end");
  EXPECT_EQ(busy.hear(), std::to_string(worker));
  EXPECT_EQ(family.await_exit(), 0);
}

TEST(Supervisor, ADrainIsOverAtItsLimit) {
  TestFamily family(Plan{.shutdown_timeout = 200ms});
  ASSERT_TRUE(family.await_ready(2));
  Client busy(family.port());
  ASSERT_NE(busy.worker(), 0);
  busy.say("hold");
  family.signal(SIGINT);
  EXPECT_EQ(family.await_exit(5s), 0);
}

TEST(Supervisor, WorkersThatDoNotDrainAreKilledAfterTheLimit) {
  TestFamily family(Plan{.mode = "stuck", .shutdown_timeout = 200ms});
  ASSERT_TRUE(family.await_ready(2));
  family.signal(SIGTERM);
  EXPECT_EQ(family.await_exit(5s), 0);
  EXPECT_NE(family.log().find("out of time"), std::string::npos) << family.log();
}

TEST(Supervisor, ASecondSignalEndsItNow) {
  TestFamily family(Plan{.mode = "stuck", .shutdown_timeout = 60s});
  ASSERT_TRUE(family.await_ready(2));
  family.signal(SIGTERM);
  ASSERT_TRUE(family.await("draining"));
  family.signal(SIGINT);
  EXPECT_EQ(family.await_exit(5s), 0);
}

TEST(Supervisor, ASignalToTheWholeFamilyIsOneDrain) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  Client busy(family.port());
  ASSERT_NE(busy.worker(), 0);
  busy.say("hold");
  for (const pid_t worker : family.workers()) {
    ::kill(worker, SIGTERM);
    ::kill(worker, SIGTERM);
  }
  family.signal(SIGTERM);
  ASSERT_TRUE(family.await("draining"));
  busy.say("end");
  EXPECT_TRUE(busy.hear()) << "the request in flight was cut";
  EXPECT_EQ(family.await_exit(), 0);
}

TEST(Supervisor, ReservedSignalsChangeNothing) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  const std::vector<pid_t> before = family.workers();
  for (const int signal : {SIGHUP, SIGUSR1, SIGUSR2}) {
    for (const pid_t worker : before) {
      ::kill(worker, signal);
    }
    family.signal(signal);
    ASSERT_TRUE(family.await(signal == SIGUSR1 ? "opened again" : "nothing to do"));
  }
  EXPECT_NE(Client(family.port()).worker(), 0);
  EXPECT_EQ(family.workers(), before);
}

TEST(Supervisor, WhenItIsKilledNothingIsLeftAndThePortIsFree) {
  std::uint16_t port = 0;
  std::vector<Watched> workers;
  {
    TestFamily family(Plan{});
    ASSERT_TRUE(family.await_ready(2));
    port = family.port();
    ASSERT_NE(Client(port).worker(), 0);
    for (const pid_t worker : family.workers()) {
      workers.emplace_back(worker);
    }
    family.signal(SIGKILL);
    ASSERT_EQ(family.await_exit(), 1000 + SIGKILL);
  }
  const base::Time since = base::Clock::now();
  for (const Watched& worker : workers) {
    EXPECT_TRUE(worker.ends_within(5s));
  }
  TestFamily next(Plan{.binds = {"127.0.0.1:" + std::to_string(port)}});
  EXPECT_TRUE(next.await_ready(2)) << next.log();
  EXPECT_LT(base::Clock::now() - since, 5s);
  while (::waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

TEST(Supervisor, WhenItIsKilledThePortIsFreeAtOnceThoughWorkIsInFlight) {
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  Client busy(family.port());
  const pid_t worker = busy.worker();
  busy.say("hold");
  const Watched watched(worker);
  family.signal(SIGKILL);
  ASSERT_EQ(family.await_exit(), 1000 + SIGKILL);
  // The workers close their listeners on their own; until then a bind fails, so it is tried within
  // the second allowed.
  const base::Time until = base::Clock::now() + 1s;
  bool bound = false;
  while (!bound && base::Clock::now() < until) {
    TestFamily next(Plan{.binds = {"127.0.0.1:" + std::to_string(family.port())}});
    bound = next.port() == family.port() && next.await_ready(2);
  }
  EXPECT_TRUE(bound);
  EXPECT_FALSE(watched.ends_within(0ms));
  busy.say("end");
  EXPECT_EQ(busy.hear(), std::to_string(worker));
  EXPECT_TRUE(watched.ends_within(1s));
}

TEST(Supervisor, WhatIsFatalAtTheStartEndsTheRun) {
  TestFamily family(Plan{.mode = "fatal"});
  EXPECT_EQ(family.await_exit(), 1);
  EXPECT_NE(family.log().find("error it is no component | build one"), std::string::npos)
      << family.log();
}

TEST(Supervisor, WorkersThatNeverBecomeReadyEndTheRun) {
  TestFamily family(Plan{.mode = "crash", .workers = 1});
  EXPECT_EQ(family.await_exit(), 1);
  EXPECT_NE(family.log().find("keep dying"), std::string::npos) << family.log();
  EXPECT_NE(family.log().find("exited with code 3"), std::string::npos) << family.log();
}

TEST(Supervisor, ABinaryThatCannotBeExecutedEndsTheRun) {
  TestFamily family(Plan{.executable = "/nonexistent/mik"});
  EXPECT_EQ(family.await_exit(), 1);
  EXPECT_NE(family.log().find("error cannot execute /nonexistent/mik"), std::string::npos)
      << family.log();
}

TEST(Supervisor, APortInUseIsNamedWithItsOwner) {
  TestFamily first(Plan{});
  ASSERT_TRUE(first.await_ready(2));
  const std::string port = std::to_string(first.port());
  TestFamily second(Plan{.binds = {"127.0.0.1:" + port}});
  EXPECT_EQ(second.await_exit(), 1);
  EXPECT_NE(second.log().find("port " + port + " is in use by "), std::string::npos)
      << second.log();
}

TEST(Supervisor, PinsEachWorkerToACpuOfItsMask) {
  cpu_set_t mask;
  ASSERT_EQ(::sched_getaffinity(0, sizeof mask, &mask), 0);
  if (CPU_COUNT(&mask) < 2) {
    GTEST_SKIP() << "one CPU";
  }
  TestFamily family(Plan{.pin = true});
  ASSERT_TRUE(family.await_ready(2));
  std::set<std::string> lists;
  for (const pid_t worker : family.workers()) {
    lists.insert(status_of(worker, "Cpus_allowed_list"));
  }
  EXPECT_EQ(lists.size(), 2u);
  for (const std::string& list : lists) {
    EXPECT_EQ(list.find_first_of(",-"), std::string::npos) << list;
  }
}

TEST(Supervisor, CostsLittleMemory) {
  if (kSanitized) {
    GTEST_SKIP() << "the sanitizer's own memory";
  }
  TestFamily family(Plan{});
  ASSERT_TRUE(family.await_ready(2));
  const int kib = std::atoi(status_of(family.pid(), "VmRSS").c_str());
  RecordProperty("rss_kib", kib);
  EXPECT_GT(kib, 0);
  EXPECT_LT(kib, 10 * 1024);
}

TEST(Supervisor, AnswersAllWhoNeedAnArtefact) {
  TestFamily family(Plan{.mode = "compile:ok"});
  ASSERT_TRUE(family.await_ready(2)) << family.log();
}

struct Failure {
  const char* mode;
  const char* text;
  int wall_s = 120;
};

class CompileFailure : public testing::TestWithParam<Failure> {};

TEST_P(CompileFailure, IsToldInWords) {
  if (kSanitized && std::string_view(GetParam().mode) == "compile:memory") {
    GTEST_SKIP() << "the sanitizer cannot start under a limit on memory";
  }
  TestFamily family(Plan{.mode = GetParam().mode,
                         .workers = 1,
                         .compile_cpu_s = 1,
                         .compile_wall_s = GetParam().wall_s});
  EXPECT_EQ(family.await_exit(), 1);
  EXPECT_NE(family.log().find(GetParam().text), std::string::npos) << family.log();
}

INSTANTIATE_TEST_SUITE_P(Each, CompileFailure,
                         testing::Values(Failure{"compile:refuse", "error it imports the moon"},
                                         Failure{"compile:cpu", "used more than 1 s of CPU time"},
                                         Failure{"compile:wall", "took longer than 1 s", 1},
                                         Failure{"compile:memory", "1024 MiB of memory"},
                                         Failure{"compile:kill", "was killed, most likely"},
                                         Failure{"compile:silent",
                                                 "exited with code 7 without a result"}));

}  // namespace
}  // namespace mik::supervisor
