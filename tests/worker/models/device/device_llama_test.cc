// A tiny Llama end to end through the code for CUDA, in emulation: the engine's answers are the
// same bits however they were come by, and those of the CPU but for rounding.
#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "kernels/emulation/grid.h"
#include "kernels/emulation/runtime.h"
#include "tests/fakes/engine_harness.h"
#include "tests/fakes/tiny_model.h"
#include "worker/models/device/registry.h"

namespace paceline::worker {
namespace {

using kernels::DType;
using model::TensorType;

// Sizes that the kernels have, in as little as they let.
model::TinyModelOptions Tiny(TensorType weights = TensorType::kQ4_1) {
  return {.num_layers = 2,
          .hidden_size = 64,
          .num_heads = 6,
          .num_kv_heads = 2,
          .head_dim = 64,
          .intermediate_size = 96,
          .weight_type = weights,
          .embedding_type = weights == TensorType::kQ4_1 ? TensorType::kQ8_0 : weights};
}

EngineHarness::Options OnDevice(const model::TinyModelOptions& model, DType dtype = DType::kBF16) {
  return {.model = model,
          .num_blocks = 64,
          .max_num_batched_tokens = 64,
          .compute = kernels::ComputeType::kFloat32,
          .kv_dtype = dtype,
          .load = &LoadDeviceModel,
          .device = {.dtype = dtype}};
}

std::vector<Request> Requests() {
  std::vector<Request> requests;
  for (int32_t i = 0; i < 6; ++i) {
    Request request =
        EngineHarness::MakeRequest(absl::StrCat("r", i), EngineHarness::Prompt(1 + i * 15, i), 6);
    if (i % 2 == 1) {
      request.sampling.temperature = 0.9F;
      request.sampling.top_p = 0.95F;
      request.seed = 100 + i;
    }
    if (i >= 2) request.sampling.logprobs = i == 2 ? 3 : 0;
    if (i == 3) request.sampling.repetition_penalty = 1.2F;
    if (i == 4) request.sampling.prompt_logprobs = 2;
    requests.push_back(std::move(request));
  }
  return requests;
}

EngineHarness::Options WithKv(EngineHarness::Options options, DType kv_dtype) {
  options.kv_dtype = kv_dtype;
  return options;
}

// Each request alone, on an engine of its own.
std::vector<Answer> Alone(EngineHarness::Options options) {
  options.prefix_caching = false;
  std::vector<Answer> answers;
  for (const Request& request : Requests()) {
    EngineHarness engine(options);
    answers.push_back(engine.Run(request));
  }
  return answers;
}

const std::vector<Answer>& Golden() {
  static const auto* const golden = new std::vector<Answer>(Alone(OnDevice(Tiny())));
  return *golden;
}

void ExpectGolden(EngineHarness& engine,
                  const std::string& suffix = "",
                  const std::vector<Answer>& golden = Golden()) {
  for (Request& request : Requests()) {
    request.id += suffix;
    engine.Submit(request);
  }
  for (size_t i = 0; i < golden.size(); ++i) {
    const Answer answer = engine.Wait(absl::StrCat("r", i, suffix));
    EXPECT_EQ(answer.token_ids.size(), 6U) << i;
    EXPECT_TRUE(SameAnswer(answer, golden[i])) << i;
  }
}

TEST(DeviceLlamaTest, BatchMatesAndTheOrderOfThreadsChangeNothing) {
  Golden();
  kernels::emulation::SetSeed(77);
  EngineHarness engine(OnDevice(Tiny()));
  ExpectGolden(engine);
}

TEST(DeviceLlamaTest, ATraceTellsHowLongTheDeviceWasIdle) {
  const std::string path = testing::TempDir() + "/device_idle_trace.json";
  auto trace = StepTrace::Open({.path = path, .process_name = "test"}, SteadyClock::Get());
  ASSERT_TRUE(trace.ok()) << trace.status();
  {
    EngineHarness::Options options = OnDevice(Tiny());
    options.trace = trace->get();
    EngineHarness engine(options);
    engine.Run(EngineHarness::MakeRequest("r", EngineHarness::Prompt(5, 0), 10));
  }
  trace->reset();
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  int32_t count = 0;
  for (size_t at = 0; (at = text.str().find("device idle", at)) != std::string::npos; ++at) ++count;
  EXPECT_GE(count, 7);  // of ten steps; the last ones are over after what could tell of them
  std::filesystem::remove(path);
}

TEST(DeviceLlamaTest, StepsOfDecodesAreGraphs) {
  const int64_t before = kernels::emulation::NumGraphStarts();
  EngineHarness engine(OnDevice(Tiny()));
  engine.Run(Requests()[0]);  // a token of prompt, six of answer
  EXPECT_EQ(kernels::emulation::NumGraphStarts() - before, 5) << "all but the first";
}

TEST(DeviceLlamaTest, ChunksChangeNothing) {
  EngineHarness::Options options = OnDevice(Tiny());
  options.max_num_seqs = 7;
  options.max_num_batched_tokens = 7;
  EngineHarness engine(options);
  ExpectGolden(engine);
}

TEST(DeviceLlamaTest, ThePrefixCacheChangesNothing) {
  EngineHarness engine(OnDevice(Tiny()));
  ExpectGolden(engine);
  ExpectGolden(engine, "-again");
  EXPECT_GE(engine.Wait("r5-again").cached_tokens, 64);
}

TEST(DeviceLlamaTest, PreemptionChangesNothing) {
  EngineHarness::Options options = OnDevice(Tiny());
  options.num_blocks = 5;
  EngineHarness engine(options);
  ExpectGolden(engine);
  EXPECT_GT(engine.metrics().vllm_preemptions->Value(), 0);
}

// In emulation warp groups add as the other kernels do.
TEST(DeviceLlamaTest, PrefillWithWgmmaChangesNothing) {
  EngineHarness::Options options = OnDevice(Tiny());
  options.device.wgmma_prefill = true;
  {
    EngineHarness engine(options);
    ExpectGolden(engine);
    ExpectGolden(engine, "-again");
    EXPECT_GE(engine.Wait("r5-again").cached_tokens, 64);
  }
  options.max_num_seqs = 7;
  options.max_num_batched_tokens = 17;
  options.num_blocks = 5;
  EngineHarness engine(options);
  ExpectGolden(engine);
  EXPECT_GT(engine.metrics().vllm_preemptions->Value(), 0);
}

TEST(DeviceLlamaTest, ChoicesThatShareABlockPart) {
  // Two choices share the prompt's blocks until they write: a copy on the device.
  Request request = EngineHarness::MakeRequest("n", EngineHarness::Prompt(40, 9), 4);
  request.sampling.temperature = 1.0F;
  request.seed = 5;
  request.n = 2;
  EngineHarness engine(OnDevice(Tiny()));
  engine.Submit(request);
  for (int32_t choice = 0; choice < 2; ++choice) {
    const Answer together = engine.Wait("n", choice);
    Request alone = request;
    alone.n = 1;
    alone.first_choice_index = choice;
    EngineHarness other(OnDevice(Tiny()));
    other.Submit(alone);
    EXPECT_TRUE(SameAnswer(other.Wait("n", choice), together)) << choice;
  }
}

// A cache of 8 bits in which every token's head has a scale of its own.
class DeviceKvTest : public testing::TestWithParam<DType> {};

TEST_P(DeviceKvTest, BatchesChunksPreemptionAndThePrefixCacheChangeNothing) {
  EngineHarness::Options options = WithKv(OnDevice(Tiny()), GetParam());
  const std::vector<Answer> golden = Alone(options);
  EXPECT_FALSE(SameAnswer(golden[2], Golden()[2])) << "other bits than with bf16";
  options.max_num_seqs = options.max_num_batched_tokens = 7;
  options.num_blocks = 5;
  kernels::emulation::SetSeed(78);
  EngineHarness scarce(options);
  ExpectGolden(scarce, "", golden);
  EXPECT_GT(scarce.metrics().vllm_preemptions->Value(), 0);
  options.num_blocks = 64;
  options.tensor_size = 2;
  EngineHarness ample(options);
  ExpectGolden(ample, "", golden);
  ExpectGolden(ample, "-again", golden);
  EXPECT_GE(ample.Wait("r5-again").cached_tokens, 64);
}

INSTANTIATE_TEST_SUITE_P(Kv, DeviceKvTest, testing::Values(DType::kI8, DType::kE4M3));

// Ranks exchange through their hosts' memory.
struct Layout {
  int32_t tensor_size;
  int32_t num_stages;
};

class DeviceLayoutTest : public testing::TestWithParam<Layout> {};

TEST_P(DeviceLayoutTest, EveryLayoutGivesTheBitsOfOneRank) {
  EngineHarness::Options options = OnDevice(Tiny());
  options.tensor_size = GetParam().tensor_size;
  options.num_stages = GetParam().num_stages;
  EngineHarness engine(options);
  ExpectGolden(engine);
}

INSTANTIATE_TEST_SUITE_P(Layouts,
                         DeviceLayoutTest,
                         testing::Values(Layout{2, 1}, Layout{1, 2}, Layout{3, 2}),
                         [](const auto& info) {
                           return absl::StrCat(
                               "T", info.param.tensor_size, "P", info.param.num_stages);
                         });

// Rounding of its own, the same each time.
TEST(DeviceLlamaTest, RanksThatAddUpAgreeWithThemselves) {
  EngineHarness::Options options = OnDevice(Tiny());
  options.tensor_size = 2;
  options.tensor_mode = TensorMode::kFast;
  EngineHarness together(options);
  for (const Request& request : Requests()) together.Submit(request);
  EngineHarness alone(options);
  for (size_t i = 3; i < 5; ++i) {
    EXPECT_TRUE(SameAnswer(alone.Run(Requests()[i]), together.Wait(absl::StrCat("r", i)))) << i;
  }
}

// Log-probabilities of a prompt: neither side chooses what comes next.
std::vector<float> PromptLogprobs(const EngineHarness::Options& options) {
  Request request = EngineHarness::MakeRequest("p", EngineHarness::Prompt(60, 3), 1);
  request.sampling.prompt_logprobs = 0;
  EngineHarness engine(options);
  const Answer answer = engine.Run(request);
  std::vector<float> logprobs;
  for (const TokenLogprobs& token : answer.prompt_logprobs) logprobs.push_back(token.logprob);
  return logprobs;
}

// `cpu_kv`: of the cache of the CPU's float32 path.
void ExpectNearCpu(const EngineHarness::Options& options,
                   double tolerance,
                   DType cpu_kv = DType::kF32) {
  EngineHarness::Options cpu = WithKv(options, cpu_kv);
  cpu.load = &LoadModel;
  const std::vector<float> expected = PromptLogprobs(cpu);
  const std::vector<float> logprobs = PromptLogprobs(options);
  ASSERT_EQ(logprobs.size(), 60U);
  ASSERT_EQ(expected.size(), 60U);
  double worst = 0;
  double spread = 0;
  for (size_t i = 1; i < expected.size(); ++i) {
    worst = std::max(worst, std::fabs(static_cast<double>(logprobs[i]) - expected[i]));
    spread = std::max(spread, std::fabs(static_cast<double>(expected[i]) - expected[1]));
  }
  EXPECT_LT(worst, tolerance);
  EXPECT_GT(spread, 1) << "log-probabilities that say something";
  testing::Test::RecordProperty("worst", std::to_string(worst));
}

// Of a log-probability with f16; the worst seen is 0.018.
constexpr double kTolerance = 0.03;

class DeviceLlamaFormatTest : public testing::TestWithParam<TensorType> {};

// bf16 rounds eight times as coarsely as f16.
TEST_P(DeviceLlamaFormatTest, EqualsTheCpuButForRounding) {
  ExpectNearCpu(OnDevice(Tiny(GetParam()), DType::kBF16), 8 * kTolerance);
  ExpectNearCpu(OnDevice(Tiny(GetParam()), DType::kF16), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Formats,
                         DeviceLlamaFormatTest,
                         testing::Values(TensorType::kQ4_0,
                                         TensorType::kQ4_1,
                                         TensorType::kQ8_0,
                                         TensorType::kF16,
                                         TensorType::kBF16,
                                         TensorType::kF32));

// Beside the CPU's cache of the same kind, and beside one that does not round.
TEST(DeviceLlamaTest, AnInt8CacheEqualsTheCpusButForRounding) {
  const EngineHarness::Options options = WithKv(OnDevice(Tiny(), DType::kF16), DType::kI8);
  ExpectNearCpu(options, 4 * kTolerance, DType::kI8);
  ExpectNearCpu(options, 8 * kTolerance);
}

// The worst seen is 0.62; int8's is 0.17.
TEST(DeviceLlamaTest, AnFp8CacheIsNearTheCpuWithout) {
  ExpectNearCpu(WithKv(OnDevice(Tiny(), DType::kF16), DType::kE4M3), 30 * kTolerance);
}

TEST(DeviceLlamaTest, OtherShapesEqualTheCpuButForRounding) {
  model::TinyModelOptions model = Tiny();
  model.num_heads = 5;
  model.num_kv_heads = 1;
  model.attention_bias = true;
  model.rope_frequencies = true;
  model.tied_embeddings = false;
  ExpectNearCpu(OnDevice(model, DType::kF16), kTolerance);
  model.num_heads = model.num_kv_heads = 2;
  model.head_dim = 128;
  ExpectNearCpu(OnDevice(model, DType::kF16), kTolerance);
}

}  // namespace
}  // namespace paceline::worker
