// Ranks that are processes, each with an emulated device, over memory that they share.
#include "worker/models/device/peer_memory.h"

#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/emulation/runtime.h"
#include "proto/support/status_macros.h"
#include "tests/worker/comm/ranks.h"
#include "worker/comm/shm_communicator.h"
#include "worker/models/device/device_ranks.h"
#include "worker/models/device/exchange.h"

namespace paceline::worker {
namespace {

namespace device = kernels::device;
using ::testing::HasSubstr;

constexpr int kRanks = 3;

// One rank of a stage, with a device of its own.
struct Rank {
  static absl::StatusOr<Rank> Join(const std::shared_ptr<ShmGroup>& group, int number) {
    kernels::emulation::SetNumDevices(kRanks);
    Rank rank;
    ASSIGN_OR_RETURN(rank.control, JoinShmGroup(group, number, {}));
    ASSIGN_OR_RETURN(rank.stream, DeviceStream::Create());
    ASSIGN_OR_RETURN(rank.ranks,
                     DeviceRanks::Form(rank.stream->get(),
                                       {.index = number, .nccl_library = FAKE_NCCL},
                                       {.tensor_rank = number, .tensor_size = kRanks},
                                       *rank.control));
    if (rank.ranks->peers() == nullptr) return absl::InternalError("no memory is shared");
    return rank;
  }
  absl::StatusOr<std::unique_ptr<Exchange>> MakeExchange(bool with_peers) {
    return Exchange::Create(stream->get(),
                            {.piece_bytes = 1 << 20,
                             .nccl = ranks->tensor(),
                             .peers = with_peers ? ranks->peers() : nullptr},
                            *workspace);
  }

  std::unique_ptr<Communicator> control;
  std::unique_ptr<int64_t> workspace = std::make_unique<int64_t>(0);
  std::unique_ptr<DeviceStream> stream;
  std::unique_ptr<DeviceRanks> ranks;
};

absl::StatusOr<DeviceBuffer> RandomFloats(int64_t count, uint32_t seed, int64_t& workspace) {
  ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Allocate(count * 4, workspace));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < count; ++i) buffer.as<float>()[i] = normal(random);
  return buffer;
}

bool SameBytes(const DeviceBuffer& a, const DeviceBuffer& b) {
  return std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

// Everything that a layer exchanges, both ways.
absl::Status CompareOnce(Rank& rank, int64_t rows, uint32_t seed) {
  ASSIGN_OR_RETURN(const auto over_nccl, rank.MakeExchange(false));
  ASSIGN_OR_RETURN(const auto over_peers, rank.MakeExchange(true));
  const int number = rank.control->rank();
  const Shares shares = Shares::Even(112, 16, kRanks, number);
  int64_t& bytes = *rank.workspace;
  ASSIGN_OR_RETURN(const DeviceBuffer weight, RandomFloats(shares.total(), 1, bytes));
  for (const bool adds_up : {false, true}) {
    DeviceBuffer data[2];
    DeviceBuffer out[2];
    for (int way = 0; way < 2; ++way) {
      Exchange& exchange = way == 0 ? *over_nccl : *over_peers;
      ASSIGN_OR_RETURN(data[way], RandomFloats(rows * shares.total(), seed + number, bytes));
      ASSIGN_OR_RETURN(out[way], DeviceBuffer::Allocate(rows * shares.total() * 2, bytes));
      const kernels::DevicePeerNorm norm{.weight = weight.as<const float>(),
                                         .out = out[way].data(),
                                         .eps = 1e-5F,
                                         .dtype = kernels::DType::kBF16};
      auto* const x = data[way].as<float>();
      if (adds_up) {
        RETURN_IF_ERROR(exchange.Sum(*rank.control, x, rows, shares.total(), norm));
      } else {
        RETURN_IF_ERROR(exchange.GatherColumnsInPlace(*rank.control, shares, rows, x, norm));
      }
      RETURN_IF_ERROR(exchange.Sum(*rank.control, data[way].as<int32_t>(), rows * shares.total()));
    }
    if (!SameBytes(data[0], data[1])) return absl::InternalError("other data");
    if (!SameBytes(out[0], out[1])) return absl::InternalError("another norm");
  }
  ASSIGN_OR_RETURN(const DeviceBuffer own, RandomFloats(rows * shares.size(), number, bytes));
  ASSIGN_OR_RETURN(const DeviceBuffer first,
                   DeviceBuffer::Allocate(rows * shares.total() * 4, bytes));
  ASSIGN_OR_RETURN(const DeviceBuffer second,
                   DeviceBuffer::Allocate(rows * shares.total() * 4, bytes));
  RETURN_IF_ERROR(
      over_nccl->GatherColumns(*rank.control, shares, rows, 4, own.data(), first.data()));
  RETURN_IF_ERROR(
      over_peers->GatherColumns(*rank.control, shares, rows, 4, own.data(), second.data()));
  return SameBytes(first, second) ? absl::OkStatus() : absl::InternalError("other columns");
}

TEST(PeerMemoryTest, ExchangesGiveTheBitsOfNccl) {
  const auto group = *ShmGroup::Create({.size = kRanks});
  RankProcesses ranks(kRanks, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(Rank rank, Rank::Join(group, number));
    for (const int64_t rows : {1, 2, 9}) {
      RETURN_IF_ERROR(CompareOnce(rank, rows, static_cast<uint32_t>(rows)));
    }
    return rank.control->Barrier();
  });
  for (int rank = 0; rank < kRanks; ++rank) EXPECT_EQ(ranks.Result(rank), absl::OkStatus());
}

// What rank 1 has no part in, on streams that work while the host waits.
absl::Status ExchangeWithoutRank1(Rank& rank) {
  ASSIGN_OR_RETURN(const auto exchange, rank.MakeExchange(true));
  ASSIGN_OR_RETURN(const DeviceBuffer x, RandomFloats(64, 1, *rank.workspace));
  for (int i = 0; i < 3; ++i) {
    RETURN_IF_ERROR(exchange->Sum(*rank.control, x.as<float>(), 1, 64, {}));
  }
  const absl::Status status = rank.ranks->Await(rank.stream->get());
  rank.ranks = nullptr;  // waits for the stream
  return status;
}

TEST(PeerMemoryTest, AKilledPeerEndsTheWaitOfAKernel) {
  kernels::emulation::SetStreamsAsync(true);
  const auto group = *ShmGroup::Create({.size = kRanks});
  RankProcesses ranks(kRanks, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(Rank rank, Rank::Join(group, number));
    RankProcesses::Ready();
    if (number == 1) pause();
    return ExchangeWithoutRank1(rank);
  });
  kernels::emulation::SetStreamsAsync(false);
  for (int rank = 0; rank < kRanks; ++rank) ranks.AwaitReady(rank);
  ranks.Signal(1, SIGKILL);
  for (const int rank : {0, 2}) {
    const absl::Status result = ranks.Result(rank);
    EXPECT_TRUE(absl::IsUnavailable(result) || absl::IsAborted(result)) << result;
    EXPECT_THAT(result.message(), HasSubstr("rank 1"));
  }
}

// It lives, but does not come: another rank gives up, for whatever reason.
TEST(PeerMemoryTest, ARankThatGivesUpEndsTheWaitOfKernelsElsewhere) {
  kernels::emulation::SetStreamsAsync(true);
  const auto group = *ShmGroup::Create({.size = kRanks});
  RankProcesses ranks(kRanks, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(Rank rank, Rank::Join(group, number));
    if (number == 1) {
      rank.control->Abort("told to");
      pause();
    }
    return ExchangeWithoutRank1(rank);
  });
  kernels::emulation::SetStreamsAsync(false);
  for (const int rank : {0, 2}) {
    const absl::Status result = ranks.Result(rank);
    EXPECT_TRUE(absl::IsAborted(result)) << result;
    EXPECT_THAT(result.message(), HasSubstr("told to"));
  }
}

TEST(PeerMemoryTest, AllMemoryIsGivenBack) {
  const int64_t before = kernels::emulation::AllocatedBytes();
  const auto group = *ShmGroup::Create({.size = kRanks});
  const auto results = RunThreads(kRanks, [&](int number) -> absl::Status {
    ASSIGN_OR_RETURN(Rank rank, Rank::Join(group, number));
    return rank.control->Barrier();
  });
  for (const absl::Status& result : results) EXPECT_EQ(result, absl::OkStatus());
  EXPECT_EQ(kernels::emulation::AllocatedBytes(), before);
}

TEST(PeerMemoryTest, MemoryOfARankThatIsGoneCannotBeReached) {
  auto own = PeerMemory::Create(nullptr, 0, 2, 1024);
  ASSERT_TRUE(own.ok());
  device::SharedHandle gone = {};
  {
    auto other = PeerMemory::Create(nullptr, 1, 2, 1024);
    ASSERT_TRUE(other.ok());
    gone = (*other)->handle();
  }
  const absl::Status status = (*own)->Connect({(*own)->handle(), gone});
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr("no memory of rank 1"));
}

}  // namespace
}  // namespace paceline::worker
