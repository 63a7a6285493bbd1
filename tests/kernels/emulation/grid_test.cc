// The emulation itself: that threads meet as they should, and that it catches what a GPU would
// hide.
#include "kernels/emulation/grid.h"

#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "device_backend.cuh"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/emulation/device_array.h"

namespace paceline::kernels {
namespace {

using device::Launch;
using device::ShuffleXor;
using device::SyncThreads;
using device::ThreadPosition;
using testing::HasSubstr;
using testing::MatchesRegex;

constexpr int kSeeds = 20;

int Thread() { return ThreadPosition().x; }
float* Shared() { return reinterpret_cast<float*>(device::SharedMemory()); }

// The sum of 128 numbers over a block, right and wrong.
template <bool kBarrier, int kFirstMask>
void SumKernel(const float* x, float* sum) {
  float value = x[Thread()];
  for (int mask = kFirstMask; mask > 0; mask /= 2) value += ShuffleXor(value, mask);
  if (Thread() % 32 == 0) Shared()[Thread() / 32] = value;
  if (kBarrier) SyncThreads();
  if (Thread() != 0) return;
  *sum = Shared()[0] + Shared()[1] + Shared()[2] + Shared()[3];
}

// The sums that `kernel` gives over the seeds.
template <typename Kernel>
std::vector<float> Sums(Kernel kernel) {
  std::vector<float> numbers(128);
  std::iota(numbers.begin(), numbers.end(), 1.0f);
  DeviceArray<float> x(numbers);
  std::vector<float> sums;
  for (int seed = 0; seed < kSeeds; ++seed) {
    emulation::SetSeed(seed);
    DeviceArray<float> sum(1);
    const absl::Status status = Launch(nullptr, {1}, {128}, 16, kernel, x.data(), sum.data());
    EXPECT_TRUE(status.ok()) << status;
    sums.push_back(sum[0]);
  }
  return sums;
}

constexpr float kSum = 128 * 129 / 2;

TEST(EmulationTest, ARightKernelIsRightWithEverySeed) {
  for (const float sum : Sums(SumKernel<true, 16>)) EXPECT_EQ(sum, kSum);
}

TEST(EmulationTest, AMissingBarrierIsSeen) {
  int wrong = 0;
  for (const float sum : Sums(SumKernel<false, 16>)) wrong += sum == kSum ? 0 : 1;
  EXPECT_GT(wrong, kSeeds / 4);
}

TEST(EmulationTest, AWrongLaneIsSeen) {
  for (const float sum : Sums(SumKernel<true, 8>)) EXPECT_NE(sum, kSum);
}

// out[row] = mean of the row's first lengths[row] values, which lie in pages of 4.
template <int kExtra, bool kStalePage>
void PagedMeanKernel(const float* pages, const int32_t* table, int32_t length, float* mean) {
  float sum = 0;
  int32_t page = table[0];
  for (int32_t i = 0; i < length + kExtra; ++i) {
    if (!kStalePage) page = table[i / 4];
    sum += pages[page * 4 + i % 4];
  }
  if (Thread() == 0) *mean = sum / static_cast<float>(length);
}

template <typename Kernel>
float PagedMean(Kernel kernel) {
  DeviceArray<float> pages({1, 2, 3, 100, 5, 6, 7, 8});
  DeviceArray<int32_t> table({1, 0});
  DeviceArray<float> mean(1);
  const absl::Status status =
      Launch(nullptr, {1}, {32}, 0, kernel, pages.data(), table.data(), 7, mean.data());
  EXPECT_TRUE(status.ok()) << status;
  return mean[0];
}

TEST(EmulationTest, AWrongMaskAndAStalePageAreSeen) {
  const float right = (5 + 6 + 7 + 8 + 1 + 2 + 3) / 7.0f;
  EXPECT_EQ(PagedMean(PagedMeanKernel<0, false>), right);
  EXPECT_NE(PagedMean(PagedMeanKernel<1, false>), right) << "off by one";
  EXPECT_NE(PagedMean(PagedMeanKernel<0, true>), right) << "stale page";
}

template <int kOffset, bool kWait>
void CopyKernel(const float* from, float* to) {
  device::CopyAsync16(Shared() + 4 * Thread() + kOffset, from + 4 * Thread());
  device::CommitCopies();
  if (kWait) device::WaitForCopies<0>();
  SyncThreads();
  to[Thread()] = Shared()[127 - Thread() + kOffset];
}

TEST(EmulationTest, AnUnalignedCopyIsAnErrorThatNamesTheLine) {
  DeviceArray<float> from(std::vector<float>(128, 3.0f)), to(128);
  const absl::Status status =
      Launch(nullptr, {1}, {32}, 1024, CopyKernel<1, true>, from.data(), to.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()),
              MatchesRegex("block \\(0, 0, 0\\), thread [0-9]+: CopyAsync: an address is not "
                           "aligned at .*grid_test.cc:[0-9]+"));
}

TEST(EmulationTest, ACopyIsThereOnlyAfterItsWait) {
  DeviceArray<float> from(std::vector<float>(128, 3.0f)), to(32);
  ASSERT_TRUE(Launch(nullptr, {1}, {32}, 1024, CopyKernel<0, true>, from.data(), to.data()).ok());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(to[i], 3.0f);
  ASSERT_TRUE(Launch(nullptr, {1}, {32}, 1024, CopyKernel<0, false>, from.data(), to.data()).ok());
  for (int i = 0; i < 32; ++i) EXPECT_TRUE(std::isnan(to[i]));
}

void DivergentBarrierKernel() {
  if (Thread() < 32) {
    SyncThreads();
  } else {
    SyncThreads();
  }
}
void DivergentWarpKernel() {
  if (Thread() % 2 == 0) ShuffleXor(1.0f, 1);
  device::SyncWarp();
}
void MissingLaneKernel() {
  if (Thread() == 5) return;
  device::SyncWarp();
}

TEST(EmulationTest, DivergenceIsAnErrorThatNamesBothPlaces) {
  const auto error = [](void (*kernel)()) {
    const absl::Status status = Launch(nullptr, {1}, {64}, 0, kernel);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    return std::string(status.message());
  };
  EXPECT_THAT(error(DivergentBarrierKernel),
              MatchesRegex(".*SyncThreads at .*grid_test.cc:[0-9]+, thread 0 in SyncThreads at "
                           ".*grid_test.cc:[0-9]+"));
  EXPECT_THAT(error(DivergentWarpKernel), HasSubstr("Shuffle at "));
  EXPECT_THAT(error(DivergentWarpKernel), HasSubstr("SyncWarp at "));
  EXPECT_THAT(error(MissingLaneKernel), HasSubstr("thread 5: has returned"));
}

void WriteKernel(float* x, int count) {
  const int i = device::BlockPosition().x * 32 + Thread();
  if (i < count) x[i] = static_cast<float>(i);
}

TEST(EmulationDeathTest, WritingPastTheEndOfAnAllocationDies) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  DeviceArray<float> x(100);
  ASSERT_TRUE(Launch(nullptr, {4}, {32}, 0, WriteKernel, x.data(), 100).ok());
  EXPECT_EQ(x[99], 99.0f);
  EXPECT_DEATH(Launch(nullptr, {4}, {32}, 0, WriteKernel, x.data(), 101).IgnoreError(), "");
}

void PositionsKernel(int32_t* seen) {
  const auto block = device::BlockPosition();
  const auto thread = ThreadPosition();
  const auto size = device::BlockSize();
  const auto grid = device::GridSize();
  const int32_t b = block.x + grid.x * (block.y + grid.y * block.z);
  const int32_t t = thread.x + size.x * (thread.y + size.y * thread.z);
  seen[b * 64 + t] += 1;
}

TEST(EmulationTest, EveryThreadOfEveryBlockRunsOnce) {
  DeviceArray<int32_t> seen(std::vector<int32_t>(2 * 3 * 2 * 64, 0));
  ASSERT_TRUE(Launch(nullptr, {2, 3, 2}, {8, 4, 2}, 0, PositionsKernel, seen.data()).ok());
  for (const int32_t count : seen.ToVector()) EXPECT_EQ(count, 1);
}

TEST(EmulationTest, SharedMemoryStartsAsNan) {
  DeviceArray<float> first(1);
  const auto read = [](float* out) {
    if (Thread() == 0) *out = Shared()[3];
  };
  ASSERT_TRUE(Launch(nullptr, {1}, {32}, 64, +read, first.data()).ok());
  EXPECT_TRUE(std::isnan(first[0]));
}

// A and B as whole matrices in memory, through ldmatrix and mma, beside the textbook product.
void MatmulKernel(const uint16_t* a, const uint16_t* b, float* c) {
  auto* const shared = reinterpret_cast<uint16_t*>(device::SharedMemory());
  const int lane = Thread();
  for (int i = lane; i < 256; i += 32) shared[i] = a[i];        // [16][16]
  for (int i = lane; i < 256; i += 32) shared[256 + i] = b[i];  // [16 k][16 n]
  device::SyncWarp();
  uint32_t left[4];
  uint32_t right[4];
  const int matrix = lane / 8;
  device::LoadMatrix4(left, shared + (matrix % 2 * 8 + lane % 8) * 16 + matrix / 2 * 8);
  device::LoadMatrix4Transposed(right,
                                shared + 256 + (matrix % 2 * 8 + lane % 8) * 16 + matrix / 2 * 8);
  for (int n = 0; n < 2; ++n) {
    float sums[4] = {};
    device::MmaF16(sums, left, {right[2 * n], right[2 * n + 1]});
    for (int i = 0; i < 4; ++i) {
      c[(lane / 4 + i / 2 * 8) * 16 + n * 8 + lane % 4 * 2 + i % 2] = sums[i];
    }
  }
}

TEST(EmulationTest, MatricesMultiplyAsInThePtxManual) {
  std::vector<uint16_t> a(256), b(256);
  for (int i = 0; i < 256; ++i) {
    a[i] = FloatToHalf(static_cast<float>(i % 13 - 6));
    b[i] = FloatToHalf(static_cast<float>(i % 7 - 3) / 4);
  }
  DeviceArray<uint16_t> left(a), right(b);
  DeviceArray<float> c(256);
  ASSERT_TRUE(
      Launch(nullptr, {1}, {32}, 1024, MatmulKernel, left.data(), right.data(), c.data()).ok());
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      float expected = 0;
      for (int k = 0; k < 16; ++k) {
        expected += HalfToFloat(a[row * 16 + k]) * HalfToFloat(b[k * 16 + column]);
      }
      EXPECT_EQ(c[row * 16 + column], expected) << row << " " << column;
    }
  }
}

}  // namespace
}  // namespace paceline::kernels
