// For tests: a scheduler over the fake engine, in the fake's time. Nothing here depends on the
// machine.
#pragma once

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/fake/fake_clock.hpp"
#include "runtime/scheduler.hpp"

namespace mik::runtime {

class TestScheduler : public ::testing::Test, public engine::Guests::Observer, public OutboundSink {
 protected:
  class Guest final : public GuestTask {
   public:
    Guest(TestScheduler& rig, engine::RequestId id) : rig_(rig), request_(id) {}
    ~Guest() override { close(); }
    void close() {
      if (std::exchange(request_, 0) != 0) {
        rig_.scheduler_->release(*this);
      }
    }
    void on_run(engine::Events events) override {
      if (drops_bytes > 0) {
        drop_memory(drops_bytes);
      }
      if (!std::exchange(started, true)) {
        rig_.started_.push_back(this);
      }
      rig_.ran_.push_back(this);
      failed = failed || events.failed();
      if (!events.done()) {
        return;
      }
      done = true;
      done_at = engine::fake::clock_now();
      if (rig_.writes_late_) {
        rig_.scheduler_->write_soon(*this);
      } else {
        close();
      }
    }
    void on_write() override {
      engine::fake::clock_ns +=
          static_cast<std::uint64_t>(std::chrono::nanoseconds(writing_takes).count());
      written = true;
      written_at = engine::fake::clock_now();
      written_after = rig_.ran_.size();
      close();
    }
    std::size_t drops_bytes = 0;  // with each run, as the engine does it at a guest's end
    bool started = false;
    bool done = false;
    bool failed = false;
    base::Time done_at;
    // With writes_late_:
    base::Duration writing_takes{};
    bool written = false;
    base::Time written_at;
    std::size_t written_after = 0;  // so many runs of whomever

   private:
    TestScheduler& rig_;
    engine::RequestId request_;
  };

  TestScheduler() { make(Scheduler::Sharing::kOneModule); }
  ~TestScheduler() override { all_.clear(); }

  void make(Scheduler::Sharing sharing) {
    scheduler_ = std::make_unique<Scheduler>(*guests_, ticker_, *this, kInstances, sharing,
                                             &engine::fake::clock_now);
  }
  // The path says what it does: fake_engine.cpp.
  Guest& start(Account* account, const std::string& path) {
    const std::string block = "GET" + path + "host";
    const std::string_view bytes = block;
    engine::Head head;
    head.bytes = bytes;
    head.method = bytes.substr(0, 3);
    head.path_query = bytes.substr(3, path.size());
    head.authority = bytes.substr(3 + path.size());
    // `user` is the task's address, which is known only when it is there.
    auto place = std::make_unique<Guest>(*this, 0);
    Guest& guest = *place;
    head.user = reinterpret_cast<std::uint64_t>(static_cast<GuestTask*>(&guest));
    const engine::RequestId id =
        guests_->start(component_, head, std::span<const engine::Field>()).value();
    place.release();  // NOLINT(bugprone-unused-return-value): made again in its place
    std::destroy_at(&guest);
    all_.emplace_back(std::construct_at(&guest, *this, id));
    scheduler_->add(guest, id, account);
    return guest;
  }
  void start_many(int count, Account* account, const std::string& path) {
    for (int i = 0; i < count; ++i) {
      start(account, path);
    }
  }
  // Turns for so long by the fake's clock. While nothing can run, time passes by itself.
  void pass(base::Duration span) {
    const base::Time until = engine::fake::clock_now() + span;
    while (engine::fake::clock_now() < until) {
      if (!scheduler_->on_turn(engine::fake::clock_now())) {
        engine::fake::clock_ns += 50'000;
      }
    }
  }
  static void drop_memory(std::size_t bytes) {
    void* const memory =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    ASSERT_EQ(::madvise(memory, bytes, MADV_DONTNEED), 0);
    ::munmap(memory, bytes);
  }
  static double ms(base::Duration duration) {
    return std::chrono::duration<double, std::milli>(duration).count();
  }

  void on_wake() noexcept override {}
  void on_output(std::uint64_t, int, std::string_view) noexcept override {}
  void on_outbound(const engine::OutboundEvents&) override {}

  static constexpr std::size_t kInstances = 200;
  bool writes_late_ = false;  // what a guest that is done has to say waits for others
  engine::Engine engine_ = engine::Engine::create({}).value();
  engine::Component component_ = engine::Component::load(engine_, 0, {}).value();
  engine::Ticker ticker_ = engine::Ticker::create(engine_).value();
  std::unique_ptr<engine::Guests> guests_ = engine::Guests::create(engine_, *this).value();
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<Guest*> started_;
  std::vector<Guest*> ran_;
  std::deque<std::unique_ptr<Guest>> all_;
};

}  // namespace mik::runtime
