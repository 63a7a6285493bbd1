// Two processes whose devices write to each other's memory. In emulation, or with one GPU for both
// (tests/gpu): then they take turns on it.
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/emulation/runtime.h"
#include "proto/support/status_macros.h"
#include "tests/worker/comm/ranks.h"
#include "worker/comm/shm_communicator.h"
#include "worker/models/device/peer_memory.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;

constexpr int kRanks = 2;
constexpr int kExchanges = 5;
constexpr int32_t kCount = 1000;

struct Rank {
  static absl::StatusOr<Rank> Join(const std::shared_ptr<ShmGroup>& group, int number) {
    kernels::emulation::SetStreamsAsync(true);
    Rank rank;
    RETURN_IF_ERROR(device::UseDevice(0));
    ASSIGN_OR_RETURN(rank.control, JoinShmGroup(group, number, {}));
    ASSIGN_OR_RETURN(rank.stream, DeviceStream::Create());
    ASSIGN_OR_RETURN(rank.peers, PeerMemory::Create(rank.stream->get(), number, kRanks, 16 << 10));
    std::vector<device::SharedHandle> handles(kRanks);
    handles[number] = rank.peers->handle();
    constexpr int64_t kBytes = sizeof(device::SharedHandle);
    RETURN_IF_ERROR(
        rank.control->AllGatherColumns(handles.data(), 1, 2 * kBytes, {kBytes, 2 * kBytes}));
    RETURN_IF_ERROR(rank.peers->Connect(handles));
    ASSIGN_OR_RETURN(rank.x, DeviceBuffer::Allocate(kCount * sizeof(int32_t), *rank.used));
    return rank;
  }
  absl::Status Enqueue() {
    return kernels::DevicePeerSum(stream->get(), peers->peers(), x.as<int32_t>(), kCount);
  }

  std::unique_ptr<Communicator> control;
  std::unique_ptr<int64_t> used = std::make_unique<int64_t>(0);
  std::unique_ptr<DeviceStream> stream;
  DeviceBuffer x;
  std::unique_ptr<PeerMemory> peers;
};

TEST(PeerProcessTest, ProcessesExchangeOverEachOthersMemory) {
  const auto group = *ShmGroup::Create({.size = kRanks});
  RankProcesses ranks(kRanks, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(Rank rank, Rank::Join(group, number));
    std::vector<int32_t> data(kCount);
    for (int32_t i = 0; i < kCount; ++i) data[i] = i * (number + 1);
    RETURN_IF_ERROR(device::Copy(rank.stream->get(), rank.x.data(), data.data(), rank.x.bytes()));
    for (int i = 0; i < kExchanges; ++i) RETURN_IF_ERROR(rank.Enqueue());
    RETURN_IF_ERROR(device::Copy(rank.stream->get(), data.data(), rank.x.data(), rank.x.bytes()));
    RETURN_IF_ERROR(device::Synchronize(rank.stream->get()));
    for (int32_t i = 0; i < kCount; ++i) {
      if (data[i] != 3 * i << (kExchanges - 1)) return absl::InternalError("a wrong sum");
    }
    return rank.control->Barrier();
  });
  for (int rank = 0; rank < kRanks; ++rank) EXPECT_EQ(ranks.Result(rank), absl::OkStatus());
}

TEST(PeerProcessTest, StoppingEndsTheWaitForAProcessThatWasKilled) {
  const auto group = *ShmGroup::Create({.size = kRanks});
  RankProcesses ranks(kRanks, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(Rank rank, Rank::Join(group, number));
    if (number == 0) RETURN_IF_ERROR(rank.Enqueue());
    RETURN_IF_ERROR(rank.control->Barrier());
    RankProcesses::Ready();
    if (number == 1) pause();
    while (rank.control->CheckPeers().ok()) sched_yield();
    rank.peers = nullptr;
    return device::Synchronize(rank.stream->get());
  });
  for (int rank = 0; rank < kRanks; ++rank) ranks.AwaitReady(rank);
  ranks.Signal(1, SIGKILL);
  EXPECT_EQ(ranks.Result(0), absl::OkStatus());
}

}  // namespace
}  // namespace paceline::worker
