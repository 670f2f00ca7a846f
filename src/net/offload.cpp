#include "net/offload.hpp"

#include <csignal>
#include <system_error>
#include <utility>

namespace mik::net {

struct Offload::Shared {
  std::mutex mutex;
  std::condition_variable ready;
  std::deque<Job> queue;  // guarded by mutex
  std::size_t idle = 0;   // guarded by mutex
  bool stopping = false;  // guarded by mutex
};

Offload::Offload(Loop& loop, std::size_t threads_max, std::size_t queue_max)
    : loop_(loop),
      threads_max_(threads_max),
      queue_max_(queue_max),
      shared_(std::make_shared<Shared>()) {}

Offload::~Offload() {
  {
    const std::scoped_lock lock(shared_->mutex);
    shared_->stopping = true;
    shared_->queue.clear();
  }
  shared_->ready.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

namespace {

// Signals are the loop thread's business.
void block_signals() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
}

}  // namespace

// False: the system gives no thread (pthread_create(3), EAGAIN).
bool Offload::start_thread() {
  const auto serve = [&loop = loop_, shared = shared_] {
    block_signals();
    std::unique_lock lock(shared->mutex);
    while (true) {
      ++shared->idle;
      shared->ready.wait(lock, [&] { return shared->stopping || !shared->queue.empty(); });
      --shared->idle;
      if (shared->stopping) {
        return;
      }
      Job job = std::move(shared->queue.front());
      shared->queue.pop_front();
      lock.unlock();
      job.work();
      job.work = nullptr;
      loop.post_from_any_thread(std::move(job.done));
      lock.lock();
    }
  };
  try {
    threads_.emplace_back(serve);
    return true;
  } catch (const std::system_error&) {
    return false;
  }
}

bool Offload::submit(Task work, Task done) {
  bool more_threads = false;
  {
    const std::scoped_lock lock(shared_->mutex);
    if (shared_->queue.size() >= queue_max_) {
      return false;
    }
    Job job;
    job.work = std::move(work);
    job.done = std::move(done);
    shared_->queue.push_back(std::move(job));
    more_threads = shared_->idle < shared_->queue.size() && threads_.size() < threads_max_;
  }
  if (more_threads && !start_thread() && threads_.empty()) {
    // Nobody will ever take it.
    const std::scoped_lock lock(shared_->mutex);
    shared_->queue.pop_back();
    return false;
  }
  shared_->ready.notify_one();
  return true;
}

}  // namespace mik::net
