// Order, budget, chunks, stops, admission, publishing. Preemption and forks: scheduler_blocks_test;
// cancel, pause, deadlines: scheduler_control_test.
#include "worker/sched/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/sched/scheduler_world.h"

namespace paceline::worker {
namespace {

using testing::ElementsAre;

Request Make(std::string id, int32_t prompt, int32_t max_tokens, int32_t seed = 0) {
  return SchedulerWorld::MakeRequest(std::move(id), prompt, max_tokens, seed);
}

std::vector<std::string> Ids(const Batch& batch) {
  std::vector<std::string> ids;
  for (const BatchEntry& entry : batch.entries) ids.push_back(entry.sequence->request->id);
  return ids;
}

std::vector<int32_t> Sizes(const Batch& batch) {
  std::vector<int32_t> sizes;
  for (const BatchEntry& entry : batch.entries) sizes.push_back(entry.num_tokens);
  return sizes;
}

TEST(SchedulerTest, EmptyBatchWhenThereIsNothingToDo) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  EXPECT_TRUE(world.Plan().empty());
  EXPECT_FALSE(world.scheduler().has_runnable());
}

TEST(SchedulerTest, GivesTheOutputOfTheRequestAlone) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 10, 20)).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").output.size(), 20);
  EXPECT_EQ(world.result("a").reason, FinishReason::kLength);
  EXPECT_TRUE(world.CheckEmpty().ok());
}

TEST(SchedulerTest, TakesOneStepPerTokenAfterThePrefill) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 32, 5)).ok());
  world.Drain();
  EXPECT_EQ(world.num_steps(), 5);
}

TEST(SchedulerTest, DecodesComeBeforePrefills) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("old", 4, 10)).ok());
  world.Step();
  ASSERT_TRUE(world.Add(Make("urgent", 6, 10, 1)).ok());
  EXPECT_THAT(Ids(world.Plan()), ElementsAre("old", "urgent"));
  EXPECT_THAT(Sizes(world.batch()), ElementsAre(1, 6));
}

TEST(SchedulerTest, DecodesGoInOrderOfArrival) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(world.Add(Make(id, 3, 10, id[0])).ok());
  world.Step();
  EXPECT_THAT(Ids(world.Plan()), ElementsAre("a", "b", "c"));
}

TEST(SchedulerTest, PrefillsGoByPriorityThenArrival) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  for (const auto& [id, priority] : {std::pair{"a", 1}, {"b", 0}, {"c", 1}, {"d", 0}}) {
    Request request = Make(id, 6, 4, id[0]);
    request.priority = priority;
    ASSERT_TRUE(world.Add(request).ok());
  }
  EXPECT_THAT(Ids(world.Plan()), ElementsAre("b", "d", "a", "c"));
}

TEST(SchedulerTest, BudgetIsSharedByDecodesAndPrefills) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 4, 10)).ok());
  ASSERT_TRUE(world.Add(Make("b", 4, 10, 1)).ok());
  world.Step();
  ASSERT_TRUE(world.Add(Make("c", 100, 10, 2)).ok());
  EXPECT_THAT(Sizes(world.Plan()), ElementsAre(1, 1, 30));
}

TEST(SchedulerTest, SecondPrefillGetsWhatTheFirstLeaves) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 20, 4)).ok());
  ASSERT_TRUE(world.Add(Make("b", 20, 4, 1)).ok());
  EXPECT_THAT(Sizes(world.Plan()), ElementsAre(20, 12));
}

TEST(SchedulerTest, TokenBudgetCanBeLoweredBetweenSteps) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  world.scheduler().SetTokenBudget(10);
  ASSERT_TRUE(world.Add(Make("a", 20, 4)).ok());
  EXPECT_EQ(world.Plan().num_tokens, 10);
}

TEST(SchedulerTest, TokenBudgetIsAtLeastOneTokenPerSequence) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  world.scheduler().SetTokenBudget(1);
  ASSERT_TRUE(world.Add(Make("a", 20, 4)).ok());
  EXPECT_EQ(world.Plan().num_tokens, 8);
}

class ChunkTest : public testing::TestWithParam<int32_t> {};

TEST_P(ChunkTest, PrefillIsCutIntoChunksThatCoverThePromptOnce) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.cache.num_blocks = 400;
  options.scheduler.max_model_len = 1500;
  options.scheduler.max_num_batched_tokens = 2048;
  options.scheduler.max_prefill_chunk = GetParam();
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("a", 1030, 3)).ok());
  int32_t computed = 0;
  while (computed < 1030) {
    const Batch& batch = world.Plan();
    ASSERT_EQ(batch.entries.size(), 1);
    EXPECT_EQ(batch.entries[0].first_position, computed);
    EXPECT_EQ(batch.entries[0].num_tokens, std::min(GetParam(), 1030 - computed));
    computed += batch.entries[0].num_tokens;
    EXPECT_EQ(batch.entries[0].samplers.size(), computed == 1030 ? 1 : 0);
    world.Run();
  }
  world.Drain();
  EXPECT_TRUE(world.done("a"));
}

INSTANTIATE_TEST_SUITE_P(Sizes, ChunkTest, testing::Values(16, 64, 512));

TEST(SchedulerTest, ChunkLimitLetsAnotherPrefillIntoTheStep) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_prefill_chunk = 16;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("long", 100, 4)).ok());
  ASSERT_TRUE(world.Add(Make("short", 5, 4, 1)).ok());
  EXPECT_THAT(Sizes(world.Plan()), ElementsAre(16, 5));
}

TEST(SchedulerTest, RunsNoMoreThanMaxNumSeqs) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  for (int32_t i = 0; i < 12; ++i) ASSERT_TRUE(world.Add(Make(absl::StrCat(i), 1, 9, i)).ok());
  EXPECT_EQ(world.Plan().entries.size(), 8);
  world.Run();
  EXPECT_EQ(world.scheduler().load().running, 8);
  EXPECT_EQ(world.scheduler().load().waiting, 4);
}

TEST(SchedulerTest, AdmitsStrictlyInOrderAlthoughALaterOneWouldFit) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());  // 64 blocks of 4
  ASSERT_TRUE(world.Add(Make("a", 150, 10)).ok());
  ASSERT_TRUE(world.Add(Make("big", 150, 10, 1)).ok());
  ASSERT_TRUE(world.Add(Make("small", 4, 10, 2)).ok());
  for (int i = 0; i < 5; ++i) world.Step();
  EXPECT_THAT(Ids(world.Plan()), ElementsAre("a"));
}

TEST(SchedulerTest, OneTokenPromptRuns) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 1, 1)).ok());
  world.Drain();
  EXPECT_EQ(world.num_steps(), 1);
}

// ---- Stops

// A request whose output (ignoring eos) has the token `token` first at output index `index`.
Request StopsAt(const SchedulerWorld& world, int32_t token, int32_t index) {
  for (int32_t seed = 0;; ++seed) {
    Request request = Make("a", 5, 30, 7);
    request.seed = seed;
    const std::vector<int32_t> output = world.Expected(request, 0).output;
    const auto it = std::find(output.begin(), output.end(), token);
    if (it - output.begin() == index) return request;
  }
}

TEST(SchedulerTest, StopsAtEndOfSequence) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = StopsAt(world, 0, 4);
  request.sampling.ignore_eos = false;
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").reason, FinishReason::kStop);
  EXPECT_EQ(world.result("a").output.size(), 5);
  EXPECT_TRUE(world.result("a").has_stop_token);
  EXPECT_EQ(world.result("a").stop_token_id, 0);
}

TEST(SchedulerTest, IgnoresEndOfSequenceWhenAsked) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(StopsAt(world, 0, 4)).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").reason, FinishReason::kLength);
}

TEST(SchedulerTest, StopsAtAStopTokenEvenWhenEndOfSequenceIsIgnored) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = StopsAt(world, 9, 3);
  request.sampling.stop_token_ids = {9};
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").reason, FinishReason::kStop);
  EXPECT_EQ(world.result("a").stop_token_id, world.result("a").output.back());
}

TEST(SchedulerTest, StopTokensDoNotCountBeforeMinTokens) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = StopsAt(world, 0, 4);
  request.sampling.ignore_eos = false;
  request.sampling.min_tokens = 5;  // index 4 is the fifth token: too early
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  EXPECT_GT(world.result("a").output.size(), 5);
}

TEST(SchedulerTest, StopTokenRightAfterMinTokensCounts) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = StopsAt(world, 0, 4);
  request.sampling.ignore_eos = false;
  request.sampling.min_tokens = 4;
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").output.size(), 5);
}

TEST(SchedulerTest, StopTokenAsTheLastAllowedTokenIsAStop) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = StopsAt(world, 0, 4);
  request.sampling.ignore_eos = false;
  request.sampling.max_tokens = 5;
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").reason, FinishReason::kStop);
}

TEST(SchedulerTest, EndsWithLengthAtTheEndOfTheContext) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_model_len = 20;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("a", 15, 100)).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").output.size(), 5);
  EXPECT_EQ(world.result("a").reason, FinishReason::kLength);
}

TEST(SchedulerTest, ReplayContinuesTheOutputAndCountsItAsOutput) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 6, 12);
  const std::vector<int32_t> output = world.Expected(request, 0).output;
  request.token_ids.insert(request.token_ids.end(), output.begin(), output.begin() + 7);
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").output, output);
  EXPECT_EQ(world.num_steps(), 5);
}

// ---- Admission

TEST(SchedulerTest, RefusesWhatCanNeverFitTheKvCacheAtOnce) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.cache.num_blocks = 10;  // 40 tokens
  SchedulerWorld world(options);
  EXPECT_EQ(world.Add(Make("a", 30, 12)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(world.Add(Make("b", 30, 11)).ok());
  world.Drain();
  EXPECT_TRUE(world.done("b"));
}

TEST(SchedulerTest, RefusesAPromptThatFillsTheContext) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  EXPECT_EQ(world.Add(Make("a", 200, 1)).code(), absl::StatusCode::kInvalidArgument);
}

TEST(SchedulerTest, RefusesALiveIdOfTheSameSession) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 4, 4)).ok());
  EXPECT_EQ(world.Add(Make("a", 4, 4)).code(), absl::StatusCode::kAlreadyExists);
}

TEST(SchedulerTest, AnIdMayBeUsedAgainByAnotherSessionOrLater) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 4, 4)).ok());
  Request other = Make("a", 4, 4);
  other.session = 1;
  EXPECT_TRUE(world.Add(other).ok());
  world.Drain();
  EXPECT_TRUE(world.Add(Make("a", 4, 4)).ok());
}

TEST(SchedulerTest, RefusesMoreWaitingSequencesThanTheBound) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_waiting_seqs = 3;
  SchedulerWorld world(options);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(world.Add(Make(absl::StrCat(i), 4, 4)).ok());
  EXPECT_EQ(world.Add(Make("more", 4, 4)).code(), absl::StatusCode::kResourceExhausted);
  world.Step();
  EXPECT_TRUE(world.Add(Make("more", 4, 4)).ok());
}

TEST(SchedulerTest, RefusesMoreWaitingTokensThanTheBound) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_waiting_tokens = 50;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("a", 30, 4)).ok());
  EXPECT_EQ(world.Add(Make("b", 30, 4)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(world.Add(Make("c", 20, 4)).ok());
}

TEST(SchedulerTest, AQueueBoundDoesNotRefuseALongPromptForEver) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_waiting_tokens = 50;
  SchedulerWorld world(options);
  EXPECT_TRUE(world.Add(Make("a", 100, 4)).ok());
}

TEST(SchedulerTest, PausedSequencesCountAgainstTheQueueBound) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_waiting_seqs = 3;
  SchedulerWorld world(options);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(world.Add(Make(absl::StrCat(i), 4, 4)).ok());
    world.Pause(absl::StrCat(i));
  }
  EXPECT_EQ(world.Add(Make("more", 4, 4)).code(), absl::StatusCode::kResourceExhausted);
}

TEST(SchedulerTest, RefusalChangesNothing) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  EXPECT_FALSE(world.Add(Make("a", 500, 4)).ok());
  EXPECT_TRUE(world.CheckEmpty().ok());
}

TEST(SchedulerTest, LoadCountsWhatIsStillToCompute) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 40, 4)).ok());
  EXPECT_EQ(world.scheduler().load().waiting_tokens, 40);
  world.Step();
  EXPECT_EQ(world.scheduler().load().waiting_tokens, 7);  // 40 - 32, and the last one samples
  world.Step();
  EXPECT_EQ(world.scheduler().load().waiting_tokens, 0);
  EXPECT_EQ(world.scheduler().load().total_blocks, 64);
  EXPECT_EQ(world.scheduler().load().free_blocks, 54);
}

TEST(SchedulerTest, ValidateNamesTheOptionThatIsWrong) {
  const SchedulerWorld::Options good = SchedulerWorld::SmallOptions();
  KvCache cache(good.cache);
  EXPECT_TRUE(Scheduler::Validate(good.scheduler, cache).ok());
  Scheduler::Options bad = good.scheduler;
  bad.max_num_batched_tokens = bad.max_num_seqs - 1;
  EXPECT_THAT(std::string(Scheduler::Validate(bad, cache).message()),
              testing::HasSubstr("max_num_batched_tokens"));
  bad = good.scheduler;
  bad.max_num_seqs = 0;
  EXPECT_THAT(std::string(Scheduler::Validate(bad, cache).message()),
              testing::HasSubstr("max_num_seqs"));
}

// ---- Prefix cache

TEST(SchedulerTest, ReportsTokensTakenFromThePrefixCache) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 13, 2)).ok());
  world.Drain();
  ASSERT_TRUE(world.Add(Make("b", 13, 2)).ok());
  EXPECT_EQ(world.Plan().entries[0].first_position, 12);
  world.Run();
  world.Drain();
  EXPECT_EQ(world.result("a").cached_tokens, 0);
  EXPECT_EQ(world.result("b").cached_tokens, 12);
}

TEST(SchedulerTest, LastPromptTokenIsComputedOnAFullHit) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 12, 2)).ok());
  world.Drain();
  ASSERT_TRUE(world.Add(Make("b", 12, 2)).ok());
  EXPECT_EQ(world.Plan().entries[0].first_position, 8);
}

TEST(SchedulerTest, OutputIsReusedAsAPrefixToo) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 8, 9);
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  Request next = request;
  next.id = "b";
  const std::vector<int32_t>& output = world.result("a").output;
  next.token_ids.insert(next.token_ids.end(), output.begin(), output.end());
  next.num_prompt_tokens = static_cast<int32_t>(next.token_ids.size());
  ASSERT_TRUE(world.Add(next).ok());
  EXPECT_EQ(world.Plan().entries[0].first_position, 16);
}

TEST(SchedulerTest, PromptLogprobsComputeEveryPromptToken) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 12, 2)).ok());
  world.Drain();
  Request request = Make("b", 12, 2);
  request.sampling.prompt_logprobs = 0;
  ASSERT_TRUE(world.Add(request).ok());
  EXPECT_EQ(world.Plan().entries[0].first_position, 0);
}

TEST(SchedulerTest, AnotherSaltDoesNotSeeThePrefix) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request first = Make("a", 12, 2);
  first.cache_salt = "tenant a";
  Request second = Make("b", 12, 2);
  second.cache_salt = "tenant b";
  ASSERT_TRUE(world.Add(first).ok());
  world.Drain();
  ASSERT_TRUE(world.Add(second).ok());
  EXPECT_EQ(world.Plan().entries[0].first_position, 0);
}

TEST(SchedulerTest, ChunksAreNotPublishedBeforeASoundTokenFollows) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 40, 2)).ok());
  world.Step();
  EXPECT_TRUE(world.cache().Hashes().empty());
  world.Step();
  EXPECT_EQ(world.cache().Hashes().size(), 10);
}

// ---- Numeric errors

TEST(SchedulerTest, NumericErrorEndsItsSequenceAlone) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.numeric_errors["bad"] = 3;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("good", 9, 10)).ok());
  ASSERT_TRUE(world.Add(Make("bad", 9, 10, 1)).ok());
  world.Drain();
  EXPECT_EQ(world.result("bad").reason, FinishReason::kError);
  EXPECT_EQ(world.result("bad").code, absl::StatusCode::kDataLoss);
  EXPECT_EQ(world.result("bad").output.size(), 3);
  EXPECT_EQ(world.result("good").reason, FinishReason::kLength);
}

TEST(SchedulerTest, MasksThatLeaveNoTokenEndTheSequenceAsTheRequestsFault) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.no_candidates["a"] = 3;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("a", 9, 10)).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").reason, FinishReason::kError);
  EXPECT_EQ(world.result("a").code, absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(world.cache().Hashes().size(), 2);  // its numbers are sound
}

TEST(SchedulerTest, BlocksOfANumericErrorLeaveThePrefixCacheAndAreZeroed) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.numeric_errors["bad"] = 3;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("bad", 9, 10)).ok());
  world.Drain();
  EXPECT_TRUE(world.cache().Hashes().empty());
  ASSERT_TRUE(world.Add(Make("next", 9, 10)).ok());
  EXPECT_EQ(world.Plan().zero_blocks.size(), 3);
  world.Run();
  EXPECT_TRUE(world.Plan().zero_blocks.empty());
  world.Run();
  world.Drain();
  EXPECT_EQ(world.result("next").cached_tokens, 0);
}

}  // namespace
}  // namespace paceline::worker
