// Replicas of several ranks: every layout gives the bits of one rank alone.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/fakes/engine_harness.h"

namespace paceline::worker {
namespace {

struct Layout {
  int32_t tensor_size;
  int32_t num_stages;
  kernels::ComputeType compute = kernels::ComputeType::kInt8;
  kernels::DType kv_dtype = kernels::DType::kF16;
  TensorMode mode = TensorMode::kExact;
};

// Sizes that no number of ranks divides.
model::TinyModelOptions Odd() {
  return {.num_layers = 5,
          .hidden_size = 288,
          .num_heads = 9,
          .num_kv_heads = 3,
          .intermediate_size = 352,
          .vocab_size = 299,
          .attention_bias = true};
}

EngineHarness::Options OptionsOf(const Layout& layout) {
  return {.model = Odd(),
          .num_blocks = 40,
          .max_num_seqs = 16,
          .max_num_batched_tokens = 48,
          .compute = layout.compute,
          .kv_dtype = layout.kv_dtype,
          .tensor_size = layout.tensor_size,
          .tensor_mode = layout.mode,
          .num_stages = layout.num_stages};
}

std::vector<Request> Requests() {
  std::vector<Request> requests;
  for (int32_t i = 0; i < 10; ++i) {
    Request request = EngineHarness::MakeRequest(
        absl::StrCat("r", i), EngineHarness::Prompt(1 + i * 17, i / 2), 12);
    if (i % 3 == 1) {
      request.sampling.temperature = 0.9F;
      request.sampling.presence_penalty = 0.2F;
      request.seed = i;
    }
    // Greedy without log-probabilities: ranks exchange their best logits only.
    if (i % 3 == 2) request.sampling.logprobs = -1;
    if (i == 8) request.sampling.min_tokens = 4;
    if (i == 4) request.n = 3;
    if (i == 5) request.sampling.prompt_logprobs = 2;
    requests.push_back(std::move(request));
  }
  return requests;
}

std::vector<Answer> RunAll(const Layout& layout) {
  EngineHarness engine(OptionsOf(layout));
  for (const Request& request : Requests()) engine.Submit(request);
  std::vector<Answer> answers;
  for (const Request& request : Requests()) {
    for (int32_t i = 0; i < request.n; ++i) answers.push_back(engine.Wait(request.id, i));
  }
  // Again, from the prefix cache and after others.
  for (Request& request : Requests()) {
    request.id += "-again";
    engine.Submit(request);
  }
  for (const Request& request : Requests()) answers.push_back(engine.Wait(request.id + "-again"));
  return answers;
}

class ParallelTest : public testing::TestWithParam<Layout> {};

TEST_P(ParallelTest, EveryLayoutGivesTheBitsOfOneRank) {
  const std::vector<Answer> expected = RunAll({1, 1, GetParam().compute, GetParam().kv_dtype});
  const std::vector<Answer> answers = RunAll(GetParam());
  ASSERT_EQ(answers.size(), expected.size());
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].token_ids.size(), 12U) << i;
    EXPECT_TRUE(SameAnswer(answers[i], expected[i])) << i;
  }
}

constexpr auto kInt8 = kernels::ComputeType::kInt8;

// Its bits are its own: they depend on the number of tensor ranks, and on nothing else.
TEST(FastTensorModeTest, ALayoutGivesItsBitsAgainAloneAndWithAnyStages) {
  for (const int32_t ranks : {2, 3, 4}) {
    SCOPED_TRACE(ranks);
    const auto layout = [&](int32_t stages) {
      return Layout{ranks, stages, kInt8, kernels::DType::kF16, TensorMode::kFast};
    };
    const std::vector<Answer> expected = RunAll(layout(1));
    const std::vector<Answer> staged = RunAll(layout(2));
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_TRUE(SameAnswer(staged[i], expected[i])) << i;
    }
    for (const size_t i : {0U, 3U}) {
      EngineHarness alone(OptionsOf(layout(1)));
      EXPECT_TRUE(SameAnswer(alone.Run(Requests()[i]), expected[i])) << i;
    }
  }
}

TEST(FastTensorModeTest, AnswersAreThoseOfTheExactModeButForRounding) {
  for (const auto compute : {kInt8, kernels::ComputeType::kFloat32}) {
    const auto kv = compute == kInt8 ? kernels::DType::kF16 : kernels::DType::kF32;
    const std::vector<Answer> exact = RunAll({1, 1, compute, kv});
    const std::vector<Answer> fast = RunAll({3, 1, compute, kv, TensorMode::kFast});
    int num_other = 0;
    int num_compared = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      num_other += SameAnswer(fast[i], exact[i]) ? 0 : 1;
      if (exact[i].logprobs.empty() || fast[i].token_ids[0] != exact[i].token_ids[0]) continue;
      ++num_compared;
      // A rounding that goes the other way shows most after int8 took it.
      EXPECT_NEAR(
          fast[i].logprobs[0].logprob, exact[i].logprobs[0].logprob, compute == kInt8 ? 0.05 : 1e-3)
          << i;
    }
    EXPECT_GT(num_other, 0);
    EXPECT_GE(num_compared, 8);
  }
}

// Requests of which some are cancelled, paused or out of time while a stage computes them.
TEST(PipelineTest, DisturbedStepsOfSeveralStagesLeaveTheOthersAsTheyAre) {
  EngineHarness::Options alone = OptionsOf({1, 1});
  EngineHarness::Options options = OptionsOf({1, 3});
  options.num_blocks = alone.num_blocks = 24;  // some are preempted, too
  const auto request = [](int32_t i) {
    return EngineHarness::MakeRequest(
        absl::StrCat("r", i), EngineHarness::Prompt(3 + i * 7, i), i % 3 == 1 ? 400 : 40);
  };
  std::vector<Answer> expected;
  {
    EngineHarness engine(alone);
    for (int32_t i = 0; i < 12; ++i) {
      if (i % 3 != 1) expected.push_back(engine.Run(request(i)));
    }
  }
  EngineHarness engine(options);
  for (int32_t i = 0; i < 12; ++i) engine.Submit(request(i));
  for (int32_t i = 0; i < 12; ++i) {
    const std::string id = absl::StrCat("r", i);
    engine.WaitForTokens(id, 2);
    if (i % 3 == 1) engine.Cancel(id);
    if (i % 3 == 2) {
      engine.Pause(id);
      engine.Resume(id);
    }
  }
  size_t next = 0;
  for (int32_t i = 0; i < 12; ++i) {
    const Answer answer = engine.Wait(absl::StrCat("r", i));
    EXPECT_FALSE(answer.gap || answer.after_end) << i;
    if (i % 3 == 1) {
      EXPECT_EQ(answer.finish_reason, FinishReason::kCancelled) << i;
    } else {
      EXPECT_TRUE(SameAnswer(answer, expected[next++])) << i;
    }
  }
}

constexpr auto kFloat = kernels::ComputeType::kFloat32;
INSTANTIATE_TEST_SUITE_P(Layouts,
                         ParallelTest,
                         testing::Values(Layout{2, 1},
                                         Layout{3, 1},
                                         Layout{4, 1},
                                         Layout{9, 1},
                                         Layout{1, 2},
                                         Layout{1, 3},
                                         Layout{1, 5},
                                         Layout{2, 2},
                                         Layout{2, 1, kFloat, kernels::DType::kF32},
                                         Layout{4, 2, kFloat, kernels::DType::kF32},
                                         Layout{4, 2, kInt8, kernels::DType::kI8}),
                         [](const testing::TestParamInfo<Layout>& info) {
                           return absl::StrCat("T",
                                               info.param.tensor_size,
                                               "P",
                                               info.param.num_stages,
                                               info.param.compute == kFloat ? "Float" : "Int8",
                                               "Kv",
                                               static_cast<int>(info.param.kv_dtype));
                         });

}  // namespace
}  // namespace paceline::worker
