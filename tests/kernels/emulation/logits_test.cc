// What is done with logits on the device, in emulation, beside the CPU's sampler, which has
// references of its own.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/emulation/grid.h"
#include "kernels/sampling/logits_device.h"
#include "tests/kernels/emulation/device_array.h"
#include "tests/kernels/kernel_test_util.h"
#include "tests/worker/sample/reference_sampler.h"
#include "worker/sample/sampler.h"

namespace paceline::kernels {
namespace {

using worker::Request;
using worker::SamplerState;
using worker::SamplingParams;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A row; with `grid` > 0 logits are multiples of it, so that many are equal.
std::vector<float> RandomRow(int32_t vocab_size, uint32_t seed, float spread, float grid) {
  std::vector<float> row = RandomFloats(vocab_size, seed, spread);
  for (float& logit : row) {
    if (grid > 0) logit = std::round(logit / grid) * grid;
  }
  return row;
}

// Rows on the device, with room between them.
struct Rows {
  explicit Rows(const std::vector<std::vector<float>>& rows)
      : vocab_size(static_cast<int32_t>(rows[0].size())),
        values(static_cast<int64_t>(rows.size()) * (vocab_size + 3)),
        view{values.data(), vocab_size + 3, static_cast<int32_t>(rows.size()), vocab_size} {
    for (size_t i = 0; i < rows.size(); ++i) {
      std::copy(rows[i].begin(), rows[i].end(), values.data() + i * (vocab_size + 3));
    }
  }
  std::vector<float> row(int32_t i) {
    const float* const first = values.data() + i * (vocab_size + 3);
    return {first, first + vocab_size};
  }
  int32_t vocab_size;
  DeviceArray<float> values;
  DeviceLogits view;
};

TEST(DeviceArgMaxTest, FindsTheFirstOfTheBest) {
  for (const int32_t vocab_size : {1, 31, 512, 3001}) {
    std::vector<std::vector<float>> rows;
    for (uint32_t i = 0; i < 4; ++i) rows.push_back(RandomRow(vocab_size, i, 2, i % 2 ? 1.0f : 0));
    Rows logits(rows);
    DeviceArray<DeviceBestLogit> best(4);
    emulation::SetSeed(vocab_size);
    ASSERT_TRUE(DeviceArgMax(nullptr, logits.view, best.data()).ok());
    for (int i = 0; i < 4; ++i) {
      const auto expected = std::max_element(rows[i].begin(), rows[i].end());
      EXPECT_EQ(best[i].id, expected - rows[i].begin());
      EXPECT_EQ(best[i].logit, *expected);
      EXPECT_EQ(best[i].all_finite, 1);
    }
  }
}

TEST(DeviceArgMaxTest, TellsOfWhatIsNotFinite) {
  const std::vector<std::vector<float>> rows = {{1, 2, kNan, 0},
                                                {1, kInfinity, 3, 0},
                                                {-kInfinity, -5, -5, 0},
                                                {-kInfinity, -kInfinity, kNan, -kInfinity},
                                                {-0.0f, 0.0f, -1, -1}};
  Rows logits(rows);
  DeviceArray<DeviceBestLogit> best(5);
  ASSERT_TRUE(DeviceArgMax(nullptr, logits.view, best.data()).ok());
  const DeviceBestLogit expected[] = {
      {1, 2, 0}, {1, kInfinity, 0}, {3, 0, 0}, {-1, -kInfinity, 0}, {0, 0, 1}};
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(best[i].id, expected[i].id) << i;
    EXPECT_EQ(best[i].logit, expected[i].logit) << i;
    EXPECT_EQ(best[i].all_finite, expected[i].all_finite) << i;
  }
}

DeviceSampleRow ToRow(const SamplingParams& params, uint64_t seed, uint32_t position) {
  const bool greedy = params.temperature < worker::kGreedyTemperature;
  return {.inverse_temperature = greedy ? 0.0 : 1.0 / static_cast<double>(params.temperature),
          .log_min_p = std::log(static_cast<double>(params.min_p)),
          .top_p = params.top_p,
          .top_k = params.top_k,
          .choice = 0,
          .position = position,
          .seed = seed};
}

int32_t OnCpu(const std::vector<float>& row, const Request& request, int32_t position) {
  std::vector<float> logits = row;
  const std::vector<int32_t> output(position, 0);
  const SamplerState state = SamplerState::Create(request, 0, {}, output);
  return worker::Sample(absl::MakeSpan(logits), request, 0, position, &state, {}).token_id;
}

// Any combination of what truncates, over rows with and without ties.
TEST(DeviceSampleTest, ChoosesAsTheCpu) {
  std::mt19937 random(1);
  const auto one_of = [&](std::vector<double> values) { return values[random() % values.size()]; };
  int different_from_best = 0;
  for (int round = 0; round < 25; ++round) {
    emulation::SetSeed(round);
    const auto vocab_size = static_cast<int32_t>(one_of({5, 300, 1999, 5000}));
    constexpr int kRows = 4;
    std::vector<std::vector<float>> rows;
    std::vector<Request> requests(kRows);
    std::vector<DeviceSampleRow> device_rows;
    std::vector<int32_t> allowed;
    for (int i = 0; i < kRows; ++i) {
      rows.push_back(RandomRow(vocab_size,
                               random(),
                               static_cast<float>(one_of({0.001, 1, 4})),
                               static_cast<float>(one_of({0, 0, 0.5, 3}))));
      SamplingParams& params = requests[i].sampling;
      params.temperature = static_cast<float>(one_of({0, 0.3, 1, 1, 5}));
      params.top_k = static_cast<int32_t>(one_of({0, 0, 1, 7, 40, 1500}));
      params.top_p = static_cast<float>(one_of({1, 1, 0.95, 0.5, 0.05}));
      params.min_p = static_cast<float>(one_of({0, 0, 0.02, 0.5}));
      requests[i].seed = random() * 0x100000001ull;
      DeviceSampleRow row = ToRow(params, requests[i].seed, round);
      if (random() % 4 == 0) {
        for (int j = 0; j < 20; ++j) params.allowed_token_ids.push_back(random() % vocab_size);
        std::sort(params.allowed_token_ids.begin(), params.allowed_token_ids.end());
        params.allowed_token_ids.erase(
            std::unique(params.allowed_token_ids.begin(), params.allowed_token_ids.end()),
            params.allowed_token_ids.end());
        row.first_allowed = static_cast<int32_t>(allowed.size());
        row.num_allowed = static_cast<int32_t>(params.allowed_token_ids.size());
        allowed.insert(
            allowed.end(), params.allowed_token_ids.begin(), params.allowed_token_ids.end());
      }
      device_rows.push_back(row);
    }
    allowed.push_back(0);
    Rows logits(rows);
    DeviceArray<DeviceSampleRow> device_params(device_rows);
    DeviceArray<int32_t> device_allowed(allowed), tokens(kRows);
    ASSERT_TRUE(
        DeviceSample(
            nullptr, logits.view, device_params.data(), device_allowed.data(), tokens.data())
            .ok());
    for (int i = 0; i < kRows; ++i) {
      const SamplingParams& params = requests[i].sampling;
      ASSERT_EQ(tokens[i], OnCpu(rows[i], requests[i], round))
          << "round " << round << " row " << i << " of " << vocab_size << ": temperature "
          << params.temperature << " top_k " << params.top_k << " top_p " << params.top_p
          << " min_p " << params.min_p << " allowed " << params.allowed_token_ids.size();
      different_from_best +=
          tokens[i] != std::max_element(rows[i].begin(), rows[i].end()) - rows[i].begin() ? 1 : 0;
    }
  }
  EXPECT_GT(different_from_best, 20) << "most rows draw";
}

// Logits so far apart that each is alone in its range of keys.
TEST(DeviceSampleTest, TopKEndsBetweenRanges) {
  std::vector<float> row;
  for (int i = 0; i < 12; ++i) row.push_back(std::ldexp(i % 2 == 0 ? 1.0f : -1.0f, 6 - i));
  std::vector<Request> requests;
  std::vector<DeviceSampleRow> device_rows;
  for (int32_t k = 1; k <= 12; ++k) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      Request& request = requests.emplace_back();
      request.sampling.temperature = 100;
      request.sampling.top_k = k;
      request.seed = seed;
      device_rows.push_back(ToRow(request.sampling, seed, 0));
    }
  }
  Rows logits(std::vector<std::vector<float>>(requests.size(), row));
  DeviceArray<DeviceSampleRow> device_params(device_rows);
  DeviceArray<int32_t> tokens(static_cast<int64_t>(requests.size()));
  ASSERT_TRUE(
      DeviceSample(nullptr, logits.view, device_params.data(), nullptr, tokens.data()).ok());
  for (size_t i = 0; i < requests.size(); ++i) {
    ASSERT_EQ(tokens[i], OnCpu(row, requests[i], 0)) << "top_k " << requests[i].sampling.top_k;
  }
}

TEST(DeviceSampleTest, DrawsByTheDefinition) {
  SamplingParams params;
  params.temperature = 0.8F;
  params.top_p = 0.9F;
  params.top_k = 50;
  const std::vector<float> row = RandomRow(400, 5, 2, 0);
  const std::vector<double> probabilities =
      worker::reference::Probabilities({row.begin(), row.end()}, params);
  constexpr int kRows = 40;
  std::vector<DeviceSampleRow> device_rows;
  for (int i = 0; i < kRows; ++i) device_rows.push_back(ToRow(params, 1234567890123ull, i));
  Rows logits(std::vector<std::vector<float>>(kRows, row));
  DeviceArray<DeviceSampleRow> device_params(device_rows);
  DeviceArray<int32_t> tokens(kRows);
  ASSERT_TRUE(
      DeviceSample(nullptr, logits.view, device_params.data(), nullptr, tokens.data()).ok());
  for (int i = 0; i < kRows; ++i) {
    EXPECT_EQ(tokens[i], worker::reference::Pick(probabilities, 1234567890123ull, 0, i)) << i;
  }
}

TEST(DeviceSampleTest, NothingLeftIsNoToken) {
  Rows logits({{-kInfinity, -kInfinity}, {-kInfinity, 3}, {kNan, 1}});
  SamplingParams params;
  DeviceArray<DeviceSampleRow> rows(std::vector<DeviceSampleRow>(3, ToRow(params, 1, 0)));
  DeviceArray<int32_t> tokens(3);
  ASSERT_TRUE(DeviceSample(nullptr, logits.view, rows.data(), nullptr, tokens.data()).ok());
  EXPECT_EQ(tokens.ToVector(), (std::vector<int32_t>{-1, 1, 1}));
}

TEST(DeviceEditLogitsTest, EditsAsTheReferenceAndTakesItBack) {
  constexpr int32_t kVocabSize = 50;
  SamplingParams params;
  params.logit_bias = {{3, 2.5F}, {7, -100.0F}, {3, -0.25F}, {99, 1.0F}, {8, 4.0F}};
  params.min_tokens = 100;
  params.stop_token_ids = {7, 11};
  params.repetition_penalty = 1.3F;
  params.frequency_penalty = 0.5F;
  params.presence_penalty = -0.75F;
  const std::vector<int32_t> prompt = {3, 4, 4}, output = {8, 8, 11, 9}, eos = {20};
  // In the order of the pipeline, then by id.
  std::vector<LogitEdit> edits;
  for (const auto& [id, bias] : params.logit_bias)
    edits.push_back({id, LogitEditKind::kBias, bias});
  for (const int32_t id : {7, 11, 20}) edits.push_back({id, LogitEditKind::kMask, 0});
  for (const auto& [id, count] : std::vector<std::pair<int32_t, float>>{
           {3, 0.0F}, {4, 0.0F}, {8, 2.0F}, {11, 1.0F}, {9, 1.0F}}) {
    edits.push_back({id, LogitEditKind::kSeen, count});
  }
  std::stable_sort(edits.begin(), edits.end(), [](const LogitEdit& a, const LogitEdit& b) {
    return a.id < b.id;
  });
  const std::vector<std::vector<float>> rows = {RandomRow(kVocabSize, 1, 3, 0),
                                                RandomRow(kVocabSize, 2, 3, 0)};
  const auto count = static_cast<int32_t>(edits.size());
  Rows logits(rows);
  DeviceArray<LogitEdit> device_edits(edits);
  DeviceArray<float> before(count);
  DeviceArray<LogitEditRow> edit_rows(std::vector<LogitEditRow>{
      {1, 0, count, params.repetition_penalty, params.frequency_penalty, params.presence_penalty}});
  const LogitEdits all{edit_rows.data(), device_edits.data(), before.data(), 1};
  ASSERT_TRUE(DeviceEditLogits(nullptr, logits.view, all).ok());
  EXPECT_EQ(logits.row(0), rows[0]);
  const std::vector<double> expected =
      worker::reference::EditedLogits(rows[1], params, prompt, output, eos);
  const std::vector<float> edited = logits.row(1);
  for (int32_t i = 0; i < kVocabSize; ++i) {
    if (std::isinf(expected[i])) {
      EXPECT_EQ(edited[i], -kInfinity) << i;
    } else {
      EXPECT_NEAR(edited[i], expected[i], 1e-5) << i;
    }
  }
  ASSERT_TRUE(DeviceRestoreLogits(nullptr, logits.view, all).ok());
  EXPECT_EQ(logits.row(1), rows[1]);
}

TEST(DeviceLogprobsTest, AreTheCpus) {
  constexpr int32_t kVocabSize = 3000, kMaxTop = 20;
  std::vector<std::vector<float>> rows;
  for (uint32_t i = 0; i < 4; ++i) rows.push_back(RandomRow(kVocabSize, i + 9, 3, i == 2 ? 2 : 0));
  const std::vector<DeviceLogprobRow> asked = {{3, 5}, {0, 0}, {2, kMaxTop}};
  const std::vector<int32_t> tokens = {17, 0, 2999, 4};
  Rows logits(rows);
  DeviceArray<DeviceLogprobRow> device_rows(asked);
  DeviceArray<int32_t> device_tokens(tokens), ranks(3), top_ids(3 * kMaxTop);
  DeviceArray<float> logprobs(3), top_logprobs(3 * kMaxTop);
  emulation::SetSeed(5);
  const absl::Status status = DeviceComputeLogprobs(nullptr,
                                                    logits.view,
                                                    {.rows = device_rows.data(),
                                                     .tokens = device_tokens.data(),
                                                     .logprobs = logprobs.data(),
                                                     .ranks = ranks.data(),
                                                     .top_ids = top_ids.data(),
                                                     .top_logprobs = top_logprobs.data(),
                                                     .num_rows = 3,
                                                     .max_top = kMaxTop});
  ASSERT_TRUE(status.ok()) << status;
  for (int i = 0; i < 3; ++i) {
    const auto [row, num_top] = asked[i];
    const worker::TokenLogprobs expected = worker::PromptLogprobs(rows[row], tokens[row], num_top);
    EXPECT_NEAR(logprobs[i], expected.logprob, 2e-6);
    EXPECT_EQ(ranks[i], expected.rank);
    for (int j = 0; j < kMaxTop; ++j) {
      const int64_t at = i * kMaxTop + j;
      if (j < num_top) {
        EXPECT_EQ(top_ids[at], expected.top[j].first) << i << " " << j;
        EXPECT_NEAR(top_logprobs[at], expected.top[j].second, 2e-6) << i << " " << j;
      } else {
        EXPECT_EQ(top_ids[at], -1);
      }
    }
  }
}

TEST(DeviceTakeChosenTest, BestRowsComeBeforeOthers) {
  constexpr int32_t kBest = 150;
  constexpr int32_t kTokens = 100;
  DeviceArray<DeviceBestLogit> best(kBest);
  DeviceArray<int32_t> tokens(kTokens);
  for (int32_t i = 0; i < kBest; ++i) best[i] = {.id = 1000 + i, .logit = 0, .all_finite = 1};
  for (int32_t i = 0; i < kTokens; ++i) tokens[i] = 5000 + i;
  tokens[7] = -1;  // has none
  for (const int32_t count : {1, 128, 250}) {
    DeviceArray<int32_t> rows(count);
    DeviceArray<int32_t> ids(count);
    for (int32_t i = 0; i < count; ++i) rows[i] = (i * 7 + 3) % (kBest + kTokens);
    ASSERT_TRUE(DeviceTakeChosen(
                    nullptr, {best.data(), kBest, tokens.data()}, rows.data(), count, ids.data())
                    .ok());
    for (int32_t i = 0; i < count; ++i) {
      const int32_t row = rows[i];
      const int32_t want = row < kBest ? 1000 + row : row == kBest + 7 ? -1 : 5000 + row - kBest;
      ASSERT_EQ(ids[i], want) << i << " of " << count;
    }
  }
}

TEST(DeviceLogitsTest, WrongSizesAreInvalid) {
  EXPECT_EQ(DeviceTakeChosen(nullptr, {}, nullptr, 0, nullptr).code(),
            absl::StatusCode::kInvalidArgument);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const DeviceLogits narrow{nullptr, 3, 1, 4}, good{nullptr, 4, 1, 4};
  EXPECT_EQ(DeviceArgMax(nullptr, narrow, nullptr).code(), kInvalid);
  EXPECT_EQ(DeviceSample(nullptr, narrow, nullptr, nullptr, nullptr).code(), kInvalid);
  EXPECT_EQ(DeviceEditLogits(nullptr, good, {}).code(), kInvalid);
  EXPECT_EQ(DeviceComputeLogprobs(nullptr, good, {.num_rows = 1, .max_top = 129}).code(), kInvalid);
}

}  // namespace
}  // namespace paceline::kernels
