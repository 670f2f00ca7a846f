#include "telemetry/log_writer.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "base/time.hpp"

namespace mik::telemetry {

namespace {

std::uint64_t count_lines(std::string_view text) noexcept {
  return static_cast<std::uint64_t>(std::ranges::count(text, '\n'));
}

// Those that fit into `room` bytes.
std::string_view whole_lines(std::string_view lines, std::size_t room) noexcept {
  if (lines.size() <= room) {
    return lines;
  }
  const std::size_t end = room == 0 ? std::string_view::npos : lines.rfind('\n', room - 1);
  return lines.substr(0, end == std::string_view::npos ? 0 : end + 1);
}

class ThreadWriter final : public LogWriter {
 public:
  ThreadWriter(std::unique_ptr<LogSink> sink, std::size_t bytes_max)
      : sink_(std::move(sink)), bytes_max_(bytes_max), thread_([this] { run(); }) {}

  ~ThreadWriter() override {
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
    }
    ready_.notify_one();
    thread_.join();
  }

  bool offer(std::string_view lines) override {
    std::string_view taken;
    {
      const std::scoped_lock lock(mutex_);
      taken = whole_lines(lines, bytes_max_ - std::min(bytes_max_, queue_.size()));
      queue_ += taken;
    }
    ready_.notify_one();
    dropped_ += count_lines(lines.substr(taken.size()));
    return taken.size() == lines.size();
  }

  void reopen() override {
    {
      const std::scoped_lock lock(mutex_);
      reopen_ = true;
    }
    ready_.notify_one();
  }

  std::uint64_t dropped() const noexcept override { return dropped_; }
  bool failing() const noexcept override { return failing_; }
  int take_trouble() noexcept override { return trouble_.exchange(0); }

 private:
  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::string block;
    std::unique_lock lock(mutex_);
    while (true) {
      ready_.wait(lock, [this] { return stopping_ || reopen_ || !queue_.empty(); });
      if (std::exchange(reopen_, false)) {
        lock.unlock();
        sink_->reopen();
        lock.lock();
      }
      if (queue_.empty()) {
        if (stopping_) {
          return;
        }
        continue;
      }
      block.clear();
      block.swap(queue_);
      lock.unlock();
      write_all(block);
      lock.lock();
    }
  }

  void write_all(std::string_view bytes) {
    base::Time give_up = base::kNever;  // once the end has come
    while (!bytes.empty()) {
      const ssize_t n = sink_->write_some(bytes);
      if (const int trouble = sink_->take_trouble(); trouble != 0) {
        trouble_ = trouble;
      }
      if (n != 0) {
        failing_ = n < 0;
      }
      if (n < 0) {
        dropped_ += count_lines(bytes);
        return;
      }
      if (n > 0) {
        bytes.remove_prefix(static_cast<std::size_t>(n));
        continue;
      }
      sink_->wait(kStepMs);
      const std::scoped_lock lock(mutex_);
      if (stopping_ && give_up == base::kNever) {
        give_up = base::Clock::now() + kPatience;
      } else if (stopping_ && base::Clock::now() >= give_up) {
        return;
      }
    }
  }

  static constexpr int kStepMs = 100;
  // At the end a reader that does not read is waited for so long, not for ever.
  static constexpr base::Duration kPatience = std::chrono::seconds(1);

  const std::unique_ptr<LogSink> sink_;  // the thread's
  const std::size_t bytes_max_;
  std::atomic<std::uint64_t> dropped_ = 0;
  std::atomic<bool> failing_ = false;
  std::atomic<int> trouble_ = 0;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::string queue_;      // guarded by mutex_
  bool stopping_ = false;  // guarded by mutex_
  bool reopen_ = false;    // guarded by mutex_
  std::thread thread_;     // last: it uses all of the above
};

// Whoever writes has one thread, and better things to do than to wait for a reader of its log.
class DirectWriter final : public LogWriter {
 public:
  DirectWriter(std::unique_ptr<LogSink> sink, std::size_t bytes_max)
      : sink_(std::move(sink)), bytes_max_(bytes_max) {}
  ~DirectWriter() override { write(); }

  bool offer(std::string_view lines) override {
    write();  // what had no room the last time
    const std::string_view taken =
        whole_lines(lines, bytes_max_ - std::min(bytes_max_, pending_.size()));
    pending_ += taken;
    dropped_ += count_lines(lines.substr(taken.size()));
    write();
    return taken.size() == lines.size();
  }
  void reopen() override { sink_->reopen(); }
  std::uint64_t dropped() const noexcept override { return dropped_; }
  bool failing() const noexcept override { return failing_; }
  int take_trouble() noexcept override { return sink_->take_trouble(); }

 private:
  // What finds no room goes out with the next lines.
  void write() {
    std::size_t done = 0;
    while (done < pending_.size()) {
      const std::string_view rest = std::string_view(pending_).substr(done);
      const ssize_t n = sink_->write_some(rest);
      if (n == 0) {
        break;
      }
      failing_ = n < 0;
      if (n < 0) {
        dropped_ += count_lines(rest);
      }
      done += n < 0 ? rest.size() : static_cast<std::size_t>(n);
    }
    pending_.erase(0, done);
  }

  const std::unique_ptr<LogSink> sink_;
  const std::size_t bytes_max_;
  std::string pending_;
  std::uint64_t dropped_ = 0;
  bool failing_ = false;
};

}  // namespace

std::unique_ptr<LogWriter> make_log_writer(std::unique_ptr<LogSink> sink, Writing writing,
                                           std::size_t pending_bytes_max) {
  if (writing == Writing::kThread) {
    return std::make_unique<ThreadWriter>(std::move(sink), pending_bytes_max);
  }
  return std::make_unique<DirectWriter>(std::move(sink), pending_bytes_max);
}

}  // namespace mik::telemetry
