// How a worker gets at a component: the artefact that the table names, or the one that belongs to
// the module's file. Used on the offload pool; thread-safe.
#pragma once

#include <optional>
#include <string>

#include "base/result.hpp"
#include "config/settings.hpp"
#include "engine/engine.hpp"
#include "runtime/artefact_store.hpp"
#include "runtime/module_index.hpp"

namespace mik::runtime {

struct LoadRequest {
  std::string tenant;
  std::string name;
  std::optional<shared::Digest> digest;  // nothing: read the file and derive it
  const config::GuestSettings* guest = nullptr;
};

class ModuleLoader {
 public:
  virtual ~ModuleLoader() = default;
  // Blocking. kArtefact: there is none that can be used, compile it; the message says what is wrong
  // with the one that is there, and is empty where there is none. kNotFound: the module's file
  // is gone. kStaticLimit, kImport, kNotComponent: it can never run. All else may pass.
  virtual base::Result<LoadedModule> load(const LoadRequest& request) const = 0;
};

class ArtefactLoader final : public ModuleLoader {
 public:
  // All must outlive the loader.
  ArtefactLoader(const config::Settings& settings, const ArtefactStore& store,
                 const engine::Engine& engine)
      : settings_(settings), store_(store), engine_(engine) {}

  base::Result<LoadedModule> load(const LoadRequest& request) const override;

 private:
  base::Result<LoadedModule> find_and_load(const LoadRequest& request) const;

  const config::Settings& settings_;
  const ArtefactStore& store_;
  const engine::Engine& engine_;
};

}  // namespace mik::runtime
