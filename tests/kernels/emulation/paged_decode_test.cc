// Decode attention for CUDA, in emulation, beside textbook attention in double precision.
#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention/paged_decode_device.h"
#include "kernels/emulation/grid.h"
#include "tests/kernels/emulation/attention_test_util.h"

namespace paceline::kernels {
namespace {

TEST(PagedDecodeTest, MatchesTextbookAttention) {
  const AttentionCase cases[] = {{1, 3, 64},
                                 {2, 1, 64, DType::kBF16, 16},
                                 {1, 16, 80, DType::kF16, 8},
                                 {1, 4, 96, DType::kBF16},
                                 {1, 7, 128},
                                 {1, 8, 256, DType::kF16, 64},
                                 {.kv_heads = 2, .group = 3, .head_dim = 64, .kv = DType::kI8},
                                 {1, 2, 80, DType::kBF16, 8, DType::kI8},
                                 {1, 4, 128, DType::kF16, 16, DType::kI8, 70, 3.0f},
                                 {2, 2, 64, DType::kF16, 32, DType::kF32, 16},
                                 {1, 3, 64, DType::kBF16, 32, DType::kF32, 65},
                                 {1, 5, 96, DType::kF16, 32, DType::kF32, 0, 2.0f},
                                 {.kv_heads = 2, .group = 4, .head_dim = 64, .alibi = true},
                                 {1, 3, 128, DType::kBF16, 32, DType::kI8, 90, 3.0f, true},
                                 {2, 2, 64, DType::kF16, 32, DType::kE4M3},
                                 {1, 4, 80, DType::kBF16, 8, DType::kE4M3}};
  const std::vector<int32_t> lengths = {1, 16, 63, 64, 65, 300};
  uint32_t seed = 1;
  for (const AttentionCase& c : cases) {
    PagedSequences sequences(c, lengths, seed += 20);
    emulation::SetSeed(seed);
    const std::vector<uint16_t> out = sequences.Decode({0, 1, 2, 3, 4, 5}, lengths);
    for (size_t i = 0; i < lengths.size(); ++i) {
      sequences.ExpectTextbook(static_cast<int>(i), lengths[i] - 1, out.data() + i * c.width());
    }
  }
}

// Every head size and group, with the rest drawn.
TEST(PagedDecodeTest, MatchesForEveryHeadSizeAndGroup) {
  std::mt19937 random(5);
  const auto up_to = [&](int32_t n) { return static_cast<int32_t>(random() % n); };
  for (const int32_t head_dim : {64, 80, 96, 128, 256}) {
    for (int32_t group = 1; group <= kMaxQueryHeadsPerKv; ++group) {
      const AttentionCase c{.kv_heads = 1 + up_to(2),
                            .group = group,
                            .head_dim = head_dim,
                            .dtype = up_to(2) == 0 ? DType::kF16 : DType::kBF16,
                            .page_size = 8 << up_to(6),
                            .kv = kKvTypes[up_to(3)],
                            .window = up_to(3) == 0 ? 1 + up_to(300) : 0,
                            .soft_cap = up_to(4) == 0 ? 2.0f : 0.0f,
                            .alibi = up_to(4) == 0};
      const std::vector<int32_t> lengths = {1 + up_to(70), 1 + up_to(300)};
      PagedSequences sequences(c, lengths, random());
      emulation::SetSeed(random());
      const std::vector<uint16_t> out = sequences.Decode({0, 1}, lengths);
      for (int i = 0; i < 2; ++i) {
        sequences.ExpectTextbook(i, lengths[i] - 1, out.data() + i * c.width());
      }
    }
  }
}

TEST(PagedDecodeTest, WhatFillsTheListsUpChangesNothing) {
  const AttentionCase c{2, 3, 64};
  PagedSequences sequences(c, {70, 300}, 9);
  const std::vector<uint16_t> out = sequences.Decode({0, 1}, {70, 300});
  const std::vector<uint16_t> padded = sequences.Decode({0, 1}, {70, 300}, /*padding=*/3);
  EXPECT_TRUE(std::equal(out.begin(), out.end(), padded.begin()));
  EXPECT_TRUE(std::all_of(
      padded.begin() + out.size(), padded.end(), [](uint16_t bits) { return bits == 0xffff; }));
}

TEST(PagedDecodeTest, LongContextsMatch) {
  for (const int32_t window : {0, 1000}) {
    const AttentionCase c{.kv_heads = 1, .group = 3, .head_dim = 64, .window = window};
    PagedSequences sequences(c, {5000}, 50);
    sequences.ExpectTextbook(0, 4999, sequences.Decode({0}, {5000}).data());
  }
}

TEST(PagedDecodeTest, AWindowLeavesOutTheChunksBeforeIt) {
  const std::vector<int32_t> lengths = {1000, 10};
  EXPECT_EQ(PlanPagedDecode(lengths, 2).items.size(), 2u * (4 + 1));
  const DecodePlan plan = PlanPagedDecode(lengths, 2, /*window=*/232);
  ASSERT_EQ(plan.items.size(), 2u * (1 + 1));
  EXPECT_EQ(plan.items[0].chunk, 3);
  EXPECT_EQ(plan.items[2].chunk, 0);
  EXPECT_EQ(PlanPagedDecode(lengths, 2, /*window=*/233).items[0].chunk, 2);
}

TEST(PagedDecodeTest, TheBatchNeverChangesASequencesBits) {
  const AttentionCase c{2, 3, 64, DType::kBF16};
  const std::vector<int32_t> lengths = {256, 1, 257, 40, 513};
  PagedSequences sequences(c, lengths, 100);
  const std::vector<uint16_t> together = sequences.Decode({0, 1, 2, 3, 4}, lengths);
  for (int i = 0; i < 5; ++i) {
    emulation::SetSeed(i + 77);
    const std::vector<uint16_t> alone = sequences.Decode({i}, {lengths[i]});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + i * c.width())) << i;
  }
}

TEST(PagedDecodeTest, SizesThatDoNotFitAreInvalid) {
  const PagedDecodeArgs good{.q_stride = 4 * 64,
                             .num_sequences = 1,
                             .num_items = 1,
                             .max_pages = 1,
                             .page_size = 32,
                             .num_heads = 4,
                             .num_kv_heads = 2,
                             .head_dim = 64,
                             .dtype = DType::kF16,
                             .kv_dtype = DType::kF16};
  const auto code = [&](auto change) {
    PagedDecodeArgs args = good;
    change(args);
    return PagedDecode(nullptr, args).code();
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.head_dim = 72; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.page_size = 24; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.num_kv_heads = 3; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.num_heads = 34; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.num_items = 0; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.q_stride = 4 * 64 - 1; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.dtype = DType::kF32; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.window = -1; }), kInvalid);
  EXPECT_EQ(code([](PagedDecodeArgs& a) { a.soft_cap = -2; }), kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
