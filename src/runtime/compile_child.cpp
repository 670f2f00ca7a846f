#include "runtime/compile_child.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fmt/format.h>

#include "engine/pagemap_scan.hpp"
#include "runtime/artefact_store.hpp"
#include "shared/control.hpp"

namespace mik::runtime {

namespace {

// Guests at once in one worker: the pool reserves 4 GiB of address space for each, and a guard page
// for its stack. Requests beyond it wait in the scheduler.
constexpr std::uint32_t kInstancesMax = 1000;
// A file is read whole. WebAssembly's own limit for a module is the same.
constexpr std::uint64_t kComponentBytesMax = 1ull << 30;

base::Result<std::string> compile(const std::string& component, const config::Settings& settings) {
  MIK_TRY_ASSIGN(const std::string wasm, read_component(component));
  MIK_TRY(engine::check_wasm(wasm));
  MIK_TRY_ASSIGN(const ArtefactStore store, ArtefactStore::open(settings.state_dir));
  MIK_TRY_ASSIGN(const engine::Engine engine,
                 engine::Engine::create(engine_options(settings, true)));
  MIK_TRY_ASSIGN(const ArtefactStore::Name name, store.name_of(wasm, engine.artefact_key()));
  MIK_TRY_ASSIGN(const base::Fd lock, store.lock(name));
  if (store.open_verified(name).has_value()) {
    return store.path_of(name);  // another server made it meanwhile
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
  return store.path_of(name);
}

}  // namespace

engine::EngineOptions engine_options(const config::Settings& settings, bool compile_only) {
  engine::EngineOptions options;
  options.instances_max = std::min(settings.max_concurrent_requests, kInstancesMax);
  options.compile_only = compile_only;
  options.pagemap_scan = !compile_only && engine::pagemap_scan_usable();
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    // Neither a pool nor 4 GiB for each memory would fit. The compile child inherits the limit, so
    // both sides agree.
    options.on_demand = !compile_only;
    options.memory_reservation_bytes = settings.guest.memory_limit_bytes;
  }
  return options;
}

base::Result<std::string> read_component(const std::string& path) {
  const base::Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info{};
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) {
    return base::Error::from_errno(fmt::format("cannot open {}", path), errno);
  }
  if (static_cast<std::uint64_t>(info.st_size) > kComponentBytesMax) {
    return base::Error(base::ErrorCode::kNotComponent,
                       fmt::format("{} has {} bytes, more than any component", path, info.st_size));
  }
  std::string bytes(static_cast<std::size_t>(info.st_size), '\0');
  std::size_t got = 0;
  while (got < bytes.size()) {
    const ssize_t n = ::read(fd.get(), bytes.data() + got, bytes.size() - got);
    if (n < 0) {
      return base::Error::from_errno(fmt::format("cannot read {}", path), errno);
    }
    if (n == 0) {
      break;
    }
    got += static_cast<std::size_t>(n);
  }
  bytes.resize(got);
  return bytes;
}

int run_compile_child(shared::CompileBoot boot) {
  shared::Channel result(std::move(boot.result));
  const auto answer = [&]() -> base::Result<std::string> {
    MIK_TRY_ASSIGN(const std::string block, shared::read_block(boot.settings.get()));
    MIK_TRY_ASSIGN(const config::Settings settings, config::deserialize(block));
    auto path = compile(boot.component, settings);
    if (!path.has_value()) {
      return std::move(path).error().because(fmt::format("cannot serve {}", boot.component));
    }
    return path;
  }();
  const shared::Message message =
      answer.has_value()
          ? shared::Message(shared::ArtefactReady{boot.component, *answer})
          : shared::Message(shared::to_artefact_failed(boot.component, answer.error()));
  return result.send(message).has_value() && answer.has_value() ? 0 : 1;
}

}  // namespace mik::runtime
