// SIGHUP: a new generation of workers beside the old one.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <string>
#include <vector>

#include "supervisor/test_family.hpp"

namespace mik::supervisor {
namespace {

using namespace std::chrono_literals;
using Plan = TestFamily::Plan;

constexpr const char* kServes = "The new configuration serves";
constexpr const char* kUnchanged = "The configuration was not changed";

Plan reloading() { return Plan{.reloads = true}; }

bool none_of(const std::vector<pid_t>& pids, const std::vector<pid_t>& before) {
  return std::ranges::none_of(
      pids, [&](pid_t pid) { return std::ranges::find(before, pid) != before.end(); });
}

std::string temporary(const char* name) {
  return testing::TempDir() + "mik-" + std::to_string(::getpid()) + "-" + name;
}

TEST(Reload, ReplacesTheWorkersAndKeepsThePort) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  const std::vector<pid_t> before = family.workers();
  family.set(reloading());
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(kServes)) << family.log();
  ASSERT_TRUE(family.await_workers(2)) << family.log();
  EXPECT_TRUE(none_of(family.workers(), before));
  Client client(family.port());
  EXPECT_TRUE(none_of({client.worker()}, before));
  family.signal(SIGTERM);
  EXPECT_EQ(family.await_exit(), 0) << family.log();
}

TEST(Reload, LosesNoConnectionHoweverOften) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  family.set(reloading());
  for (int round = 0; round < 20; ++round) {
    family.signal(SIGHUP);
    // Some are connected now and ask when their worker may have been told to end.
    std::vector<Client> early;
    for (int i = 0; i < 8; ++i) {
      early.emplace_back(family.port());
    }
    for (int i = 0; i < 40; ++i) {
      Client client(family.port());
      ASSERT_NE(client.worker(), 0) << "round " << round << ", " << i << "\n" << family.log();
    }
    ASSERT_TRUE(family.await(kServes)) << family.log();
    for (Client& client : early) {
      ASSERT_NE(client.worker(), 0) << "round " << round << "\n" << family.log();
    }
  }
  family.signal(SIGTERM);
  EXPECT_EQ(family.await_exit(), 0) << family.log();
}

TEST(Reload, WorkInFlightEndsWhereItBegan) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  Client busy(family.port());
  const pid_t worker = busy.worker();
  busy.say("hold");
  family.set(reloading());
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(kServes)) << family.log();
  const Watched watched(worker);
  EXPECT_NE(Client(family.port()).worker(), worker);
  busy.say("end");
  EXPECT_EQ(busy.hear(), std::to_string(worker));
  EXPECT_TRUE(watched.ends_within(5s));
}

TEST(Reload, WhatIsStillBusyAtTheDeadlineIsEnded) {
  TestFamily family(Plan{.mode = "stuck", .shutdown_timeout = 200ms, .reloads = true});
  ASSERT_TRUE(family.await_ready(2));
  family.set(Plan{.shutdown_timeout = 200ms, .reloads = true});
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(kServes)) << family.log();
  EXPECT_TRUE(family.await("the drain ran out of time")) << family.log();
  EXPECT_TRUE(family.await_workers(2)) << family.log();
}

TEST(Reload, WhatIsNoConfigurationChangesNothing) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  const std::vector<pid_t> before = family.workers();
  family.set_garbage();
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(kUnchanged)) << family.log();
  EXPECT_EQ(family.workers(), before);
  EXPECT_NE(Client(family.port()).worker(), 0);
  // And the next one is judged anew.
  family.set(reloading());
  family.signal(SIGHUP);
  EXPECT_TRUE(family.await(kServes)) << family.log();
}

TEST(Reload, MoreWorkersThanThereIsRoomForAreRefused) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  for (const std::uint32_t workers : {0u, 400u}) {
    family.set(Plan{.workers = workers});
    family.signal(SIGHUP);
    ASSERT_TRUE(family.await("workers: " + std::to_string(workers) + " is not from 1 to"))
        << family.log();
    ASSERT_TRUE(family.await("a restart")) << family.log();
  }
}

TEST(Reload, FewerWorkersAreFewer) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  family.set(Plan{.workers = 1});
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(kServes)) << family.log();
  EXPECT_TRUE(family.await_workers(1)) << family.log();
}

struct Hopeless {
  const char* mode;
  const char* text;
};
class ReloadHopeless : public testing::TestWithParam<Hopeless> {};

TEST_P(ReloadHopeless, KeepsTheOldOneAndSaysWhy) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  const std::vector<pid_t> before = family.workers();
  family.set(Plan{.mode = GetParam().mode, .binds = {"127.0.0.1:0", "127.0.0.1:0"}});
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(GetParam().text)) << family.log();
  ASSERT_TRUE(family.await(kUnchanged)) << family.log();
  ASSERT_TRUE(family.await_workers(2)) << family.log();
  EXPECT_EQ(family.workers(), before);
  EXPECT_NE(Client(family.port()).worker(), 0);
  family.set(reloading());
  family.signal(SIGHUP);
  EXPECT_TRUE(family.await(kServes)) << family.log();
}

INSTANTIATE_TEST_SUITE_P(Each, ReloadHopeless,
                         testing::Values(Hopeless{"fatal", "it is no component"},
                                         Hopeless{"crash", "keep dying"}));

TEST(Reload, AWorkerThatIsKilledMeanwhileIsReplacedInItsGeneration) {
  const std::string go = temporary("go");
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  const std::vector<pid_t> before = family.workers();
  family.set(Plan{.mode = "wait:" + go});
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await_workers(4)) << family.log();
  // One of the new and one of the old.
  std::vector<pid_t> now = family.workers();
  const auto fresh = std::ranges::find_if(now, [&](pid_t pid) { return none_of({pid}, before); });
  for (const pid_t victim : {*fresh, before[0]}) {
    ::kill(victim, SIGKILL);
    ASSERT_TRUE(family.await("was killed by signal 9")) << family.log();
  }
  ASSERT_TRUE(family.await(" is ready")) << family.log();
  ASSERT_TRUE(family.await_workers(4)) << family.log();
  // Another SIGHUP meanwhile is done afterwards.
  family.signal(SIGHUP);
  std::ofstream(go) << "go";
  EXPECT_TRUE(family.await(kServes)) << family.log();
  EXPECT_TRUE(family.await(kServes)) << family.log();
  EXPECT_TRUE(family.await_workers(2)) << family.log();
  EXPECT_TRUE(none_of(family.workers(), before));
  ::unlink(go.c_str());
}

TEST(Reload, WaitsForRoomAndThenReadsAgain) {
  TestFamily family(Plan{.workers = 2, .reloads = true});
  ASSERT_TRUE(family.await_ready(2));
  // As many generations as it takes hold their slots.
  std::vector<Client> busy;
  family.set(reloading());
  bool waits = false;
  for (int i = 0; i < 600 && !waits; ++i) {
    Client one(family.port());
    Client other(family.port());
    ASSERT_NE(one.worker(), 0);
    ASSERT_NE(other.worker(), 0);
    one.say("hold");
    other.say("hold");
    busy.push_back(std::move(one));
    busy.push_back(std::move(other));
    family.signal(SIGHUP);
    const auto line = family.await("onfiguration");  // read again, serves
    ASSERT_TRUE(line) << family.log();
    const auto next = family.await("e");
    ASSERT_TRUE(next) << family.log();
    waits = next->find("waits") != std::string::npos;
    if (!waits) {
      ASSERT_TRUE(family.await(kServes)) << family.log();
    }
  }
  ASSERT_TRUE(waits) << family.log();
  for (Client& client : busy) {
    client.say("end");
    EXPECT_TRUE(client.hear());
  }
  EXPECT_TRUE(family.await(kServes)) << family.log();
}

TEST(Reload, ATermSignalMeanwhileDrainsBoth) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  Client busy(family.port());
  ASSERT_NE(busy.worker(), 0);
  busy.say("hold");
  family.set(Plan{.mode = "wait:" + temporary("never")});
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await_workers(4)) << family.log();
  family.signal(SIGTERM);
  ASSERT_TRUE(family.await("draining"));
  busy.say("end");
  EXPECT_TRUE(busy.hear());
  EXPECT_EQ(family.await_exit(), 0) << family.log();
}

TEST(Reload, ATermSignalAfterASwitchDrainsBoth) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  Client old(family.port());
  ASSERT_NE(old.worker(), 0);
  old.say("hold");
  family.set(reloading());
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(kServes)) << family.log();
  Client fresh(family.port());
  ASSERT_NE(fresh.worker(), 0);
  fresh.say("hold");
  family.signal(SIGTERM);
  ASSERT_TRUE(family.await("draining"));
  for (Client* client : {&old, &fresh}) {
    client->say("end");
    EXPECT_TRUE(client->hear());
  }
  EXPECT_EQ(family.await_exit(), 0) << family.log();
}

TEST(Reload, BindsThatChangedAreOpenedAndClosed) {
  const std::string path = temporary("http.sock");
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  const std::uint16_t port = family.port();
  family.set(Plan{.binds = {"127.0.0.1:0", "unix:" + path}});
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(kServes)) << family.log();
  EXPECT_NE(Client(path).worker(), 0);
  EXPECT_NE(Client(port).worker(), 0) << "the bind that stayed has another socket";

  family.set(Plan{.binds = {"unix:" + path}});
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await(kServes)) << family.log();
  ASSERT_TRUE(family.await_workers(2)) << family.log();
  EXPECT_NE(Client(path).worker(), 0);
  EXPECT_FALSE(Client(port).connected());

  family.signal(SIGTERM);
  EXPECT_EQ(family.await_exit(), 0) << family.log();
  EXPECT_NE(::access(path.c_str(), F_OK), 0) << "the socket file was left behind";
}

TEST(Reload, ABindMayChangeToOneThatOverlaps) {
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  const std::string port = std::to_string(family.port());
  for (const char* host : {"0.0.0.0", "127.0.0.1", "0.0.0.0"}) {
    family.set(Plan{.binds = {std::string(host) + ":" + port}});
    family.signal(SIGHUP);
    ASSERT_TRUE(family.await(kServes)) << family.log();
    ASSERT_TRUE(family.await_workers(2)) << family.log();
    EXPECT_NE(Client(family.port()).worker(), 0) << host;
    // Nobody else may share it.
    TestFamily other(Plan{.binds = {"127.0.0.1:" + port}});
    EXPECT_EQ(other.await_exit(), 1) << host;
  }
}

TEST(Reload, AllBindsAreOpenedOrNone) {
  TestFamily other(Plan{});
  ASSERT_TRUE(other.await_ready(2));
  const std::string taken = "127.0.0.1:" + std::to_string(other.port());
  const std::string path = temporary("none.sock");
  TestFamily family(reloading());
  ASSERT_TRUE(family.await_ready(2));
  family.set(Plan{.binds = {"unix:" + path, taken}});
  family.signal(SIGHUP);
  ASSERT_TRUE(family.await("port " + std::to_string(other.port()) + " is in use by"))
      << family.log();
  ASSERT_TRUE(family.await(kUnchanged)) << family.log();
  EXPECT_NE(::access(path.c_str(), F_OK), 0);
  EXPECT_NE(Client(family.port()).worker(), 0);
}

}  // namespace
}  // namespace mik::supervisor
