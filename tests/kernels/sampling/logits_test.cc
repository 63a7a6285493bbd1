#include "kernels/sampling/logits.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/kernels/kernel_test_util.h"

namespace paceline::kernels {
namespace {

constexpr float kMasked = -INFINITY;

// All tokens above -infinity in rank order, by sorting.
std::vector<TokenLogit> Ranked(const std::vector<float>& logits) {
  std::vector<TokenLogit> all;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > kMasked) all.push_back({static_cast<int32_t>(i), logits[i]});
  }
  std::stable_sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.logit > b.logit; });
  return all;
}

// Few distinct values, so that ties are everywhere.
std::vector<float> TiedLogits(int64_t count, uint32_t seed) {
  std::vector<float> logits = RandomFloats(count, seed, 4.0f);
  for (float& x : logits) x = std::round(x);
  return logits;
}

void ExpectSame(const std::vector<TokenLogit>& found, const std::vector<TokenLogit>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_EQ(found[i].id, expected[i].id) << i;
    ASSERT_EQ(found[i].logit, expected[i].logit) << i;
  }
}

class LogitsTest : public IsaTest {};

TEST_P(LogitsTest, ArgMaxPicksTheLowestIdAmongEquals) {
  for (int64_t n : {1, 5, 16, 63, 64, 65, 1000, 49152}) {
    for (uint32_t seed = 0; seed < 5; ++seed) {
      const std::vector<float> logits = TiedLogits(n, seed);
      const LogitSummary summary = ArgMax(logits);
      EXPECT_TRUE(summary.finite);
      EXPECT_EQ(summary.best.id, Ranked(logits)[0].id);
      EXPECT_EQ(summary.best.logit, Ranked(logits)[0].logit);
    }
  }
}

TEST_P(LogitsTest, ArgMaxSeesNanAndInfinityAnywhere) {
  for (int64_t n : {1, 16, 100, 129}) {
    for (int64_t at : {int64_t{0}, n / 2, n - 1}) {
      for (float bad : {NAN, -NAN, INFINITY}) {
        std::vector<float> logits(n, 1.0f);
        logits[at] = bad;
        EXPECT_FALSE(ArgMax(logits).finite) << n << " " << at;
      }
      std::vector<float> masked(n, 1.0f);
      masked[at] = kMasked;
      EXPECT_TRUE(ArgMax(masked).finite);
    }
  }
}

TEST_P(LogitsTest, ArgMaxOfNothingHasNoToken) {
  EXPECT_EQ(ArgMax({}).best.id, -1);
  const std::vector<float> masked(40, kMasked);
  EXPECT_EQ(ArgMax(masked).best.id, -1);
  EXPECT_TRUE(ArgMax(masked).finite);
}

TEST_P(LogitsTest, LogSumExpMatchesDoublePrecision) {
  for (int64_t n : {1, 17, 1000, 49152}) {
    std::vector<float> logits = RandomFloats(n, 7, 5.0f);
    if (n > 3) logits[3] = kMasked;
    double sum = 0;
    for (float x : logits) sum += std::exp(static_cast<double>(x));
    EXPECT_NEAR(LogSumExp(logits, ArgMax(logits).best.logit), std::log(sum), 1e-6) << n;
  }
}

TEST_P(LogitsTest, SumExpScalesByTemperature) {
  const std::vector<float> logits = RandomFloats(3000, 8, 5.0f);
  const float max = ArgMax(logits).best.logit;
  for (float inverse : {0.5f, 1.0f, 10.0f}) {
    double sum = 0;
    for (float x : logits) sum += std::exp((static_cast<double>(x) - max) * inverse);
    EXPECT_NEAR(SumExp(logits, max, inverse), sum, 2e-6 * sum);
  }
}

TEST_P(LogitsTest, TopKIsTheHeadOfTheSortedRow) {
  for (int64_t n : {1, 20, 257, 5000, 49152}) {
    for (int32_t k : {1, 2, 20, 50, 1000, 60000}) {
      for (const auto& logits : {TiedLogits(n, 9), RandomFloats(n, 10)}) {
        std::vector<TokenLogit> expected = Ranked(logits);
        expected.resize(std::min<size_t>(expected.size(), k));
        std::vector<TokenLogit> found;
        TopK(logits, k, found);
        ExpectSame(found, expected);
      }
    }
  }
}

TEST_P(LogitsTest, TopKOfSortedRowsStaysExact) {
  std::vector<float> logits(20000);
  for (size_t i = 0; i < logits.size(); ++i)
    logits[i] = static_cast<float>(i);  // the bar keeps rising
  std::vector<TokenLogit> found;
  TopK(logits, 3, found);
  ExpectSame(found, {{19999, 19999}, {19998, 19998}, {19997, 19997}});
  std::reverse(logits.begin(), logits.end());
  TopK(logits, 3, found);
  ExpectSame(found, {{0, 19999}, {1, 19998}, {2, 19997}});
}

TEST_P(LogitsTest, TopKSkipsMaskedTokens) {
  std::vector<float> logits(100, kMasked);
  logits[40] = 1;
  logits[70] = 2;
  std::vector<TokenLogit> found;
  TopK(logits, 10, found);
  ExpectSame(found, {{70, 2}, {40, 1}});
  TopK(logits, 0, found);
  EXPECT_TRUE(found.empty());
}

TEST_P(LogitsTest, CollectAtLeastKeepsIdOrderAndTheThresholdItself) {
  for (int64_t n : {1, 15, 300, 49152}) {
    const std::vector<float> logits = TiedLogits(n, 11);
    for (float threshold : {-100.0f, 0.0f, 5.0f, 100.0f}) {
      std::vector<TokenLogit> expected, found;
      for (int64_t i = 0; i < n; ++i) {
        if (logits[i] >= threshold) expected.push_back({static_cast<int32_t>(i), logits[i]});
      }
      CollectAtLeast(logits, threshold, found);
      ExpectSame(found, expected);
    }
  }
}

TEST_P(LogitsTest, CountGreaterIsTheRank) {
  const std::vector<float> logits = TiedLogits(1003, 12);
  for (float value : {-100.0f, -1.0f, 0.0f, 7.0f, 100.0f}) {
    EXPECT_EQ(CountGreater(logits, value),
              std::count_if(logits.begin(), logits.end(), [&](float x) { return x > value; }));
  }
  EXPECT_EQ(CountGreater({}, 0), 0);
}

INSTANTIATE_TEST_SUITE_P(Isas, LogitsTest, AllIsas(), IsaTestName);

}  // namespace
}  // namespace paceline::kernels
