// Exchanges over memory that ranks write to, for CUDA: a thread and a stream for each rank, on one
// device.
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/device/runtime.h"
#include "kernels/emulation/grid.h"
#include "kernels/exchange/peers_device.h"
#include "kernels/norm/rms_norm_device.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr int64_t kPieceBytes = 64 << 10;
constexpr float kEps = 1e-5F;

struct Rank {
  explicit Rank(int num_ranks)
      : inbox(2 * num_ranks * kPieceBytes),
        arrived(std::vector<uint64_t>(num_ranks * kMaxPeerBlocks, 0)),
        count(std::vector<uint64_t>{0}),
        blocks_done(std::vector<uint32_t>{0}),
        stop(std::vector<uint32_t>{0}),
        stream(device::CreateStream().value()) {}
  ~Rank() { device::DestroyStream(stream); }

  DeviceArray<char> inbox;
  DeviceArray<uint64_t> arrived, count;
  DeviceArray<uint32_t> blocks_done, stop;
  const device::Stream stream;
};

class Group {
 public:
  explicit Group(int num_ranks) {
    for (int i = 0; i < num_ranks; ++i) ranks_.push_back(std::make_unique<Rank>(num_ranks));
  }
  int size() const { return static_cast<int>(ranks_.size()); }
  Rank& rank(int i) { return *ranks_[i]; }
  device::Stream stream(int i) const { return ranks_[i]->stream; }
  DevicePeers Peers(int rank) {
    DevicePeers peers{.count = ranks_[rank]->count.data(),
                      .blocks_done = ranks_[rank]->blocks_done.data(),
                      .stop = ranks_[rank]->stop.data(),
                      .piece_bytes = kPieceBytes,
                      .num_ranks = size(),
                      .rank = rank};
    for (int i = 0; i < size(); ++i) {
      peers.inbox[i] = ranks_[i]->inbox.data();
      peers.arrived[i] = ranks_[i]->arrived.data();
    }
    return peers;
  }
  // Each rank on a thread of its own, until its stream is done.
  void Run(const std::function<absl::Status(int)>& rank) {
    std::vector<std::thread> threads;
    for (int i = 0; i < size(); ++i) {
      threads.emplace_back([this, i, &rank] {
        const absl::Status status = rank(i);
        EXPECT_TRUE(status.ok()) << status;
        EXPECT_EQ(device::Synchronize(stream(i)), absl::OkStatus());
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

 private:
  std::vector<std::unique_ptr<Rank>> ranks_;
};

std::vector<char> RandomBytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<char> bytes(count);
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

// Of every rank `widths[rank]` bytes of each row, `pad` bytes apart.
void ExpectGathered(Group& group, int64_t rows, const std::vector<int64_t>& widths, int64_t pad) {
  const int64_t total = std::accumulate(widths.begin(), widths.end(), int64_t{0});
  static uint32_t seed = 0;
  const std::vector<char> expected = RandomBytes(rows * total, ++seed);
  std::vector<std::unique_ptr<DeviceArray<char>>> own;
  std::vector<std::unique_ptr<DeviceArray<char>>> all;
  int64_t begin = 0;
  for (const int64_t width : widths) {
    std::vector<char> part(rows * (width + pad), '\x7f');
    for (int64_t row = 0; row < rows; ++row) {
      std::copy_n(
          expected.begin() + row * total + begin, width, part.begin() + row * (width + pad));
    }
    own.push_back(std::make_unique<DeviceArray<char>>(part));
    all.push_back(std::make_unique<DeviceArray<char>>(rows * total));
    begin += width;
  }
  group.Run([&](int rank) {
    DevicePeerGatherArgs args{.peers = group.Peers(rank),
                              .own = own[rank]->data(),
                              .own_pitch = widths[rank] + pad,
                              .all = all[rank]->data(),
                              .rows = rows};
    std::partial_sum(widths.begin(), widths.end(), args.end_bytes);
    return DevicePeerGather(group.stream(rank), args);
  });
  for (int rank = 0; rank < group.size(); ++rank) {
    EXPECT_TRUE(all[rank]->ToVector() == expected) << rows << " rows of " << total << ", " << rank;
  }
}

TEST(PeersTest, ColumnsAreSideBySide) {
  Group two(2);
  Group three(3);
  Group eight(8);
  for (const int64_t rows : {1, 3, 70}) {
    emulation::SetSeed(rows);
    ExpectGathered(two, rows, {32, 32}, 0);
    ExpectGathered(two, rows, {32, 48}, 16);
    ExpectGathered(three, rows, {80, 64, 48}, 0);
    ExpectGathered(three, rows, {6, 2, 34}, 0);  // no whole units of 16 bytes
    ExpectGathered(three, rows, {16, 0, 640}, 2);
    if (rows < 70) ExpectGathered(eight, rows, std::vector<int64_t>(8, 64), 0);
  }
}

TEST(PeersTest, LongRowsAreManyBlocks) {
  Group group(2);
  ExpectGathered(group, 1, {kPieceBytes, kPieceBytes - 4096}, 0);
  ExpectGathered(group, 1, {30'002, 40'006}, 0);
  ExpectGathered(group, 3, {16'000, 20'016}, 0);
}

// A rank that is not where another is would put its bytes on what that one still reads.
TEST(PeersTest, ExchangesOfAllSizesFollowEachOther) {
  Group group(3);
  constexpr int kExchanges = 40;
  constexpr int64_t kMostRows = 5;
  std::vector<std::unique_ptr<DeviceArray<int32_t>>> all;
  for (int i = 0; i < 3 * kExchanges; ++i) {
    all.push_back(std::make_unique<DeviceArray<int32_t>>(3 * kMostRows));
  }
  group.Run([&](int rank) -> absl::Status {
    for (int i = 0; i < kExchanges; ++i) {
      const int64_t rows = 1 + i % kMostRows;
      DeviceArray<int32_t>& to = *all[rank * kExchanges + i];
      for (int64_t row = 0; row < rows; ++row) {
        to[row * 3 + rank] = static_cast<int32_t>(i * 100 + row * 10 + rank);
      }
      DevicePeerGatherArgs args{.peers = group.Peers(rank),
                                .own = to.data() + rank,
                                .own_pitch = 12,
                                .all = to.data(),
                                .rows = rows,
                                .end_bytes = {4, 8, 12}};
      if (absl::Status status = DevicePeerGather(group.stream(rank), args); !status.ok()) {
        return status;
      }
    }
    return absl::OkStatus();
  });
  for (int rank = 0; rank < 3; ++rank) {
    for (int i = 0; i < kExchanges; ++i) {
      for (int at = 0; at < 3 * (1 + i % kMostRows); ++at) {
        ASSERT_EQ((*all[rank * kExchanges + i])[at], i * 100 + at / 3 * 10 + at % 3) << rank;
      }
    }
  }
  EXPECT_EQ(group.rank(2).count[0], kExchanges);
}

// Rows of a norm's kernel, and with the norm.
void ExpectSummed(Group& group, int64_t rows, int64_t cols, bool with_norm, DType dtype) {
  std::vector<std::vector<float>> parts;
  std::vector<std::unique_ptr<DeviceArray<float>>> x;
  std::vector<std::unique_ptr<DeviceArray<uint16_t>>> out;
  for (int rank = 0; rank < group.size(); ++rank) {
    parts.push_back(RandomFloats(static_cast<int>(rows * cols), 10 + rank, 3.0F));
    x.push_back(std::make_unique<DeviceArray<float>>(parts.back()));
    out.push_back(std::make_unique<DeviceArray<uint16_t>>(rows * cols));
  }
  DeviceArray<float> weight(RandomFloats(static_cast<int>(cols), 5));
  group.Run([&](int rank) {
    DevicePeerSumArgs args{
        .peers = group.Peers(rank), .x = x[rank]->data(), .rows = rows, .cols = cols};
    if (with_norm) {
      args.norm = {.weight = weight.data(), .out = out[rank]->data(), .eps = kEps, .dtype = dtype};
    }
    return DevicePeerSum(group.stream(rank), args);
  });
  std::vector<float> sum = parts[0];
  for (int rank = 1; rank < group.size(); ++rank) {
    for (int64_t i = 0; i < rows * cols; ++i) sum[i] += parts[rank][i];
  }
  DeviceArray<float> alone(sum);
  DeviceArray<uint16_t> normed(rows * cols);
  ASSERT_TRUE(DeviceRmsNorm(nullptr,
                            {.x = alone.data(),
                             .residual = nullptr,
                             .weight = weight.data(),
                             .out = normed.data(),
                             .rows = rows,
                             .cols = cols,
                             .eps = kEps,
                             .dtype = dtype})
                  .ok());
  ASSERT_EQ(device::Synchronize(nullptr), absl::OkStatus());
  for (int rank = 0; rank < group.size(); ++rank) {
    EXPECT_EQ(x[rank]->ToVector(), sum) << rank;
    if (with_norm) {
      EXPECT_EQ(out[rank]->ToVector(), normed.ToVector()) << rank;
    } else {
      EXPECT_EQ((*out[rank])[0], 0xffff) << rank;
    }
  }
}

TEST(PeersTest, SumsAreInOrderOfRankAndTheirNormIsThatOfOneDevice) {
  for (const int num_ranks : {1, 2, 3, 8}) {
    Group group(num_ranks);
    for (const DType dtype : {DType::kBF16, DType::kF16}) {
      emulation::SetSeed(num_ranks);
      ExpectSummed(group, 3, 300, /*with_norm=*/true, dtype);
      ExpectSummed(group, 1, 5000, /*with_norm=*/true, dtype);
    }
    ExpectSummed(group, 2, 301, /*with_norm=*/false, DType::kBF16);
    ExpectSummed(group, 1, 7001, /*with_norm=*/false, DType::kBF16);
  }
}

TEST(PeersTest, GatheredRowsHaveTheNormOfOneDevice) {
  constexpr int64_t kRows = 3, kCols = 96;
  Group group(2);
  const std::vector<float> rows = RandomFloats(kRows * kCols, 1, 2.0F);
  DeviceArray<float> alone(rows), weight(RandomFloats(kCols, 2));
  DeviceArray<uint16_t> normed(kRows * kCols);
  ASSERT_TRUE(DeviceRmsNorm(nullptr,
                            {.x = alone.data(),
                             .residual = nullptr,
                             .weight = weight.data(),
                             .out = normed.data(),
                             .rows = kRows,
                             .cols = kCols,
                             .eps = kEps,
                             .dtype = DType::kF16})
                  .ok());
  ASSERT_EQ(device::Synchronize(nullptr), absl::OkStatus());
  // In place, columns of the other rank unknown.
  constexpr int64_t kEnds[] = {32, kCols};
  DeviceArray<float> first(rows), second(rows);
  DeviceArray<float>* const all[] = {&first, &second};
  DeviceArray<uint16_t> first_out(kRows * kCols), second_out(kRows * kCols);
  DeviceArray<uint16_t>* const out[] = {&first_out, &second_out};
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    (*all[i % kCols < kEnds[0] ? 1 : 0])[i] = std::nanf("");
  }
  group.Run([&](int rank) {
    return DevicePeerGather(group.stream(rank),
                            {.peers = group.Peers(rank),
                             .own = all[rank]->data() + (rank == 0 ? 0 : kEnds[0]),
                             .own_pitch = kCols * 4,
                             .all = all[rank]->data(),
                             .rows = kRows,
                             .end_bytes = {kEnds[0] * 4, kEnds[1] * 4},
                             .norm = {.weight = weight.data(),
                                      .out = out[rank]->data(),
                                      .eps = kEps,
                                      .dtype = DType::kF16}});
  });
  for (int rank = 0; rank < 2; ++rank) {
    EXPECT_EQ(all[rank]->ToVector(), rows);
    EXPECT_EQ(out[rank]->ToVector(), normed.ToVector());
  }
}

TEST(PeersTest, WholeNumbersWrap) {
  Group group(2);
  DeviceArray<int32_t> first(std::vector<int32_t>{0x7fffffff, 5, 0});
  DeviceArray<int32_t> second(std::vector<int32_t>{1, -7, 0});
  DeviceArray<int32_t>* const x[] = {&first, &second};
  group.Run([&](int rank) {
    return DevicePeerSum(group.stream(rank), group.Peers(rank), x[rank]->data(), 3);
  });
  EXPECT_THAT(first.ToVector(), testing::ElementsAre(INT32_MIN, -2, 0));
  EXPECT_THAT(second.ToVector(), testing::ElementsAre(INT32_MIN, -2, 0));
}

TEST(PeersTest, AGraphOfOneExchangeMayBeStartedAgainAndAgain) {
  Group group(2);
  DeviceArray<int32_t> first(std::vector<int32_t>{1}), second(std::vector<int32_t>{1});
  DeviceArray<int32_t>* const x[] = {&first, &second};
  group.Run([&](int rank) -> absl::Status {
    // The emulation has one stream for all that is done at once.
    const device::Stream stream = group.stream(rank);
    absl::Status status = device::BeginCapture(stream);
    if (!status.ok()) return status;
    status = DevicePeerSum(stream, group.Peers(rank), x[rank]->data(), 1);
    const absl::StatusOr<device::Graph> graph = device::EndCapture(stream);
    for (int i = 0; i < 5 && status.ok(); ++i) status = device::LaunchGraph(stream, *graph);
    if (status.ok()) status = device::Synchronize(stream);
    device::DestroyGraph(*graph);
    return status;
  });
  EXPECT_EQ(first[0], 32);
  EXPECT_EQ(second[0], 32);
}

TEST(PeersTest, StoppingEndsTheWaitForAPeerThatNeverComes) {
  Group group(2);
  DeviceArray<int32_t> x(std::vector<int32_t>{1, 2, 3});
  std::thread waits([&] {
    for (int i = 0; i < 3; ++i) {
      EXPECT_TRUE(DevicePeerSum(group.stream(0), group.Peers(0), x.data(), 3).ok());
    }
    EXPECT_EQ(device::Synchronize(group.stream(0)), absl::OkStatus());
  });
  // It has signalled, so it waits by now, or is about to.
  std::atomic_ref<uint64_t> signal(group.rank(1).arrived[0]);
  while (signal.load() == 0) std::this_thread::yield();
  std::atomic_ref(group.rank(0).stop[0]).store(1);
  waits.join();
  EXPECT_EQ(group.rank(0).count[0], 3);
}

TEST(PeersTest, WrongSizesAreInvalid) {
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  float x = 0;
  const auto sum = [&](const DevicePeers& peers, int64_t rows, int64_t cols) {
    return DevicePeerSum(nullptr, {.peers = peers, .x = &x, .rows = rows, .cols = cols}).code();
  };
  EXPECT_EQ(sum({.piece_bytes = 64, .num_ranks = 9}, 1, 1), kInvalid);
  EXPECT_EQ(sum({.piece_bytes = 64, .num_ranks = 2, .rank = 2}, 1, 1), kInvalid);
  EXPECT_EQ(sum({.piece_bytes = 60, .num_ranks = 1}, 1, 1), kInvalid);
  EXPECT_EQ(sum({.piece_bytes = 64, .num_ranks = 1}, 1, 17), kInvalid);
  EXPECT_EQ(sum({.piece_bytes = 64, .num_ranks = 1}, 0, 1), kInvalid);
  DevicePeerGatherArgs gather{.peers = {.piece_bytes = 64, .num_ranks = 2},
                              .own = &x,
                              .own_pitch = 4,
                              .all = &x,
                              .rows = 1,
                              .end_bytes = {68, 72}};
  EXPECT_EQ(DevicePeerGather(nullptr, gather).code(), kInvalid) << "more than a piece";
  gather.end_bytes[0] = 3;
  EXPECT_EQ(DevicePeerGather(nullptr, gather).code(), kInvalid) << "odd";
  gather.end_bytes[0] = 80;
  gather.peers.piece_bytes = 128;
  EXPECT_EQ(DevicePeerGather(nullptr, gather).code(), kInvalid) << "not ascending";
}

}  // namespace
}  // namespace paceline::kernels
