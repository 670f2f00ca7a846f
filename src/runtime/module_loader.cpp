#include "runtime/module_loader.hpp"

#include <utility>

#include <fmt/format.h>

#include "base/fd.hpp"
#include "runtime/module_file.hpp"

namespace mik::runtime {

namespace {

// What is not there, or is not to be used, is made again.
base::Result<base::Fd> open_artefact(const ArtefactStore& store, const ArtefactStore::Name& name,
                                     const std::string& beside) {
  auto opened = store.open_verified(name, beside);
  if (opened.has_value()) {
    return opened;
  }
  switch (opened.error().code()) {
    case base::ErrorCode::kNotFound:
      return base::Error(base::ErrorCode::kArtefact, "");
    case base::ErrorCode::kUntrusted:
      return base::Error(base::ErrorCode::kArtefact, opened.error().to_string());
    default:
      return opened;
  }
}

// A file that is still being written, or that is none to be served: the supervisor finds out, and
// knows when it has changed.
bool is_for_the_supervisor(base::ErrorCode code) noexcept {
  return code == base::ErrorCode::kCancelled || code == base::ErrorCode::kUntrusted ||
         code == base::ErrorCode::kNotComponent;
}

}  // namespace

base::Result<LoadedModule> ArtefactLoader::load(const LoadRequest& request) const {
  auto loaded = find_and_load(request);
  if (!loaded.has_value() && loaded.error().code() != base::ErrorCode::kArtefact) {
    return std::move(loaded).error().because(
        fmt::format("cannot serve {}", module_path(settings_, request.tenant, request.name)));
  }
  return loaded;
}

base::Result<LoadedModule> ArtefactLoader::find_and_load(const LoadRequest& request) const {
  ArtefactStore::Name name;
  if (request.digest.has_value()) {
    name = ArtefactStore::name(*request.digest);
  } else {
    const auto wasm = read_module(settings_, request.tenant, request.name);
    if (!wasm.has_value()) {
      return is_for_the_supervisor(wasm.error().code())
                 ? base::Error(base::ErrorCode::kArtefact, "")
                 : wasm.error();
    }
    name = ArtefactStore::name_of(*wasm, engine_.artefact_key());
  }
  MIK_TRY_ASSIGN(
      const base::Fd artefact,
      open_artefact(store_, name, artefact_beside(settings_, request.tenant, request.name)));
  engine::ComponentOptions options;
  options.memory_bytes_max = request.guest->memory_limit_bytes;
  options.reuse_max = request.guest->reuse;
  options.env = request.guest->env;
  MIK_TRY_ASSIGN(auto component, engine::Component::load(engine_, artefact.get(), options));
  return LoadedModule{std::move(component), name.digest};
}

}  // namespace mik::runtime
