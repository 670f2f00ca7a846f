#include "supervisor/notify.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>

#include "supervisor/test_family.hpp"

namespace mik::supervisor {
namespace {

using namespace std::chrono_literals;

// The end of the service manager: a bound socket, and the variables that name it.
class Manager {
 public:
  explicit Manager(const std::string& address) : address_(address) {
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::memcpy(to.sun_path, address.data(), address.size());
    if (address[0] == '@') {
      to.sun_path[0] = '\0';
    } else {
      ::unlink(address.c_str());
    }
    fd_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
    if (::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&to), bytes) != 0) {
      fd_.reset();
    }
    ::setenv("NOTIFY_SOCKET", address.c_str(), 1);
  }
  ~Manager() {
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) {
      ::unsetenv(name);
    }
    if (address_[0] == '/') {
      ::unlink(address_.c_str());
    }
  }
  Manager(const Manager&) = delete;
  Manager& operator=(const Manager&) = delete;

  // The next message; nothing at the limit.
  std::optional<std::string> hear(base::Duration limit = kPatience) const {
    pollfd wanted{.fd = fd_.get(), .events = POLLIN, .revents = 0};
    if (::poll(&wanted, 1, static_cast<int>(limit / 1ms)) != 1) {
      return std::nullopt;
    }
    std::array<char, 512> buffer{};
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    return got < 0 ? std::nullopt
                   : std::optional(std::string(buffer.data(), static_cast<std::size_t>(got)));
  }

 private:
  std::string address_;
  base::Fd fd_;
};

std::string path_address() {
  return testing::TempDir() + "mik-notify-" + std::to_string(::getpid());
}
std::string abstract_address() { return "@mik-notify-" + std::to_string(::getpid()); }

class Warnings final : public Observer {
 public:
  void on_event(Severity severity, const std::string& text) override {
    if (severity == Severity::kWarning) {
      said += text + "\n";
    }
  }
  std::string said;
};

class NotifyTest : public testing::Test {
 protected:
  std::unique_ptr<net::Loop> loop_ = net::Loop::create().value();
  Warnings warnings_;
};

TEST_F(NotifyTest, SpeaksToPathsAndAbstractNamesAndLeavesNoVariable) {
  for (const std::string& address : {path_address(), abstract_address()}) {
    const Manager manager(address);
    ::setenv("WATCHDOG_USEC", "30000000", 1);
    Notifier notifier(*loop_, warnings_);
    for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) {
      EXPECT_EQ(std::getenv(name), nullptr) << name;
    }
    notifier.reloading();  // nothing: not ready yet
    notifier.ready("Serving");
    EXPECT_EQ(manager.hear(), "READY=1\nSTATUS=Serving") << address;
    EXPECT_EQ(manager.hear(), "WATCHDOG=1");
    notifier.reloading();
    notifier.reloading();
    const std::string text = manager.hear().value_or("");
    const std::string start = "RELOADING=1\nMONOTONIC_USEC=";
    ASSERT_TRUE(text.starts_with(start)) << text;
    const auto said_us = std::stoull(text.substr(start.size()));
    EXPECT_LE(said_us, base::to_ns(base::Clock::now()) / 1000);
    EXPECT_GT(said_us, base::to_ns(base::Clock::now() - kPatience) / 1000);
    notifier.ready("Serving");
    EXPECT_EQ(manager.hear(), "READY=1\nSTATUS=Serving");
    notifier.stopping(60s);
    EXPECT_EQ(manager.hear(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=75000000\nSTATUS=Draining");
    notifier.ready("Serving");
    notifier.reloading();
    notifier.stopping(60s);
    EXPECT_EQ(manager.hear(0s), std::nullopt);
  }
  EXPECT_EQ(warnings_.said, "");
}

TEST_F(NotifyTest, TheWatchdogIsFedByTheLoop) {
  const Manager manager(abstract_address());
  ::setenv("WATCHDOG_USEC", "100000", 1);
  ::setenv("WATCHDOG_PID", std::to_string(::getpid()).c_str(), 1);
  Notifier notifier(*loop_, warnings_);
  EXPECT_EQ(manager.hear(0s), std::nullopt);
  notifier.ready("Serving");
  ASSERT_TRUE(manager.hear());
  ASSERT_EQ(manager.hear(), "WATCHDOG=1");
  EXPECT_EQ(manager.hear(0s), std::nullopt) << "no turn, no sign of life";
  std::optional<std::string> second;
  for (const base::Time until = base::Clock::now() + kPatience;
       !second && base::Clock::now() < until;) {
    loop_->run_once(1s);
    second = manager.hear(0s);
  }
  EXPECT_EQ(second, "WATCHDOG=1");
}

TEST_F(NotifyTest, AWatchdogOfAnotherProcessOrOfNoUseIsNotOurs) {
  for (const auto& [period, pid] : {std::pair{"100000", "1"}, std::pair{"", ""}, std::pair{"0", ""},
                                    std::pair{"-1", ""}, std::pair{"99999999999999999999", ""},
                                    std::pair{"18446744073709551615", ""}, std::pair{"1s", ""}}) {
    const Manager manager(abstract_address());
    ::setenv("WATCHDOG_USEC", period, 1);
    ::setenv("WATCHDOG_PID", pid, 1);
    Notifier notifier(*loop_, warnings_);
    notifier.ready("Serving");
    EXPECT_TRUE(manager.hear());
    EXPECT_EQ(manager.hear(0s), std::nullopt) << period << " " << pid;
  }
}

TEST_F(NotifyTest, WhatIsNoSocketIsSaidAndHarmless) {
  for (const std::string& address : {std::string("vsock:2:9"), std::string("relative"),
                                     std::string("@"), "/" + std::string(200, 'x')}) {
    ::setenv("NOTIFY_SOCKET", address.c_str(), 1);
    Notifier notifier(*loop_, warnings_);
    EXPECT_NE(warnings_.said.find("NOTIFY_SOCKET is no address"), std::string::npos) << address;
    warnings_.said.clear();
    notifier.ready("Serving");
    EXPECT_EQ(warnings_.said, "");
  }
  ::setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
  Notifier nobody(*loop_, warnings_);
  nobody.ready("Serving");
  EXPECT_NE(warnings_.said.find("could not be told READY: NOTIFY_SOCKET: No such file"),
            std::string::npos)
      << warnings_.said;
}

TEST_F(NotifyTest, WithoutAManagerItIsMute) {
  ::unsetenv("NOTIFY_SOCKET");
  Notifier notifier(*loop_, warnings_);
  notifier.ready("Serving");
  notifier.stopping(1s);
  EXPECT_EQ(warnings_.said, "");
}

TEST_F(NotifyTest, ARunTellsReadyReloadsAndTheEnd) {
  const Manager manager(path_address());
  TestFamily::Plan plan{.reloads = true};
  TestFamily family(plan);
  EXPECT_EQ(manager.hear(), "READY=1\nSTATUS=Serving") << family.log();
  ASSERT_TRUE(family.await_ready(2)) << family.log();
  for (const pid_t worker : family.workers()) {
    EXPECT_EQ(proc(worker, "environ").find("NOTIFY_SOCKET"), std::string::npos);
  }
  family.set(plan);
  family.signal(SIGHUP);
  EXPECT_TRUE(manager.hear().value_or("").starts_with("RELOADING=1\n")) << family.log();
  EXPECT_EQ(manager.hear(), "READY=1\nSTATUS=Serving") << family.log();
  family.set_garbage();
  family.signal(SIGHUP);
  EXPECT_TRUE(manager.hear().value_or("").starts_with("RELOADING=1\n")) << family.log();
  EXPECT_EQ(manager.hear(),
            "READY=1\nSTATUS=Serving the configuration from before a reload that failed");
  family.signal(SIGTERM);
  EXPECT_EQ(manager.hear(), "STOPPING=1\nEXTEND_TIMEOUT_USEC=25000000\nSTATUS=Draining");
  EXPECT_EQ(family.await_exit(), 0) << family.log();
}

}  // namespace
}  // namespace mik::supervisor
