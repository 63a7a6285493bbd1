#include "worker/sample/gumbel.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/dispatch.h"
#include "tests/worker/sample/reference_sampler.h"

namespace paceline::worker {
namespace {

constexpr kernels::TokenLogit kLastOfAll = {std::numeric_limits<int32_t>::max(),
                                            -std::numeric_limits<float>::infinity()};

std::vector<uint32_t> InterestingWords() {
  std::vector<uint32_t> words;
  for (int bit = 0; bit < 32; ++bit) {
    for (int64_t offset : {-3, -2, -1, 0, 1, 2, 3}) {
      words.push_back(static_cast<uint32_t>((int64_t{1} << bit) + offset));
      words.push_back(~static_cast<uint32_t>((int64_t{1} << bit) + offset));
    }
  }
  std::mt19937 rng(3);
  for (int i = 0; i < 200000; ++i) words.push_back(rng());
  return words;
}

TEST(GumbelTest, VariatesStayWithinTheStatedBounds) {
  for (uint32_t word : InterestingWords()) {
    const double g = GumbelFromWord(word);
    ASSERT_GE(g, kMinGumbel) << word;
    ASSERT_LE(g, kMaxGumbel) << word;
    ASSERT_LE(g, GumbelUpperBound(word)) << word;
    ASSERT_LE(GumbelUpperBound(word), kMaxGumbel) << word;
  }
  EXPECT_NEAR(GumbelFromWord(0), kMinGumbel, 1e-4);
  EXPECT_NEAR(GumbelFromWord(0xffffffff), kMaxGumbel, 1e-9);
  EXPECT_LT(GumbelFromWord(0xffffffff), kMaxGumbel);
}

TEST(GumbelTest, VariatesGrowWithTheWord) {
  double last = -10;
  for (uint64_t word = 0; word < (uint64_t{1} << 32); word += 65537) {
    const double g = GumbelFromWord(static_cast<uint32_t>(word));
    ASSERT_GT(g, last);
    last = g;
  }
}

// With the test above: no word below the cutoff reaches the distance.
TEST(GumbelTest, WordsBelowTheCutoffCannotReachTheDistance) {
  std::mt19937 rng(4);
  std::uniform_real_distribution<double> uniform(-1, 24);
  std::vector<double> distances;
  for (int i = 0; i < 100000; ++i) distances.push_back(uniform(rng));
  for (int n = 0; n <= 34; ++n) {
    for (double slip : {-1e-9, -1e-15, 0.0, 1e-15, 1e-9}) distances.push_back(n * kLog2 + slip);
  }
  for (double distance : distances) {
    const uint32_t cutoff = GumbelCutoff(distance);
    if (cutoff > 0) {
      ASSERT_LT(GumbelFromWord(cutoff - 1), distance);
    }
    if (distance <= 0) {
      ASSERT_EQ(cutoff, 0u);
    }
  }
}

TEST(GumbelTest, CutoffRulesOutNearlyAsMuchAsTheExactLimit) {
  for (double distance = 1; distance < 18; distance += 0.37) {
    const double exact = 1 - std::exp(-std::exp(-distance));  // share of words that reach it
    const double share = (0x1p32 - GumbelCutoff(distance)) * 0x1p-32;
    EXPECT_LT(share, 2.5 * exact + 0x1p-31) << distance;
  }
}

TEST(GumbelTest, NoiseIsAFunctionOfAllFourNames) {
  const NoiseStream stream = {.seed = 5, .choice = 1, .position = 9};
  const uint32_t word = NoiseWord(stream, 77);
  EXPECT_EQ(word, NoiseWord(stream, 77));
  EXPECT_NE(word, NoiseWord(stream, 78));
  EXPECT_NE(word, NoiseWord({.seed = 6, .choice = 1, .position = 9}, 77));
  EXPECT_NE(word, NoiseWord({.seed = 5 + (uint64_t{1} << 32), .choice = 1, .position = 9}, 77));
  EXPECT_NE(word, NoiseWord({.seed = 5, .choice = 2, .position = 9}, 77));
  EXPECT_NE(word, NoiseWord({.seed = 5, .choice = 1, .position = 8}, 77));
}

// The stream is part of the contract: replays after an upgrade must find the same noise.
TEST(GumbelTest, StreamNeverChanges) {
  EXPECT_EQ(NoiseWord({.seed = 0, .choice = 0, .position = 0}, 0), 0x6627e8d5u);
  EXPECT_EQ(NoiseWord({.seed = 0, .choice = 0, .position = 0}, 3), 0x9b00dbd8u);
  EXPECT_EQ(NoiseWord({.seed = 0x299f31d0a4093822, .choice = 0x13198a2e, .position = 0x85a308d3},
                      0x10fda22a),
            Philox4x32({0x10fda22a / 4, 0x85a308d3, 0x13198a2e, 0}, {0xa4093822, 0x299f31d0})[2]);
}

class GumbelPickTest : public ::testing::TestWithParam<kernels::CpuIsa> {
 protected:
  void SetUp() override {
    before_ = kernels::ActiveCpuIsa();
    if (!kernels::SetActiveCpuIsa(GetParam()).ok()) GTEST_SKIP() << "not supported here";
  }
  void TearDown() override { ASSERT_TRUE(kernels::SetActiveCpuIsa(before_).ok()); }

 private:
  kernels::CpuIsa before_ = kernels::CpuIsa::kPortable;
};

struct Row {
  std::vector<float> logits;
  kernels::TokenLogit best;
};

NoiseStream RandomStream(std::mt19937& rng) {
  return {.seed = rng(),
          .choice = static_cast<uint32_t>(rng() % 16),
          .position = static_cast<uint32_t>(rng())};
}

Row RandomRow(std::mt19937& rng, int size, float spread) {
  std::normal_distribution<float> normal(0, spread);
  Row row;
  for (int i = 0; i < size; ++i) row.logits.push_back(normal(rng));
  // Some ties, some masked tokens.
  for (int i = 0; i < size / 10; ++i) row.logits[rng() % size] = row.logits[rng() % size];
  for (int i = 0; i < size / 10; ++i) {
    row.logits[rng() % size] = -std::numeric_limits<float>::infinity();
  }
  row.logits[rng() % size] = 1;
  const auto it = std::max_element(row.logits.begin(), row.logits.end());
  row.best = {static_cast<int32_t>(it - row.logits.begin()), *it};
  return row;
}

TEST_P(GumbelPickTest, RowPickEqualsNoiseForEveryToken) {
  std::mt19937 rng(5);
  const int sizes[] = {1, 2, 63, 64, 65, 130, 1000, 5003};
  const float spreads[] = {1e-20F, 0.01F, 1, 4, 20};
  const double temperatures[] = {0.3, 0.5, 1, 3, 100};
  for (int trial = 0; trial < 1500; ++trial) {
    const Row row = RandomRow(rng, sizes[rng() % 8], spreads[rng() % 5]);
    SamplingParams params;
    params.temperature = static_cast<float>(temperatures[rng() % 5]);
    const NoiseStream noise = RandomStream(rng);
    const std::vector<double> doubles(row.logits.begin(), row.logits.end());
    ASSERT_EQ(
        PickFromRow(
            row.logits, row.best, kLastOfAll, noise, 1.0 / static_cast<double>(params.temperature)),
        reference::Pick(
            reference::Probabilities(doubles, params), noise.seed, noise.choice, noise.position))
        << trial;
  }
}

TEST_P(GumbelPickTest, RowAndCandidatesGiveTheSameToken) {
  std::mt19937 rng(6);
  for (int trial = 0; trial < 2000; ++trial) {
    const Row row = RandomRow(rng, 700, 3);
    std::vector<kernels::TokenLogit> candidates;
    for (int i = 0; i < 700; ++i) {
      if (std::isfinite(row.logits[i])) candidates.push_back({i, row.logits[i]});
    }
    std::sort(candidates.begin(), candidates.end(), kernels::RanksBefore);
    candidates.resize(1 + rng() % candidates.size());
    const kernels::TokenLogit last = candidates.back();
    std::shuffle(candidates.begin(), candidates.end(), rng);
    const NoiseStream noise = RandomStream(rng);
    ASSERT_EQ(PickFromRow(row.logits, row.best, last, noise, 0.8),
              PickFromCandidates(candidates, noise, 0.8));
  }
}

INSTANTIATE_TEST_SUITE_P(Isas,
                         GumbelPickTest,
                         ::testing::ValuesIn(kernels::kAllCpuIsas),
                         [](const auto& info) {
                           return std::string(kernels::CpuIsaName(info.param));
                         });

}  // namespace
}  // namespace paceline::worker
