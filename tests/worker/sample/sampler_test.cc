#include "worker/sample/sampler.h"

#include <cmath>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/dispatch.h"
#include "tests/worker/sample/reference_sampler.h"

namespace paceline::worker {
namespace {

using ::testing::IsEmpty;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> NormalRow(std::mt19937& rng, int size, float spread) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> row(size);
  for (float& logit : row) logit = normal(rng);
  return row;
}

// Samples one token after `output` from a copy of `row`.
SampleResult SampleAfter(const Request& request,
                         std::vector<float> row,
                         const std::vector<int32_t>& prompt = {},
                         const std::vector<int32_t>& output = {},
                         const std::vector<int32_t>& eos_ids = {},
                         int32_t choice = 0) {
  SamplerState state = SamplerState::Create(request, choice, prompt, output);
  return Sample(
      absl::MakeSpan(row), request, choice, static_cast<int32_t>(output.size()), &state, eos_ids);
}

Request Greedy() {
  Request request;
  request.sampling.temperature = 0;
  return request;
}

TEST(SamplerTest, GreedyTakesTheLowestIdAmongEquals) {
  EXPECT_EQ(SampleAfter(Greedy(), {1, 7, 3, 7, 7}).token_id, 1);
  Request nearly = Greedy();
  nearly.sampling.temperature = 9.9e-6F;
  EXPECT_EQ(SampleAfter(nearly, {1, 7, 3, 7, 7}).token_id, 1);
}

TEST(SamplerTest, AnyNanOrInfinityIsANumericError) {
  for (float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    for (size_t at : {size_t{0}, size_t{37}, size_t{99}}) {
      std::vector<float> row(100, 0.5F);
      row[at] = bad;
      const SampleResult result = SampleAfter(Greedy(), row);
      EXPECT_TRUE(result.numeric_error);
      EXPECT_FALSE(result.no_candidate);
      EXPECT_EQ(result.token_id, -1);
      EXPECT_EQ(PromptLogprobs(row, 5, 2).rank, 0);
    }
  }
}

TEST(SamplerTest, EverythingMaskedIsNoCandidate) {
  for (float temperature : {0.0F, 1.0F}) {
    Request request;
    request.sampling.temperature = temperature;
    request.sampling.min_tokens = 2;
    request.sampling.allowed_token_ids = {2};
    const SampleResult result = SampleAfter(request, {1, 2, 3}, {}, {0}, {2});
    EXPECT_TRUE(result.no_candidate);
    EXPECT_FALSE(result.numeric_error);
    EXPECT_EQ(result.token_id, -1);
    EXPECT_EQ(SampleAfter(request, {1, 2, 3}, {}, {0, 0}, {2}).token_id, 2);
    request.sampling.allowed_token_ids.clear();
    EXPECT_TRUE(SampleAfter(request, {1, 2}, {}, {}, {0, 1}).no_candidate);
  }
}

TEST(SamplerTest, MinTokensMasksEndAndStopTokens) {
  Request request = Greedy();
  request.sampling.min_tokens = 3;
  request.sampling.stop_token_ids = {1};
  const std::vector<float> row = {1, 9, 8, 7};
  EXPECT_EQ(SampleAfter(request, row, {}, {0, 0}, {2}).token_id, 3);
  EXPECT_EQ(SampleAfter(request, row, {}, {0, 0, 0}, {2}).token_id, 1);
  request.sampling.ignore_eos = true;
  EXPECT_EQ(SampleAfter(request, row, {}, {0, 0}, {2}).token_id, 2);
}

TEST(SamplerTest, BiasIsAddedAndRepeatedIdsAddUp) {
  Request request = Greedy();
  request.sampling.logit_bias = {{2, 3.0F}};
  EXPECT_EQ(SampleAfter(request, {5, 1, 3}).token_id, 2);
  request.sampling.logit_bias = {{1, 3.0F}, {1, 2.0F}, {7, 100.0F}, {-1, 100.0F}};
  EXPECT_EQ(SampleAfter(request, {5, 1, 3}).token_id, 1);
}

TEST(SamplerTest, BiasCannotLiftAMask) {
  Request request = Greedy();
  request.sampling.allowed_token_ids = {0, 2};
  request.sampling.logit_bias = {{1, 100.0F}};
  EXPECT_EQ(SampleAfter(request, {5, 6, 3}).token_id, 0);
}

TEST(SamplerTest, RepetitionPenaltyConcernsThePromptAndTheOthersDoNot) {
  Request request = Greedy();
  request.sampling.repetition_penalty = 2;
  EXPECT_EQ(SampleAfter(request, {5, 3}, {0}).token_id, 1);
  EXPECT_EQ(SampleAfter(request, {-2, -3}, {0}).token_id, 1);
  request.sampling.repetition_penalty = 1;
  request.sampling.frequency_penalty = 2;
  request.sampling.presence_penalty = 2;
  EXPECT_EQ(SampleAfter(request, {5, 3}, {0, 0, 0}).token_id, 0);
}

TEST(SamplerTest, FrequencyCountsAndPresenceDoesNot) {
  Request request = Greedy();
  request.sampling.frequency_penalty = 0.75F;
  EXPECT_EQ(SampleAfter(request, {5, 3}, {}, {0, 0}).token_id, 0);
  EXPECT_EQ(SampleAfter(request, {5, 3}, {}, {0, 0, 0}).token_id, 1);
  request.sampling.frequency_penalty = 0;
  request.sampling.presence_penalty = 1.5F;
  EXPECT_EQ(SampleAfter(request, {5, 3}, {}, {0, 0, 0, 0, 0}).token_id, 0);
}

TEST(SamplerTest, PenaltiesNeverMakeAnInfinity) {
  Request request;
  request.sampling.repetition_penalty = 1e-38F;
  request.sampling.top_p = 0.5F;
  EXPECT_EQ(SampleAfter(request, {5, 3, 1}, {0}).token_id, 0);
}

TEST(SamplerTest, StateBuiltByAppendingEqualsStateBuiltAtOnce) {
  Request request;
  request.sampling.repetition_penalty = 1.3F;
  request.sampling.frequency_penalty = 0.1F;
  const std::vector<int32_t> prompt = {4, 4, 9};
  SamplerState grown = SamplerState::Create(request, 3, prompt, {});
  const std::vector<int32_t> output = {7, 9, 7, 1};
  for (int32_t token : output) grown.Append(token);
  const SamplerState built = SamplerState::Create(request, 3, prompt, output);
  ASSERT_EQ(grown.seen().size(), built.seen().size());
  for (size_t i = 0; i < built.seen().size(); ++i) {
    EXPECT_EQ(grown.seen()[i].id, built.seen()[i].id);
    EXPECT_EQ(grown.seen()[i].output_count, built.seen()[i].output_count);
  }
}

TEST(SamplerTest, StateRemembersNothingWithoutPenalties) {
  SamplerState state = SamplerState::Create(Request{}, 0, {{1, 2}}, {{3}});
  state.Append(4);
  EXPECT_THAT(state.seen(), IsEmpty());
}

// Any mixture of parameters, against the definition in double arithmetic with full sorts and noise
// for every token.
class SamplerFuzzTest : public ::testing::TestWithParam<kernels::CpuIsa> {
 protected:
  void SetUp() override {
    before_ = kernels::ActiveCpuIsa();
    if (!kernels::SetActiveCpuIsa(GetParam()).ok()) GTEST_SKIP() << "not supported here";
  }
  void TearDown() override { ASSERT_TRUE(kernels::SetActiveCpuIsa(before_).ok()); }

 private:
  kernels::CpuIsa before_ = kernels::CpuIsa::kPortable;
};

TEST_P(SamplerFuzzTest, TokenEqualsTheDefinition) {
  std::mt19937 rng(21);
  const auto chance = [&](int in) { return rng() % in == 0; };
  const auto uniform = [&](float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(rng);
  };
  int no_candidate = 0;
  for (int trial = 0; trial < 6000; ++trial) {
    const int vocab = trial % 100 == 0 ? 20000 : 1 + static_cast<int>(rng() % 400);
    const auto ids = [&](int count) {
      std::vector<int32_t> result;
      for (int i = 0; i < count; ++i)
        result.push_back(static_cast<int32_t>(rng() % (vocab + 2)) - 1);
      return result;
    };
    const std::vector<float> row = NormalRow(rng, vocab, uniform(0.1F, 6));
    Request request;
    request.seed = (uint64_t{rng()} << 32) + rng();
    SamplingParams& p = request.sampling;
    p.temperature = chance(8) ? 0 : uniform(0.1F, 2);
    if (chance(2)) p.top_p = uniform(0.01F, 1);
    if (chance(2)) p.top_k = 1 + static_cast<int32_t>(rng() % (vocab + 5));
    if (chance(3)) p.min_p = uniform(0.0001F, 0.5F);
    if (chance(3)) p.frequency_penalty = uniform(-2, 2);
    if (chance(3)) p.presence_penalty = uniform(-2, 2);
    if (chance(3)) p.repetition_penalty = uniform(0.5F, 2);
    if (chance(3)) p.allowed_token_ids = ids(1 + static_cast<int>(rng() % 20));
    if (chance(3)) p.min_tokens = static_cast<int32_t>(rng() % 10);
    p.ignore_eos = chance(4);
    p.stop_token_ids = ids(static_cast<int>(rng() % 3));
    if (chance(3)) {
      for (int32_t id : ids(5)) p.logit_bias.emplace_back(id, uniform(-5, 5));
    }
    if (chance(2)) p.logprobs = 0;
    const std::vector<int32_t> prompt = ids(static_cast<int>(rng() % 20));
    const std::vector<int32_t> output = ids(static_cast<int>(rng() % 12));
    const std::vector<int32_t> eos = ids(1);
    const int32_t choice = static_cast<int32_t>(rng() % 16);

    const std::vector<double> edited = reference::EditedLogits(row, p, prompt, output, eos);
    const int32_t expected = reference::Pick(reference::Probabilities(edited, p),
                                             request.seed,
                                             choice,
                                             static_cast<uint32_t>(output.size()));
    const SampleResult result = SampleAfter(request, row, prompt, output, eos, choice);
    ASSERT_EQ(result.token_id, expected) << trial;
    ASSERT_EQ(result.no_candidate, expected < 0);
    ASSERT_EQ(result.has_logprobs, expected >= 0 && p.logprobs >= 0);
    no_candidate += result.no_candidate ? 1 : 0;
    if (!result.has_logprobs) continue;
    double sum = 0;
    int rank = 1;
    for (float logit : row) {
      sum += std::exp(static_cast<double>(logit));
      rank += logit > row[expected] ? 1 : 0;
    }
    ASSERT_NEAR(result.logprobs.logprob, row[expected] - std::log(sum), 2e-6);
    ASSERT_EQ(result.logprobs.rank, rank);
  }
  EXPECT_GT(no_candidate, 0);
}

INSTANTIATE_TEST_SUITE_P(Isas,
                         SamplerFuzzTest,
                         ::testing::ValuesIn(kernels::kAllCpuIsas),
                         [](const auto& info) {
                           return std::string(kernels::CpuIsaName(info.param));
                         });

// Pearson's statistic of `draws` tokens over positions and seeds against the definition's
// probabilities, with its degrees of freedom; tokens expected fewer than 5 times are pooled.
struct ChiSquare {
  double statistic = 0;
  int degrees = -1;
  // Wilson and Hilferty: standard normal under the hypothesis.
  double Normal() const {
    const double k = degrees;
    return (std::cbrt(statistic / k) - (1 - 2 / (9 * k))) / std::sqrt(2 / (9 * k));
  }
};

ChiSquare DrawAndCompare(const SamplingParams& params, const std::vector<float>& row, int draws) {
  const std::vector<double> p =
      reference::Probabilities(std::vector<double>(row.begin(), row.end()), params);
  std::vector<int> count(row.size());
  Request request;
  request.sampling = params;
  std::vector<float> copy;
  for (int i = 0; i < draws; ++i) {
    request.seed = static_cast<uint64_t>(i / 1000);
    const int32_t choice = (i / 100) % 10;
    const SamplerState state = SamplerState::Create(request, choice, {}, {});
    copy = row;
    ++count[Sample(absl::MakeSpan(copy), request, choice, i % 100, &state, {}).token_id];
  }
  ChiSquare result;
  double pooled = 0;
  double pooled_count = 0;
  const auto add = [&](double expected, double seen) {
    result.statistic += (seen - expected) * (seen - expected) / expected;
    ++result.degrees;
  };
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(count[i], 0) << i;
    }
    if (p[i] * draws >= 5) {
      add(p[i] * draws, count[i]);
    } else {
      pooled += p[i] * draws;
      pooled_count += count[i];
    }
  }
  if (pooled > 0) add(pooled, pooled_count);
  return result;
}

TEST(SamplerDistributionTest, DrawsFollowTheSoftmax) {
  std::mt19937 rng(31);
  const std::vector<float> row = NormalRow(rng, 200, 1.5F);
  for (float temperature : {0.5F, 1.0F, 2.0F}) {
    SamplingParams params;
    params.temperature = temperature;
    const ChiSquare chi = DrawAndCompare(params, row, 200000);
    EXPECT_GT(chi.degrees, 50);
    EXPECT_LT(std::abs(chi.Normal()), 3.5) << temperature;
  }
}

TEST(SamplerDistributionTest, DrawsFollowTheTruncatedSoftmax) {
  std::mt19937 rng(32);
  const std::vector<float> row = NormalRow(rng, 200, 1.5F);
  SamplingParams top_k;
  top_k.top_k = 25;
  SamplingParams top_p;
  top_p.top_p = 0.8F;
  SamplingParams min_p;
  min_p.min_p = 0.05F;
  SamplingParams all;
  all.temperature = 1.3F;
  all.top_k = 60;
  all.top_p = 0.9F;
  all.min_p = 0.02F;
  for (const SamplingParams& params : {top_k, top_p, min_p, all}) {
    const ChiSquare chi = DrawAndCompare(params, row, 100000);
    EXPECT_GT(chi.degrees, 5);
    EXPECT_LT(std::abs(chi.Normal()), 3.5);
  }
}

TEST(SamplerDistributionTest, ChoicesAndPositionsAreIndependent) {
  // Pairs (token at one name, token at the neighbouring name) over a fair coin: 4 equal cells.
  const std::vector<float> coin = {0, 0};
  Request request;
  const auto flip = [&](uint64_t seed, int32_t choice, int32_t position) {
    request.seed = seed;
    std::vector<float> row = coin;
    const SamplerState state = SamplerState::Create(request, choice, {}, {});
    return Sample(absl::MakeSpan(row), request, choice, position, &state, {}).token_id;
  };
  int cells[3][4] = {};
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    const int base = flip(i, 0, 0);
    ++cells[0][2 * base + flip(i, 1, 0)];
    ++cells[1][2 * base + flip(i, 0, 1)];
    ++cells[2][2 * base + flip(i + 1, 0, 0)];
  }
  for (const auto& table : cells) {
    double statistic = 0;
    for (int seen : table) statistic += std::pow(seen - kDraws / 4.0, 2) / (kDraws / 4.0);
    EXPECT_LT(statistic, 21.1);  // chi-square, 3 degrees, p = 1e-4
  }
}

TEST(SamplerTest, TokenDoesNotDependOnThreadOrOrder) {
  std::mt19937 rng(41);
  std::vector<std::vector<float>> rows;
  for (int i = 0; i < 64; ++i) rows.push_back(NormalRow(rng, 3000, 2));
  Request request;
  request.seed = 99;
  request.sampling.top_p = 0.95F;
  request.sampling.logprobs = 3;
  std::vector<int32_t> alone;
  for (const auto& row : rows) alone.push_back(SampleAfter(request, row).token_id);
  std::vector<int32_t> together(rows.size());
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = rows.size(); i-- > 0;) {
        if (i % 4 == static_cast<size_t>(t)) together[i] = SampleAfter(request, rows[i]).token_id;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(alone, together);
}

TEST(SamplerTest, LogprobsAreOfTheRowBeforeBiasAndPenalties) {
  Request request;
  request.sampling.temperature = 0;
  request.sampling.logprobs = 2;
  request.sampling.logit_bias = {{3, 50.0F}};
  request.sampling.allowed_token_ids = {3};
  const SampleResult result = SampleAfter(request, {2, 1, 3, 0}, {3}, {3});
  EXPECT_EQ(result.token_id, 3);
  ASSERT_TRUE(result.has_logprobs);
  // log softmax of (2, 1, 3, 0), by numpy.
  EXPECT_NEAR(result.logprobs.logprob, -3.4401896985611953, 1e-6);
  EXPECT_EQ(result.logprobs.rank, 4);
  ASSERT_EQ(result.logprobs.top.size(), 2u);
  EXPECT_EQ(result.logprobs.top[0].first, 2);
  EXPECT_NEAR(result.logprobs.top[0].second, -0.4401896985611953, 1e-6);
  EXPECT_EQ(result.logprobs.top[1].first, 0);
  EXPECT_NEAR(result.logprobs.top[1].second, -1.4401896985611953, 1e-6);
}

TEST(SamplerTest, PromptLogprobsGiveTheActualTokenAndTheLikeliest) {
  const TokenLogprobs result = PromptLogprobs(std::vector<float>{2, 1, 3, 2}, 3, 3);
  // log softmax of (2, 1, 3, 2).
  const double log_sum = std::log(2 * std::exp(2.0) + std::exp(1.0) + std::exp(3.0));
  EXPECT_NEAR(result.logprob, 2 - log_sum, 1e-6);
  EXPECT_EQ(result.rank, 2);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].first, 2);
  EXPECT_EQ(result.top[1].first, 0);
  EXPECT_EQ(result.top[2].first, 3);
  EXPECT_EQ(result.top[2].second, result.logprob);
  EXPECT_THAT(PromptLogprobs(std::vector<float>{2, 1}, 0, 0).top, IsEmpty());
  EXPECT_EQ(PromptLogprobs(std::vector<float>{2, 1}, 0, 20).top.size(), 2u);
}

}  // namespace
}  // namespace paceline::worker
