// A small pool of threads for work that blocks: files, name lookup, trust stores. Nothing of a
// request's guest runs here. submit() belongs to the loop thread; work runs on a pool thread, done
// on the loop thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "net/loop.hpp"

namespace mik::net {

class Offload {
 public:
  using Task = std::function<void()>;

  // Threads are started with the first submit(). The loop must outlive the pool.
  Offload(Loop& loop, std::size_t threads_max, std::size_t queue_max);
  // Waits for the work that is running; drops what is queued, its done() too.
  ~Offload();
  Offload(const Offload&) = delete;
  Offload& operator=(const Offload&) = delete;

  // Runs `work` on a pool thread, then `done` on the loop thread. False: the queue is full, or
  // there is no thread and none to be had; nothing will be called. Neither may throw. `done` may
  // find that whoever asked is gone: give it a weak reference.
  [[nodiscard]] bool submit(Task work, Task done);

 private:
  struct Job {
    Task work;
    Task done;
  };
  struct Shared;
  bool start_thread();

  Loop& loop_;
  std::size_t threads_max_;
  std::size_t queue_max_;
  std::shared_ptr<Shared> shared_;
  std::vector<std::thread> threads_;
};

}  // namespace mik::net
