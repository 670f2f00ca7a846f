// For tests: a worker's parts over the fake engine, and an exchange whose client is the test.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "engine/engine.hpp"
#include "http/exchange.hpp"
#include "net/loop.hpp"
#include "runtime/context.hpp"
#include "runtime/gate.hpp"
#include "runtime/guest_exchange.hpp"
#include "runtime/metrics.hpp"
#include "runtime/module_cache.hpp"
#include "runtime/module_loader.hpp"
#include "runtime/scheduler.hpp"

namespace mik::runtime {

// What a connection would be: takes everything at once unless `window` says otherwise.
class TestExchange final : public http::Exchange {
 public:
  explicit TestExchange(std::string path, http::BodyKind body_kind = http::BodyKind::kNone,
                        std::string method = "GET") {
    block_ = method + " " + path + " host accept text/plain";
    const std::string_view block = block_;
    head_.bytes = block;
    head_.method = block.substr(0, method.size());
    head_.path_query = block.substr(method.size() + 1, path.size());
    head_.target = head_.path_query;
    const std::size_t authority = method.size() + path.size() + 2;
    head_.authority = block.substr(authority, 4);
    fields_.push_back({block.substr(authority + 5, 6), block.substr(authority + 12)});
    head_.fields = fields_;
    head_.body = body_kind;
    peer_.address = "203.0.113.7";
  }

  void add_field(std::string_view name, std::string_view value) {
    fields_.push_back({name, value});
    head_.fields = fields_;
  }
  // The client closes, or a drain ends.
  void close(http::Outcome outcome) {
    if (handler_ != nullptr && !closed) {
      closed = true;
      outcome_ = outcome;
      http::Closed how;
      how.outcome = outcome;
      how.status = status;
      handler_->on_closed(how);
    }
  }
  http::Flow send_body(std::string_view bytes) { return handler_->on_body(bytes); }
  void end_body() { handler_->on_body_end({}); }
  void fail_body(http::BodyError error) { handler_->on_body_error(error); }

  const http::RequestHead& head() const override { return head_; }
  const http::Peer& peer() const override { return peer_; }
  bool secure() const override { return https; }
  void attach(http::ExchangeHandler& handler) override { handler_ = &handler; }
  void respond(const http::ResponseHead& response, std::string_view text) override {
    take(response);
    body = text;
    if (on_respond) {
      on_respond();
    }
    if (!lingers) {
      close(http::Outcome::kComplete);
      closed = true;
    }
  }
  void start(const http::ResponseHead& response) override { take(response); }
  void pump() override {
    if (pumping_) {
      return;  // the one below takes what is new, too
    }
    pumping_ = true;
    std::array<iovec, 4> pieces;
    while (body.size() < window) {
      const std::size_t count = handler_->peek(pieces);
      if (count == 0) {
        break;
      }
      std::size_t bytes = 0;
      for (std::size_t i = 0; i < count; ++i) {
        body.append(static_cast<const char*>(pieces[i].iov_base), pieces[i].iov_len);
        bytes += pieces[i].iov_len;
      }
      handler_->consume(bytes);
    }
    pumping_ = false;
    if (body.size() < window && handler_->source_state() == http::SourceState::kEnd) {
      close(http::Outcome::kComplete);
    } else if (handler_->source_state() == http::SourceState::kCut) {
      close(http::Outcome::kCut);
    }
  }
  void abort() override { close(http::Outcome::kCut); }
  void resume_body() override { ++resumed; }
  void discard_body() override { ++discarded; }

  bool complete() const { return closed && outcome_ == http::Outcome::kComplete; }
  bool cut() const { return closed && outcome_ == http::Outcome::kCut; }

  int status = 0;
  std::map<std::string, std::string> fields;
  std::string body;
  std::size_t window = SIZE_MAX;
  bool closed = false;
  bool lingers = false;  // respond() does not close: the client is slow to take the answer
  std::function<void()> on_respond;
  int resumed = 0;
  int discarded = 0;
  bool https = false;

 private:
  void take(const http::ResponseHead& response) {
    EXPECT_EQ(status, 0) << "two heads";
    status = response.status;
    for (const http::Field& field : response.fields) {
      fields[std::string(field.name)] = field.value;
    }
  }

  std::string block_;
  http::RequestHead head_;
  http::Peer peer_;
  std::vector<http::Field> fields_;
  bool pumping_ = false;
  http::ExchangeHandler* handler_ = nullptr;
  http::Outcome outcome_ = http::Outcome::kComplete;
};

// Loads at once what every name asks for, unless told otherwise. Used on the pool: set it before.
class TestLoader final : public ModuleLoader {
 public:
  explicit TestLoader(const engine::Engine& engine) : engine_(engine) {}
  base::Result<LoadedModule> load(const LoadRequest& request) const override {
    const std::scoped_lock lock(mutex_);
    ++loads_;
    thread_ = std::this_thread::get_id();
    if (const auto found = errors_.find(request.name); found != errors_.end()) {
      return found->second;
    }
    engine::ComponentOptions options;
    options.reuse_max = request.guest->reuse;
    MIK_TRY_ASSIGN(engine::Component component, engine::Component::load(engine_, 0, options));
    return LoadedModule{std::move(component), request.digest.value_or(shared::Digest{})};
  }
  void fail(const std::string& name, base::Error error) {
    const std::scoped_lock lock(mutex_);
    errors_.insert_or_assign(name, std::move(error));
  }
  void heal(const std::string& name) {
    const std::scoped_lock lock(mutex_);
    errors_.erase(name);
  }
  std::thread::id thread() const {
    const std::scoped_lock lock(mutex_);
    return thread_;
  }
  std::size_t loads() const {
    const std::scoped_lock lock(mutex_);
    return loads_;
  }

 private:
  const engine::Engine& engine_;
  mutable std::mutex mutex_;
  mutable std::thread::id thread_;             // guarded by mutex_
  mutable std::size_t loads_ = 0;              // guarded by mutex_
  std::map<std::string, base::Error> errors_;  // guarded by mutex_
};

class TestWorker : public ::testing::Test,
                   public engine::Guests::Observer,
                   public OutboundSink,
                   public Outbound,
                   public ModuleCache::Host {
 protected:
  TestWorker() {
    settings_.component_path = "/modules/app.wasm";
    settings_.component_name = "app";
    settings_.log_level = config::LogLevel::kTrace;
    segment_.begin(0, 1);
    context_.guests = guests_.get();
    context_.scheduler = &scheduler_;
    context_.outbound = this;
    context_.modules = &modules_;
    context_.compression = &compression_;
    context_.metrics = &metrics_;
    make_gate();
    context_.ready = true;
    loop_->set_hook(&scheduler_);
    add_module("", "app");
    EXPECT_TRUE(modules_.start().has_value());
  }
  ~TestWorker() override { loop_->set_hook(nullptr); }

  // Again when a limit in settings_ has changed.
  void make_gate() {
    gate_.emplace(*loop_, segment_, 0, settings_);
    context_.gate = &*gate_;
  }
  // A row of the table with an artefact.
  std::uint32_t add_module(std::string_view tenant, std::string_view name,
                           std::uint8_t digest = 1) {
    const std::uint32_t row = segment_.modules().add(tenant, name).value();
    shared::Digest bytes{};
    bytes[0] = digest;
    segment_.modules().publish(row, bytes, 4096);
    return row;
  }
  std::shared_ptr<ModuleEntry> module(std::string_view name = "app", std::string_view tenant = "") {
    modules_.index().refresh();
    const auto* found = modules_.index().find(tenant, name);
    return found == nullptr ? nullptr : *found;
  }
  // Turns until it is loaded; false after 5 s.
  bool load(const std::shared_ptr<ModuleEntry>& entry) {
    modules_.preload(entry);
    return turn_until([&] { return modules_.loaded(*entry); });
  }
  template <class F>
  bool turn_until(F&& condition) {
    const base::Time give_up = base::Clock::now() + std::chrono::seconds(5);
    bool met = condition();
    while (!met && base::Clock::now() < give_up) {
      loop_->run_once(std::chrono::milliseconds(5));
      met = condition();
    }
    return met;
  }

  GuestExchange& begin(TestExchange& exchange) {
    EXPECT_TRUE(load(module()));
    GuestExchange& guest = pool_.get();
    GuestRequest request;
    request.module = module();
    request.path_query = exchange.head().path_query;
    request.ticket = gate_->ask_breaker(*request.module).ticket;
    EXPECT_EQ(gate_->try_enter(*request.module, request.permit), reliability::RefusedBy::kNone);
    guest.begin(exchange, std::move(request));
    return guest;
  }
  // The same, whether it is loaded or not.
  GuestExchange& begin_cold(TestExchange& exchange) {
    GuestExchange& guest = pool_.get();
    GuestRequest request;
    request.module = module();
    request.path_query = exchange.head().path_query;
    guest.begin(exchange, std::move(request));
    return guest;
  }
  // From now on "app" has no artefact, and who wants it waits; until it has one, or is broken.
  void hold_module() {
    loader_.fail("app", base::Error(base::ErrorCode::kArtefact, "none"));
    modules_.preload(module());
    EXPECT_TRUE(turn_until([&] { return !told<shared::NeedArtefact>().empty(); }));
  }
  void release_module() {
    loader_.heal("app");
    const auto entry = module();
    modules_.on_message(shared::ArtefactReady{entry->row, entry->incarnation, {}, 0});
    EXPECT_TRUE(turn_until([&] { return modules_.loaded(*entry); }));
  }
  void break_module() {
    const auto entry = module();
    segment_.modules().set_state(entry->row, shared::RowState::kBroken, "bad");
    modules_.on_message(shared::ArtefactFailed{entry->row, entry->incarnation,
                                               base::ErrorCode::kCompile, "bad", ""});
  }
  void turn(int count = 1) {
    for (int i = 0; i < count; ++i) {
      loop_->run_once(base::Duration::zero());
    }
  }
  // Turns until the exchange is closed; false after 5 s.
  bool wait(const TestExchange& exchange) {
    return turn_until([&] { return exchange.closed; });
  }
  std::uint64_t active() { return segment_.totals().active_requests; }

  void on_wake() noexcept override { loop_->wake(); }
  void on_output(std::uint64_t user, int stream, std::string_view line) noexcept override {
    static_cast<GuestExchange*>(reinterpret_cast<GuestTask*>(user))->on_guest_output(stream, line);
    output_ += line;
  }
  void on_outbound(const engine::OutboundEvents&) override {}
  void begin(engine::OutboundId id, const GuestExchange&) override { guests_->refuse(id, 16); }

  bool tell_supervisor(const shared::Message& message) override {
    told_.push_back(message);
    return reachable_;
  }
  void on_module_loaded(const ModuleEntry&, std::uint64_t artefact_bytes) override {
    ++loaded_;
    loaded_bytes_ = artefact_bytes;
  }
  void on_artefact_refused(const ModuleEntry&, const base::Error&) override { ++refused_; }
  void on_module_failed(const ModuleEntry&, const base::Error& error, FoundBy) override {
    failures_.push_back(error.to_string());
  }
  template <class M>
  std::vector<M> told() const {
    std::vector<M> found;
    for (const shared::Message& message : told_) {
      if (const auto* one = std::get_if<M>(&message)) {
        found.push_back(*one);
      }
    }
    return found;
  }

  static constexpr std::size_t kModulesMax = 64;
  static constexpr std::size_t kInstances = 40;
  config::Settings settings_;
  std::unique_ptr<net::Loop> loop_ = net::Loop::create().value();
  shared::Segment segment_ = shared::Segment::create(1, kModulesMax, kModulesMax).value();
  base::Fd null_{::open("/dev/null", O_WRONLY | O_CLOEXEC)};
  telemetry::Log log_{null_.get(), config::LogLevel::kTrace, config::LogFormat::kJson,
                      telemetry::Writing::kDirect};
  engine::Engine engine_ = engine::Engine::create({}).value();
  engine::Ticker ticker_ = engine::Ticker::create(engine_).value();
  std::unique_ptr<engine::Guests> guests_ = engine::Guests::create(engine_, *this).value();
  Context context_{settings_, *loop_, segment_, 0, log_, telemetry::Random(7)};
  TestLoader loader_{engine_};  // before the threads that use it
  net::Offload offload_{*loop_, 2, 64};
  http::Compression compression_{*loop_, offload_, http::Compression::Mode::kOn};
  ModuleCache modules_{{settings_, segment_, 0, *loop_, offload_, loader_, *guests_, *this}};
  Metrics metrics_{settings_, segment_, 0, *loop_, offload_};
  std::optional<Gate> gate_;
  Scheduler scheduler_{*guests_, ticker_, *this, kInstances};
  GuestExchangePool pool_{context_};
  std::string output_;
  std::vector<shared::Message> told_;
  bool reachable_ = true;
  std::size_t loaded_ = 0;
  std::uint64_t loaded_bytes_ = 0;
  std::size_t refused_ = 0;
  std::vector<std::string> failures_;
};

}  // namespace mik::runtime
