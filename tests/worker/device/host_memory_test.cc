#include "worker/device/host_memory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/device/fake_machine.h"

namespace paceline::worker {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr int64_t kGiB = int64_t{1} << 30;

// 16 GiB installed, 12 available.
void WriteMeminfo(FakeMachine& machine) {
  machine.Write("/proc/meminfo",
                "MemTotal:       16777216 kB\nMemFree:         1048576 kB\n"
                "MemAvailable:   12582912 kB\nCached:          2097152 kB\n");
}

TEST(HostMemoryTest, ReadsTheMachine) {
  FakeMachine machine;
  WriteMeminfo(machine);
  const auto memory = ReadHostMemory(machine.root());
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_EQ(memory->machine_bytes, 16 * kGiB);
  EXPECT_EQ(memory->limit_bytes, -1);
  EXPECT_EQ(memory->TotalBytes(), 16 * kGiB);
  EXPECT_EQ(memory->FreeBytes(), 12 * kGiB);
}

TEST(HostMemoryTest, OldKernelsCountFreeAndCached) {
  FakeMachine machine;
  machine.Write("/proc/meminfo", "MemTotal: 4096 kB\nMemFree: 1024 kB\nCached: 512 kB\n");
  EXPECT_EQ(ReadHostMemory(machine.root())->available_bytes, 1536 * 1024);
}

TEST(HostMemoryTest, WithoutMeminfoItIsUnavailable) {
  FakeMachine machine;
  EXPECT_EQ(ReadHostMemory(machine.root()).status().code(), absl::StatusCode::kUnavailable);
  machine.Write("/proc/meminfo", "MemTotal: lots\n");
  EXPECT_EQ(ReadHostMemory(machine.root()).status().code(), absl::StatusCode::kUnavailable);
}

TEST(HostMemoryTest, ReadsALimitOfVersion2AndItsParents) {
  FakeMachine machine;
  WriteMeminfo(machine);
  machine.Write("/proc/self/cgroup", "0::/pods/a\n");
  machine.Write("/sys/fs/cgroup/pods/a/memory.max", "8589934592\n");      // 8 GiB
  machine.Write("/sys/fs/cgroup/pods/a/memory.current", "3221225472\n");  // 3 GiB
  machine.Write("/sys/fs/cgroup/pods/a/memory.stat", "anon 1\ninactive_file 1073741824\n");
  auto memory = ReadHostMemory(machine.root());
  EXPECT_EQ(memory->limit_bytes, 8 * kGiB);
  EXPECT_EQ(memory->limit_used_bytes, 2 * kGiB);
  EXPECT_EQ(memory->TotalBytes(), 8 * kGiB);
  EXPECT_EQ(memory->FreeBytes(), 6 * kGiB);

  machine.Write("/sys/fs/cgroup/pods/memory.max", "10737418240\n");     // 10 GiB
  machine.Write("/sys/fs/cgroup/pods/memory.current", "9663676416\n");  // 9 GiB
  memory = ReadHostMemory(machine.root());
  EXPECT_EQ(memory->limit_bytes, 10 * kGiB);
  EXPECT_EQ(memory->FreeBytes(), 1 * kGiB);

  machine.Write("/sys/fs/cgroup/pods/memory.max", "max\n");
  machine.Write("/sys/fs/cgroup/pods/a/memory.max", "max\n");
  EXPECT_EQ(ReadHostMemory(machine.root())->limit_bytes, -1);
}

TEST(HostMemoryTest, ReadsALimitOfVersion1WithoutItsNoLimitNumber) {
  FakeMachine machine;
  WriteMeminfo(machine);
  machine.Write("/proc/self/cgroup", "0::/\n4:memory:/docker/x\n");
  machine.Write("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "4294967296\n");
  machine.Write("/sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes", "2147483648\n");
  machine.Write("/sys/fs/cgroup/memory/docker/x/memory.stat",
                "inactive_file 5\ntotal_inactive_file 1073741824\n");
  machine.Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  const auto memory = ReadHostMemory(machine.root());
  EXPECT_EQ(memory->limit_bytes, 4 * kGiB);
  EXPECT_EQ(memory->FreeBytes(), 3 * kGiB);
}

TEST(HostMemoryTest, UsedBeyondTheLimitLeavesNothing) {
  const HostMemory memory = {.machine_bytes = 8 * kGiB,
                             .available_bytes = 4 * kGiB,
                             .limit_bytes = kGiB,
                             .limit_used_bytes = 2 * kGiB};
  EXPECT_EQ(memory.FreeBytes(), 0);
}

TEST(HostMemoryTest, ThisMachineCanBeRead) {
  const auto memory = ReadHostMemory();
  ASSERT_TRUE(memory.ok()) << memory.status();
  EXPECT_GT(memory->TotalBytes(), 0);
  EXPECT_LE(memory->FreeBytes(), memory->machine_bytes);
}

HostMemory Idle(int64_t total, int64_t free) {
  return {.machine_bytes = total, .available_bytes = free};
}

TEST(KvCacheBytesTest, NeverMoreThanAllSequencesNeed) {
  const auto size = SuggestKvCacheBytes({.model_bytes = 100 * kMiB,
                                         .bytes_per_token = 1024,
                                         .max_model_len = 2048,
                                         .max_num_seqs = 16},
                                        Idle(16 * kGiB, 15 * kGiB));
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(size->bytes, 32 * kMiB);
  EXPECT_THAT(size->explanation, HasSubstr("16 sequences of 2048 tokens"));
}

TEST(KvCacheBytesTest, TakesAShareOfTheMachineAndDividesIt) {
  KvCacheNeeds needs = {.model_bytes = 1 * kGiB,
                        .bytes_per_token = 1 * kMiB,
                        .max_model_len = 1024,
                        .max_num_seqs = 256};
  const auto one = SuggestKvCacheBytes(needs, Idle(6 * kGiB, 6 * kGiB));
  ASSERT_TRUE(one.ok());
  EXPECT_EQ(one->bytes, 3 * kGiB);  // 60 % of 5
  EXPECT_THAT(one->explanation, HasSubstr("60% of the memory after weights"));
  needs.num_replicas = 2;
  const auto two = SuggestKvCacheBytes(needs, Idle(7 * kGiB, 7 * kGiB));
  ASSERT_TRUE(two.ok());
  EXPECT_EQ(two->bytes, static_cast<int64_t>(0.6 * (5 * kGiB)) / 2);
  EXPECT_THAT(two->explanation, HasSubstr("shared by 2 replicas"));
}

TEST(KvCacheBytesTest, TakesNoMoreThanFourGibibytesUnasked) {
  KvCacheNeeds needs = {.model_bytes = 1 * kGiB,
                        .bytes_per_token = 1 * kMiB,
                        .max_model_len = 1024,
                        .max_num_seqs = 256};
  const auto size = SuggestKvCacheBytes(needs, Idle(64 * kGiB, 60 * kGiB));
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(size->bytes, 4 * kGiB);
  EXPECT_THAT(size->explanation, HasSubstr("--kv-cache-memory"));
  needs.max_model_len = 8192;  // one sequence alone needs more
  const auto one_sequence = SuggestKvCacheBytes(needs, Idle(64 * kGiB, 60 * kGiB));
  ASSERT_TRUE(one_sequence.ok());
  EXPECT_EQ(one_sequence->bytes, 8 * kGiB);
}

TEST(KvCacheBytesTest, LeavesRoomWhenOthersUseTheMachine) {
  const auto size = SuggestKvCacheBytes({.model_bytes = 1 * kGiB,
                                         .bytes_per_token = 1 * kMiB,
                                         .max_model_len = 1024,
                                         .max_num_seqs = 256},
                                        Idle(64 * kGiB, 5 * kGiB));
  ASSERT_TRUE(size.ok());
  EXPECT_EQ(size->bytes, static_cast<int64_t>(0.7 * (4 * kGiB)));
  EXPECT_THAT(size->explanation, HasSubstr("70% of what is free"));
}

TEST(KvCacheBytesTest, SaysWhatToChangeWhenNotOneSequenceFits) {
  for (int64_t model_bytes : {1 * kGiB, 100 * kGiB}) {
    const auto size = SuggestKvCacheBytes({.model_bytes = model_bytes,
                                           .bytes_per_token = 1 * kMiB,
                                           .max_model_len = 32768,
                                           .max_num_seqs = 256},
                                          Idle(16 * kGiB, 15 * kGiB));
    ASSERT_EQ(size.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(size.status().message()), HasSubstr("--max-model-len"));
    EXPECT_THAT(std::string(size.status().message()), HasSubstr("32768"));
  }
}

TEST(KvCacheBytesTest, HugeNeedsDoNotOverflow) {
  const auto size = SuggestKvCacheBytes({.model_bytes = 1 * kGiB,
                                         .bytes_per_token = int64_t{1} << 40,
                                         .max_model_len = 1 << 30,
                                         .max_num_seqs = 1 << 30},
                                        Idle(16 * kGiB, 15 * kGiB));
  EXPECT_EQ(size.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(KvCacheBytesTest, NamesTheContainersLimit) {
  HostMemory memory = Idle(64 * kGiB, 60 * kGiB);
  memory.limit_bytes = 4 * kGiB;
  const auto size = SuggestKvCacheBytes({.model_bytes = 1 * kGiB,
                                         .bytes_per_token = 1 * kMiB,
                                         .max_model_len = 512,
                                         .max_num_seqs = 256},
                                        memory);
  ASSERT_TRUE(size.ok());
  EXPECT_LE(size->bytes, 2 * kGiB);
  EXPECT_THAT(size->explanation, HasSubstr("container"));
}

}  // namespace
}  // namespace paceline::worker
