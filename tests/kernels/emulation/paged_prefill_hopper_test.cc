// Prefill attention with a Hopper's warp groups, in emulation: beside textbook attention in double
// precision, and bit for bit beside the other prefill kernel and decode. On a GPU (tests/gpu) it is
// skipped where there are no warp groups, and says of other bits only how many there are.
#include <algorithm>
#include <iostream>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/device/runtime.h"
#include "kernels/emulation/grid.h"
#include "tests/kernels/emulation/attention_test_util.h"

namespace paceline::kernels {
namespace {

class PagedPrefillHopperTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status status = CheckPrefillWgmma(64, DType::kF16, DType::kF16); !status.ok()) {
      GTEST_SKIP() << status;
    }
  }

  // Compares `bits` of these rows with what the other kernels gave.
  static void ExpectBits(const std::vector<uint16_t>& bits,
                         const std::vector<uint16_t>& expected,
                         const AttentionCase& c,
                         const char* of) {
    ASSERT_EQ(bits.size(), expected.size());
    int64_t different = 0;
    for (size_t i = 0; i < bits.size(); ++i) different += bits[i] == expected[i] ? 0 : 1;
    const auto devices = device::ListDevices();
    ASSERT_TRUE(devices.ok()) << devices.status();
    if (devices->front().kind == "emulation") {
      EXPECT_EQ(different, 0) << c << ": other bits than " << of;
    } else if (different > 0) {
      std::cout << c << ": " << different << " of " << bits.size()
                << " numbers have other bits than " << of << "\n";
    }
  }
};

TEST_F(PagedPrefillHopperTest, MatchesTextbookAttention) {
  uint32_t seed = 31;
  for (const AttentionCase& c :
       {AttentionCase{2, 3, 64},
        AttentionCase{1, 1, 80, DType::kBF16, 16},
        AttentionCase{1, 16, 96, DType::kF16, 8},
        AttentionCase{1, 5, 128, DType::kBF16, 256},
        AttentionCase{1, 3, 64, DType::kF16, 32, DType::kF32, 65},
        AttentionCase{1, 3, 64, DType::kF16, 32, DType::kF32, 0, 2.0f},
        AttentionCase{2, 2, 80, DType::kF16, 32, DType::kF32, 0, 0, true},
        AttentionCase{1, 3, 96, DType::kF16, 8, DType::kF32, 90, 3, true}}) {
    PagedSequences sequences(c, {150}, ++seed);
    emulation::SetSeed(seed);
    const std::vector<uint16_t> out = sequences.Prefill(0, 0, 150, kWgmmaPrefill);
    for (const int32_t row : {0, 1, 15, 16, 63, 64, 65, 127, 128, 149}) {
      sequences.ExpectTextbook(0, row, out.data() + row * c.width());
    }
  }
}

// Chunks of every head size and group at the ends of sequences of 1 to 5,000 positions, with the
// rest drawn; and the bits of the other kernel.
TEST_F(PagedPrefillHopperTest, MatchesForEveryHeadSizeAndGroup) {
  std::mt19937 random(8);
  const auto up_to = [&](int32_t n) { return static_cast<int32_t>(random() % n); };
  for (const int32_t head_dim : {64, 80, 96, 128}) {
    for (int32_t group = 1; group <= 16; group += 1 + up_to(3)) {
      const AttentionCase c{.kv_heads = 1 + up_to(2),
                            .group = group,
                            .head_dim = head_dim,
                            .dtype = up_to(2) == 0 ? DType::kF16 : DType::kBF16,
                            .page_size = 8 << up_to(6),
                            .window = up_to(3) == 0 ? 1 + up_to(200) : 0,
                            .soft_cap = up_to(4) == 0 ? 2.0f : 0.0f,
                            .alibi = up_to(4) == 0};
      const int32_t longest = group == 1 ? 5000 : up_to(3) == 0 ? 600 : 130;
      const int32_t end = group == 1 && head_dim == 64 ? longest : 1 + up_to(longest);
      const int32_t begin = end - 1 - up_to(std::min(end, 40));
      PagedSequences sequences(c, {end}, random());
      emulation::SetSeed(random());
      const std::vector<uint16_t> out = sequences.Prefill(0, begin, end, kWgmmaPrefill);
      for (const int32_t row : {begin, (begin + end) / 2, end - 1}) {
        sequences.ExpectTextbook(0, row, out.data() + (row - begin) * c.width());
      }
      ExpectBits(out, sequences.Prefill(0, begin, end), c, "the other kernel's");
    }
  }
}

TEST_F(PagedPrefillHopperTest, ChunksOfAnySizeGiveTheSameBits) {
  for (const AttentionCase& c :
       {AttentionCase{1, 3, 64},
        AttentionCase{2, 1, 128, DType::kF16, 16},
        AttentionCase{1, 3, 80, DType::kBF16, 32, DType::kF32, 100, 5.0f, true}}) {
    constexpr int32_t kLength = 330;
    PagedSequences sequences(c, {kLength}, 23);
    const std::vector<uint16_t> whole = sequences.Prefill(0, 0, kLength, kWgmmaPrefill);
    for (const int32_t chunk : {100, 33, 7}) {
      emulation::SetSeed(chunk);
      std::vector<uint16_t> all;
      for (int32_t begin = 0; begin < kLength; begin += chunk) {
        const auto part =
            sequences.Prefill(0, begin, std::min(begin + chunk, kLength), kWgmmaPrefill);
        all.insert(all.end(), part.begin(), part.end());
      }
      EXPECT_EQ(all, whole) << c << " in chunks of " << chunk;
    }
    for (int32_t row = 0; row < kLength; row += 29) {
      const auto first = whole.begin() + row * c.width();
      ExpectBits({first, first + c.width()}, sequences.Decode({0}, {row + 1}), c, "decoding's");
    }
  }
}

TEST_F(PagedPrefillHopperTest, SizesThatDoNotFitAreInvalid) {
  const PagedPrefillArgs good{.q_stride = 4 * 64,
                              .num_items = 1,
                              .page_size = 32,
                              .num_heads = 4,
                              .num_kv_heads = 2,
                              .head_dim = 64,
                              .dtype = DType::kF16,
                              .kv_dtype = DType::kF16};
  const auto code = [&](auto change) {
    PagedPrefillArgs args = good;
    change(args);
    return PagedPrefillWgmma(nullptr, args).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.head_dim = 72; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.page_size = 24; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.num_items = 0; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.kv_dtype = DType::kI8; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.dtype = a.kv_dtype = DType::kF32; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) {
              a.head_dim = 256;
              a.q_stride = 4 * 256;
            }),
            kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
