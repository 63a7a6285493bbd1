// A warp group's products in the emulation: that they are those of the PTX manual, beside the
// textbook product, and that a kernel that does not do its part is caught.
#include "kernels/device/warp_group.cuh"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernels/emulation/device_array.h"

namespace paceline::kernels {
namespace {

using device::Bf16;
using device::F16;
using device::Launch;
using testing::HasSubstr;
using testing::MatchesRegex;

constexpr int kRows = 64;   // of A
constexpr int kDepth = 32;  // two products

int Thread() { return device::ThreadPosition().x; }

// What a kernel does wrong, or nothing.
enum class Fault {
  kNone,
  kNoSwizzle,
  kWrongLeading,
  kWrongStart,
  kNoSharedFence,
  kOneThreadsSharedFence,
  kSharedFenceBeforeCopies,
  kNoFence,
  kNoCommit,
  kNoWait,
  kOneGroupTooFew,
  kOperandOverwritten,
  kLeftOperandOverwritten,
  kSumsTouched,
  kOneThreadGone,
  kOneWarpElsewhere,
  kOneWarpElsewhereDescribed,
};

// C = A B for A [64][32] and B, [32][kColumns] if kTransposed, else [kColumns][32]. B lies in
// blocks of 64 columns by 64 rows at most.
template <typename T, bool kTransposed, int kColumns, Fault kFault>
void ProductKernel(const uint16_t* a, const uint16_t* b, float* c) {
  constexpr int kBRows = kTransposed ? kDepth : kColumns;
  constexpr int kPieces = (kTransposed ? kColumns : kDepth) / 8;
  constexpr int kBlockBytes = kBRows * device::kBlockRowBytes;
  char* const shared = device::SharedMemory();
  for (int i = Thread(); i < kBRows * kPieces; i += device::kGroupThreads) {
    const int row = i / kPieces;
    const int piece = i % kPieces;
    const int offset = kFault == Fault::kNoSwizzle ? row * 128 + piece % 8 * 16
                                                   : device::SwizzledOffset(row, piece % 8);
    device::CopyAsync16(shared + piece / 8 * kBlockBytes + offset, b + i * 8);
  }
  device::CommitCopies();
  if (kFault == Fault::kSharedFenceBeforeCopies) device::FenceSharedForProducts();
  device::WaitForCopies<0>();
  if (kFault == Fault::kOneThreadsSharedFence
          ? Thread() == 7
          : kFault != Fault::kNoSharedFence && kFault != Fault::kSharedFenceBeforeCopies) {
    device::FenceSharedForProducts();
  }
  device::SyncThreads();

  const int row = Thread() / 32 * 16 + Thread() % 32 / 4;
  const int column = Thread() % 4 * 2;
  uint32_t left[2][4];
  for (int k = 0; k < 2; ++k) {
    for (int i = 0; i < 4; ++i) {
      const uint16_t* const two = a + (row + i % 2 * 8) * kDepth + k * 16 + column + i / 2 * 8;
      left[k][i] = two[0] | static_cast<uint32_t>(two[1]) << 16;
    }
  }
  if (kFault == Fault::kOneThreadGone && Thread() == 70) return;
  float sums[kColumns / 8][4];
  if (kFault != Fault::kNoFence) device::FenceGroupMmas();
  for (int k = 0; k < 2; ++k) {
    const char* const start = shared + (kTransposed ? k * 16 * device::kBlockRowBytes : k * 32);
    const uint64_t descriptor =
        device::MatrixDescriptor(start + (kFault == Fault::kWrongStart ? 16 : 0),
                                 kFault == Fault::kWrongLeading ? kBlockBytes / 2 : kBlockBytes);
    if (kFault == Fault::kOneWarpElsewhereDescribed && Thread() / 32 == 2) {
      device::GroupMma<T, kTransposed>(sums, left[k], descriptor + 1, k > 0);
    } else if (kFault == Fault::kOneWarpElsewhere && Thread() / 32 == 2) {
      device::SyncThreads();
    } else {
      device::GroupMma<T, kTransposed>(sums, left[k], descriptor, k > 0);
    }
    if (kFault == Fault::kOneGroupTooFew) device::CommitGroupMmas();
  }
  if (kFault == Fault::kOperandOverwritten && Thread() == 33) shared[5] ^= 1;
  if (kFault == Fault::kLeftOperandOverwritten && Thread() == 33) left[1][2] = 0;
  if (kFault == Fault::kSumsTouched && Thread() == 33) sums[3][1] = 0;
  if (kFault != Fault::kNoCommit) device::CommitGroupMmas();
  if (kFault == Fault::kOneGroupTooFew) {
    device::WaitForGroupMmas<2>();
  } else if (kFault != Fault::kNoWait) {
    device::WaitForGroupMmas<0>();
  }
  for (int n = 0; n < kColumns / 8; ++n) {
    for (int i = 0; i < 4; ++i) {
      c[(row + i / 2 * 8) * kColumns + n * 8 + column + i % 2] = sums[n][i];
    }
  }
}

// The same numbers for all kernels, small whole ones: every order of the sum is exact.
template <typename T>
std::vector<uint16_t> Numbers(int count, int period) {
  std::vector<uint16_t> numbers(count);
  for (int i = 0; i < count; ++i) {
    numbers[i] = T::FromFloat(static_cast<float>(i * 7 % period - period / 2));
  }
  return numbers;
}

struct Result {
  absl::Status status;
  int wrong = 0;
  int nans = 0;
};

template <typename T, bool kTransposed, int kColumns, Fault kFault = Fault::kNone>
Result Multiply() {
  const std::vector<uint16_t> a = Numbers<T>(kRows * kDepth, 13);
  const std::vector<uint16_t> b = Numbers<T>(kDepth * kColumns, 19);
  DeviceArray<uint16_t> left(a), right(b);
  DeviceArray<float> c(kRows * kColumns);
  Result result;
  result.status = Launch(nullptr,
                         {1},
                         {device::kGroupThreads},
                         16384,
                         ProductKernel<T, kTransposed, kColumns, kFault>,
                         left.data(),
                         right.data(),
                         c.data());
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      float expected = 0;
      for (int k = 0; k < kDepth; ++k) {
        expected += T::ToFloat(a[row * kDepth + k]) *
                    T::ToFloat(b[kTransposed ? k * kColumns + column : column * kDepth + k]);
      }
      const float value = c[row * kColumns + column];
      result.wrong += value == expected ? 0 : 1;
      result.nans += std::isnan(value) ? 1 : 0;
    }
  }
  return result;
}

TEST(WarpGroupTest, ProductsAreThoseOfTheTextbook) {
  for (const auto& run : std::vector<std::function<Result()>>{Multiply<F16, false, 64>,
                                                              Multiply<Bf16, false, 64>,
                                                              Multiply<F16, true, 64>,
                                                              Multiply<Bf16, true, 80>,
                                                              Multiply<F16, true, 96>,
                                                              Multiply<Bf16, true, 128>}) {
    const Result result = run();
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.wrong, 0);
  }
}

TEST(WarpGroupTest, AWrongSwizzleOrDescriptorGivesAnotherAnswer) {
  for (const auto& run :
       std::vector<std::function<Result()>>{Multiply<F16, false, 64, Fault::kNoSwizzle>,
                                            Multiply<F16, true, 64, Fault::kNoSwizzle>,
                                            Multiply<F16, true, 128, Fault::kWrongLeading>,
                                            Multiply<F16, false, 64, Fault::kWrongStart>,
                                            Multiply<F16, true, 64, Fault::kWrongStart>}) {
    const Result result = run();
    EXPECT_GT(result.wrong, 100) << result.status;
  }
}

TEST(WarpGroupTest, WhatIsNotFencedIsNotSeen) {
  for (const auto& run : std::vector<std::function<Result()>>{
           Multiply<F16, false, 64, Fault::kNoSharedFence>,
           Multiply<F16, false, 64, Fault::kOneThreadsSharedFence>,
           Multiply<F16, true, 64, Fault::kSharedFenceBeforeCopies>}) {
    const Result result = run();
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_GT(result.nans, 100);
  }
}

TEST(WarpGroupTest, SumsAreThereOnlyAfterTheirWait) {
  for (const auto& run :
       std::vector<std::function<Result()>>{Multiply<F16, false, 64, Fault::kNoCommit>,
                                            Multiply<F16, false, 64, Fault::kNoWait>,
                                            Multiply<F16, false, 64, Fault::kOneGroupTooFew>}) {
    const Result result = run();
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.nans, kRows * 64);
  }
}

TEST(WarpGroupTest, WhatChangesUnderAProductIsAnErrorThatNamesItsLine) {
#ifdef __SANITIZE_ADDRESS__
  // It cannot unmark the frames that an exception leaves on a fibre's stack, and takes those that
  // are there next for errors (github.com/google/sanitizers/issues/189).
  GTEST_SKIP() << "exceptions on a fibre's stack";
#endif
  const auto error = [](const Result& result) { return std::string(result.status.message()); };
  EXPECT_THAT(error(Multiply<F16, false, 64, Fault::kNoFence>()),
              MatchesRegex(".*GroupMma: no FenceGroupMmas before it at "
                           ".*warp_group_test.cc:[0-9]+"));
  EXPECT_THAT(error(Multiply<F16, false, 64, Fault::kOperandOverwritten>()),
              HasSubstr("GroupMma: its operand in shared memory was changed before the wait at "));
  EXPECT_THAT(error(Multiply<F16, false, 64, Fault::kLeftOperandOverwritten>()),
              HasSubstr("GroupMma: its left operand was changed before the wait at "));
  EXPECT_THAT(error(Multiply<F16, false, 64, Fault::kSumsTouched>()),
              HasSubstr("GroupMma: its sums were written before the wait at "));
}

void HalfAGroupKernel() {
  float sums[8][4] = {};
  const uint32_t left[4] = {};
  device::FenceGroupMmas();
  device::GroupMma<F16, false>(sums, left, 0, false);
}

TEST(WarpGroupTest, AllThreadsOfTheGroupTakePart) {
  const auto error = [](const Result& result) { return std::string(result.status.message()); };
  EXPECT_THAT(error(Multiply<F16, false, 64, Fault::kOneThreadGone>()),
              HasSubstr("thread 70: has returned"));
  EXPECT_THAT(error(Multiply<F16, false, 64, Fault::kOneWarpElsewhere>()),
              MatchesRegex(".*SyncThreads at .*warp_group_test.cc:[0-9]+, thread 0 of its warp "
                           "group in GroupMma at .*warp_group_test.cc:[0-9]+"));
  EXPECT_THAT(error(Multiply<F16, false, 64, Fault::kOneWarpElsewhereDescribed>()),
              MatchesRegex(".*GroupMma at .*warp_group_test.cc:[0-9]+, thread 0 of its warp "
                           "group in GroupMma at .*warp_group_test.cc:[0-9]+"));
  const absl::Status half = Launch(nullptr, {1}, {64}, 0, HalfAGroupKernel);
  EXPECT_THAT(std::string(half.message()), HasSubstr("without a whole warp group"));
}

}  // namespace
}  // namespace paceline::kernels
