#include "shared/handover.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <array>

namespace mik::shared {
namespace {

struct Ends {
  base::Fd ours;
  base::Fd theirs;
};
Ends connection() {
  std::array<int, 2> fds{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
  return {base::Fd(fds[0]), base::Fd(fds[1])};
}

TEST(Handover, TheSocketWorksAtTheOtherEnd) {
  auto inbox = make_inbox().value();
  Ends ends = connection();
  ASSERT_TRUE(pass_socket(inbox.sending.get(), ends.theirs.get()));
  ends.theirs.reset();
  const base::Fd taken = take_socket(inbox.receiving.get());
  ASSERT_TRUE(taken.valid());
  EXPECT_NE(::fcntl(taken.get(), F_GETFD) & FD_CLOEXEC, 0);
  ASSERT_EQ(::send(ends.ours.get(), "hello", 5, 0), 5);
  std::array<char, 8> buffer{};
  EXPECT_EQ(::recv(taken.get(), buffer.data(), buffer.size(), 0), 5);
}

TEST(Handover, AnEmptyInboxGivesNothing) {
  auto inbox = make_inbox().value();
  EXPECT_FALSE(take_socket(inbox.receiving.get()).valid());
}

TEST(Handover, SomethingElseInTheInboxIsNoSocket) {
  auto inbox = make_inbox().value();
  ASSERT_EQ(::send(inbox.sending.get(), "xyz", 3, 0), 3);
  EXPECT_FALSE(take_socket(inbox.receiving.get()).valid());
}

TEST(Handover, AFullInboxRefusesAndLosesNothing) {
  auto inbox = make_inbox().value();
  const Ends ends = connection();
  int passed = 0;
  while (passed < 100'000 && pass_socket(inbox.sending.get(), ends.theirs.get())) {
    ++passed;
  }
  EXPECT_GT(passed, 50);
  EXPECT_LT(passed, 100'000);
  int taken = 0;
  while (take_socket(inbox.receiving.get()).valid()) {
    ++taken;
  }
  EXPECT_EQ(taken, passed);
}

TEST(Handover, WhatADeadWorkerDidNotTakeItsSuccessorTakes) {
  auto inbox = make_inbox().value();
  const Ends ends = connection();
  // The sender dies too, after it passed the socket.
  const pid_t sender = ::fork();
  if (sender == 0) {
    ::_exit(pass_socket(inbox.sending.get(), ends.theirs.get()) ? 0 : 1);
  }
  int status = -1;
  ::waitpid(sender, &status, 0);
  EXPECT_EQ(status, 0);
  EXPECT_TRUE(take_socket(inbox.receiving.get()).valid());
}

TEST(Outbox, CountsWhatLiesUnread) {
  auto first = make_inbox().value();
  auto second = make_inbox().value();
  std::vector<base::Fd> peers;
  peers.emplace_back(::fcntl(first.sending.get(), F_DUPFD_CLOEXEC, 0));
  peers.emplace_back(::fcntl(second.sending.get(), F_DUPFD_CLOEXEC, 0));
  Outbox outbox(std::move(peers));
  const Ends ends = connection();
  EXPECT_EQ(outbox.queued(1), 0u);
  for (std::uint64_t n = 1; n <= 100; ++n) {
    // Every other one is sent by somebody else.
    ASSERT_TRUE(n % 2 == 0 ? outbox.pass(1, ends.theirs.get())
                           : pass_socket(second.sending.get(), ends.theirs.get()));
    EXPECT_EQ(outbox.queued(1), n);
  }
  EXPECT_EQ(outbox.queued(0), 0u);
  for (std::uint64_t left = 99; left > 0; --left) {
    ASSERT_TRUE(take_socket(second.receiving.get()).valid());
    EXPECT_EQ(outbox.queued(1), left);
  }
  EXPECT_EQ(outbox.queued(7), 0u);
  EXPECT_FALSE(outbox.pass(7, ends.theirs.get()));
}

}  // namespace
}  // namespace mik::shared
