#include "reliability/admission.hpp"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace mik::reliability {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class AdmissionTest : public ::testing::Test {
 protected:
  static constexpr std::size_t kSlots = 3;
  shared::Segment segment_ = shared::Segment::create(kSlots, 4, 2).value();
  Admission::Limits limits_{.global_max = 5};
  const std::uint32_t a_ = segment_.modules().add("", "a").value();
  const std::uint32_t b_ = segment_.modules().add("", "b").value();
  const std::uint32_t t_ = segment_.modules().add("t", "c").value();
  const std::uint32_t tenant_ = segment_.modules().read(t_).tenant_row;

  RefusedBy take(std::size_t slot, const Target& target) {
    Permit permit;
    const RefusedBy by = Admission(segment_, slot, limits_).try_acquire(target, permit);
    EXPECT_EQ(permit.held(), by == RefusedBy::kNone);
    if (permit.held()) {
      held_.push_back(std::move(permit));
    }
    return by;
  }
  std::uint64_t active() const {
    std::uint64_t sum = 0;
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      sum += segment_.row(slot).gauges.active_requests.load();
    }
    return sum;
  }
  std::uint64_t active_of(std::uint32_t row) const {
    std::uint64_t sum = 0;
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      sum += segment_.modules().cells(row, slot).active.load();
    }
    return sum;
  }
  std::vector<Permit> held_;
};

TEST_F(AdmissionTest, EachLimitAtUnderAndOver) {
  const Target a{.row = a_, .module_max = 2};
  EXPECT_EQ(take(0, a), RefusedBy::kNone);
  EXPECT_EQ(take(1, a), RefusedBy::kNone);
  EXPECT_EQ(take(2, a), RefusedBy::kModule);
  const Target t{.row = t_, .tenant_row = tenant_, .module_max = 5, .tenant_max = 1};
  EXPECT_EQ(take(0, t), RefusedBy::kNone);
  EXPECT_EQ(take(1, t), RefusedBy::kTenant);
  const Target b{.row = b_};
  EXPECT_EQ(take(0, b), RefusedBy::kNone);
  EXPECT_EQ(take(1, b), RefusedBy::kNone);
  EXPECT_EQ(take(2, b), RefusedBy::kGlobal);
  EXPECT_EQ(take(2, a), RefusedBy::kModule) << "the narrowest limit is told";
  EXPECT_EQ(active(), 5u);
  EXPECT_EQ(active_of(a_), 2u);
  EXPECT_EQ(active_of(t_), 1u) << "what was refused holds nothing";
  EXPECT_EQ(active_of(b_), 2u);
  held_.clear();
  EXPECT_EQ(active() + active_of(a_) + active_of(b_) + active_of(t_), 0u);
  EXPECT_EQ(segment_.modules().tenant_cells(tenant_, 0).active.load(), 0u);
}

TEST_F(AdmissionTest, APermitIsGivenBackOnce) {
  const Target t{.row = t_, .tenant_row = tenant_, .module_max = 1, .tenant_max = 1};
  ASSERT_EQ(take(0, t), RefusedBy::kNone);
  Permit moved = std::move(held_[0]);
  held_.clear();
  EXPECT_EQ(active(), 1u);
  Permit assigned;
  assigned = std::move(moved);
  moved.release();
  EXPECT_EQ(active(), 1u);
  assigned.release();
  assigned.release();
  EXPECT_EQ(active(), 0u);
  EXPECT_EQ(take(1, t), RefusedBy::kNone);
}

TEST_F(AdmissionTest, WhatADeadWorkerHeldComesBack) {
  const Target t{.row = t_, .tenant_row = tenant_, .module_max = 2, .tenant_max = 2};
  ASSERT_EQ(take(0, t), RefusedBy::kNone);
  ASSERT_EQ(take(1, t), RefusedBy::kNone);
  EXPECT_EQ(take(2, t), RefusedBy::kModule);
  segment_.bury(1);
  EXPECT_EQ(active(), 1u);
  EXPECT_EQ(take(2, t), RefusedBy::kNone);
  // The permit of the dead one is in its memory, which is gone with it.
  alignas(Permit) std::array<std::byte, sizeof(Permit)> grave;
  new (grave.data()) Permit(std::move(held_[1]));
}

TEST_F(AdmissionTest, ThisWorkersShareMayBeSmaller) {
  Admission admission(segment_, 0, limits_);
  admission.set_worker_max(1);
  Permit first;
  Permit second;
  EXPECT_EQ(admission.try_acquire({.row = a_}, first), RefusedBy::kNone);
  EXPECT_EQ(admission.try_acquire({.row = a_}, second), RefusedBy::kGlobal);
  EXPECT_EQ(admission.active(), 1u);
  EXPECT_EQ(active_of(a_), 1u);
  EXPECT_EQ(take(1, {.row = a_}), RefusedBy::kNone) << "others go on";
  admission.set_worker_max(0);
  EXPECT_EQ(admission.try_acquire({.row = a_}, second), RefusedBy::kNone);
}

TEST_F(AdmissionTest, GuestsMemoryKeepsOthersOut) {
  limits_.memory_max = 100;
  segment_.row(1).gauges.memory_bytes.store(60);
  segment_.row(2).gauges.memory_bytes.store(39);
  EXPECT_EQ(take(0, {.row = a_}), RefusedBy::kNone);
  segment_.row(0).gauges.memory_bytes.store(1);
  EXPECT_EQ(take(0, {.row = a_}), RefusedBy::kMemory);
  EXPECT_TRUE(is_overload(RefusedBy::kMemory));
  segment_.modules().tenant_cells(tenant_, 2).memory_bytes.store(30);
  const Target t{.row = t_, .tenant_row = tenant_, .tenant_memory_max = 30};
  EXPECT_EQ(take(0, t), RefusedBy::kTenantMemory);
  EXPECT_FALSE(is_overload(RefusedBy::kTenantMemory));
  segment_.bury(1);
  segment_.bury(2);
  EXPECT_EQ(take(0, t), RefusedBy::kNone);
}

TEST(RetryAfter, IsTheTimeUntilAPlaceIsFree) {
  ServiceTime service;
  EXPECT_EQ(retry_after_secs(service, 0, 10), 1u) << "nothing is known";
  service.record(seconds(4));
  EXPECT_EQ(service.mean(), seconds(4));
  EXPECT_EQ(retry_after_secs(service, 0, 1), 4u);
  EXPECT_EQ(retry_after_secs(service, 0, 100), 1u);
  EXPECT_EQ(retry_after_secs(service, 2, 1), 12u);
  EXPECT_EQ(retry_after_secs(service, 1000, 1), 30u);
  EXPECT_EQ(retry_after_secs(service, UINT64_MAX, 0), 30u);
  for (int i = 0; i < 100; ++i) {
    service.record(milliseconds(10));
  }
  EXPECT_LT(service.mean(), milliseconds(11));
  EXPECT_EQ(retry_after_secs(milliseconds(29'001)), 30u);
  EXPECT_EQ(retry_after_secs(base::Duration(0)), 1u);
}

// Several workers at once, each of which may die: no limit is exceeded at any moment, and nothing
// is held in the end. What is held is counted apart, after it was got and before it is given back.
class Crowd {
 public:
  explicit Crowd(std::uint64_t seed) : seed_(seed) {
    std::mt19937_64 random(seed);
    global_max_ = static_cast<std::uint32_t>(1 + random() % 6);
    for (std::size_t i = 0; i < kModules; ++i) {
      rows_[i] = segment_.modules().add(i < 2 ? "" : "t", "m" + std::to_string(i)).value();
      module_max_[i] = static_cast<std::uint32_t>(random() % 4);
    }
    tenant_row_ = segment_.modules().read(rows_[2]).tenant_row;
    tenant_max_ = static_cast<std::uint32_t>(random() % 4);
  }

  void run() {
    std::vector<std::thread> workers;
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      workers.emplace_back([this, slot] { work(slot); });
    }
    for (std::thread& worker : workers) {
      worker.join();
    }
    EXPECT_EQ(wrong_.load(), 0);
    EXPECT_GT(admitted_.load(), 0u);
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      EXPECT_EQ(segment_.row(slot).gauges.active_requests.load(), 0u);
      EXPECT_EQ(segment_.modules().tenant_cells(tenant_row_, slot).active.load(), 0u);
      for (const std::uint32_t row : rows_) {
        EXPECT_EQ(segment_.modules().cells(row, slot).active.load(), 0u);
      }
    }
  }

 private:
  static constexpr std::size_t kSlots = 4;
  static constexpr std::size_t kModules = 4;
  struct Held {
    std::size_t module;
    Permit permit;
  };

  void count_in(std::atomic<std::uint64_t>& held, std::uint64_t limit) {
    if (held.fetch_add(1) >= limit && limit != 0) {
      ++wrong_;
    }
  }
  void work(std::size_t slot) {
    std::mt19937_64 random(seed_ * 16 + slot);
    Admission admission(segment_, slot, {.global_max = global_max_});
    std::vector<Held> held;
    for (int i = 0; i < 400; ++i) {
      const std::size_t module = random() % kModules;
      const bool tenant = module >= 2;
      const Target target{.row = rows_[module],
                          .tenant_row = tenant ? tenant_row_ : shared::kNoRow,
                          .module_max = module_max_[module],
                          .tenant_max = tenant_max_};
      Permit permit;
      if (admission.try_acquire(target, permit) == RefusedBy::kNone) {
        count_in(all_, global_max_);
        count_in(of_module_[module], module_max_[module]);
        if (tenant) {
          count_in(of_tenant_, tenant_max_);
        }
        ++admitted_;
        held.push_back({module, std::move(permit)});
      }
      while (!held.empty() && random() % 2 == 0) {
        give_back(held);
      }
      if (random() % 100 == 0) {
        die(slot, held);
      }
    }
    while (!held.empty()) {
      give_back(held);
    }
  }
  void uncount(std::size_t module) {
    all_.fetch_sub(1);
    of_module_[module].fetch_sub(1);
    if (module >= 2) {
      of_tenant_.fetch_sub(1);
    }
  }
  void give_back(std::vector<Held>& held) {
    uncount(held.back().module);
    held.pop_back();
  }
  // The process is gone, its permits with it; the supervisor buries it and starts another.
  void die(std::size_t slot, std::vector<Held>& held) {
    for (Held& one : held) {
      uncount(one.module);
      alignas(Permit) std::array<std::byte, sizeof(Permit)> grave;
      new (grave.data()) Permit(std::move(one.permit));
    }
    held.clear();
    segment_.bury(slot);
  }

  const std::uint64_t seed_;
  shared::Segment segment_ = shared::Segment::create(kSlots, kModules, 1).value();
  std::uint32_t global_max_ = 0;
  std::array<std::uint32_t, kModules> rows_{};
  std::array<std::uint32_t, kModules> module_max_{};
  std::uint32_t tenant_row_ = 0;
  std::uint32_t tenant_max_ = 0;
  std::atomic<std::uint64_t> all_{0};
  std::array<std::atomic<std::uint64_t>, kModules> of_module_{};
  std::atomic<std::uint64_t> of_tenant_{0};
  std::atomic<std::uint64_t> admitted_{0};
  std::atomic<int> wrong_{0};
};

TEST(AdmissionCrowd, NeverExceedsALimitAndHoldsNothingInTheEnd) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Crowd(seed).run();
  }
}

}  // namespace
}  // namespace mik::reliability
