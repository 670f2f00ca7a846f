#include "supervisor/fake_worker.hpp"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "config/settings.hpp"
#include "net/loop.hpp"
#include "runtime/acceptor.hpp"
#include "shared/boot.hpp"
#include "shared/control.hpp"
#include "shared/segment.hpp"

namespace mik::supervisor {

namespace {

class FakeWorker;

class Connection final : public net::IoHandler {
 public:
  Connection(FakeWorker& worker, base::Fd accepted)
      : socket(std::move(accepted)), worker_(worker) {}
  void on_io(std::uint32_t events) override;

  base::Fd socket;
  bool held = false;
  bool answered = false;

 private:
  FakeWorker& worker_;
  std::string input_;
};

class FakeWorker final : public runtime::AcceptorEvents, public net::IoHandler {
 public:
  FakeWorker(shared::WorkerBoot boot, shared::Segment segment, config::Settings settings)
      : loop(net::Loop::create().value()),
        segment_(std::move(segment)),
        settings_(std::move(settings)),
        slot_(boot.slot),
        control_(std::move(boot.control)),
        acceptor_(
            *loop, segment_, {boot.slot, settings_.max_connections}, std::move(boot.listeners),
            std::move(boot.inbox),
            settings_.component_path == "keep" ? std::vector<base::Fd>() : std::move(boot.peers),
            *this) {}

  int run() {
    const std::string& mode = settings_.component_path;
    if (mode == "crash") {
      return 3;
    }
    if (mode == "fatal") {
      static_cast<void>(control_.send(
          shared::Fatal{base::ErrorCode::kNotComponent, "it is no component", "build one"}));
      return 1;
    }
    if (!loop->watch_level(control_.fd(), EPOLLIN, *this).has_value() ||
        !acceptor_.start().has_value()) {
      return 1;
    }
    if (mode.starts_with("compile:")) {
      static_cast<void>(control_.send(shared::NeedArtefact{0, 1}));
    } else {
      ready_if_allowed();
    }
    loop->run();
    return exit_code_;
  }

  void on_socket(base::Fd socket) override {
    connections_.push_back(std::make_unique<Connection>(*this, std::move(socket)));
    segment_.set_connections(slot_, connections_.size());
    Connection& connection = *connections_.back();
    if (!loop->watch_level(connection.socket.get(), EPOLLIN, connection).has_value()) {
      close(connection);
    }
  }

  void close(Connection& connection) {
    loop->unwatch(connection.socket.get());
    connection.socket.reset();
    for (auto& each : connections_) {
      if (each.get() == &connection) {
        loop->retire(std::move(each));
        each = std::move(connections_.back());
        connections_.pop_back();
        break;
      }
    }
    segment_.set_connections(slot_, connections_.size());
    exit_if_done();
  }

  bool draining() const { return draining_; }
  std::uint64_t total() const { return segment_.connections(); }

  // The control channel.
  void on_io(std::uint32_t /*events*/) override {
    auto received = control_.receive();
    if (!received) {
      return;
    }
    if (std::holds_alternative<shared::EndOfFile>(*received)) {
      loop->unwatch(control_.fd());
      shared::restore_family_signals();
      drain(loop->now() + settings_.shutdown_timeout, runtime::Acceptor::End::kFamily);
      return;
    }
    auto* message = std::get_if<shared::Message>(&*received);
    if (message == nullptr) {
      return;
    }
    if (const auto* order = std::get_if<shared::Drain>(message)) {
      drain(base::from_ns(order->deadline_ns), order->generation_only
                                                   ? runtime::Acceptor::End::kGeneration
                                                   : runtime::Acceptor::End::kFamily);
    } else if (std::holds_alternative<shared::ArtefactReady>(*message)) {
      ready();
    } else if (const auto* failed = std::get_if<shared::ArtefactFailed>(message)) {
      static_cast<void>(control_.send(shared::Fatal{failed->code, failed->text, {}}));
      exit_code_ = 1;
      loop->stop();
    }
  }

  std::unique_ptr<net::Loop> loop;

 private:
  void ready_if_allowed() {
    constexpr std::string_view kWait = "wait:";
    const std::string& mode = settings_.component_path;
    if (mode.starts_with(kWait) && ::access(mode.c_str() + kWait.size(), F_OK) != 0) {
      loop->wheel().arm(wait_, loop->now() + std::chrono::milliseconds(10));
      return;
    }
    ready();
  }

  void ready() {
    segment_.set_state(slot_, shared::WorkerState::kReady);
    static_cast<void>(control_.send(shared::Ready{}));
  }

  void drain(base::Time deadline, runtime::Acceptor::End end) {
    if (settings_.component_path == "stuck") {
      return;
    }
    draining_ = true;
    acceptor_.stop(end);
    std::vector<Connection*> idle;
    for (const auto& connection : connections_) {
      // As the real one: a client that has not asked yet may be about to.
      if (!connection->held && (connection->answered || end == runtime::Acceptor::End::kFamily)) {
        idle.push_back(connection.get());
      }
    }
    for (Connection* connection : idle) {
      close(*connection);
    }
    loop->wheel().arm(deadline_, deadline);
    exit_if_done();
  }

  void exit_if_done() {
    if (draining_ && connections_.empty()) {
      loop->stop();
    }
  }
  void on_deadline() { loop->stop(); }

  shared::Segment segment_;
  config::Settings settings_;
  std::uint32_t slot_;
  shared::Channel control_;
  runtime::Acceptor acceptor_;
  std::vector<std::unique_ptr<Connection>> connections_;
  bool draining_ = false;
  int exit_code_ = 0;
  net::Timer wait_ = net::Timer::of<&FakeWorker::ready_if_allowed>(this);
  net::Timer deadline_ = net::Timer::of<&FakeWorker::on_deadline>(this);
};

void Connection::on_io(std::uint32_t /*events*/) {
  std::array<char, 256> buffer{};
  const ssize_t got =
      socket.valid() ? ::recv(socket.get(), buffer.data(), buffer.size(), MSG_DONTWAIT) : -1;
  if (got < 0) {
    return;
  }
  if (got == 0) {
    worker_.close(*this);
    return;
  }
  input_.append(buffer.data(), static_cast<std::size_t>(got));
  for (std::size_t end = input_.find('\n'); end != std::string::npos; end = input_.find('\n')) {
    const std::string line = input_.substr(0, end);
    input_.erase(0, end + 1);
    const std::uint64_t value =
        line == "total" ? worker_.total() : static_cast<std::uint64_t>(::getpid());
    const std::string answer = std::to_string(value) + "\n";
    if (line == "die") {
      ::kill(::getpid(), SIGKILL);
    }
    held = line == "hold";
    if (!held) {
      answered = true;
      static_cast<void>(::send(socket.get(), answer.data(), answer.size(), MSG_NOSIGNAL));
      if (worker_.draining()) {
        worker_.close(*this);
        return;
      }
    }
  }
}

void burn() {
  volatile unsigned long count = 0;
  for (;;) {
    count = count + 1;
  }
}

void hoard() {
  std::vector<std::unique_ptr<char[]>> blocks;
  for (;;) {
    constexpr std::size_t kBlock = 16u << 20;
    void* memory = std::malloc(kBlock);
    if (memory == nullptr) {
      std::abort();  // as Rust does
    }
    blocks.emplace_back(static_cast<char*>(memory));
  }
}

// What is in the file says what comes of it: "ok 7", "bad it imports the moon", "full" (the disk),
// "torn", "wait 7" (once PATH.go is there).
int fake_module_compile(const config::Settings& settings, const std::string& module,
                        shared::Channel& result) {
  const std::string path =
      (module.find('/') == std::string::npos ? settings.modules_dir : settings.user_modules_dir) +
      "/" + module + ".wasm";
  std::ifstream file(path);
  std::string verb;
  file >> verb;
  if (verb == "ok" || verb == "wait") {
    while (verb == "wait" && ::access((path + ".go").c_str(), F_OK) != 0) {
      ::poll(nullptr, 0, 2);
    }
    int number = 0;
    file >> number;
    shared::Compiled compiled;
    compiled.digest.fill(static_cast<std::uint8_t>(number));
    compiled.artefact_bytes = static_cast<std::uint64_t>(number) * 10;
    return result.send(compiled).has_value() ? 0 : 1;
  }
  shared::CompileFailed failed{base::ErrorCode::kImport, {}, "mend it"};
  std::getline(file >> std::ws, failed.text);
  if (verb == "full") {
    failed.code = base::ErrorCode::kSystem;
    failed.text = "the disk is full";
  } else if (verb == "torn") {
    failed.code = base::ErrorCode::kCancelled;
  }
  static_cast<void>(result.send(failed));
  return 1;
}

}  // namespace

int fake_worker_main(int argc, char** argv) {
  auto boot = shared::enter_worker(argc, argv);
  if (!boot) {
    return 2;
  }
  auto segment = shared::Segment::attach(boot->segment.get());
  auto bytes = shared::read_block(boot->settings.get());
  if (!segment || !bytes) {
    return 1;
  }
  auto settings = config::deserialize(*bytes);
  if (!settings) {
    return 1;
  }
  FakeWorker worker(std::move(boot).value(), std::move(segment).value(),
                    std::move(settings).value());
  return worker.run();
}

int fake_compile_main(int argc, char** argv) {
  auto boot = shared::enter_compile_child(argc, argv);
  if (!boot) {
    return 2;
  }
  shared::Channel result(std::move(boot->result));
  const auto settings = config::deserialize(shared::read_block(boot->settings.get()).value());
  if (settings && !settings->modules_dir.empty()) {
    return fake_module_compile(*settings, boot->component, result);
  }
  const bool single = settings && settings->single_component();
  const std::string module = single ? settings->component_path : boot->component;
  const std::string how = module.substr(module.find(':') + 1);
  if (how == "ok" || how == "linger") {
    const bool sent = result.send(shared::Compiled{{}, 7}).has_value();
    if (how == "linger") {
      ::pause();
    }
    return sent ? 0 : 1;
  }
  if (how == "refuse") {
    static_cast<void>(
        result.send(shared::CompileFailed{base::ErrorCode::kImport, "it imports the moon", {}}));
    return 1;
  }
  if (how == "cpu") {
    burn();
  } else if (how == "wall") {
    ::pause();
  } else if (how == "memory") {
    hoard();
  } else if (how == "kill") {
    ::kill(::getpid(), SIGKILL);
  }
  return 7;
}

}  // namespace mik::supervisor
