// A worker process: one loop, one engine, its share of the connections. Everything below is
// confined to its main thread.
#pragma once

#include "runtime/documents.hpp"
#include "shared/boot.hpp"

namespace mik::runtime {

// The whole life of a worker; its exit code. 0 after a drain. `make_documents` makes what answers
// "/_mik/" and "/openapi/".
int run_worker(shared::WorkerBoot boot, const MakeDocuments& make_documents);

}  // namespace mik::runtime
