// Prefill attention for CUDA, in emulation: beside textbook attention in double precision, and bit
// for bit beside decoding every row alone.
#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/paged_prefill_device.h"
#include "kernels/emulation/grid.h"
#include "tests/kernels/emulation/attention_test_util.h"

namespace paceline::kernels {
namespace {

TEST(PagedPrefillTest, MatchesTextbookAttention) {
  uint32_t seed = 11;
  for (const AttentionCase& c : {AttentionCase{2, 3, 64},
                                 AttentionCase{1, 1, 80, DType::kBF16, 16},
                                 AttentionCase{1, 16, 96, DType::kF16, 8},
                                 AttentionCase{1, 5, 128},
                                 AttentionCase{1, 2, 256, DType::kF16, 64},
                                 AttentionCase{1, 3, 64, DType::kF16, 8, DType::kI8},
                                 AttentionCase{1, 2, 128, DType::kBF16, 32, DType::kI8, 20, 4.0f},
                                 AttentionCase{1, 3, 64, DType::kF16, 32, DType::kF32, 65},
                                 AttentionCase{1, 3, 64, DType::kF16, 32, DType::kF32, 0, 2.0f},
                                 AttentionCase{2, 2, 80, DType::kF16, 32, DType::kF32, 0, 0, true},
                                 AttentionCase{1, 3, 64, DType::kF16, 8, DType::kI8, 90, 3, true},
                                 AttentionCase{1, 2, 96, DType::kF16, 32, DType::kE4M3},
                                 AttentionCase{1, 2, 64, DType::kBF16, 16, DType::kE4M3}}) {
    PagedSequences sequences(c, {150}, ++seed);
    emulation::SetSeed(seed);
    const std::vector<uint16_t> out = sequences.Prefill(0, 0, 150);
    for (const int32_t row : {0, 1, 15, 16, 63, 64, 65, 149}) {
      sequences.ExpectTextbook(0, row, out.data() + row * c.width());
    }
  }
}

// Chunks of every head size and group, with the rest drawn.
TEST(PagedPrefillTest, MatchesForEveryHeadSizeAndGroup) {
  std::mt19937 random(6);
  const auto up_to = [&](int32_t n) { return static_cast<int32_t>(random() % n); };
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (int32_t group = 1; group <= 16; group += 1 + up_to(3)) {
      const AttentionCase c{.kv_heads = 1,
                            .group = group,
                            .head_dim = head_dim,
                            .dtype = up_to(2) == 0 ? DType::kF16 : DType::kBF16,
                            .page_size = 8 << up_to(6),
                            .kv = kKvTypes[up_to(4)],
                            .window = up_to(3) == 0 ? 1 + up_to(200) : 0,
                            .soft_cap = up_to(4) == 0 ? 2.0f : 0.0f,
                            .alibi = up_to(4) == 0};
      const int32_t begin = up_to(130), end = begin + 1 + up_to(20);
      PagedSequences sequences(c, {end}, random());
      emulation::SetSeed(random());
      const std::vector<uint16_t> out = sequences.Prefill(0, begin, end);
      for (const int32_t row : {begin, (begin + end) / 2, end - 1}) {
        sequences.ExpectTextbook(0, row, out.data() + (row - begin) * c.width());
      }
    }
  }
}

TEST(PagedPrefillTest, EveryRowGetsTheBitsOfDecodingItAlone) {
  for (const AttentionCase& c :
       {AttentionCase{1, 3, 64},
        AttentionCase{2, 1, 128, DType::kF16, 16},
        AttentionCase{1, 3, 64, DType::kBF16, 32, DType::kI8, 100, 5.0f, true}}) {
    constexpr int32_t kLength = 330;
    PagedSequences sequences(c, {kLength}, 23);
    std::vector<uint16_t> alone;
    for (int32_t row = 0; row < kLength; row += 13) {
      const std::vector<uint16_t> one = sequences.Decode({0}, {row + 1});
      alone.insert(alone.end(), one.begin(), one.end());
    }
    for (const int32_t chunk : {kLength, 100, 33}) {
      emulation::SetSeed(chunk);
      std::vector<uint16_t> all;
      for (int32_t begin = 0; begin < kLength; begin += chunk) {
        const auto part = sequences.Prefill(0, begin, std::min(begin + chunk, kLength));
        all.insert(all.end(), part.begin(), part.end());
      }
      for (int32_t row = 0; row < kLength; row += 13) {
        EXPECT_TRUE(std::equal(all.begin() + row * c.width(),
                               all.begin() + (row + 1) * c.width(),
                               alone.begin() + row / 13 * c.width()))
            << c << ": row " << row << " in chunks of " << chunk;
      }
    }
  }
}

TEST(PagedPrefillTest, SizesThatDoNotFitAreInvalid) {
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
    return PagedPrefill(nullptr, args).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.head_dim = 72; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.page_size = 24; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.num_kv_heads = 3; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.num_items = 0; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.q_stride = 4 * 64 - 1; }), kInvalid);
  EXPECT_EQ(code([](PagedPrefillArgs& a) { a.dtype = DType::kF32; }), kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
