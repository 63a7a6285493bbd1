// When blocks or slots run out: preemption, forks, what yields to whom.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/worker/sched/scheduler_world.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {
namespace {

using testing::ElementsAre;

Request Make(std::string id, int32_t prompt, int32_t max_tokens, int32_t seed = 0) {
  return SchedulerWorld::MakeRequest(std::move(id), prompt, max_tokens, seed);
}

SchedulerWorld::Options WithBlocks(int32_t num_blocks) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.cache.num_blocks = num_blocks;
  return options;
}

TEST(SchedulerBlocksTest, PreemptsTheYoungestWhenBlocksRunOut) {
  SchedulerWorld world(WithBlocks(9));
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(world.Add(Make(id, 8, 20, id[0])).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").num_preemptions, 0);
  EXPECT_GT(world.result("c").num_preemptions, 0);
  EXPECT_GE(world.result("c").num_preemptions, world.result("b").num_preemptions);
  EXPECT_TRUE(world.CheckEmpty().ok());
}

TEST(SchedulerBlocksTest, PreemptsTheLowestPriorityFirst) {
  SchedulerWorld world(WithBlocks(9));
  for (const char* id : {"low", "a", "b"}) {
    Request request = Make(id, 8, 12, id[0]);
    request.priority = std::string(id) == "low" ? 1 : 0;
    ASSERT_TRUE(world.Add(request).ok());
  }
  world.Drain();
  EXPECT_GT(world.result("low").num_preemptions, 0);
  EXPECT_EQ(world.result("a").num_preemptions, 0);
}

TEST(SchedulerBlocksTest, PreemptedSequenceRecomputesPromptAndOutput) {
  SchedulerWorld::Options options = WithBlocks(6);
  options.cache.prefix_caching = false;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("a", 8, 13)).ok());
  ASSERT_TRUE(world.Add(Make("b", 8, 13, 1)).ok());
  while (world.scheduler().counters().preemptions == 0) ASSERT_TRUE(world.Step());
  // b comes back when a is done, and everything it had is computed again.
  while (!world.done("a")) ASSERT_TRUE(world.Step());
  world.Plan();
  const BatchEntry* entry = world.EntryOf("b");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->first_position, 0);
  EXPECT_EQ(entry->num_tokens, entry->sequence->num_tokens());
  EXPECT_GT(entry->num_tokens, 8);
  world.Run();
  world.Drain();
  EXPECT_EQ(world.result("b").output.size(), 13);  // the world compared it with the run alone
}

TEST(SchedulerBlocksTest, PreemptedSequenceFindsItsOwnBlocksInThePrefixCache) {
  SchedulerWorld world(WithBlocks(8));
  ASSERT_TRUE(world.Add(Make("a", 8, 16)).ok());
  ASSERT_TRUE(world.Add(Make("b", 8, 16, 1)).ok());
  world.Drain();
  ASSERT_GT(world.result("b").num_preemptions, 0);
  EXPECT_GT(world.cache().stats().hit_tokens, 0);
  EXPECT_EQ(world.result("b").cached_tokens, 0);  // of its first time
}

TEST(SchedulerBlocksTest, YoungestSitsOutAStepRatherThanLosingItsBlocks) {
  SchedulerWorld world(WithBlocks(5));
  ASSERT_TRUE(world.Add(Make("a", 8, 2)).ok());
  ASSERT_TRUE(world.Add(Make("b", 12, 5, 1)).ok());
  world.Step();
  world.Plan();  // b has 13 tokens and no fourth block; a's block is full at 8 but it ends with 10
  EXPECT_EQ(world.batch().entries.size(), 1);
  world.Run();
  world.Drain();
  EXPECT_EQ(world.result("b").num_preemptions + world.result("a").num_preemptions, 1);
}

TEST(SchedulerBlocksTest, HigherPriorityTakesSlotsFromLowerOnes) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_num_seqs = 2;
  SchedulerWorld world(options);
  for (const char* id : {"a", "b"}) {
    Request request = Make(id, 4, 20, id[0]);
    request.priority = 1;
    ASSERT_TRUE(world.Add(request).ok());
  }
  world.Step();
  ASSERT_TRUE(world.Add(Make("urgent", 4, 5, 7)).ok());
  world.Plan();
  EXPECT_NE(world.EntryOf("urgent"), nullptr);
  EXPECT_NE(world.EntryOf("a"), nullptr);
  EXPECT_EQ(world.EntryOf("b"), nullptr);
}

TEST(SchedulerBlocksTest, EqualPriorityWaitsForItsTurn) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_num_seqs = 1;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("a", 4, 20)).ok());
  world.Step();
  ASSERT_TRUE(world.Add(Make("b", 4, 5, 7)).ok());
  world.Drain();
  EXPECT_LT(world.result("a").step, world.result("b").step);
  EXPECT_EQ(world.result("a").num_preemptions, 0);
}

TEST(SchedulerBlocksTest, EqualPriorityLeavesTheBlocksToThoseThatRun) {
  SchedulerWorld world(WithBlocks(4));
  ASSERT_TRUE(world.Add(Make("a", 8, 4)).ok());
  world.Step();
  ASSERT_TRUE(world.Add(Make("b", 5, 3, 7)).ok());  // fits now, but not beside a's next token
  world.Drain();
  EXPECT_EQ(world.result("a").num_preemptions, 0);
  EXPECT_EQ(world.result("b").num_preemptions, 0);
}

TEST(SchedulerBlocksTest, TwoHalfLoadedRequestsDoNotBlockEachOther) {
  // Each fits alone, both together do not: the partial-reservation deadlock.
  SchedulerWorld::Options options = WithBlocks(10);
  options.scheduler.max_prefill_chunk = 4;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("a", 30, 8)).ok());
  ASSERT_TRUE(world.Add(Make("b", 30, 8, 1)).ok());
  world.Drain();
  EXPECT_TRUE(world.done("a") && world.done("b"));
}

TEST(SchedulerBlocksTest, EvictableBlocksAreAsGoodAsFreeOnes) {
  SchedulerWorld world(WithBlocks(10));
  for (int32_t i = 0; i < 20; ++i) {
    ASSERT_TRUE(world.Add(Make(absl::StrCat(i), 30, 8, i)).ok());
    world.Drain();
    EXPECT_EQ(world.result(absl::StrCat(i)).num_preemptions, 0);
  }
  EXPECT_GT(world.cache().stats().evictions, 100);
}

TEST(SchedulerBlocksTest, RequestThatNeedsEveryBlockRuns) {
  SchedulerWorld world(WithBlocks(10));
  ASSERT_TRUE(world.Add(Make("small", 4, 20)).ok());
  ASSERT_TRUE(world.Add(Make("all", 20, 21, 1)).ok());
  world.Drain();
  EXPECT_TRUE(world.done("all"));
}

// ---- Several choices

TEST(SchedulerForkTest, ChoicesForkWhenThePromptIsComputed) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 40, 6);
  request.n = 3;
  ASSERT_TRUE(world.Add(request).ok());
  EXPECT_TRUE(world.Plan().entries[0].samplers.empty());
  world.Run();
  world.Plan();
  ASSERT_EQ(world.batch().entries.size(), 1);
  EXPECT_EQ(world.batch().entries[0].samplers.size(), 3);
  EXPECT_EQ(world.batch().entries[0].samplers[0], world.batch().entries[0].sequence);
  world.Run();
  EXPECT_EQ(world.Plan().entries.size(), 3);
}

TEST(SchedulerForkTest, EachChoiceHasTheOutputItHasAlone) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 10, 9);
  request.n = 4;
  request.first_choice_index = 2;
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  for (int32_t choice = 2; choice < 6; ++choice) EXPECT_TRUE(world.done("a", choice));
  EXPECT_NE(world.result("a", 2).output, world.result("a", 3).output);
}

TEST(SchedulerForkTest, PartialBlockIsCopiedOncePerAdditionalChoice) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 10, 9);
  request.n = 3;
  ASSERT_TRUE(world.Add(request).ok());
  world.Step();
  EXPECT_EQ(world.Plan().copies.size(), 2);
  world.Run();
  EXPECT_TRUE(world.Plan().copies.empty());
}

TEST(SchedulerForkTest, FullBlocksAreSharedByAllChoices) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 8, 9);
  request.n = 4;
  ASSERT_TRUE(world.Add(request).ok());
  world.Step();
  EXPECT_EQ(world.cache().stats().used, 2);
  EXPECT_TRUE(world.Plan().copies.empty());
  EXPECT_EQ(world.cache().stats().used, 6);
}

TEST(SchedulerForkTest, LeaderMayEndBeforeItsForks) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 6, 8);
  request.n = 3;
  // The leader's first token ends it, the others' does not.
  for (request.seed = 0;; ++request.seed) {
    const int32_t first = world.Expected(request, 0).output[0];
    if (world.Expected(request, 1).output[0] == first) continue;
    if (world.Expected(request, 2).output[0] == first) continue;
    request.sampling.stop_token_ids = {first};
    break;
  }
  ASSERT_TRUE(world.Add(request).ok());
  world.Step();
  EXPECT_TRUE(world.done("a", 0));
  EXPECT_FALSE(world.done("a", 1));
  world.Drain();
  EXPECT_TRUE(world.done("a", 1) && world.done("a", 2));
  EXPECT_TRUE(world.CheckEmpty().ok());
}

TEST(SchedulerForkTest, ReservesASlotForEachChoice) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_num_seqs = 4;
  SchedulerWorld world(options);
  Request request = Make("a", 40, 6);
  request.n = 3;
  ASSERT_TRUE(world.Add(request).ok());
  ASSERT_TRUE(world.Add(Make("b", 4, 6, 1)).ok());
  ASSERT_TRUE(world.Add(Make("c", 4, 6, 2)).ok());
  world.Step();
  world.Plan();
  EXPECT_EQ(world.EntryOf("c"), nullptr);
}

TEST(SchedulerForkTest, MoreChoicesThanSlotsRunInGroups) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_num_seqs = 2;
  SchedulerWorld world(options);
  Request request = Make("a", 10, 6);
  request.n = 5;
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  for (int32_t choice = 0; choice < 5; ++choice) EXPECT_TRUE(world.done("a", choice));
  EXPECT_EQ(world.result("a", 2).cached_tokens, 8);
}

TEST(SchedulerForkTest, OnlyTheFirstChoiceScoresThePrompt) {
  // Forks that are preempted compute the prompt again, and later groups compute it anew.
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_num_seqs = 2;
  SchedulerWorld world(options);
  Request request = Make("a", 10, 6);
  request.n = 4;
  request.sampling.prompt_logprobs = 0;
  ASSERT_TRUE(world.Add(request).ok());
  while (!world.Plan().empty()) {
    for (const BatchEntry& entry : world.batch().entries) {
      for (const Sequence* sequence : entry.samplers) {
        EXPECT_EQ(sequence->num_scored_prompt_tokens, sequence->choice_index == 0 ? 0 : 10);
      }
    }
    world.Run();
  }
  EXPECT_TRUE(world.done("a", 3));
}

TEST(SchedulerForkTest, ForksArePreemptedOneByOne) {
  SchedulerWorld world(WithBlocks(9));
  Request request = Make("a", 9, 16);
  request.n = 4;
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  EXPECT_EQ(world.result("a", 0).num_preemptions, 0);
  EXPECT_GT(world.result("a", 3).num_preemptions, 0);
  EXPECT_TRUE(world.CheckEmpty().ok());
}

TEST(SchedulerForkTest, LeaderPreemptedInThePromptStillForksLater) {
  SchedulerWorld::Options options = WithBlocks(16);
  options.scheduler.max_prefill_chunk = 4;
  SchedulerWorld world(options);
  Request request = Make("many", 20, 6);
  request.n = 3;
  request.priority = 1;
  ASSERT_TRUE(world.Add(request).ok());
  world.Step();
  ASSERT_TRUE(world.Add(Make("urgent", 50, 8, 1)).ok());
  world.Drain();
  for (int32_t choice = 0; choice < 3; ++choice) EXPECT_TRUE(world.done("many", choice));
  EXPECT_GT(world.result("many", 0).num_preemptions, 0);
}

}  // namespace
}  // namespace paceline::worker
