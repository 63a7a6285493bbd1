#include "worker/comm/shm_group.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/comm/ranks.h"
#include "worker/comm/shm_communicator.h"

namespace paceline::worker {
namespace {

std::shared_ptr<ShmGroup> MakeGroup(int size) {
  auto group = ShmGroup::Create({.size = size, .outbox_bytes = 1024, .channel_bytes = 1024});
  EXPECT_TRUE(group.ok()) << group.status();
  return group.ok() ? *group : nullptr;
}

TEST(ShmGroupTest, RefusesOptionsOutOfRange) {
  const auto code = [](ShmGroup::Options options) {
    return ShmGroup::Create(options).status().code();
  };
  EXPECT_EQ(code({.size = 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.size = kMaxCommRanks + 1}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.size = 2, .outbox_bytes = 100}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.size = 2, .channel_bytes = 3000}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({.size = kMaxCommRanks}), absl::StatusCode::kOk);
}

TEST(ShmGroupTest, OpensOnlyWhatIsAGroup) {
  EXPECT_EQ(ShmGroup::Open(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ShmGroup::Open(open("/dev/null", O_RDWR)).status().code(),
            absl::StatusCode::kInvalidArgument);
  const int zeroes = memfd_create("zeroes", 0);
  ASSERT_EQ(ftruncate(zeroes, 1 << 20), 0);
  EXPECT_EQ(ShmGroup::Open(zeroes).status().code(), absl::StatusCode::kInvalidArgument);
  const auto group = MakeGroup(2);
  std::vector<char> bytes(4096);
  ASSERT_EQ(pread(group->fd(), bytes.data(), bytes.size(), 0), 4096);
  const int cut = memfd_create("cut", 0);
  ASSERT_EQ(pwrite(cut, bytes.data(), bytes.size(), 0), 4096);
  EXPECT_EQ(ShmGroup::Open(cut).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ShmGroupTest, RanksThatOpenTheDescriptorAreOfTheGroup) {
  const auto group = MakeGroup(3);
  const auto results = RunThreads(3, [&](int rank) -> absl::Status {
    auto mine = ShmGroup::Open(dup(group->fd()));
    if (!mine.ok()) return mine.status();
    auto comm = JoinShmGroup(*mine, rank, {});
    if (!comm.ok()) return comm.status();
    std::vector<int32_t> data = {rank + 1};
    const absl::Status status = (*comm)->AllReduceSum(absl::MakeSpan(data));
    return status.ok() && data[0] != 6 ? absl::InternalError("wrong sum") : status;
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TEST(ShmGroupTest, ASeatIsTakenOnce) {
  const auto group = MakeGroup(1);
  const auto first = JoinShmGroup(group, 0, {});
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_EQ(JoinShmGroup(group, 0, {}).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(JoinShmGroup(group, 1, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(JoinShmGroup(group, -1, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ShmGroupTest, CountersMayWrap) {
  const auto group = MakeGroup(2);
  for (int rank = 0; rank < 2; ++rank) {
    group->seat(rank).arrived.value = 0xfffffffc;
    group->channel(rank, 1 - rank).written.value = 0xfffffff1;
    group->channel(rank, 1 - rank).read.value = 0xfffffff1;
  }
  const auto results = RunThreads(2, [&](int rank) -> absl::Status {
    auto comm = JoinShmGroup(group, rank, {});
    if (!comm.ok()) return comm.status();
    (*comm)->set_timeout_ms(10'000);
    for (int32_t i = 0; i < 12; ++i) {
      std::vector<int32_t> data(400, i + rank);
      absl::Status status = (*comm)->AllReduceSum(absl::MakeSpan(data));
      if (status.ok() && data[399] != 2 * i + 1) return absl::InternalError("wrong sum");
      const auto bytes = absl::MakeSpan(reinterpret_cast<std::byte*>(data.data()), 1600);
      if (rank == 0) status.Update((*comm)->Send(bytes, 1));
      if (rank == 1) {
        data.assign(400, 0);
        status.Update((*comm)->Recv(bytes, 0));
        if (status.ok() && data[399] != 2 * i + 1) return absl::InternalError("wrong message");
      }
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  });
  for (const absl::Status& result : results) EXPECT_TRUE(result.ok()) << result;
}

TEST(ShmGroupTest, TheFirstReasonStaysAndIsCutToFit) {
  const auto group = MakeGroup(2);
  EXPECT_FALSE(group->aborted());
  group->Abort(std::string(1000, 'x'));
  group->Abort("second");
  ASSERT_TRUE(group->aborted());
  EXPECT_EQ(group->AbortedStatus().message(), std::string(251, 'x'));
}

}  // namespace
}  // namespace paceline::worker
