// Cancel, pause, resume and deadlines, in every state a sequence can be in.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/worker/sched/scheduler_world.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {
namespace {

constexpr int64_t kMs = 1'000'000;

Request Make(std::string id, int32_t prompt, int32_t max_tokens, int32_t seed = 0) {
  return SchedulerWorld::MakeRequest(std::move(id), prompt, max_tokens, seed);
}

// A world with a request "a" (40 prompt tokens, 8 output tokens) brought to some state.
class SchedulerStateTest : public testing::TestWithParam<std::string> {
 protected:
  SchedulerStateTest() : world_(Options()) {}

  static SchedulerWorld::Options Options() {
    SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
    options.cache.num_blocks = 16;
    return options;
  }

  void Reach(const std::string& state) {
    Request request = Make("a", 40, 8);
    request.priority = 1;
    request.n = state.starts_with("Fork") ? 3 : 1;
    request.deadline_ns = deadline_ns_;
    ASSERT_TRUE(world_.Add(request).ok());
    if (state == "Waiting") return;
    if (state == "WaitingPaused") return world_.Pause("a");
    world_.Step();
    if (state == "MidPrefill" || state == "ForkPending") return;
    if (state == "MidPrefillPaused") return world_.Pause("a");
    world_.Step();
    if (state == "Decoding" || state == "Forked") return;
    if (state == "Paused" || state == "ForkedPaused") return world_.Pause("a");
    if (state == "FinalStep") {
      while (world_.scheduler().load().running > 0 && output_of_a_ < 7) {
        output_of_a_ = world_.Plan().entries[0].sequence->num_output_tokens();
        if (output_of_a_ == 7) return;  // planned: this step gives the eighth token
        world_.Run();
      }
    }
    if (state == "Preempted" || state == "PausedAndPreempted") {
      if (state == "PausedAndPreempted") world_.Pause("a");
      ASSERT_TRUE(world_.Add(Make("urgent", 45, 16, 1)).ok());
      world_.Step();
      ASSERT_EQ(world_.EntryOf("a"), nullptr);
      ASSERT_EQ(world_.scheduler().counters().preemptions, 1);
    }
  }

  void ExpectAllOver(FinishReason reason) {
    for (const auto& [key, result] : world_.results()) {
      if (key.first == "a") {
        EXPECT_EQ(result.reason, reason);
      }
    }
    EXPECT_TRUE(world_.done("a"));
    world_.Drain();
    const absl::Status status = world_.CheckEmpty();
    EXPECT_TRUE(status.ok()) << status;
  }

  SchedulerWorld world_;
  int64_t deadline_ns_ = 0;
  int32_t output_of_a_ = 0;
};

TEST_P(SchedulerStateTest, CancelEndsTheRequestAndReturnsItsBlocks) {
  Reach(GetParam());
  world_.Cancel("a");
  if (GetParam() == "FinalStep") world_.Run();
  world_.Step();
  ExpectAllOver(FinishReason::kCancelled);
}

TEST_P(SchedulerStateTest, CancelWhileTheStepRunsEndsTheRequestWithTheStep) {
  Reach(GetParam());
  if (GetParam() != "FinalStep") world_.Plan();
  world_.Cancel("a");
  if (!world_.batch().empty()) world_.Run();
  world_.Step();
  ExpectAllOver(FinishReason::kCancelled);
}

TEST_P(SchedulerStateTest, CancelSessionEndsTheRequest) {
  Reach(GetParam());
  world_.scheduler().CancelSession(0);
  if (GetParam() == "FinalStep") world_.Run();
  world_.Step();
  ExpectAllOver(FinishReason::kCancelled);
}

TEST_P(SchedulerStateTest, PauseThenResumeGivesTheSameOutput) {
  Reach(GetParam());
  world_.Pause("a");
  if (GetParam() == "FinalStep") world_.Run();
  for (int i = 0; i < 3; ++i) world_.Step();
  EXPECT_EQ(world_.done("a"), GetParam() == "FinalStep");
  world_.Resume("a");
  world_.Drain();
  EXPECT_EQ(world_.result("a").reason, FinishReason::kLength);
  EXPECT_TRUE(world_.CheckEmpty().ok());
}

TEST_P(SchedulerStateTest, DeadlineEndsTheRequest) {
  deadline_ns_ = world_.clock().NowNs() + 1000 * kMs;
  Reach(GetParam());
  if (GetParam() == "FinalStep") return;  // ends by itself
  world_.clock().AdvanceMs(999 - world_.num_steps());
  world_.Plan();
  EXPECT_FALSE(world_.done("a"));
  if (!world_.batch().empty()) world_.Run();
  world_.clock().AdvanceMs(1);
  world_.Step();
  ExpectAllOver(FinishReason::kDeadline);
}

INSTANTIATE_TEST_SUITE_P(States,
                         SchedulerStateTest,
                         testing::Values("Waiting",
                                         "WaitingPaused",
                                         "MidPrefill",
                                         "MidPrefillPaused",
                                         "ForkPending",
                                         "Decoding",
                                         "Forked",
                                         "Paused",
                                         "ForkedPaused",
                                         "Preempted",
                                         "PausedAndPreempted",
                                         "FinalStep"),
                         [](const auto& info) { return info.param; });

TEST(SchedulerControlTest, UnknownIdsAreIgnored) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  world.Cancel("nobody");
  world.Pause("nobody");
  world.Resume("nobody");
  world.scheduler().CancelSession(17);
  EXPECT_TRUE(world.CheckEmpty().ok());
}

TEST(SchedulerControlTest, CancelSessionLeavesOtherSessionsAlone) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 4, 4)).ok());
  Request other = Make("b", 4, 4, 1);
  other.session = 1;
  ASSERT_TRUE(world.Add(other).ok());
  world.Step();
  world.scheduler().CancelSession(0);
  world.Drain();
  EXPECT_EQ(world.result("a").reason, FinishReason::kCancelled);
  EXPECT_EQ(world.result("b").reason, FinishReason::kLength);
}

TEST(SchedulerControlTest, IdIsFreeAgainAsSoonAsItWasCancelled) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 4, 4)).ok());
  world.Plan();
  world.Cancel("a");
  Request retry = Make("a", 4, 4);
  retry.attempt = 1;
  EXPECT_TRUE(world.Add(retry).ok());
  world.Run();
  EXPECT_EQ(world.result("a").reason, FinishReason::kCancelled);
  world.Drain();
  EXPECT_EQ(world.result("a").reason, FinishReason::kLength);
}

TEST(SchedulerControlTest, PausedSequenceKeepsItsBlocks) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 10, 8)).ok());
  world.Step();
  const int32_t used = world.cache().stats().used;
  world.Pause("a");
  EXPECT_TRUE(world.Plan().empty());
  EXPECT_EQ(world.cache().stats().used, used);
  world.Resume("a");
  EXPECT_EQ(world.Plan().num_tokens, 1);
}

TEST(SchedulerControlTest, PausedSequenceUsesNoSlot) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_num_seqs = 1;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("a", 10, 8)).ok());
  world.Step();
  world.Pause("a");
  ASSERT_TRUE(world.Add(Make("b", 10, 8, 1)).ok());
  world.Drain();
  EXPECT_TRUE(world.done("b"));
}

TEST(SchedulerControlTest, PausedBlocksAreTakenBeforeRunningOnes) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.cache.num_blocks = 9;
  SchedulerWorld world(options);
  ASSERT_TRUE(world.Add(Make("paused", 12, 8)).ok());
  ASSERT_TRUE(world.Add(Make("a", 8, 10, 1)).ok());
  ASSERT_TRUE(world.Add(Make("b", 8, 10, 2)).ok());
  world.Step();
  world.Pause("paused");
  world.Drain();
  EXPECT_EQ(world.result("a").num_preemptions, 0);
  EXPECT_EQ(world.result("b").num_preemptions, 0);
  world.Resume("paused");
  world.Drain();
  EXPECT_EQ(world.result("paused").num_preemptions, 1);
}

TEST(SchedulerControlTest, ResumeInTheStepOfThePauseIsNoPause) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  ASSERT_TRUE(world.Add(Make("a", 10, 8)).ok());
  world.Plan();
  world.Pause("a");
  world.Resume("a");
  world.Run();
  EXPECT_EQ(world.scheduler().load().running, 1);
}

TEST(SchedulerControlTest, DeadlineThatHasPassedIsRefused) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 4, 4);
  request.deadline_ns = world.clock().NowNs();
  EXPECT_EQ(world.Add(request).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(SchedulerControlTest, ExpiredWaitingRequestNeverRuns) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  Request request = Make("a", 4, 4);
  request.deadline_ns = world.clock().NowNs() + 5 * kMs;
  ASSERT_TRUE(world.Add(request).ok());
  world.clock().AdvanceMs(5);
  EXPECT_TRUE(world.Plan().empty());
  EXPECT_TRUE(world.result("a").output.empty());
}

TEST(SchedulerControlTest, NextDeadlineIsTheEarliestOfAllRequests) {
  SchedulerWorld world(SchedulerWorld::SmallOptions());
  EXPECT_EQ(world.scheduler().next_deadline_ns(), std::numeric_limits<int64_t>::max());
  const int64_t now = world.clock().NowNs();
  for (const int64_t ms : {30, 10, 20}) {
    Request request = Make(absl::StrCat(ms), 4, 4);
    request.deadline_ns = now + ms * kMs;
    ASSERT_TRUE(world.Add(request).ok());
  }
  EXPECT_EQ(world.scheduler().next_deadline_ns(), now + 10 * kMs);
  world.Cancel("10");
  EXPECT_EQ(world.scheduler().next_deadline_ns(), now + 20 * kMs);
}

TEST(SchedulerControlTest, FiveHundredCancelsAtOnceReturnEverything) {
  SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
  options.scheduler.max_num_seqs = 64;
  options.scheduler.max_num_batched_tokens = 256;
  options.cache.num_blocks = 600;
  options.check_every_step = false;
  SchedulerWorld world(options);
  for (int32_t i = 0; i < 500; ++i) ASSERT_TRUE(world.Add(Make(absl::StrCat(i), 7, 20, i)).ok());
  for (int i = 0; i < 4; ++i) world.Step();
  world.Plan();
  for (int32_t i = 0; i < 500; ++i) world.Cancel(absl::StrCat(i));
  world.Run();
  EXPECT_EQ(world.results().size(), 500);
  EXPECT_TRUE(world.CheckEmpty().ok());
}

}  // namespace
}  // namespace paceline::worker
