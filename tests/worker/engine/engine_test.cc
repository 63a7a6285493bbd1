#include "worker/engine/engine.h"

#include <set>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/dispatch.h"
#include "tests/fakes/early_model.h"
#include "tests/fakes/engine_harness.h"
#include "tests/fakes/recording_spans.h"

namespace paceline::worker {
namespace {

Request Seeded(std::string id, std::vector<int32_t> prompt, int32_t max_tokens, uint64_t seed) {
  Request request = EngineHarness::MakeRequest(std::move(id), std::move(prompt), max_tokens);
  request.sampling.temperature = 0.9F;
  request.sampling.top_p = 0.95F;
  request.sampling.frequency_penalty = 0.3F;
  request.seed = seed;
  return request;
}

// The requests whose answers must never change, and their answers from an engine that does nothing
// else: no batch-mates, no cache, one thread.
struct Golden {
  std::vector<Request> requests;
  std::vector<Answer> answers;
};

const Golden& GetGolden() {
  static const Golden golden = [] {
    Golden g;
    for (int i = 0; i < 12; ++i) {
      const std::vector<int32_t> prompt = EngineHarness::Prompt(1 + i * 29, i / 2);
      const std::string id = "g" + std::to_string(i);
      g.requests.push_back(i % 2 == 0 ? EngineHarness::MakeRequest(id, prompt, 24)
                                      : Seeded(id, prompt, 24, 100 + i));
    }
    for (const Request& request : g.requests) {
      EngineHarness engine({.num_blocks = 32, .prefix_caching = false});
      g.answers.push_back(engine.Run(request));
    }
    return g;
  }();
  return golden;
}

void ExpectGolden(EngineHarness& engine) {
  const Golden& golden = GetGolden();
  for (const Request& request : golden.requests) engine.Submit(request);
  for (size_t i = 0; i < golden.requests.size(); ++i) {
    const Answer answer = engine.Wait(golden.requests[i].id);
    EXPECT_TRUE(SameAnswer(answer, golden.answers[i])) << golden.requests[i].id;
    EXPECT_FALSE(answer.gap);
    EXPECT_FALSE(answer.after_end);
  }
}

TEST(EngineTest, GoldenAnswersAreWorthComparing) {
  const Golden& golden = GetGolden();
  std::set<std::vector<int32_t>> different;
  for (const Answer& answer : golden.answers) {
    EXPECT_EQ(answer.token_ids.size(), 24U);
    EXPECT_EQ(answer.logprobs.size(), 24U);
    EXPECT_EQ(answer.finish_reason, FinishReason::kLength);
    different.insert(answer.token_ids);
  }
  EXPECT_GE(different.size(), 10U);
}

TEST(EngineTest, BatchMatesChangeNothing) {
  EngineHarness engine({.num_blocks = 512});
  for (int i = 0; i < 32; ++i) {
    engine.Submit(Seeded("mate" + std::to_string(i), EngineHarness::Prompt(40, 50 + i), 60, i));
  }
  ExpectGolden(engine);
}

TEST(EngineTest, StepsAreStartedBeforeTheTokensAreKnownWhereTheModelCan) {
  const bool is_early = EngineHarness::DefaultLoader() == &LoadEarlyModel;
  const int64_t before = NumPassesAhead();
  EngineHarness engine({.num_blocks = 64});
  const Answer answer = engine.Run(Seeded("r", EngineHarness::Prompt(10, 0), 40, 1));
  EXPECT_EQ(answer.token_ids.size(), 40U);
  // All but the prompt's.
  EXPECT_EQ(NumPassesAhead() - before, is_early ? 39 : 0);
}

TEST(EngineTest, ChunkBudgetsChangeNothing) {
  for (const int32_t budget : {16, 64, 512}) {
    SCOPED_TRACE(budget);
    EngineHarness engine({.num_blocks = 256, .max_num_seqs = 16, .max_num_batched_tokens = budget});
    ExpectGolden(engine);
  }
}

TEST(EngineTest, ThreadsChangeNothing) {
  EngineHarness engine({.num_threads = 3, .num_blocks = 256});
  ExpectGolden(engine);
}

// Applies PACELINE_CPU_ISA, so that all of these tests can be run with other kernels.
class CpuIsaEnvironment : public testing::Environment {
 public:
  void SetUp() override {
    const absl::Status status = kernels::SetActiveCpuIsaFromEnvironment();
    if (absl::IsFailedPrecondition(status)) GTEST_SKIP() << status;  // not on this machine
    ASSERT_TRUE(status.ok()) << status;
  }
};
[[maybe_unused]] const auto* const kCpuIsaEnvironment =
    testing::AddGlobalTestEnvironment(new CpuIsaEnvironment);

TEST(EngineTest, InstructionSetsOfTheSameNumericsChangeNothing) {
  const kernels::CpuIsa before = kernels::ActiveCpuIsa();
  GetGolden();
  for (const kernels::CpuIsa isa : kernels::kAllCpuIsas) {
    if (kernels::CpuIsaNumerics(isa) != kernels::CpuIsaNumerics(before)) continue;
    if (!kernels::SetActiveCpuIsa(isa).ok()) continue;  // not on this machine
    SCOPED_TRACE(std::string(kernels::CpuIsaName(isa)));
    EngineHarness engine({.num_blocks = 256, .max_num_batched_tokens = 64});
    ExpectGolden(engine);
  }
  ASSERT_TRUE(kernels::SetActiveCpuIsa(before).ok());
}

TEST(EngineTest, PreemptionChangesNothing) {
  // The longest prompt needs 11 blocks; all twelve together far more than there are.
  EngineHarness engine({.num_blocks = 16});
  ExpectGolden(engine);
  EXPECT_GT(engine.metrics().vllm_preemptions->Value(), 0);
}

TEST(EngineTest, TheSameHoldsForACacheOfInt8) {
  const std::vector<Request>& requests = GetGolden().requests;
  std::vector<Answer> expected;
  int num_other = 0;  // than with f16
  for (size_t i = 0; i < requests.size(); ++i) {
    EngineHarness alone({.num_blocks = 64, .kv_dtype = kernels::DType::kI8});
    expected.push_back(alone.Run(requests[i]));
    num_other += SameAnswer(expected.back(), GetGolden().answers[i]) ? 0 : 1;
  }
  EXPECT_GT(num_other, 0);
  EngineHarness busy({.num_threads = 2,
                      .num_blocks = 16,
                      .max_num_batched_tokens = 64,
                      .kv_dtype = kernels::DType::kI8});
  for (const Request& request : requests) busy.Submit(request);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(SameAnswer(busy.Wait(requests[i].id), expected[i])) << i;
  }
  EXPECT_GT(busy.metrics().vllm_preemptions->Value(), 0);
}

TEST(EngineTest, TheSameHoldsForWeightsOfBf16) {
  const model::TinyModelOptions bf16{.weight_type = model::TensorType::kBF16,
                                     .embedding_type = model::TensorType::kBF16};
  const std::vector<Request>& requests = GetGolden().requests;
  std::vector<Answer> expected;
  for (const Request& request : requests) {
    EngineHarness alone({.model = bf16, .num_blocks = 32});
    expected.push_back(alone.Run(request));
  }
  EngineHarness busy(
      {.model = bf16, .num_threads = 2, .num_blocks = 16, .max_num_batched_tokens = 64});
  for (const Request& request : requests) busy.Submit(request);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_TRUE(SameAnswer(busy.Wait(requests[i].id), expected[i])) << i;
  }
}

TEST(EngineTest, ThePrefixCacheChangesNothing) {
  EngineHarness engine({.num_blocks = 256});
  ExpectGolden(engine);
  const Golden& golden = GetGolden();
  for (size_t i = 0; i < golden.requests.size(); ++i) {
    Request again = golden.requests[i];
    again.id += "-again";
    const Answer answer = engine.Run(again);
    EXPECT_TRUE(SameAnswer(answer, golden.answers[i])) << i;
    EXPECT_EQ(answer.cached_tokens, (again.num_prompt_tokens - 1) / 32 * 32) << i;
  }
}

TEST(EngineTest, AFlushedPrefixCacheIsEmptyAndChangesNothing) {
  EngineHarness engine({.num_blocks = 256});
  const Request request = GetGolden().requests[11];
  ASSERT_GT(request.num_prompt_tokens, 64);
  ASSERT_TRUE(SameAnswer(engine.Run(request), GetGolden().answers[11]));
  Request running = EngineHarness::MakeRequest("running", EngineHarness::Prompt(70, 9), 100);
  const Answer alone = EngineHarness({.num_blocks = 256}).Run(running);
  engine.Submit(running);
  engine.WaitForTokens("running", 5);
  engine.engine().FlushPrefixCache();
  Request again = request;
  again.id = "again";
  const Answer answer = engine.Run(again);
  EXPECT_EQ(answer.cached_tokens, 0);
  EXPECT_TRUE(SameAnswer(answer, GetGolden().answers[11]));
  EXPECT_TRUE(SameAnswer(engine.Wait("running"), alone));
  engine.WaitUntilIdle();
}

TEST(EngineTest, AReplayFromAnyTokenContinuesTheSame) {
  const Golden& golden = GetGolden();
  EngineHarness engine({.num_blocks = 256});
  for (const size_t i : {2U, 5U}) {
    for (const int32_t emitted : {1, 7, 23}) {
      Request replay = golden.requests[i];
      replay.id += "-replay" + std::to_string(emitted);
      replay.token_ids.insert(replay.token_ids.end(),
                              golden.answers[i].token_ids.begin(),
                              golden.answers[i].token_ids.begin() + emitted);
      const Answer answer = engine.Run(replay);
      const std::vector<int32_t> rest(golden.answers[i].token_ids.begin() + emitted,
                                      golden.answers[i].token_ids.end());
      EXPECT_EQ(answer.token_ids, rest);
      EXPECT_EQ(answer.next_index, 24);
    }
  }
}

TEST(EngineTest, ChoicesEqualRequestsOfTheirIndex) {
  EngineHarness engine({.num_blocks = 256});
  Request many = Seeded("many", EngineHarness::Prompt(70, 3), 20, 9);
  many.n = 5;
  engine.Submit(many);
  std::set<std::vector<int32_t>> different;
  for (int i = 0; i < 5; ++i) {
    const Answer in_group = engine.Wait("many", i);
    Request one = Seeded("one" + std::to_string(i), EngineHarness::Prompt(70, 3), 20, 9);
    one.first_choice_index = i;
    EXPECT_TRUE(SameAnswer(in_group, engine.Run(one))) << i;
    different.insert(in_group.token_ids);
  }
  EXPECT_EQ(different.size(), 5U);
}

TEST(EngineTest, PausedAndResumedIsTheSame) {
  EngineHarness engine({.num_blocks = 256});
  const Golden& golden = GetGolden();
  Request request = golden.requests[4];
  engine.Submit(request);
  engine.WaitForTokens(request.id, 3);
  engine.Pause(request.id);
  engine.Run(EngineHarness::MakeRequest("other", EngineHarness::Prompt(50, 77), 30));
  engine.Resume(request.id);
  EXPECT_TRUE(SameAnswer(engine.Wait(request.id), golden.answers[4]));
}

TEST(EngineTest, PromptLogprobsDoNotDependOnChunks) {
  std::vector<std::vector<TokenLogprobs>> seen;
  for (const int32_t budget : {16, 100, 512}) {
    EngineHarness engine({.num_blocks = 64, .max_num_seqs = 8, .max_num_batched_tokens = budget});
    Request request = EngineHarness::MakeRequest("r", EngineHarness::Prompt(150, 6), 2);
    request.sampling.prompt_logprobs = 2;
    const Answer answer = engine.Run(request);
    ASSERT_EQ(answer.prompt_logprobs.size(), 150U);
    EXPECT_EQ(answer.prompt_logprobs[0].rank, 0);
    seen.push_back(answer.prompt_logprobs);
    for (size_t i = 1; i < 150; ++i) {
      EXPECT_GE(answer.prompt_logprobs[i].rank, 1);
      EXPECT_EQ(answer.prompt_logprobs[i].logprob, seen[0][i].logprob) << i;
      EXPECT_EQ(answer.prompt_logprobs[i].top, seen[0][i].top) << i;
    }
  }
}

// The prompt's own log-probabilities are those that sampling it one by one reports.
TEST(EngineTest, PromptLogprobsEqualThoseOfGeneratedTokens) {
  EngineHarness engine({.num_blocks = 64});
  const Answer generated =
      engine.Run(EngineHarness::MakeRequest("g", EngineHarness::Prompt(40, 8), 30));
  std::vector<int32_t> whole = EngineHarness::Prompt(40, 8);
  whole.insert(whole.end(), generated.token_ids.begin(), generated.token_ids.end());
  Request score = EngineHarness::MakeRequest("s", whole, 1);
  score.sampling.prompt_logprobs = 3;
  const Answer scored = engine.Run(score);
  ASSERT_EQ(scored.prompt_logprobs.size(), 70U);
  for (int i = 0; i < 30; ++i) {
    EXPECT_EQ(scored.prompt_logprobs[40 + i].logprob, generated.logprobs[i].logprob) << i;
    EXPECT_EQ(scored.prompt_logprobs[40 + i].rank, 1) << i;
  }
}

TEST(EngineTest, CancelFreesEverything) {
  EngineHarness engine({.num_blocks = 512});
  Request request = EngineHarness::MakeRequest("r", EngineHarness::Prompt(100, 1), 400);
  request.n = 16;  // far longer than it takes the cancellation to arrive
  engine.Submit(request);
  engine.WaitForTokens("r", 5);
  engine.Cancel("r");
  EXPECT_EQ(engine.Wait("r").finish_reason, FinishReason::kCancelled);
  engine.WaitUntilIdle();
}

TEST(EngineTest, DetachCancelsASessionsRequests) {
  EngineHarness engine({.num_blocks = 64});
  struct Quiet final : FrameSink {
    void OnFrame(Frame) override {}
  };
  const uint64_t other = engine.engine().Attach(std::make_shared<Quiet>());
  Request request = EngineHarness::MakeRequest("r", EngineHarness::Prompt(100, 1), 400);
  request.session = other;
  engine.engine().Submit(std::make_shared<const Request>(request));
  engine.engine().Detach(other);
  engine.WaitUntilIdle();
}

TEST(EngineTest, AnExpiredDeadlineIsAnswered) {
  EngineHarness engine({.num_blocks = 64});
  Request request = EngineHarness::MakeRequest("r", EngineHarness::Prompt(10, 1), 400);
  request.deadline_ns = 1;
  EXPECT_EQ(engine.Run(request).finish_reason, FinishReason::kDeadline);
}

TEST(EngineTest, ARequestThatCanNeverFitIsRefusedAtOnce) {
  EngineHarness engine({.num_blocks = 4});
  const Answer answer =
      engine.Run(EngineHarness::MakeRequest("r", EngineHarness::Prompt(200, 1), 100));
  EXPECT_EQ(answer.finish_reason, FinishReason::kError);
  EXPECT_EQ(answer.error.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(
      engine.Run(EngineHarness::MakeRequest("s", EngineHarness::Prompt(20, 1), 5)).error.ok());
}

TEST(EngineTest, ARequestThatMasksEveryTokenEndsWithAnError) {
  RecordingSpans spans;
  EngineHarness engine({.num_blocks = 64, .spans = &spans});
  Request request = EngineHarness::MakeRequest("r", EngineHarness::Prompt(20, 1), 5);
  request.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  request.sampling.ignore_eos = false;
  request.sampling.min_tokens = 3;
  request.sampling.allowed_token_ids = {model::kTinyImEnd};
  const Answer answer = engine.Run(request);
  EXPECT_EQ(answer.finish_reason, FinishReason::kError);
  EXPECT_EQ(answer.error.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(answer.error.message()), testing::HasSubstr("no token"));
  engine.WaitUntilIdle();
  ASSERT_EQ(spans.Named("prefill").size(), 1U);
  EXPECT_EQ(spans.Named("prefill")[0].error, "error");
  EXPECT_TRUE(spans.Named("decode").empty());
}

TEST(EngineTest, StopTokensEndAChoice) {
  EngineHarness engine({.num_blocks = 64});
  Request request = EngineHarness::MakeRequest("r", EngineHarness::Prompt(20, 1), 20);
  const Answer all = engine.Run(request);
  request.id = "s";
  request.sampling.stop_token_ids = {all.token_ids[6]};
  const Answer stopped = engine.Run(request);
  EXPECT_EQ(stopped.finish_reason, FinishReason::kStop);
  EXPECT_TRUE(stopped.has_stop_token);
  EXPECT_EQ(stopped.stop_token_id, all.token_ids[6]);
  EXPECT_LE(stopped.token_ids.size(), 7U);
  EXPECT_EQ(stopped.token_ids.back(), all.token_ids[6]);
}

TEST(EngineTest, ARecordedRequestLeavesSpansUnderItsRouters) {
  RecordingSpans spans;
  std::set<std::string> ids;
  {
    EngineHarness engine({.spans = &spans});
    Request request = EngineHarness::MakeRequest("r", EngineHarness::Prompt(40, 1), 6);
    request.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    engine.Run(request);
    request.id = "not recorded";
    request.traceparent.back() = '0';
    engine.Run(request);
    request.id = "no trace";
    request.traceparent.clear();
    engine.Run(request);
  }
  ASSERT_EQ(spans.All().size(), 3U);
  int64_t end_ns = 0;
  for (const char* name : {"queue", "prefill", "decode"}) {
    ASSERT_EQ(spans.Named(name).size(), 1U) << name;
    const Span span = spans.Named(name)[0];
    EXPECT_EQ(span.trace_id, "0af7651916cd43dd8448eb211c80319c");
    EXPECT_EQ(span.parent_id, "b7ad6b7169203331");
    EXPECT_EQ(span.error, "");
    EXPECT_EQ(TextOf(span, "paceline.choice"), "0");
    if (end_ns != 0) {
      EXPECT_EQ(span.start_ns, end_ns) << name;
    }
    EXPECT_GE(span.end_ns, span.start_ns);
    end_ns = span.end_ns;
    EXPECT_TRUE(ids.insert(span.id).second);
  }
  EXPECT_EQ(TextOf(spans.Named("prefill")[0], "paceline.tokens"), "40");
  EXPECT_EQ(TextOf(spans.Named("decode")[0], "paceline.tokens"), "6");
}

TEST(EngineTest, AnIdleEngineBeats) {
  EngineHarness engine({.num_blocks = 8});
  const int64_t before = engine.num_frames();
  while (engine.num_frames() < before + 3) std::this_thread::yield();
  EXPECT_LT(engine.engine().MsSinceProgress(), 10'000);
}

TEST(EngineTest, Float32ComputeIsExactToo) {
  const Request request = EngineHarness::MakeRequest("r", EngineHarness::Prompt(90, 2), 16);
  EngineHarness alone({.num_blocks = 64,
                       .compute = kernels::ComputeType::kFloat32,
                       .kv_dtype = kernels::DType::kF32});
  const Answer golden = alone.Run(request);
  EngineHarness busy({.num_threads = 2,
                      .num_blocks = 256,
                      .max_num_seqs = 16,
                      .max_num_batched_tokens = 16,
                      .compute = kernels::ComputeType::kFloat32,
                      .kv_dtype = kernels::DType::kF32});
  for (int i = 0; i < 8; ++i) {
    busy.Submit(EngineHarness::MakeRequest(
        "mate" + std::to_string(i), EngineHarness::Prompt(33 + i, 40 + i), 30));
  }
  EXPECT_TRUE(SameAnswer(busy.Run(request), golden));
}

}  // namespace
}  // namespace paceline::worker
