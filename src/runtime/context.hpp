// What the parts of one worker share: references to what the worker owns. Confined to the loop
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "config/settings.hpp"
#include "engine/engine.hpp"
#include "http/compression.hpp"
#include "http/forwarded.hpp"
#include "http/message.hpp"
#include "net/loop.hpp"
#include "runtime/scheduler.hpp"
#include "shared/segment.hpp"
#include "telemetry/log.hpp"
#include "telemetry/trace_context.hpp"

namespace mik::files {
class StaticFiles;
}

namespace mik::runtime {

class DocumentDesk;
class Gate;
class GuestExchange;
class Metrics;
class ModuleCache;
class Tracing;

// Makes the outgoing requests that guests begin.
class Outbound {
 public:
  virtual ~Outbound() = default;
  virtual void begin(engine::OutboundId id, const GuestExchange& guest) = 0;
};

struct Context {
  const config::Settings& settings;
  net::Loop& loop;
  shared::Segment& segment;
  std::size_t slot;
  telemetry::Log& log;
  telemetry::Random random;
  http::TrustedProxies trusted;  // settings.trusted_proxies

  // Set once, before the first request.
  engine::Guests* guests = nullptr;
  Scheduler* scheduler = nullptr;
  Outbound* outbound = nullptr;
  ModuleCache* modules = nullptr;
  Gate* gate = nullptr;
  Tracing* tracing = nullptr;  // null: nobody takes spans
  Metrics* metrics = nullptr;
  DocumentDesk* documents = nullptr;
  http::Compression* compression = nullptr;
  files::StaticFiles* files = nullptr;  // stays null without a folder

  // What is served is there: the table is read, and a single component loaded.
  bool ready = false;

  // Requests with a permit whose body has not ended, and requests that wait for theirs before they
  // ask for one.
  std::uint64_t open_bodies = 0;
  std::uint64_t waiting_bodies = 0;

  // Scratch for texts and field lists that live for one call.
  std::string text;
  std::vector<http::Field> fields;

  shared::Counters& counters() { return segment.row(slot).counters; }
  shared::WorkerMetrics& metrics_cells() { return segment.row(slot).metrics; }
};

}  // namespace mik::runtime
