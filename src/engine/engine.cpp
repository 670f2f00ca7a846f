#include "engine/engine.hpp"

#include <algorithm>

#include "engine/convert.hpp"
#include "engine/pagemap_scan.hpp"
#include "engine/stack_pool.hpp"

namespace mik::engine {

namespace {

base::ErrorCode code_of(int engine_code) noexcept {
  switch (engine_code) {
    case MIK_E_NOT_WASM:
    case MIK_E_CORE_MODULE:
    case MIK_E_MALFORMED:
    case MIK_E_NO_HANDLER:
    case MIK_E_P3:
      return base::ErrorCode::kNotComponent;
    case MIK_E_IMPORT:
      return base::ErrorCode::kImport;
    case MIK_E_STATIC_LIMIT:
      return base::ErrorCode::kStaticLimit;
    case MIK_E_ARTEFACT:
      return base::ErrorCode::kArtefact;
    case MIK_E_SYSTEM:
      return base::ErrorCode::kSystem;
    case MIK_E_INVALID:
      return base::ErrorCode::kBadMessage;
    default:
      return base::ErrorCode::kInternal;
  }
}

}  // namespace

base::Error to_error(const mik_err& error) {
  return base::Error(code_of(error.code), error.text[0] != '\0' ? error.text : "the engine failed");
}

void Engine::Delete::operator()(mik_engine* engine) const noexcept {
  forget_stacks(engine);
  mik_engine_delete(engine);
}

namespace {

// Of large memories, to be given back in pieces.
constexpr std::uint64_t kWaitingMax = 256 << 20;

std::uint64_t for_next(const EngineOptions& options) noexcept {
  return options.kept_bytes_max / 4 * 3;
}

// Where resets copy blindly (no scan), each slot of the pool may keep as much: a share of what all
// may, in whole pages; memories get two thirds of it, tables one.
void share_kept_bytes(const EngineOptions& options, mik_engine_options& c) {
  constexpr std::uint64_t kPage = 4096;
  constexpr std::uint64_t kMemory = 256 << 10;  // the defaults of engine.h
  constexpr std::uint64_t kTable = 512 << 10;
  if (options.kept_bytes_max == 0 || options.pagemap_scan) {
    return;
  }
  const std::uint64_t each = for_next(options) / std::max(options.instances_max, 1u);
  c.keep_resident_bytes = std::clamp(each * 2 / 3 / kPage * kPage, kPage, kMemory);
  c.table_keep_resident_bytes = std::clamp(each / 3 / kPage * kPage, kPage, kTable);
}

}  // namespace

base::Result<Engine> Engine::create(const EngineOptions& options) {
  mik_engine_options c{};
  c.abi = MIK_ENGINE_ABI;
  c.instances_max = options.instances_max;
  c.warm_slots_max = options.warm_slots_max;
  c.pagemap_scan = options.pagemap_scan ? 1 : 2;
  c.on_demand = options.on_demand ? 1 : 0;
  c.compile_only = options.compile_only ? 1 : 0;
  c.memory_reservation_bytes = options.memory_reservation_bytes;
  share_kept_bytes(options, c);
  const bool scans = options.pagemap_scan && !options.on_demand;  // only a pool does
  mik_err error{};
  const unsigned scans_before = pagemap_scans_seen();
  const bool only = expect_stacks(options.instances_max, MIK_STACK_BYTES);
  c.stack_return = scans && only ? 1 : 0;
  Engine engine(mik_engine_new(&c, &error));
  const auto stacks = stacks_made(engine.handle());
  if (engine.handle() == nullptr) {
    return to_error(error);
  }
  if (!stacks.has_value()) {
    return stacks.error();
  }
  // Wasmtime probes for the scan once: a probe that we did not see means scans that could miss
  // pages (ADR 0006). A pool that we did not see would be a system call for each guest.
  if (scans && (pagemap_scans_seen() == scans_before || (only && !*stacks))) {
    return base::Error(base::ErrorCode::kInternal,
                       "the engine's memory scans or stacks do not pass through mik")
        .with_help(
            "build the crate in engine/, whose .cargo/config.toml sets --cfg rustix_use_libc and "
            "whose stacks have MIK_STACK_BYTES");
  }
  if (scans) {
    // Without scans memories are dropped by the dozen, each of them however little was written.
    engine.waiting_bytes_max_ = options.kept_bytes_max == 0
                                    ? kWaitingMax
                                    : std::min(kWaitingMax, options.kept_bytes_max / 4);
    engine.kept_bytes_max_ = for_next(options);
  }
  if (engine.kept_bytes_max_ != 0) {
    set_kept_room(engine.kept_bytes_max_);
  }
  return engine;
}

void Engine::bound_kept() const noexcept {
  if (kept_bytes_max_ != 0 && kept_room_left() < kept_bytes_max_ / 2) {
    set_kept_room(kept_bytes_max_ - std::min(kept_bytes_max_, kept_bytes()));
  }
}

std::uint64_t Engine::kept_bytes() const noexcept { return mik_engine_kept_bytes(handle_.get()); }

void Engine::tick() noexcept { mik_engine_tick(handle_.get()); }

std::array<std::uint8_t, 32> Engine::artefact_key() const {
  std::array<std::uint8_t, 32> key{};
  mik_engine_artefact_key(handle_.get(), key.data());
  return key;
}

base::Result<void> Engine::compile(std::string_view wasm,
                                   const std::function<bool(std::string_view)>& sink) const {
  mik_err error{};
  const auto trampoline = [](void* context, mik_str piece) -> std::int32_t {
    const auto& f = *static_cast<const std::function<bool(std::string_view)>*>(context);
    return f(from_c(piece)) ? 0 : 1;
  };
  void* context = const_cast<void*>(static_cast<const void*>(&sink));
  if (mik_compile(handle_.get(), to_c(wasm), trampoline, context, &error) != MIK_OK) {
    return to_error(error);
  }
  return {};
}

std::string_view engine_version() { return mik_engine_version(); }

base::Result<void> check_wasm(std::string_view wasm) {
  mik_err error{};
  if (mik_wasm_check(to_c(wasm), &error) != MIK_OK) {
    return to_error(error);
  }
  return {};
}

void Component::Delete::operator()(mik_component* component) const noexcept {
  mik_component_delete(component);
}

base::Result<Component> Component::load(const Engine& engine, int fd,
                                        const ComponentOptions& options) {
  std::vector<mik_field> env;
  env.reserve(options.env.size());
  for (const auto& [name, value] : options.env) {
    env.push_back({to_c(name), to_c(value)});
  }
  mik_component_options c{};
  c.memory_bytes_max = options.memory_bytes_max;
  c.reuse_max = options.reuse_max;
  c.env = env.data();
  c.env_count = env.size();
  mik_err error{};
  mik_component* handle = mik_component_load(engine.handle(), fd, &c, &error);
  if (handle == nullptr) {
    return to_error(error);
  }
  return Component(handle);
}

std::uint64_t Component::bytes() const noexcept { return mik_component_bytes(handle_.get()); }

std::string_view label(Failure failure) noexcept {
  switch (failure) {
    case Failure::kTrap:
      return "trap";
    case Failure::kNoResponse:
      return "no_response";
    case Failure::kGuestError:
      return "guest_error";
    case Failure::kBody:
      return "body";
    case Failure::kCpu:
      return "cpu";
    case Failure::kMemory:
      return "memory";
    case Failure::kBusy:
      return "busy";
    case Failure::kInternal:
      return "internal";
  }
  return "internal";
}

}  // namespace mik::engine
