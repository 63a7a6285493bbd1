#include "worker/sample/truncation.h"

#include <algorithm>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/sample/reference_sampler.h"

namespace paceline::worker {
namespace {

std::vector<int32_t> Ids(std::vector<kernels::TokenLogit> tokens) {
  std::vector<int32_t> ids;
  for (const kernels::TokenLogit& token : tokens) ids.push_back(token.id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

std::vector<int32_t> ReferenceIds(const std::vector<float>& row, const SamplingParams& params) {
  const std::vector<double> p =
      reference::Probabilities(std::vector<double>(row.begin(), row.end()), params);
  std::vector<int32_t> ids;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] > 0) ids.push_back(static_cast<int32_t>(i));
  }
  return ids;
}

TruncationParams Params(const SamplingParams& p) {
  return {.inverse_temperature = 1.0 / static_cast<double>(p.temperature),
          .min_p = p.min_p,
          .top_k = p.top_k,
          .top_p = p.top_p};
}

std::vector<int32_t> Truncated(const std::vector<float>& row, const SamplingParams& params) {
  const auto it = std::max_element(row.begin(), row.end());
  std::vector<kernels::TokenLogit> kept;
  TruncateRow(Params(params), row, {static_cast<int32_t>(it - row.begin()), *it}, kept);
  return Ids(kept);
}

TEST(TruncationTest, RowKeepsWhatSortingTheVocabularyWouldKeep) {
  std::mt19937 rng(11);
  const int sizes[] = {1, 7, 300, 4000};
  const float spreads[] = {0.05F, 1, 4, 12};
  const float temperatures[] = {0.3F, 0.7F, 1, 2, 50};
  for (int trial = 0; trial < 3000; ++trial) {
    const int size = sizes[rng() % 4];
    std::normal_distribution<float> normal(3, spreads[rng() % 4]);
    std::vector<float> row;
    for (int i = 0; i < size; ++i) row.push_back(normal(rng));
    SamplingParams params;
    params.temperature = temperatures[rng() % 5];
    if (rng() % 2 == 0) params.top_k = 1 + static_cast<int32_t>(rng() % (size + 10));
    if (rng() % 2 == 0) params.top_p = static_cast<float>(1 + rng() % 999) / 1000;
    if (rng() % 2 == 0) params.min_p = static_cast<float>(1 + rng() % 1000) / 1000;
    if (rng() % 4 == 0) params.min_p *= 1e-6F;
    const std::vector<int32_t> expected = ReferenceIds(row, params);
    ASSERT_EQ(Truncated(row, params), expected)
        << "size " << size << " temperature " << params.temperature << " top_k " << params.top_k
        << " top_p " << params.top_p << " min_p " << params.min_p;
    std::vector<kernels::TokenLogit> candidates;
    for (int i = size - 1; i >= 0; --i) candidates.push_back({i, row[i]});
    TruncateCandidates(Params(params), candidates);
    ASSERT_EQ(Ids(candidates), expected);
    if (KeepsEverything(Params(params), size)) {
      ASSERT_EQ(static_cast<int>(expected.size()), size);
    }
  }
}

TEST(TruncationTest, EqualLogitsAtTheEdgeKeepTheLowestIds) {
  const std::vector<float> row = {1, 2, 2, 1, 2, 1};
  SamplingParams params;
  params.top_k = 2;
  EXPECT_EQ(Truncated(row, params), (std::vector<int32_t>{1, 2}));
  params.top_k = 4;
  EXPECT_EQ(Truncated(row, params), (std::vector<int32_t>{0, 1, 2, 4}));
  params.top_k = 0;
  params.top_p = 0.45F;  // each 2 has 0.244 of the mass
  EXPECT_EQ(Truncated(row, params), (std::vector<int32_t>{1, 2}));
}

TEST(TruncationTest, EqualLogitsEverywhereGiveExactShares) {
  const std::vector<float> row(1000, 0.25F);
  SamplingParams params;
  params.top_p = 0.5F;
  EXPECT_EQ(Truncated(row, params).size(), 500u);
  EXPECT_EQ(Truncated(row, params).back(), 499);
}

TEST(TruncationTest, TinyTopPKeepsTheBest) {
  SamplingParams params;
  params.top_p = 1e-30F;
  EXPECT_EQ(Truncated({0, 0, 5, 5}, params), (std::vector<int32_t>{2}));
}

TEST(TruncationTest, MinPOfOneKeepsTheBestAndItsEquals) {
  SamplingParams params;
  params.min_p = 1;
  EXPECT_EQ(Truncated({0, 5, 4.9F, 5}, params), (std::vector<int32_t>{1, 3}));
}

TEST(TruncationTest, MaskedTokensAreNeverKept) {
  const float masked = -std::numeric_limits<float>::infinity();
  const std::vector<float> row = {masked, 1, masked, 1, masked};
  SamplingParams params;
  params.top_k = 4;
  EXPECT_EQ(Truncated(row, params), (std::vector<int32_t>{1, 3}));
  params.top_k = 0;
  params.top_p = 0.99999F;
  EXPECT_EQ(Truncated(row, params), (std::vector<int32_t>{1, 3}));
  params.top_p = 1;
  params.min_p = 1e-30F;
  EXPECT_EQ(Truncated(row, params), (std::vector<int32_t>{1, 3}));
}

TEST(TruncationTest, ExtremeLogitsDoNotOverflow) {
  SamplingParams params;
  params.temperature = 2e-5F;
  params.top_p = 0.9F;
  EXPECT_EQ(Truncated({-3e38F, 3e38F, 3e38F}, params), (std::vector<int32_t>{1, 2}));
  params.temperature = 100;
  params.min_p = 1e-6F;
  EXPECT_EQ(Truncated({-3e38F, 3e38F, 3e38F}, params), (std::vector<int32_t>{1, 2}));
}

}  // namespace
}  // namespace paceline::worker
