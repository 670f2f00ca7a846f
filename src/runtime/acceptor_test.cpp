#include "runtime/acceptor.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "net/socket.hpp"

namespace mik::runtime {
namespace {

using namespace std::chrono_literals;

struct Listening {
  base::Fd fd;
  sockaddr_in address{};
};

Listening listen_on_loopback() {
  Listening listening;
  listening.fd.reset(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  listening.address.sin_family = AF_INET;
  listening.address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof listening.address;
  auto* address = reinterpret_cast<sockaddr*>(&listening.address);
  EXPECT_EQ(::bind(listening.fd.get(), address, size), 0);
  EXPECT_EQ(::listen(listening.fd.get(), 1024), 0);
  EXPECT_EQ(::getsockname(listening.fd.get(), address, &size), 0);
  return listening;
}

base::Fd connect_to(const Listening& to, int flags = 0) {
  base::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0));
  const int result =
      ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to.address), sizeof to.address);
  EXPECT_TRUE(result == 0 || errno == EINPROGRESS);
  return fd;
}

base::Fd duplicate(const base::Fd& fd) { return base::Fd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0)); }

// A worker as far as accepting goes: keeps its sockets open and counts them.
class Worker final : public AcceptorEvents {
 public:
  Worker(shared::Segment& segment, std::size_t slot, base::Fd listener,
         std::vector<shared::InboxPair>& inboxes, std::uint64_t max_connections = 10000)
      : segment_(segment), slot_(slot), loop_(net::Loop::create().value()) {
    std::vector<base::Fd> listeners;
    listeners.push_back(std::move(listener));
    std::vector<base::Fd> peers;
    for (const shared::InboxPair& inbox : inboxes) {
      peers.push_back(duplicate(inbox.sending));
    }
    acceptor_ = std::make_unique<Acceptor>(*loop_, segment, Acceptor::Config{slot, max_connections},
                                           std::move(listeners), duplicate(inboxes[slot].receiving),
                                           std::move(peers), *this);
    segment.begin(slot, 1);
    EXPECT_TRUE(acceptor_->start().has_value());
    segment.set_state(slot, shared::WorkerState::kReady);
  }

  void on_socket(base::Fd socket) override {
    sockets.push_back(std::move(socket));
    segment_.set_connections(slot_, sockets.size());
  }
  void on_accept_error(const base::Error& error) override { errors.push_back(error.message()); }

  void turn(base::Duration max_wait = 0ms) { loop_->run_once(max_wait); }
  net::Loop& loop() { return *loop_; }
  Acceptor& acceptor() { return *acceptor_; }

  std::vector<base::Fd> sockets;
  std::vector<std::string> errors;

 private:
  shared::Segment& segment_;
  std::size_t slot_;
  std::unique_ptr<net::Loop> loop_;
  std::unique_ptr<Acceptor> acceptor_;
};

std::vector<shared::InboxPair> inboxes(std::size_t count) {
  std::vector<shared::InboxPair> made;
  for (std::size_t i = 0; i < count; ++i) {
    made.push_back(shared::make_inbox().value());
  }
  return made;
}

TEST(Acceptor, GivesSocketsThatAreNonBlockingAndCloseOnExec) {
  auto segment = shared::Segment::create(1).value();
  auto boxes = inboxes(1);
  const Listening listening = listen_on_loopback();
  Worker worker(segment, 0, duplicate(listening.fd), boxes);
  const base::Fd client = connect_to(listening);
  worker.turn(1s);
  ASSERT_EQ(worker.sockets.size(), 1u);
  EXPECT_NE(::fcntl(worker.sockets[0].get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(::fcntl(worker.sockets[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(segment.totals().accepted, 1u);
}

TEST(Acceptor, NagleIsOffBecauseTheListenerSaysSo) {
  auto segment = shared::Segment::create(1).value();
  auto boxes = inboxes(1);
  const Listening listening = listen_on_loopback();
  const int on = 1;
  ASSERT_EQ(::setsockopt(listening.fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on), 0);
  Worker worker(segment, 0, duplicate(listening.fd), boxes);
  const base::Fd client = connect_to(listening);
  worker.turn(1s);
  ASSERT_EQ(worker.sockets.size(), 1u);
  int value = 0;
  socklen_t size = sizeof value;
  ASSERT_EQ(::getsockopt(worker.sockets[0].get(), IPPROTO_TCP, TCP_NODELAY, &value, &size), 0);
  EXPECT_EQ(value, 1);
}

TEST(Acceptor, WhoWakesAloneStillSharesEightConnectionsEvenly) {
  auto segment = shared::Segment::create(2).value();
  auto boxes = inboxes(2);
  const Listening listening = listen_on_loopback();
  Worker awake(segment, 0, duplicate(listening.fd), boxes);
  Worker idle(segment, 1, duplicate(listening.fd), boxes);
  idle.turn();
  std::vector<base::Fd> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(connect_to(listening));
  }
  // All eight are taken by one worker before the other has its first turn: what is under way must
  // count.
  awake.turn(1s);
  idle.turn(1s);
  EXPECT_EQ(awake.sockets.size(), 4u);
  EXPECT_EQ(idle.sockets.size(), 4u);
  EXPECT_EQ(segment.totals().handed_out, 4u);
  EXPECT_EQ(segment.totals().handed_in, 4u);
}

TEST(Acceptor, FourWorkersShareHoweverTheyWake) {
  const unsigned seed = 7;
  std::srand(seed);
  auto segment = shared::Segment::create(4).value();
  auto boxes = inboxes(4);
  const Listening listening = listen_on_loopback();
  std::vector<std::unique_ptr<Worker>> workers;
  for (std::size_t slot = 0; slot < 4; ++slot) {
    workers.push_back(std::make_unique<Worker>(segment, slot, duplicate(listening.fd), boxes));
  }
  std::vector<base::Fd> clients;
  for (int i = 0; i < 40; ++i) {
    clients.push_back(connect_to(listening));
    workers[static_cast<std::size_t>(std::rand()) % 4]->turn();
  }
  for (int round = 0; round < 3; ++round) {
    for (const auto& worker : workers) {
      worker->turn();
    }
  }
  std::size_t sum = 0;
  for (const auto& worker : workers) {
    EXPECT_GE(worker->sockets.size(), 9u) << "seed " << seed;
    EXPECT_LE(worker->sockets.size(), 11u) << "seed " << seed;
    sum += worker->sockets.size();
  }
  EXPECT_EQ(sum, 40u);
}

TEST(Acceptor, AWorkerThatDoesNotTurnGetsNothing) {
  auto segment = shared::Segment::create(2).value();
  auto boxes = inboxes(2);
  const Listening listening = listen_on_loopback();
  Worker awake(segment, 0, duplicate(listening.fd), boxes);
  Worker stuck(segment, 1, duplicate(listening.fd), boxes);
  segment.beat(1, base::Clock::now() - shared::kHeartbeatMax);
  std::vector<base::Fd> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(connect_to(listening));
  }
  awake.turn(1s);
  EXPECT_EQ(awake.sockets.size(), 8u);
}

TEST(Acceptor, AWorkerThatIsNotReadyGetsNothing) {
  auto segment = shared::Segment::create(2).value();
  auto boxes = inboxes(2);
  const Listening listening = listen_on_loopback();
  Worker awake(segment, 0, duplicate(listening.fd), boxes);
  Worker starting(segment, 1, duplicate(listening.fd), boxes);
  segment.set_state(1, shared::WorkerState::kStarting);
  std::vector<base::Fd> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(connect_to(listening));
  }
  awake.turn(1s);
  EXPECT_EQ(awake.sockets.size(), 8u);
}

// A worker that died and comes back, while its component is compiled or cannot be.
TEST(Acceptor, AWorkerThatIsNotReadyKeepsNothingThatAnotherCouldAnswer) {
  auto segment = shared::Segment::create(2).value();
  auto boxes = inboxes(2);
  const Listening listening = listen_on_loopback();
  Worker starting(segment, 0, duplicate(listening.fd), boxes);
  Worker ready(segment, 1, duplicate(listening.fd), boxes);
  ready.turn();
  segment.set_state(0, shared::WorkerState::kStarting);
  std::vector<base::Fd> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(connect_to(listening));
  }
  starting.turn(1s);
  ready.turn(1s);
  EXPECT_EQ(starting.sockets.size(), 0u);
  EXPECT_EQ(ready.sockets.size(), 3u);
  // But alone it keeps them until it is.
  segment.set_state(1, shared::WorkerState::kGone);
  const base::Fd late = connect_to(listening);
  starting.turn(1s);
  EXPECT_EQ(starting.sockets.size(), 1u);
}

TEST(Acceptor, AFullInboxMeansThatTheConnectionIsKept) {
  auto segment = shared::Segment::create(2).value();
  auto boxes = inboxes(2);
  const Listening listening = listen_on_loopback();
  Worker awake(segment, 0, duplicate(listening.fd), boxes);
  Worker idle(segment, 1, duplicate(listening.fd), boxes);
  idle.turn();
  const int none = 0;  // the kernel's minimum
  ::setsockopt(boxes[1].sending.get(), SOL_SOCKET, SO_SNDBUF, &none, sizeof none);
  std::vector<base::Fd> clients;
  for (int i = 0; i < 60; ++i) {
    clients.push_back(connect_to(listening));
  }
  for (int i = 0; i < 10; ++i) {
    awake.turn();
  }
  idle.turn(1s);
  idle.turn();
  EXPECT_EQ(awake.sockets.size() + idle.sockets.size(), 60u);
  EXPECT_GT(awake.sockets.size(), 31u) << "the inbox was never full: the test proves nothing";
}

TEST(Acceptor, BeatsWhileIdle) {
  auto segment = shared::Segment::create(1).value();
  auto boxes = inboxes(1);
  const Listening listening = listen_on_loopback();
  Worker worker(segment, 0, duplicate(listening.fd), boxes);
  const base::Time until = base::Clock::now() + 400ms;
  while (base::Clock::now() < until) {
    worker.turn(1s);
    EXPECT_TRUE(segment.live(0, base::Clock::now()));
  }
}

std::string read_to_end(int fd) {
  std::string text;
  std::array<char, 1024> buffer{};
  for (int i = 0; i < 100; ++i) {
    pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
    if (::poll(&entry, 1, 2000) != 1) {
      return text + "<timeout>";
    }
    const ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (got <= 0) {
      return text + (got < 0 ? "<reset>" : "");
    }
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  return text;
}

TEST(Acceptor, OverTheLimitOfTheFamilyAnswers503) {
  auto segment = shared::Segment::create(2).value();
  auto boxes = inboxes(2);
  const Listening listening = listen_on_loopback();
  Worker worker(segment, 0, duplicate(listening.fd), boxes, 10);
  segment.set_connections(1, 8);  // another worker's
  std::vector<base::Fd> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(connect_to(listening));
    ASSERT_GT(::send(clients.back().get(), "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL), 0);
  }
  worker.turn(1s);
  ASSERT_EQ(worker.sockets.size(), 2u);
  EXPECT_EQ(segment.totals().refused, 1u);
  const std::string answer = read_to_end(clients[2].get());
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 503 ")) << answer;
  const std::size_t body = answer.find("\r\n\r\n") + 4;
  EXPECT_NE(answer.find("Content-Length: " + std::to_string(answer.size() - body)),
            std::string::npos)
      << answer;
  // A place that is free again is given again.
  worker.sockets.pop_back();
  segment.set_connections(0, worker.sockets.size());
  clients.push_back(connect_to(listening));
  worker.turn(1s);
  EXPECT_EQ(worker.sockets.size(), 2u);
}

TEST(Acceptor, WithoutDescriptorsItTellsOneClientPausesAndGoesOn) {
  auto segment = shared::Segment::create(1).value();
  auto boxes = inboxes(1);
  const Listening listening = listen_on_loopback();
  Worker worker(segment, 0, duplicate(listening.fd), boxes);
  const base::Fd told = connect_to(listening);
  const base::Fd waits = connect_to(listening);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const base::Fd lowest(::dup(0));
  rlimit none = before;
  none.rlim_cur = static_cast<rlim_t>(lowest.get());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  worker.turn(1s);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_EQ(worker.sockets.size(), 0u);
  ASSERT_EQ(worker.errors.size(), 1u);
  EXPECT_TRUE(read_to_end(told.get()).starts_with("HTTP/1.1 503 "));
  const base::Time since = base::Clock::now();
  const base::Time until = since + 2s;
  while (worker.sockets.empty() && base::Clock::now() < until) {
    worker.turn(1s);
  }
  EXPECT_EQ(worker.sockets.size(), 1u);
  EXPECT_GE(base::Clock::now() - since, 90ms) << "it did not pause";
  EXPECT_EQ(worker.errors.size(), 1u);
}

TEST(Acceptor, StopTakesWhatIsQueuedAndThenThePortIsClosed) {
  auto segment = shared::Segment::create(1).value();
  auto boxes = inboxes(1);
  Listening listening = listen_on_loopback();
  Worker worker(segment, 0, duplicate(listening.fd), boxes);
  std::vector<base::Fd> clients;
  for (int i = 0; i < 50; ++i) {
    clients.push_back(connect_to(listening));
  }
  worker.acceptor().stop(Acceptor::End::kFamily);
  EXPECT_EQ(worker.sockets.size(), 50u);
  EXPECT_EQ(segment.state(0), shared::WorkerState::kDraining);
  listening.fd.reset();
  const base::Fd late(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_NE(::connect(late.get(), reinterpret_cast<const sockaddr*>(&listening.address),
                      sizeof listening.address),
            0);
  EXPECT_EQ(errno, ECONNREFUSED);
  // The inbox lives on.
  const base::Fd passed(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(shared::pass_socket(boxes[0].sending.get(), passed.get()));
  worker.turn(1s);
  EXPECT_EQ(worker.sockets.size(), 51u);
}

// Two of one generation and one of the next, on one listener.
TEST(Acceptor, AGenerationThatEndsLeavesEverythingToTheNext) {
  auto segment = shared::Segment::create(3).value();
  auto boxes = inboxes(3);
  Listening listening = listen_on_loopback();
  Worker old(segment, 0, duplicate(listening.fd), boxes);
  Worker next(segment, 1, duplicate(listening.fd), boxes);
  next.turn();
  std::vector<base::Fd> clients;
  for (int i = 0; i < 6; ++i) {
    clients.push_back(connect_to(listening));
  }
  const base::Fd passed(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(shared::pass_socket(boxes[0].sending.get(), passed.get()));
  old.acceptor().stop(Acceptor::End::kGeneration);
  EXPECT_EQ(segment.state(0), shared::WorkerState::kDraining);
  old.turn();
  next.turn();
  EXPECT_EQ(old.sockets.size(), 0u);
  EXPECT_EQ(next.sockets.size(), 7u);
  // The socket is open, and the next one alone is told of what comes.
  clients.push_back(connect_to(listening));
  old.turn();
  next.turn(1s);
  EXPECT_EQ(old.sockets.size(), 0u);
  EXPECT_EQ(next.sockets.size(), 8u);
}

TEST(Acceptor, WhereNobodyServesOnAGenerationThatEndsServesWhatItHasTaken) {
  auto segment = shared::Segment::create(2).value();
  auto boxes = inboxes(2);
  Listening listening = listen_on_loopback();
  Worker old(segment, 0, duplicate(listening.fd), boxes);
  const base::Fd client = connect_to(listening);
  old.acceptor().stop(Acceptor::End::kGeneration);
  EXPECT_EQ(old.sockets.size(), 1u);
}

TEST(Acceptor, AFamilyMayEndAfterAGeneration) {
  auto segment = shared::Segment::create(2).value();
  auto boxes = inboxes(2);
  Listening listening = listen_on_loopback();
  Worker old(segment, 0, duplicate(listening.fd), boxes);
  Worker next(segment, 1, duplicate(listening.fd), boxes);
  next.turn();
  old.acceptor().stop(Acceptor::End::kGeneration);
  old.acceptor().stop(Acceptor::End::kFamily);
  const base::Fd passed(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(shared::pass_socket(boxes[0].sending.get(), passed.get()));
  old.turn(1s);
  EXPECT_EQ(old.sockets.size(), 1u);
}

TEST(Acceptor, ConnectionsThatComeWhileTheListenerCloseAreNotMadeAndLost) {
  Listening listening = listen_on_loopback();
  const base::Fd queued = connect_to(listening);
  ASSERT_TRUE(net::drop_new_connections(listening.fd.get()));
  const base::Fd late = connect_to(listening, SOCK_NONBLOCK);
  pollfd entry{.fd = late.get(), .events = POLLOUT, .revents = 0};
  EXPECT_EQ(::poll(&entry, 1, 50), 0) << "the handshake went through";
  const base::Fd accepted(::accept4(listening.fd.get(), nullptr, nullptr, SOCK_NONBLOCK));
  EXPECT_TRUE(accepted.valid());
  const base::Fd nobody(::accept4(listening.fd.get(), nullptr, nullptr, SOCK_NONBLOCK));
  EXPECT_FALSE(nobody.valid());
}

}  // namespace
}  // namespace mik::runtime
