// The figures of docs/adr/0008: how eight connections lie on two workers, and what passing one
// costs. A disabled test of the test binary: --gtest_also_run_disabled_tests
// --gtest_filter='*SpreadingBench*'.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <vector>

#include "shared/handover.hpp"
#include "supervisor/test_family.hpp"

namespace mik::supervisor {
namespace {

constexpr int kRounds = 120;

void settle(std::uint16_t port) {
  std::string open;
  for (int i = 0; i < 10'000 && open != "1"; ++i) {
    Client asks(port);
    asks.say("total");
    open = asks.hear().value_or("");
  }
}

// `pause`: connections come one by one, each answered before the next.
void spread(const char* mode, bool pause) {
  TestFamily family({.mode = mode});
  ASSERT_TRUE(family.await_ready(2));
  std::map<int, int> rounds;  // by the number of connections on the fuller worker
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Client> clients;
    std::map<pid_t, int> counts;
    for (int i = 0; i < 8; ++i) {
      clients.emplace_back(family.port());
      if (pause) {
        clients.back().worker();
      }
    }
    for (Client& client : clients) {
      ++counts[client.worker()];
    }
    int most = 0;
    for (const auto& [worker, count] : counts) {
      most = std::max(most, count);
    }
    ++rounds[most];
    clients.clear();
    settle(family.port());
  }
  std::printf("%s, %s:", mode, pause ? "one by one" : "at once");
  for (const auto& [most, count] : rounds) {
    std::printf(" %d/%d in %d", most, 8 - most, count);
  }
  std::printf(" rounds\n");
}

TEST(SpreadingBench, DISABLED_EightConnectionsOnTwoWorkers) {
  for (const char* mode : {"keep", "serve"}) {
    spread(mode, false);
    spread(mode, true);
  }
}

void time_to_answer(const char* mode) {
  TestFamily family({.mode = mode});
  ASSERT_TRUE(family.await_ready(2));
  std::vector<Client> held;
  for (int i = 0; i < 8; ++i) {
    held.emplace_back(family.port());
    held.back().worker();
  }
  std::vector<double> us;
  for (int i = 0; i < 4000; ++i) {
    const base::Time since = base::Clock::now();
    Client client(family.port());
    client.worker();
    us.push_back(std::chrono::duration<double, std::micro>(base::Clock::now() - since).count());
  }
  std::ranges::sort(us);
  std::printf("%s: connect to first answer, us: p50 %.0f p99 %.0f\n", mode, us[us.size() / 2],
              us[us.size() * 99 / 100]);
}

TEST(SpreadingBench, DISABLED_ConnectToFirstAnswer) {
  for (int round = 0; round < 3; ++round) {
    time_to_answer("keep");
    time_to_answer("serve");
  }
}

// Of this process: other load on the machine does not count.
double cpu_us() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto us = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_usec);
  };
  return us(usage.ru_utime) + us(usage.ru_stime);
}

TEST(SpreadingBench, DISABLED_CostOfPassing) {
  auto inbox = shared::make_inbox().value();
  std::vector<base::Fd> peers;
  peers.push_back(std::move(inbox.sending));
  shared::Outbox outbox(std::move(peers));
  // A TCP socket: one of AF_UNIX under way is work for the kernel's collector of cycles.
  const base::Fd one(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  constexpr int kTimes = 100'000;
  double since = cpu_us();
  for (int i = 0; i < kTimes; ++i) {
    outbox.pass(0, one.get());
    const base::Fd taken = shared::take_socket(inbox.receiving.get());
    ASSERT_TRUE(taken.valid());
  }
  std::printf("CPU time to pass, take and close: %.2f us\n", (cpu_us() - since) / kTimes);
  since = cpu_us();
  std::uint64_t sum = 0;
  for (int i = 0; i < kTimes; ++i) {
    sum += outbox.queued(0);
  }
  EXPECT_EQ(sum, 0u);
  std::printf("CPU time to ask for what is queued: %.2f us\n", (cpu_us() - since) / kTimes);
}

}  // namespace
}  // namespace mik::supervisor
