#include "worker/device/cpu_count.h"

#include <thread>

#include "gtest/gtest.h"
#include "tests/worker/device/fake_machine.h"

namespace paceline::worker {
namespace {

const std::vector<int32_t> kEight = {0, 1, 2, 3, 4, 5, 6, 7};

TEST(CpuCountTest, WithoutFilesEveryLogicalCpuCounts) {
  FakeMachine machine;
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 8);
  EXPECT_EQ(UsableCpusUnder(machine.root(), {}), 1);
}

TEST(CpuCountTest, HardwareThreadsOfOneCoreCountOnce) {
  FakeMachine machine;
  for (int cpu = 0; cpu < 8; ++cpu) {
    const int first = cpu % 4;
    machine.Write(
        "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
        std::to_string(first) + "," + std::to_string(first + 4) + "\n");
  }
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 4);
  EXPECT_EQ(UsableCpusUnder(machine.root(), {0, 4}), 1);
  EXPECT_EQ(UsableCpusUnder(machine.root(), {0, 1, 4}), 2);
}

TEST(CpuCountTest, QuotaOfVersion2CountsWholeCpus) {
  FakeMachine machine;
  machine.Write("/proc/self/cgroup", "0::/kubepods/pod1\n");
  machine.Write("/sys/fs/cgroup/kubepods/pod1/cpu.max", "350000 100000\n");
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 3);
  machine.Write("/sys/fs/cgroup/kubepods/cpu.max", "200000 100000\n");
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 2);
  machine.Write("/sys/fs/cgroup/kubepods/cpu.max", "max 100000\n");
  machine.Write("/sys/fs/cgroup/kubepods/pod1/cpu.max", "50000 100000\n");
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 1);
  machine.Write("/sys/fs/cgroup/kubepods/pod1/cpu.max", "max 100000\n");
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 8);
}

TEST(CpuCountTest, InAContainerTheMountIsTheGroup) {
  FakeMachine machine;
  machine.Write("/proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n");
  machine.Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n");
  machine.Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "50000\n");
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 3);
  machine.Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 8);
}

TEST(CpuCountTest, NonsenseInFilesIsNoLimit) {
  FakeMachine machine;
  machine.Write("/proc/self/cgroup", "garbage\n0:\n::\n0::relative\n0::/g\n");
  machine.Write("/sys/fs/cgroup/g/cpu.max", "");
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 8);
  machine.Write("/sys/fs/cgroup/g/cpu.max", "100000 0\n");
  EXPECT_EQ(UsableCpusUnder(machine.root(), kEight), 8);
}

TEST(CpuCountTest, ThisMachineHasAtLeastOneAndNotMoreThanTheSystemSays) {
  EXPECT_GE(UsableCpus(), 1);
  EXPECT_LE(UsableCpus(), static_cast<int32_t>(std::thread::hardware_concurrency()));
}

TEST(CpuCountTest, ReplicasShareEqually) {
  EXPECT_EQ(ThreadsPerReplica(8, 1), 8);
  EXPECT_EQ(ThreadsPerReplica(8, 3), 2);
  EXPECT_EQ(ThreadsPerReplica(2, 4), 1);
}

}  // namespace
}  // namespace paceline::worker
