#include "runtime/worker.hpp"

#include <malloc.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include <fmt/format.h>

#include "engine/engine.hpp"
#include "files/static_files.hpp"
#include "http/server.hpp"
#include "http/server_tls.hpp"
#include "net/loop.hpp"
#include "net/offload.hpp"
#include "runtime/acceptor.hpp"
#include "runtime/admin_sockets.hpp"
#include "runtime/artefact_store.hpp"
#include "runtime/compile_child.hpp"
#include "runtime/context.hpp"
#include "runtime/document_desk.hpp"
#include "runtime/gate.hpp"
#include "runtime/guest_exchange.hpp"
#include "runtime/memory_share.hpp"
#include "runtime/metrics.hpp"
#include "runtime/module_cache.hpp"
#include "runtime/module_loader.hpp"
#include "runtime/outbound.hpp"
#include "runtime/scheduler.hpp"
#include "runtime/service.hpp"
#include "runtime/tracing.hpp"
#include "shared/control.hpp"

namespace mik::runtime {

namespace {

constexpr std::size_t kOffloadThreads = 4;
constexpr std::size_t kOffloadQueue = 256;
constexpr base::Duration kTracesFlushMax = std::chrono::seconds(3);
constexpr std::size_t kLogFlushBytes = 32 * 1024;
constexpr int kMallocMapsFrom = 4 << 20;
constexpr int kMallocKeeps = 8 << 20;
// One for the loop, one for all threads that help it: each arena keeps its own kMallocKeeps.
constexpr int kMallocArenas = 2;

http::Limits limits_of(const config::Settings& settings) {
  http::Limits limits;
  limits.head_bytes_max = settings.max_header_bytes;
  limits.body_bytes_max = settings.max_body_bytes;
  limits.header_timeout = settings.header_timeout;
  limits.idle_timeout = settings.idle_timeout;
  limits.body_timeout = settings.body_timeout;
  return limits;
}

// The guests' turn, and the log's.
class WorkerTurn final : public net::TurnHook {
 public:
  WorkerTurn(Context& context, Scheduler& scheduler)
      : context_(context),
        scheduler_(scheduler),
        memory_(context.segment, context.slot, *context.guests,
                context.settings.memory_budget_bytes),
        flush_timer_(net::Timer::of<&WorkerTurn::flush>(this)) {}

  bool on_turn(base::Time now) override {
    memory_.before_turn(now);
    const bool busy = scheduler_.on_turn(now);
    memory_.after_turn();
    if (context_.log.pending_bytes() > kLogFlushBytes) {
      flush();
    } else if (context_.log.pending_bytes() > 0 && !flush_timer_.armed()) {
      context_.loop.wheel().arm(flush_timer_, now);
    }
    look(now);
    return busy;
  }
  base::Time next_deadline() override { return scheduler_.next_deadline(); }

 private:
  // Half of the time that mik_loop_lag_max_seconds looks back.
  static constexpr base::Duration kLagWindow = std::chrono::seconds(30);

  // What /metrics shows of this worker's loop, pool and queues.
  void look(base::Time now) noexcept {
    constexpr auto kRelaxed = std::memory_order_relaxed;
    shared::WorkerMetrics& metrics = context_.metrics_cells();
    metrics.instances.store(scheduler_.instances(), kRelaxed);
    metrics.waiting.store(
        context_.waiting_bodies + context_.modules->waiting() + context_.gate->waiting(), kRelaxed);
    const base::Duration took = base::Clock::now() - now;
    shared::observe(metrics.loop_lag, shared::kShortBoundsUs, took);
    if (now >= lag_window_end_) {
      lag_before_ = std::exchange(lag_, base::Duration::zero());
      lag_window_end_ = now + kLagWindow;
    }
    lag_ = std::max(lag_, took);
    metrics.loop_lag_max_us.store(
        static_cast<std::uint64_t>(std::max(lag_, lag_before_).count() / 1000), kRelaxed);
  }
  void flush() {
    context_.log.flush();
    const std::uint64_t dropped = context_.log.dropped();
    shared::count(context_.counters().log_lines_dropped,
                  dropped - std::exchange(dropped_, dropped));
  }

  Context& context_;
  Scheduler& scheduler_;
  MemoryShare memory_;
  net::Timer flush_timer_;
  base::Duration lag_{};         // the longest turn of this window
  base::Duration lag_before_{};  // and of the one before
  base::Time lag_window_end_;
  std::uint64_t dropped_ = 0;  // counted already
};

// What came up in the engine.
class GuestObserver final : public engine::Guests::Observer {
 public:
  explicit GuestObserver(net::Loop& loop) : loop_(loop) {}
  void on_wake() noexcept override { loop_.wake(); }
  void on_output(std::uint64_t user, int stream, std::string_view line) noexcept override {
    auto* task = reinterpret_cast<GuestTask*>(user);
    static_cast<GuestExchange*>(task)->on_guest_output(stream, line);
  }

 private:
  net::Loop& loop_;
};

// Built bottom up, destroyed in reverse.
class Worker final : public http::ConnectionObserver,
                     public AcceptorEvents,
                     public ModuleCache::Host,
                     public net::IoHandler {
 public:
  Worker(shared::WorkerBoot boot, config::Settings settings, shared::Segment segment,
         std::unique_ptr<net::Loop> loop);
  ~Worker() override;

  base::Result<void> start(const MakeDocuments& make_documents);
  void report_fatal(const base::Error& error);
  // Its exit code.
  int run() {
    loop_->run();
    return exit_code_;
  }

  // http::ConnectionObserver
  void on_connections(std::size_t /*open*/) override {
    segment_.set_connections(slot_, connections());
  }
  void on_handshake_failed(std::string_view why) override {
    shared::count(context_.counters().tls_failures);
    log_.line(telemetry::Level::kDebug, telemetry::Target::kHttp, "TLS handshake failed")
        .str("error", why);
  }
  // AcceptorEvents
  void on_socket(base::Fd socket) override;
  void on_accept_error(const base::Error& error) override {
    log_.line(telemetry::Level::kWarn, "Cannot accept connections").str("error", error.to_string());
  }
  // ModuleCache::Host
  bool tell_supervisor(const shared::Message& message) override;
  void on_module_loaded(const ModuleEntry& entry, std::uint64_t artefact_bytes) override;
  void on_artefact_refused(const ModuleEntry& entry, const base::Error& error) override;
  void on_module_failed(const ModuleEntry& entry, const base::Error& error, FoundBy by) override;
  // net::IoHandler: the control channel.
  void on_io(std::uint32_t events) override;

 private:
  base::Result<void> start_engine();
  base::Result<void> start_services();
  base::Result<void> serve();
  base::Result<void> become_ready();
  void on_message(const shared::Message& message);
  void drain(base::Time deadline, Acceptor::End end);
  void drain_connections();
  void on_drained();
  void on_drain_deadline();
  void on_flush_deadline();
  std::size_t connections() const;
  void close_all();

  shared::WorkerBoot boot_;
  const std::size_t slot_;
  const config::Settings settings_;
  shared::Segment segment_;
  shared::Channel control_;
  std::unique_ptr<net::Loop> loop_;
  telemetry::Log log_;
  Context context_;
  GuestObserver guest_observer_;
  std::size_t instances_max_ = 0;
  std::optional<engine::Engine> engine_;
  std::optional<ArtefactStore> store_;
  std::optional<engine::Ticker> ticker_;
  std::unique_ptr<engine::Guests> guests_;
  std::optional<net::Offload> offload_;
  std::optional<http::Compression> compression_;
  std::optional<ArtefactLoader> loader_;
  std::optional<Metrics> metrics_;
  std::optional<ModuleCache> modules_;
  std::unique_ptr<Tracing> tracing_;
  std::optional<Gate> gate_;
  std::optional<OutboundExchanges> outbound_;
  std::optional<Scheduler> scheduler_;
  std::optional<WorkerTurn> turn_;
  std::optional<GuestExchangePool> pool_;
  std::optional<Service> service_;
  std::optional<files::StaticFiles> files_;
  std::optional<AdminService> admin_service_;
  std::optional<DocumentDesk> documents_;
  std::optional<http::ServerTls> tls_;
  std::optional<http::Server> server_;
  std::optional<http::Server> admin_server_;  // of `[server] admin`, where there is one
  std::optional<AdminSockets> admin_sockets_;
  std::optional<Acceptor> acceptor_;
  net::Timer drain_timer_;
  net::Timer flush_timer_;  // traces, after the drain
  bool draining_ = false;
  int servers_draining_ = 0;
  int exit_code_ = 0;
};

Worker::Worker(shared::WorkerBoot boot, config::Settings settings, shared::Segment segment,
               std::unique_ptr<net::Loop> loop)
    : boot_(std::move(boot)),
      slot_(boot_.slot),
      settings_(std::move(settings)),
      segment_(std::move(segment)),
      control_(std::move(boot_.control)),
      loop_(std::move(loop)),
      log_(telemetry::log_options(settings_, telemetry::Writing::kThread, static_cast<int>(slot_))),
      context_{settings_, *loop_, segment_, slot_, log_, {}},
      guest_observer_(*loop_),
      drain_timer_(net::Timer::of<&Worker::on_drain_deadline>(this)),
      flush_timer_(net::Timer::of<&Worker::on_flush_deadline>(this)) {}

Worker::~Worker() {
  loop_->set_hook(nullptr);
  close_all();
  if (control_.open()) {
    loop_->unwatch(control_.fd());
  }
}

base::Result<void> Worker::start(const MakeDocuments& make_documents) {
  MIK_TRY(loop_->watch_level(control_.fd(), EPOLLIN, *this));
  MIK_TRY(start_engine());
  MIK_TRY(start_services());
  documents_.emplace(context_, *offload_, make_documents(settings_));
  context_.documents = &*documents_;
  MIK_TRY(acceptor_->start());
  return serve();
}

base::Result<void> Worker::serve() {
  if (!settings_.single_component()) {
    return become_ready();
  }
  const std::shared_ptr<ModuleEntry>* component =
      modules_->index().find("", settings_.component_name);
  if (component == nullptr) {
    return base::Error(base::ErrorCode::kInternal, "the component has no row in the module table");
  }
  modules_->preload(*component);
  return {};
}

base::Result<void> Worker::start_engine() {
  MIK_TRY_ASSIGN(auto store, ArtefactStore::open(settings_.state_dir));
  store_.emplace(std::move(store));
  engine::EngineOptions options = engine_options(settings_, false);
  if (options.on_demand) {
    log_.line(telemetry::Level::kWarn,
              "Address space is limited: guests get their memory one by one, which is slower");
  }
  auto engine = engine::Engine::create(options);
  while (!engine.has_value() && engine.error().code() == base::ErrorCode::kSystem &&
         options.instances_max > 16) {
    // Too little address space for the pool: a smaller one serves fewer requests at once, and that
    // is all.
    options.instances_max /= 2;
    engine = engine::Engine::create(options);
    if (engine.has_value()) {
      log_.line(telemetry::Level::kWarn, "Address space is short: fewer guests at once")
          .num("instances_max", options.instances_max);
    }
  }
  if (!engine.has_value()) {
    return std::move(engine).error();
  }
  instances_max_ = options.instances_max;
  engine_.emplace(std::move(*engine));
  MIK_TRY_ASSIGN(ticker_, engine::Ticker::create(*engine_, loop_->descriptor()));
  MIK_TRY_ASSIGN(guests_, engine::Guests::create(*engine_, guest_observer_));
  return {};
}

base::Result<void> Worker::start_services() {
  offload_.emplace(*loop_, kOffloadThreads, kOffloadQueue);
  compression_.emplace(
      *loop_, *offload_,
      settings_.compression ? http::Compression::Mode::kOn : http::Compression::Mode::kOff);
  context_.compression = &*compression_;
  loader_.emplace(settings_, *store_, *engine_);
  metrics_.emplace(settings_, segment_, slot_, *loop_, *offload_);
  context_.metrics = &*metrics_;
  context_.metrics_cells().instances_max.store(instances_max_);
  modules_.emplace(
      ModuleCache::Parts{settings_, segment_, slot_, *loop_, *offload_, *loader_, *guests_, *this});
  context_.modules = &*modules_;
  MIK_TRY(modules_->start());
  MIK_TRY_ASSIGN(tracing_, Tracing::create(context_, *offload_));
  context_.tracing = tracing_.get();
  gate_.emplace(*loop_, segment_, slot_, settings_);
  context_.gate = &*gate_;
  outbound_.emplace(context_, *offload_);
  scheduler_.emplace(*guests_, *ticker_, *outbound_, instances_max_,
                     settings_.single_component() ? Scheduler::Sharing::kOneModule
                                                  : Scheduler::Sharing::kManyModules);
  context_.guests = guests_.get();
  context_.scheduler = &*scheduler_;
  context_.outbound = &*outbound_;
  turn_.emplace(context_, *scheduler_);
  loop_->set_hook(&*turn_);
  pool_.emplace(context_);
  service_.emplace(context_, *pool_);
  if (!settings_.static_dir.empty()) {
    files_.emplace(settings_.static_dir, *loop_, *offload_, *compression_, *service_);
    context_.files = &*files_;
  }
  MIK_TRY_ASSIGN(context_.trusted, http::TrustedProxies::compile(settings_.trusted_proxies));
  if (!settings_.tls_cert.empty()) {
    MIK_TRY_ASSIGN(auto tls, http::ServerTls::load({settings_.tls_cert, settings_.tls_key},
                                                   settings_.tls_ticket_key));
    tls_.emplace(std::move(tls));
  }
  server_.emplace(*loop_, *service_, limits_of(settings_), *this);
  if (!settings_.admin.empty()) {
    admin_service_.emplace(*service_);
    admin_server_.emplace(*loop_, *admin_service_, limits_of(settings_), *this);
    MIK_TRY_ASSIGN(admin_sockets_, AdminSockets::of(boot_.listeners));
  }
  Acceptor::Config config;
  config.slot = slot_;
  config.max_connections = settings_.max_connections;
  acceptor_.emplace(*loop_, segment_, config, std::move(boot_.listeners), std::move(boot_.inbox),
                    std::move(boot_.peers), *this);
  return {};
}

base::Result<void> Worker::become_ready() {
  context_.ready = true;
  segment_.set_module(slot_, shared::ModuleState::kReady);
  segment_.set_state(slot_, shared::WorkerState::kReady);
  return control_.send(shared::Ready{});
}

bool Worker::tell_supervisor(const shared::Message& message) {
  if (!context_.ready && std::holds_alternative<shared::NeedArtefact>(message)) {
    segment_.set_module(slot_, shared::ModuleState::kCompiling);
  }
  const auto sent = control_.open() ? control_.send(message)
                                    : base::Error(base::ErrorCode::kSystem, "it is gone");
  if (!sent.has_value()) {
    log_.line(telemetry::Level::kError, "Cannot reach the supervisor")
        .str("error", sent.error().to_string());
  }
  return sent.has_value();
}

void Worker::on_module_loaded(const ModuleEntry& entry, std::uint64_t artefact_bytes) {
  log_.line(telemetry::Level::kDebug, telemetry::Target::kModules, "Module loaded")
      .str("module", entry.label)
      .num("artefact_bytes", static_cast<std::int64_t>(artefact_bytes));
  if (context_.ready) {
    return;
  }
  if (const auto ready = become_ready(); !ready.has_value()) {
    log_.line(telemetry::Level::kError, "Cannot reach the supervisor")
        .str("error", ready.error().to_string());
  }
}

void Worker::on_artefact_refused(const ModuleEntry& entry, const base::Error& error) {
  log_.line(telemetry::Level::kWarn, telemetry::Target::kModules,
            "Artefact refused; compiling again")
      .str("module", entry.label)
      .str("error", error.to_string());
}

void Worker::on_module_failed(const ModuleEntry& entry, const base::Error& error, FoundBy by) {
  if (context_.ready || draining_) {
    if (by == FoundBy::kSupervisor) {
      return;
    }
    log_.line(telemetry::Level::kWarn, telemetry::Target::kModules, "Module cannot be loaded")
        .str("module", entry.label)
        .str("error", error.to_string());
    return;
  }
  report_fatal(error);
  // One that stayed would accept its share of connections, for nothing but 502, beside others that
  // serve.
  exit_code_ = 1;
  loop_->stop();
}

void Worker::on_socket(base::Fd socket) {
  int family = AF_UNIX;
  socklen_t size = sizeof family;
  if (tls_.has_value()) {
    ::getsockopt(socket.get(), SOL_SOCKET, SO_DOMAIN, &family, &size);
  }
  log_.line(telemetry::Level::kTrace, telemetry::Target::kHttp, "Connection opened")
      .num("connections", static_cast<std::int64_t>(connections()) + 1);
  const bool admin = admin_sockets_.has_value() && admin_sockets_->contain(socket.get());
  http::Server& server = admin ? *admin_server_ : *server_;
  server.adopt(std::move(socket), family == AF_UNIX ? nullptr : &*tls_);
}

void Worker::report_fatal(const base::Error& error) {
  log_.line(telemetry::Level::kError, "Worker cannot start").str("error", error.to_string());
  segment_.set_module(slot_, shared::ModuleState::kFailed, error.to_string());
  static_cast<void>(control_.send(shared::to_fatal(error)));
}

void Worker::on_io(std::uint32_t /*events*/) {
  while (control_.open()) {
    const auto received = control_.receive();
    if (!received.has_value()) {
      log_.line(telemetry::Level::kError, "Bad control message")
          .str("error", received.error().to_string());
      return;
    }
    if (std::holds_alternative<shared::NothingYet>(*received)) {
      return;
    }
    if (std::holds_alternative<shared::EndOfFile>(*received)) {
      // The supervisor is dead: nobody will order the drain, so this is it.
      loop_->unwatch(control_.fd());
      control_.close();
      shared::restore_family_signals();
      drain(loop_->now() + settings_.shutdown_timeout, Acceptor::End::kFamily);
      return;
    }
    on_message(std::get<shared::Message>(*received));
  }
}

void Worker::on_message(const shared::Message& message) {
  if (const auto* ready = std::get_if<shared::ArtefactReady>(&message)) {
    modules_->on_message(*ready);
  } else if (const auto* failed = std::get_if<shared::ArtefactFailed>(&message)) {
    modules_->on_message(*failed);
  } else if (const auto* prepare = std::get_if<shared::Prepare>(&message)) {
    modules_->on_message(*prepare);
  } else if (std::holds_alternative<shared::ReopenLogs>(message)) {
    log_.reopen();
  } else if (const auto* order = std::get_if<shared::Drain>(&message)) {
    drain(base::from_ns(order->deadline_ns),
          order->generation_only ? Acceptor::End::kGeneration : Acceptor::End::kFamily);
  }
}

void Worker::drain(base::Time deadline, Acceptor::End end) {
  acceptor_->stop(end);
  loop_->wheel().arm(drain_timer_,
                     drain_timer_.armed() ? std::min(deadline, drain_timer_.deadline()) : deadline);
  const bool begins = !std::exchange(draining_, true);
  if (end == Acceptor::End::kFamily) {
    modules_->abandon();
  }
  if (!begins) {
    return;
  }
  modules_->drain();
  outbound_->drain();
  drain_connections();
}

void Worker::drain_connections() {
  const auto done = [this] {
    if (--servers_draining_ == 0) {
      on_drained();
    }
  };
  servers_draining_ = admin_server_.has_value() ? 2 : 1;
  server_->drain(done);
  if (admin_server_.has_value()) {
    admin_server_->drain(done);
  }
}

void Worker::on_drained() {
  if (connections() > 0) {
    // It came through the inbox after the last one had gone.
    drain_connections();
    return;
  }
  if (tracing_ == nullptr) {
    loop_->stop();
    return;
  }
  // A collector that hangs does not hold up the end for as long as requests may.
  const base::Time until = std::min(drain_timer_.deadline(), loop_->now() + kTracesFlushMax);
  drain_timer_.disarm();
  loop_->wheel().arm(flush_timer_, until);
  tracing_->drain([this] { loop_->stop(); });
}

void Worker::on_flush_deadline() { loop_->stop(); }

std::size_t Worker::connections() const {
  return server_->connections() + (admin_server_.has_value() ? admin_server_->connections() : 0);
}

void Worker::close_all() {
  if (server_.has_value()) {
    server_->close_all();
  }
  if (admin_server_.has_value()) {
    admin_server_->close_all();
  }
}

void Worker::on_drain_deadline() {
  log_.line(telemetry::Level::kWarn, "Drain ran out of time")
      .num("requests", static_cast<std::int64_t>(server_->exchanges()))
      .num("connections", static_cast<std::int64_t>(connections()));
  close_all();
  loop_->stop();
}

}  // namespace

int run_worker(shared::WorkerBoot boot, const MakeDocuments& make_documents) {
  // Pieces of bodies come and go by the thousand: memory that goes back to the kernel each time
  // comes again by faults.
  ::mallopt(M_MMAP_THRESHOLD, kMallocMapsFrom);
  ::mallopt(M_TRIM_THRESHOLD, kMallocKeeps);
  ::mallopt(M_ARENA_MAX, kMallocArenas);
  auto prepared = [&]() -> base::Result<std::unique_ptr<Worker>> {
    MIK_TRY_ASSIGN(const std::string block, shared::read_block(boot.settings.get()));
    MIK_TRY_ASSIGN(config::Settings settings, config::deserialize(block));
    MIK_TRY_ASSIGN(shared::Segment segment, shared::Segment::attach(boot.segment.get()));
    MIK_TRY_ASSIGN(auto loop, net::Loop::create());
    return std::make_unique<Worker>(std::move(boot), std::move(settings), std::move(segment),
                                    std::move(loop));
  }();
  if (!prepared.has_value()) {
    shared::Channel control(std::move(boot.control));
    static_cast<void>(control.send(shared::to_fatal(prepared.error())));
    return 1;
  }
  Worker& worker = **prepared;
  if (const auto started = worker.start(make_documents); !started.has_value()) {
    worker.report_fatal(started.error());
    return 1;
  }
  return worker.run();
}

}  // namespace mik::runtime
