// The compile child: a short-lived process that turns a component into an artefact, so that a bomb
// takes nothing down.
#pragma once

#include "base/result.hpp"
#include "config/settings.hpp"
#include "engine/engine.hpp"
#include "shared/boot.hpp"

namespace mik::runtime {

// The whole life of the process; its exit code. Answers on the boot's result descriptor.
int run_compile_child(shared::CompileBoot boot);

// How a worker and the compile child set up their engines: what differs makes different artefacts.
engine::EngineOptions engine_options(const config::Settings& settings, bool compile_only);

}  // namespace mik::runtime
