#include "runtime/compile_child.hpp"

#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>

#include "engine/pagemap_scan.hpp"
#include "runtime/artefact_store.hpp"
#include "runtime/module_file.hpp"
#include "shared/control.hpp"

namespace mik::runtime {

namespace {

// Guests at once in one worker: the pool reserves 4 GiB of address space for each, and a guard page
// for its stack. Requests beyond it wait in the scheduler.
constexpr std::uint32_t kInstancesMax = 1000;
constexpr std::uint64_t kInstancesMin = 64;
// Two memories for each component that is loaded, as far as address space goes: 16 TiB.
constexpr std::uint32_t kWarmSlotsMax = 4096;
// What the smallest of them takes: memory, stack, store.
constexpr std::uint64_t kInstanceBytesMin = 256 << 10;

base::Result<std::uint64_t> size_of(const base::Fd& file) {
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) {
    return base::Error::from_errno("cannot look at an artefact", errno);
  }
  return static_cast<std::uint64_t>(info.st_size);
}

// `module` is "name" or "tenant/name".
base::Result<shared::Compiled> compile(std::string_view module, const config::Settings& settings) {
  const std::size_t slash = module.find('/');
  const std::string_view tenant =
      slash == std::string_view::npos ? std::string_view() : module.substr(0, slash);
  const std::string_view short_name = module.substr(tenant.empty() ? 0 : slash + 1);
  MIK_TRY_ASSIGN(const std::string wasm, read_module(settings, tenant, short_name));
  MIK_TRY(engine::check_wasm(wasm));
  MIK_TRY_ASSIGN(const ArtefactStore store, ArtefactStore::open(settings.state_dir));
  MIK_TRY_ASSIGN(const engine::Engine engine,
                 engine::Engine::create(engine_options(settings, true)));
  MIK_TRY_ASSIGN(const ArtefactStore::Name name, store.name_of(wasm, engine.artefact_key()));
  MIK_TRY_ASSIGN(const base::Fd lock, store.lock(name));
  if (const auto made = store.open_verified(name); made.has_value()) {
    MIK_TRY_ASSIGN(const std::uint64_t bytes, size_of(*made));  // another server made it meanwhile
    return shared::Compiled{name.digest, bytes};
  }
  MIK_TRY_ASSIGN(ArtefactStore::Writer writer, store.create(name));
  base::Result<void> written;
  const base::Result<void> compiled = engine.compile(wasm, [&](std::string_view piece) {
    written = writer.append(piece);
    return written.has_value();
  });
  MIK_TRY(std::move(written));  // first: it says why the sink refused, a full disk above all
  MIK_TRY(compiled);
  MIK_TRY(writer.commit());
  MIK_TRY_ASSIGN(const base::Fd made, store.open_verified(name));
  MIK_TRY_ASSIGN(const std::uint64_t bytes, size_of(made));
  return shared::Compiled{name.digest, bytes};
}

}  // namespace

engine::EngineOptions engine_options(const config::Settings& settings, bool compile_only) {
  engine::EngineOptions options;
  options.instances_max = std::min(settings.max_concurrent_requests, kInstancesMax);
  options.compile_only = compile_only;
  options.warm_slots_max =
      std::min(2 * std::min(settings.cache_size, kWarmSlotsMax), kWarmSlotsMax);
  options.pagemap_scan = !compile_only && engine::pagemap_scan_usable();
  if (settings.memory_budget_bytes != 0) {
    // An eighth of it may lie in the pool between requests, and not more instances live at once
    // than small ones would fit.
    const std::uint64_t mine = settings.memory_budget_bytes / std::max(settings.workers, 1u);
    options.kept_bytes_max = mine / 8;
    const std::uint64_t fit = std::max(mine / kInstanceBytesMin, kInstancesMin);
    options.instances_max =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(options.instances_max, fit));
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    // Neither a pool nor 4 GiB for each memory would fit. The compile child inherits the limit, so
    // both sides agree.
    options.on_demand = !compile_only;
    options.memory_reservation_bytes = settings.guest.memory_limit_bytes;
  }
  return options;
}

int run_compile_child(shared::CompileBoot boot) {
  shared::Channel result(std::move(boot.result));
  const auto answer = [&]() -> base::Result<shared::Compiled> {
    MIK_TRY_ASSIGN(const std::string block, shared::read_block(boot.settings.get()));
    MIK_TRY_ASSIGN(const config::Settings settings, config::deserialize(block));
    auto compiled = compile(boot.component, settings);
    if (!compiled.has_value()) {
      return std::move(compiled).error().because(fmt::format("cannot serve {}", boot.component));
    }
    return compiled;
  }();
  const shared::Message message = answer.has_value()
                                      ? shared::Message(*answer)
                                      : shared::Message(shared::to_compile_failed(answer.error()));
  return result.send(message).has_value() && answer.has_value() ? 0 : 1;
}

}  // namespace mik::runtime
