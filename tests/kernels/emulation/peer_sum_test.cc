// The sum over peers for CUDA, in emulation, where the ranks' kernels run one after the other.
#include <cmath>
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/emulation/grid.h"
#include "kernels/half.h"
#include "kernels/norm/peer_sum_device.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr int32_t kRows = 3, kCols = 300;
constexpr float kEps = 1e-5f;

struct Rank {
  Rank(int rank, int num_ranks, const std::vector<float>& x, const std::vector<float>& weight)
      : signals(std::vector<uint32_t>(num_ranks, 0)),
        epoch(std::vector<uint32_t>{0}),
        partials(RandomFloats(kRows * kCols, 100 + rank)),
        x(x),
        weight(weight),
        out(kRows * kCols) {}
  DeviceArray<uint32_t> signals, epoch;
  DeviceArray<float> partials, x, weight;
  DeviceArray<uint16_t> out;
};

class Group {
 public:
  explicit Group(int num_ranks)
      : before(RandomFloats(kRows * kCols, 1, 3.0f)), weight(RandomFloats(kCols, 2)) {
    for (int i = 0; i < num_ranks; ++i) {
      ranks.push_back(std::make_unique<Rank>(i, num_ranks, before, weight));
    }
  }
  DevicePeers Peers(int rank) {
    DevicePeers peers{.epoch = ranks[rank]->epoch.data(),
                      .num_ranks = static_cast<int32_t>(ranks.size()),
                      .rank = rank};
    for (size_t i = 0; i < ranks.size(); ++i) peers.signals[i] = ranks[i]->signals.data();
    return peers;
  }
  absl::Status Sum(int rank, bool with_norm = true) {
    Rank& own = *ranks[rank];
    DevicePeerSumArgs args{.peers = Peers(rank),
                           .x = own.x.data(),
                           .weight = with_norm ? own.weight.data() : nullptr,
                           .out = own.out.data(),
                           .rows = kRows,
                           .cols = kCols,
                           .eps = kEps,
                           .dtype = DType::kF16};
    for (size_t i = 0; i < ranks.size(); ++i) args.partials[i] = ranks[i]->partials.data();
    return DevicePeerSum(nullptr, args);
  }

  std::vector<float> before, weight;
  std::vector<std::unique_ptr<Rank>> ranks;
};

TEST(DevicePeerSumTest, EveryRankGetsTheSumAndItsNorm) {
  for (const int num_ranks : {1, 2, 3, 8}) {
    Group group(num_ranks);
    std::vector<double> expected(group.before.begin(), group.before.end());
    for (int step = 0; step < 2; ++step) {
      emulation::SetSeed(num_ranks + step);
      for (int rank = 0; rank < num_ranks; ++rank) {
        ASSERT_TRUE(DeviceSignalPeers(nullptr, group.Peers(rank)).ok());
      }
      for (int rank = 0; rank < num_ranks; ++rank) {
        for (int i = 0; i < kRows * kCols; ++i) expected[i] += group.ranks[rank]->partials[i];
        const absl::Status status = group.Sum(rank);
        ASSERT_TRUE(status.ok()) << status;
      }
      for (int row = 0; row < kRows; ++row) {
        double squares = 0;
        for (int i = 0; i < kCols; ++i) squares += std::pow(expected[row * kCols + i], 2);
        const double scale = 1 / std::sqrt(squares / kCols + kEps);
        for (int i = 0; i < kCols; ++i) {
          const int at = row * kCols + i;
          ASSERT_NEAR(group.ranks[0]->x[at], expected[at], 1e-5);
          const double normed = expected[at] * scale * group.weight[i];
          ASSERT_NEAR(
              HalfToFloat(group.ranks[0]->out[at]), normed, std::fabs(normed) / 1024 + 1e-6);
        }
      }
      for (const auto& rank : group.ranks) {
        EXPECT_EQ(rank->x.ToVector(), group.ranks[0]->x.ToVector());
        EXPECT_EQ(rank->out.ToVector(), group.ranks[0]->out.ToVector());
      }
    }
  }
}

TEST(DevicePeerSumTest, WithoutWeightsThereIsNoNorm) {
  Group group(1);
  ASSERT_TRUE(DeviceSignalPeers(nullptr, group.Peers(0)).ok());
  ASSERT_TRUE(group.Sum(0, /*with_norm=*/false).ok());
  EXPECT_NEAR(group.ranks[0]->x[7], group.before[7] + group.ranks[0]->partials[7], 1e-6);
  EXPECT_EQ(group.ranks[0]->out[7], 0xffff);
}

TEST(DevicePeerSumTest, WaitsForEveryPeerEveryTime) {
  Group group(2);
  for (int step = 0; step < 2; ++step) {
    ASSERT_TRUE(DeviceSignalPeers(nullptr, group.Peers(0)).ok());
    EXPECT_THAT(std::string(group.Sum(0).message()), testing::HasSubstr("waits for ever"));
    ASSERT_TRUE(DeviceSignalPeers(nullptr, group.Peers(1)).ok());
    EXPECT_TRUE(group.Sum(0).ok());
  }
}

TEST(DevicePeerSumTest, WrongSizesAreInvalid) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(DeviceSignalPeers(nullptr, {.num_ranks = 9}).code(), kInvalid);
  EXPECT_EQ(DeviceSignalPeers(nullptr, {.num_ranks = 2, .rank = 2}).code(), kInvalid);
  EXPECT_EQ(DevicePeerSum(nullptr, {.peers = {.num_ranks = 1}, .rows = 1}).code(), kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
