// Steps planned before the tokens that they follow are known. The world checks each against what a
// request gives alone, and writes rubbish where those wrote who were taken out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/worker/sched/scheduler_world.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

SchedulerWorld::Options Ahead() {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.runs_ahead = true;
  return options;
}

Request Make(std::string id, int32_t prompt, int32_t max_tokens, int32_t seed = 0) {
  return SchedulerWorld::MakeRequest(std::move(id), prompt, max_tokens, seed);
}

// Its prompt computed, its first token known, and a step of decoding open.
void StartDecoding(SchedulerWorld& world, std::vector<Request> requests) {
  for (Request& request : requests) ASSERT_TRUE(world.Add(std::move(request)).ok());
  world.Plan();
  world.Run();
  world.Plan();
}

TEST(SchedulerAheadTest, EveryStepButTheFirstIsPlannedAheadAndNoneTooMany) {
  SchedulerWorld world(Ahead());
  ASSERT_TRUE(world.Add(Make("a", 10, 20)).ok());
  world.Drain();
  EXPECT_THAT(world.result("a").output, SizeIs(20));
  EXPECT_EQ(world.num_steps(), 20);
  EXPECT_EQ(world.num_ahead(), 19);
  EXPECT_EQ(world.num_dropped(), 0);
}

TEST(SchedulerAheadTest, WhoeverWaitsIsInTheNextStep) {
  SchedulerWorld world(Ahead());
  StartDecoding(world, {Make("a", 10, 20)});
  ASSERT_TRUE(world.PlanAhead());
  ASSERT_TRUE(world.Add(Make("b", 10, 20, 1)).ok());
  world.Run();
  EXPECT_FALSE(world.PlanAhead());
  world.Run();
  world.Plan();
  EXPECT_NE(world.EntryOf("a"), nullptr);
  EXPECT_NE(world.EntryOf("b"), nullptr);
  world.Drain();
}

TEST(SchedulerAheadTest, AChunkOfAPromptIsNotRunAheadOf) {
  SchedulerWorld world(Ahead());
  ASSERT_TRUE(world.Add(Make("a", 40, 5)).ok());  // of 32 a step
  world.Plan();
  EXPECT_FALSE(world.PlanAhead());
  world.Run();
  world.Plan();
  EXPECT_TRUE(world.PlanAhead());
  world.Drain();
}

TEST(SchedulerAheadTest, ChoicesThatForkAreNotRunAheadOf) {
  SchedulerWorld world(Ahead());
  Request request = Make("a", 10, 5);
  request.n = 3;
  ASSERT_TRUE(world.Add(request).ok());
  world.Plan();
  EXPECT_FALSE(world.PlanAhead());
  world.Run();
  world.Plan();
  EXPECT_TRUE(world.PlanAhead());
  world.Drain();
}

TEST(SchedulerAheadTest, OneThatStopsIsTakenOutAndEndsAtOnce) {
  SchedulerWorld world(Ahead());
  Request stops = Make("stops", 10, 20, 1);
  stops.sampling.stop_token_ids = {world.Expected(stops, 0).output[1]};
  StartDecoding(world, {Make("a", 10, 20), stops});
  ASSERT_TRUE(world.PlanAhead());
  world.Run();
  EXPECT_TRUE(world.done("stops"));
  EXPECT_EQ(world.result("stops").output.size(), 2U);
  EXPECT_THAT(world.scheduler().dropped(), SizeIs(1));
  EXPECT_EQ(world.scheduler().num_open_batches(), 1);
  world.Run();
  EXPECT_THAT(world.scheduler().dropped(), IsEmpty());
  EXPECT_EQ(world.num_dropped(), 1);
  world.Drain();
}

TEST(SchedulerAheadTest, AStepOfWhichNobodyIsLeftIsCommitted) {
  SchedulerWorld world(Ahead());
  Request stops = Make("stops", 10, 20);
  stops.sampling.stop_token_ids = {world.Expected(stops, 0).output[1]};
  StartDecoding(world, {stops});
  ASSERT_TRUE(world.PlanAhead());
  world.Run();
  EXPECT_FALSE(world.scheduler().has_runnable());
  EXPECT_FALSE(world.PlanAhead());
  world.Run();
  EXPECT_TRUE(world.CheckEmpty().ok());
  ASSERT_TRUE(world.Add(Make("b", 10, 5, 1)).ok());
  world.Drain();
}

TEST(SchedulerAheadTest, WhoIsPausedOrCancelledLeavesWithTheStepBefore) {
  SchedulerWorld world(Ahead());
  StartDecoding(world, {Make("a", 6, 20), Make("b", 6, 20, 1), Make("c", 6, 20, 2)});
  ASSERT_TRUE(world.PlanAhead());
  world.Pause("a");
  world.Cancel("b");
  world.Run();
  EXPECT_TRUE(world.done("b"));
  EXPECT_EQ(world.scheduler().load().paused, 1);
  EXPECT_THAT(world.scheduler().dropped(), SizeIs(2));
  // It runs again before the step is over that it is no longer in.
  world.Resume("a");
  EXPECT_FALSE(world.PlanAhead());
  world.Drain();
  EXPECT_THAT(world.result("a").output, SizeIs(20));
  EXPECT_THAT(world.result("c").output, SizeIs(20));
}

TEST(SchedulerAheadTest, DeadlinesPassWhileStepsRunAhead) {
  SchedulerWorld world(Ahead());
  Request request = Make("a", 10, 60);
  request.deadline_ns = world.clock().NowNs() + 10'000'000;  // a step takes a millisecond
  ASSERT_TRUE(world.Add(request).ok());
  world.Drain();
  EXPECT_EQ(world.result("a").reason, FinishReason::kDeadline);
  EXPECT_LT(world.num_steps(), 13);
}

TEST(SchedulerAheadTest, NobodyIsPreemptedForAStepAhead) {
  SchedulerWorld::Options options = Ahead();
  options.cache.num_blocks = 8;
  SchedulerWorld world(options);
  // 4 tokens a block: with the next token each wants another one, and there is one.
  StartDecoding(world, {Make("a", 11, 10), Make("b", 15, 10, 1)});
  EXPECT_FALSE(world.PlanAhead());
  EXPECT_EQ(world.scheduler().counters().preemptions, 0U);
  world.Run();
  world.Plan();
  EXPECT_NE(world.EntryOf("a"), nullptr);
  EXPECT_EQ(world.EntryOf("b"), nullptr);  // sits out
  world.Drain();
}

TEST(SchedulerAheadTest, ThereAreNoSeveralOpenBatchesBeside) {
  SchedulerWorld::Options options = Ahead();
  options.scheduler.max_open_batches = 2;
  const KvCache cache(options.cache);
  EXPECT_FALSE(Scheduler::Validate(options.scheduler, cache).ok());
}

}  // namespace
}  // namespace paceline::worker
