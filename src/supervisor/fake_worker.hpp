// For tests: what a worker and a compile child do, without HTTP and without an engine. The test
// binary executes itself as these and as a supervisor (test_main.cpp). Each is the only thread of
// its process.
//
// A client sends a line and gets a line: "pid" is answered with the worker's process id; "total"
// with the number of connections that all workers count; "hold" is a request that is not answered
// until "end" comes on the same connection; "die" kills the worker. What a worker does at its start
// is told by Settings::component_path: "serve"; "keep" (never passes a connection on); "fatal";
// "crash" (dies before it is ready); "stuck" (does not drain); "wait:FILE" (is ready once the file
// is there); "compile:HOW" (needs that artefact, says Fatal when it cannot be had). HOW is what the
// compile child does: "ok", "linger" (answers, and stays), "refuse", "cpu" (burns), "wall"
// (sleeps), "memory" (hoards), "kill", "silent".
#pragma once

namespace mik::supervisor {

int fake_worker_main(int argc, char** argv);
int fake_compile_main(int argc, char** argv);

}  // namespace mik::supervisor
