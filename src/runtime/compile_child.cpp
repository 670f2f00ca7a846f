#include "runtime/compile_child.hpp"

#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <optional>
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

// What a compilation is for.
struct Job {
  const config::Settings& settings;
  std::string_view tenant;
  std::string_view name;
};

// Whether a worker could serve it: an artefact that no worker can load must not replace one that
// they can. kArtefact: compile again.
base::Result<void> probe(const Job& job, const base::Fd& artefact) {
  engine::EngineOptions options = engine_options(job.settings, false);
  options.instances_max = 1;
  options.pagemap_scan = false;
  MIK_TRY_ASSIGN(const engine::Engine engine, engine::Engine::create(options));
  const config::GuestSettings& guest = config::guest_settings(job.settings, job.tenant, job.name);
  engine::ComponentOptions component;
  component.memory_bytes_max = guest.memory_limit_bytes;
  component.reuse_max = guest.reuse;
  component.env = guest.env;
  MIK_TRY(engine::Component::load(engine, artefact.get(), component));
  return {};
}

// What is there already, made by another server or before a restart; nothing when it has to be
// compiled.
base::Result<std::optional<shared::Compiled>> find(const Job& job, const ArtefactStore& store,
                                                   const ArtefactStore::Name& name,
                                                   const std::string& beside) {
  using Found = std::optional<shared::Compiled>;
  const auto artefact = store.open_verified(name, beside);
  if (!artefact.has_value()) {
    return Found();
  }
  if (auto usable = probe(job, *artefact); !usable.has_value()) {
    if (usable.error().code() == base::ErrorCode::kArtefact) {
      return Found();
    }
    return std::move(usable).error();
  }
  MIK_TRY_ASSIGN(const std::uint64_t bytes, size_of(*artefact));
  return Found(shared::Compiled{name.digest, bytes});
}

base::Result<shared::Compiled> compile(const Job& job) {
  MIK_TRY_ASSIGN(const std::string wasm, read_module(job.settings, job.tenant, job.name));
  MIK_TRY(engine::check_wasm(wasm));
  MIK_TRY_ASSIGN(const ArtefactStore store, ArtefactStore::open(job.settings.state_dir));
  MIK_TRY_ASSIGN(const engine::Engine engine,
                 engine::Engine::create(engine_options(job.settings, true)));
  const ArtefactStore::Name name = ArtefactStore::name_of(wasm, engine.artefact_key());
  const std::string beside = artefact_beside(job.settings, job.tenant, job.name);
  MIK_TRY_ASSIGN(const base::Fd lock, store.lock(name));
  MIK_TRY_ASSIGN(const auto found, find(job, store, name, beside));
  if (found) {
    store.remove_lock(name);
    return *found;
  }
  MIK_TRY_ASSIGN(ArtefactStore::Writer writer, store.create(name, beside));
  base::Result<void> written;
  const base::Result<void> compiled = engine.compile(wasm, [&](std::string_view piece) {
    written = writer.append(piece);
    return written.has_value();
  });
  MIK_TRY(std::move(written));  // first: it says why the sink refused, a full disk above all
  MIK_TRY(compiled);
  MIK_TRY_ASSIGN(const base::Fd trial, writer.reopen());
  MIK_TRY(probe(job, trial));
  MIK_TRY(writer.commit());
  store.remove_lock(name);
  MIK_TRY_ASSIGN(const std::uint64_t bytes, size_of(trial));
  return shared::Compiled{name.digest, bytes};
}

Job job_of(std::string_view module, const config::Settings& settings) {
  const std::size_t slash = settings.single_component() ? std::string_view::npos : module.find('/');
  if (slash == std::string_view::npos) {
    return {settings, {}, module};
  }
  return {settings, module.substr(0, slash), module.substr(slash + 1)};
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
    auto compiled = compile(job_of(boot.component, settings));
    if (!compiled.has_value() && settings.single_component()) {
      return std::move(compiled).error().because(
          fmt::format("cannot serve {}", settings.component_path));
    }
    return compiled;
  }();
  const shared::Message message = answer.has_value()
                                      ? shared::Message(*answer)
                                      : shared::Message(shared::to_compile_failed(answer.error()));
  return result.send(message).has_value() && answer.has_value() ? 0 : 1;
}

}  // namespace mik::runtime
