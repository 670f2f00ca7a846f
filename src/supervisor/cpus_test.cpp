#include "supervisor/cpus.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace mik::supervisor {
namespace {

class Cgroup : public testing::Test {
 protected:
  void SetUp() override {
    root_ = testing::TempDir() + "/cgroup_" +
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::string root_;
};

TEST_F(Cgroup, NoFilesAreNoQuota) { EXPECT_EQ(cgroup_cpu_quota(root_), std::nullopt); }

TEST_F(Cgroup, Version2) {
  write("/proc/self/cgroup", "0::/system.slice/mik.service\n");
  write("/sys/fs/cgroup/system.slice/mik.service/cpu.max", "150000 100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 1.5);
}

TEST_F(Cgroup, Version2InsideAContainerIsTheRoot) {
  write("/proc/self/cgroup", "0::/\n");
  write("/sys/fs/cgroup/cpu.max", "50000 100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 0.5);
}

TEST_F(Cgroup, MemoryOfVersion2IsTheTightestOfTheParents) {
  EXPECT_EQ(cgroup_memory_limit(root_), std::nullopt);
  write("/proc/self/cgroup", "0::/a/b\n");
  write("/sys/fs/cgroup/a/b/memory.max", "max\n");
  EXPECT_EQ(cgroup_memory_limit(root_), std::nullopt);
  write("/sys/fs/cgroup/a/memory.max", "536870912\n");
  EXPECT_EQ(cgroup_memory_limit(root_), 536870912u);
  write("/sys/fs/cgroup/a/b/memory.max", "1073741824\n");
  EXPECT_EQ(cgroup_memory_limit(root_), 536870912u);
}

TEST_F(Cgroup, MemoryOfVersion1) {
  write("/proc/self/cgroup", "11:memory:/m\n4:cpu,cpuacct:/docker/x\n");
  write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(cgroup_memory_limit(root_), std::nullopt);
  write("/sys/fs/cgroup/memory/m/memory.limit_in_bytes", "268435456\n");
  EXPECT_EQ(cgroup_memory_limit(root_), 268435456u);
}

TEST_F(Cgroup, MaxIsNoQuota) {
  write("/proc/self/cgroup", "0::/a\n");
  write("/sys/fs/cgroup/a/cpu.max", "max 100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), std::nullopt);
}

TEST_F(Cgroup, TheTightestOfTheParentsCounts) {
  write("/proc/self/cgroup", "0::/a/b/c\n");
  write("/sys/fs/cgroup/a/cpu.max", "200000 100000\n");
  write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
  write("/sys/fs/cgroup/a/b/c/cpu.max", "300000 100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 2.0);
}

TEST_F(Cgroup, Version1) {
  write("/proc/self/cgroup", "11:memory:/m\n4:cpu,cpuacct:/docker/x\n1:name=systemd:/y\n");
  write("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", "250000\n");
  write("/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 2.5);
}

TEST_F(Cgroup, Version1InsideAContainerIsTheRootOfTheMount) {
  write("/proc/self/cgroup", "4:cpu,cpuacct:/docker/x\n");
  write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
  write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), 1.0);
}

TEST_F(Cgroup, Version1WithoutAQuotaAndOtherControllersDoNotCount) {
  write("/proc/self/cgroup", "4:cpuacct,cpu:/\n5:cpuset:/\n");
  write("/sys/fs/cgroup/cpuacct,cpu/cpu.cfs_quota_us", "-1\n");
  write("/sys/fs/cgroup/cpuacct,cpu/cpu.cfs_period_us", "100000\n");
  write("/sys/fs/cgroup/cpuset/cpu.cfs_quota_us", "1\n");
  write("/sys/fs/cgroup/cpuset/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), std::nullopt);
}

TEST_F(Cgroup, NonsenseIsNoQuota) {
  write("/proc/self/cgroup", "nonsense\n0\n0::/a\n");
  write("/sys/fs/cgroup/a/cpu.max", "\n");
  EXPECT_EQ(cgroup_cpu_quota(root_), std::nullopt);
}

TEST(CpuBudget, AQuotaIsRoundedUp) {
  EXPECT_EQ(combine({0, 1, 2, 3}, 1.5).count, 2u);
  EXPECT_EQ(combine({0, 1, 2, 3}, 0.5).count, 1u);
  EXPECT_EQ(combine({0, 1, 2, 3}, 2.0).count, 2u);
  EXPECT_EQ(combine({0, 1}, 8.0).count, 2u);
  EXPECT_EQ(combine({4, 7}, std::nullopt).count, 2u);
}

TEST(CpuBudget, PinsOnlyOneWorkerPerCpuWithoutAQuota) {
  EXPECT_TRUE(combine({4, 7}, std::nullopt).pins(2));
  EXPECT_FALSE(combine({4, 7}, std::nullopt).pins(1));
  EXPECT_FALSE(combine({4, 7}, std::nullopt).pins(3));
  EXPECT_FALSE(combine({0, 1, 2, 3}, 1.5).pins(4));
  EXPECT_TRUE(combine({0, 1}, 4.0).pins(2)) << "a quota above the mask limits nothing";
}

TEST(CpuBudget, OfThisMachineIsSane) {
  const CpuBudget budget = cpu_budget();
  EXPECT_GE(budget.count, 1u);
  EXPECT_LE(budget.count, budget.cpus.size());
}

TEST(Descriptors, TheLimitIsRaisedToTheHardOne) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit low = before;
  low.rlim_cur = 256;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(raise_descriptor_limit(), before.rlim_max);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST(Descriptors, LeaveRoomForOutgoingRequests) {
  EXPECT_EQ(connections_within(1024, 2, 8), 2u * (952 - 238));
  EXPECT_EQ(connections_within(1 << 20, 1, 8), 1048504u - 262126);
  EXPECT_EQ(connections_within(73, 1, 8), 4u);
  EXPECT_EQ(connections_within(0, 3, 8), 12u);
}

}  // namespace
}  // namespace mik::supervisor
