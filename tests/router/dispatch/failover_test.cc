#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/router/dispatch/dispatch_world.h"

namespace paceline::router {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

class FailoverTest : public DispatchTest {
 protected:
  // The worker that runs something, and the other one.
  void StartTwo() {
    AddWorker("a");
    AddWorker("b");
    StartDispatcher();
  }
  FakeWorker& Busy() { return *workers_[workers_["a:1"]->running() > 0 ? "a:1" : "b:1"]; }
  FakeWorker& Idle() { return *workers_[workers_["a:1"]->running() > 0 ? "b:1" : "a:1"]; }
};

TEST_F(FailoverTest, AStreamGoesOnGaplessOnAnotherReplica) {
  StartTwo();
  const StartedCall call = StartCall("hello", 20);
  Step(7);
  FakeWorker& first = Busy();
  FakeWorker& second = Idle();
  first.Kill();
  loop_.RunReady();
  ASSERT_EQ(second.running(), 1);
  const v1::Submit replay = second.submits().at(0);
  EXPECT_EQ(replay.num_prompt_tokens(), 5);
  EXPECT_EQ(replay.prompt_token_ids_size(), 12);
  EXPECT_EQ(replay.attempt(), 2);
  EXPECT_EQ(replay.seed(), 7U);
  EXPECT_EQ(replay.sampling().max_tokens(), 20);
  Step(13);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 20));
  EXPECT_EQ(call.sink->usage().completion_tokens(), 20);
  EXPECT_THAT(metrics_.Text(), HasSubstr("paceline_router_resumed_tokens_total 7"));
  ExpectIdle();
}

TEST_F(FailoverTest, ADrawnSeedIsTheSameOnTheSecondReplica) {
  StartTwo();
  CallRequest request = Request("hello", 20);
  Sampling(request).clear_seed();
  const StartedCall call = StartCall(std::move(request));
  Step(3);
  const uint64_t seed = Busy().submits()[0].seed();
  Busy().Kill();
  loop_.RunReady();
  Step(17);
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", seed, 0, 20));
}

TEST_F(FailoverTest, EachUnfinishedChoiceIsReplayedOnItsOwn) {
  StartTwo();
  for (auto& [address, worker] : workers_) {
    worker->SetScript([](const v1::Submit&, int32_t choice) -> std::optional<FakeWorker::Script> {
      if (choice == 1) return FakeWorker::Script{.text = "ab"};
      return std::nullopt;
    });
  }
  CallRequest request = Request("hello", 10);
  Sampling(request).set_n(3);
  const StartedCall call = StartCall(std::move(request));
  Step(4);
  ASSERT_EQ(call.sink->finish(1), v1::FINISH_REASON_STOP);
  FakeWorker& second = Idle();
  Busy().Kill();
  loop_.RunReady();
  const auto replays = second.submits();
  ASSERT_EQ(replays.size(), 2U);
  EXPECT_EQ(replays[0].first_choice_index(), 0);
  EXPECT_EQ(replays[1].first_choice_index(), 2);
  EXPECT_EQ(replays[0].n(), 1);
  EXPECT_NE(replays[0].request_id(), replays[1].request_id());
  Step(6);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(0), FakeAnswer("hello", 7, 0, 10));
  EXPECT_EQ(call.sink->text(1), "ab");
  EXPECT_EQ(call.sink->text(2), FakeAnswer("hello", 7, 2, 10));
  ExpectIdle();
}

TEST_F(FailoverTest, BeforeTheFirstTokenTheWholeRequestIsSentAgain) {
  StartTwo();
  CallRequest request = Request("hello", 4);
  Sampling(request).set_n(2);
  const StartedCall call = StartCall(std::move(request));
  FakeWorker& second = Idle();
  Busy().Kill();
  loop_.RunReady();
  ASSERT_EQ(second.submits().size(), 1U);
  EXPECT_EQ(second.submits()[0].n(), 2);
  Step(4);
  EXPECT_TRUE(call.sink->done());
}

TEST_F(FailoverTest, StopTextsAcrossTheBreakStillMatch) {
  StartTwo();
  for (auto& [address, worker] : workers_) {
    worker->SetScript(
        [](const v1::Submit&, int32_t) { return FakeWorker::Script{.text = "one STOP two"}; });
  }
  CallRequest request = Request("hello", 50);
  Sampling(request).add_stop("STOP");
  const StartedCall call = StartCall(std::move(request));
  Step(6);  // "one ST"
  EXPECT_EQ(call.sink->text(), "one ");
  Busy().Kill();
  loop_.RunReady();
  Step(2);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), "one ");
  EXPECT_EQ(call.sink->chunks().back().stop_reason(), "STOP");
}

TEST_F(FailoverTest, PromptLogprobsAreNotAskedForTwice) {
  StartTwo();
  CallRequest request = Request("hello", 6);
  Sampling(request).set_prompt_logprobs(0);
  const StartedCall call = StartCall(std::move(request));
  Step(2);
  FakeWorker& second = Idle();
  Busy().Kill();
  loop_.RunReady();
  EXPECT_EQ(second.submits()[0].sampling().prompt_logprobs(), -1);
  Step(4);
  EXPECT_TRUE(call.sink->done());
  EXPECT_THAT(call.sink->chunks()[0].prompt_logprobs(), SizeIs(5));
}

TEST_F(FailoverTest, AHungReplicaIsLeftWhenItsLeaseEndsAndItsLateFramesAreDropped) {
  StartTwo();
  const StartedCall call = StartCall("hello", 20);
  Step(5);
  FakeWorker& hung = Busy();
  FakeWorker& second = Idle();
  hung.SetHung(true);
  Pass(2'100);
  ASSERT_EQ(second.running(), 1);
  hung.SetHung(false);
  Step(20);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 20));
}

TEST_F(FailoverTest, ResultsOfAnotherAttemptOrIndexAreDropped) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 20);
  Step(3);
  v1::SequenceResult result;
  result.set_request_id(worker.submits()[0].request_id());
  result.set_attempt(9);
  result.set_first_index(3);
  result.add_token_ids('!');
  worker.SendResult(result);
  result.set_attempt(1);
  result.set_first_index(0);  // said already
  worker.SendResult(result);
  result.set_request_id("unknown");
  worker.SendResult(result);
  loop_.RunReady();
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 3));
  Step(17);
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 20));
}

TEST_F(FailoverTest, AResultThatOverlapsAddsOnlyWhatIsNew) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 20);
  Step(3);
  v1::SequenceResult result;
  result.set_request_id(worker.submits()[0].request_id());
  result.set_attempt(1);
  result.set_first_index(2);
  result.add_token_ids('X');
  result.add_token_ids('Y');
  worker.SendResult(result);
  loop_.RunReady();
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 3) + "Y");
}

TEST_F(FailoverTest, AWorkerThatLeavesAGapIsNotBelievedAndAnotherOneGoesOn) {
  StartTwo();
  const StartedCall call = StartCall("hello", 10);
  Step(3);
  FakeWorker& liar = Busy();
  v1::SequenceResult result;
  result.set_request_id(liar.submits()[0].request_id());
  result.set_attempt(1);
  result.set_first_index(5);
  result.add_token_ids('!');
  liar.SendResult(result);
  loop_.RunReady();
  EXPECT_EQ(liar.running(), 0);  // cancelled there
  Step(7);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 10));
  ExpectIdle();
}

TEST_F(FailoverTest, TokensOutsideOfTheVocabularyNeverReachAClient) {
  StartTwo();
  const StartedCall call = StartCall("hello", 10);
  FakeWorker& liar = Busy();
  for (const int32_t token : {-1, kFakeVocabSize}) {
    v1::SequenceResult result;
    result.set_request_id(liar.submits()[0].request_id());
    result.set_attempt(1);
    result.add_token_ids(token);
    liar.SendResult(result);
  }
  loop_.RunReady();
  Step(10);
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 10));
}

TEST_F(FailoverTest, TwoDeathsWithTheSameRequestInFlightMakeItPoison) {
  AddWorker("a");
  AddWorker("b");
  AddWorker("c");
  StartDispatcher();
  const StartedCall call = StartCall("poison", 20);
  Step(2);
  for (int deaths = 0; deaths < 2; ++deaths) {
    for (auto& [address, worker] : workers_) {
      if (worker->running() > 0) {
        worker->Kill();
        break;
      }
    }
    loop_.RunReady();
  }
  EXPECT_EQ(call.sink->error_code(), "poison_suspected");
  EXPECT_EQ(call.sink->error().status, absl::StatusCode::kInternal);
  // The same again is not tried; something else is, on the replica that is left.
  EXPECT_EQ(StartCall("poison", 20).sink->error_code(), "poison_suspected");
  const StartedCall other = StartCall("harmless", 5);
  Step(5);
  EXPECT_TRUE(other.sink->done());
}

TEST_F(FailoverTest, ReplicasThatDieTogetherMakeNoPoison) {
  StartTwo();
  const StartedCall call = StartCall("hello", 20);
  Step(3);
  FakeWorker& first = Busy();
  FakeWorker& second = Idle();
  second.SetDeaf(true);  // dead too, but its link has not noticed yet
  first.Kill();
  loop_.RunReady();
  second.Kill();
  loop_.RunReady();
  EXPECT_EQ(second.submits().size(), 0U);
  ASSERT_FALSE(call.sink->over()) << call.sink->error_code();
  first.Restart();
  Pass(1'000);
  Step(17);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 20));
  ExpectIdle();
}

TEST_F(FailoverTest, AFrozenReplicaThatNeverTookTheRequestMakesNoPoison) {
  StartTwo();
  workers_["a:1"]->SetHung(true);
  workers_["b:1"]->SetHung(true);
  const StartedCall call = StartCall("hello", 20);
  Pass(2'100);  // both are lost by their lease
  ASSERT_FALSE(call.sink->over()) << call.sink->error_code();
  workers_["a:1"]->SetHung(false);
  workers_["b:1"]->SetHung(false);
  Pass(6'000);
  Step(20);
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 20));
}

TEST_F(FailoverTest, AReplicaThatComesBackAliveWasNotKilled) {
  StartTwo();
  const StartedCall call = StartCall("hello", 40);
  for (int silences = 0; silences < 2; ++silences) {
    Step(3);
    FakeWorker& busy = Busy();
    busy.SetHung(true);
    Pass(2'100);
    busy.SetHung(false);
    Pass(1'000);  // attaches again, with the epoch that it had
    ASSERT_FALSE(call.sink->over()) << call.sink->error_code();
  }
  Step(3);
  Busy().Kill();
  loop_.RunReady();
  EXPECT_EQ(call.sink->error_code(), "replica_lost");  // the attempts are spent all the same
}

TEST_F(FailoverTest, AfterTwoSilencesItWaitsForOneToComeBack) {
  AddWorker("a");
  AddWorker("b");
  AddWorker("c");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 20);
  std::vector<FakeWorker*> silent;
  for (int silences = 0; silences < 2; ++silences) {
    Step(3);
    for (auto& [address, worker] : workers_) {
      if (worker->running() == 0) continue;
      silent.push_back(worker.get());
      worker->SetHung(true);
      break;
    }
    Pass(2'100);
  }
  const StartedCall same = StartCall("hello", 20);  // nobody is sure that it is poison
  Pass(5'000);
  ASSERT_FALSE(call.sink->over()) << call.sink->error_code();
  EXPECT_FALSE(same.sink->over()) << same.sink->error_code();
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 6));
  silent[0]->SetHung(false);
  Pass(6'000);
  Step(20);
  ASSERT_TRUE(call.sink->done()) << call.sink->error_code();
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 20));
}

TEST_F(FailoverTest, AfterTwoSilencesOfWhichNoneComesBackItIsPoison) {
  AddWorker("a");
  AddWorker("b");
  AddWorker("c");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 20);
  for (int silences = 0; silences < 2; ++silences) {
    Step(3);
    for (auto& [address, worker] : workers_) {
      if (worker->running() == 0) continue;
      worker->SetHung(true);
      break;
    }
    Pass(2'100);
  }
  Pass(15'000);
  EXPECT_EQ(call.sink->error_code(), "poison_suspected");
  EXPECT_EQ(StartCall("hello", 20).sink->error_code(), "poison_suspected");
  size_t submits = 0;
  for (auto& [address, worker] : workers_) submits += worker->submits().size();
  EXPECT_EQ(submits, 2U);
}

TEST_F(FailoverTest, AReplicaThatComesBackAsAnotherHasDied) {
  StartTwo();
  const StartedCall call = StartCall("hello", 40);
  for (int deaths = 0; deaths < 2; ++deaths) {
    Step(3);
    FakeWorker& busy = Busy();
    busy.Kill();
    busy.Restart();
    Pass(1'000);
  }
  EXPECT_EQ(call.sink->error_code(), "poison_suspected");
}

TEST_F(FailoverTest, AcceptancesOfAnotherAttemptOrReplicaCountForNothing) {
  StartTwo();
  const StartedCall call = StartCall("hello", 20);
  Step(3);
  FakeWorker& first = Busy();
  FakeWorker& second = Idle();
  second.SetDeaf(true);
  first.Kill();
  loop_.RunReady();
  v1::WorkerMessage accepted;
  accepted.mutable_accepted()->set_request_id(first.submits()[0].request_id());
  accepted.mutable_accepted()->set_attempt(1);
  second.SendMessage(accepted);
  accepted.mutable_accepted()->set_request_id("unknown");
  second.SendMessage(accepted);
  loop_.RunReady();
  second.Kill();
  loop_.RunReady();
  EXPECT_FALSE(call.sink->over()) << call.sink->error_code();
}

TEST_F(FailoverTest, ADeathAfterTheLastTokenIsNoneOfItsBusiness) {
  StartTwo();
  const StartedCall call = StartCall("hello", 5);
  FakeWorker& first = Busy();
  FakeWorker& second = Idle();
  first.Step(5);  // said, and on its way
  first.Kill();
  loop_.RunReady();
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 5));
  EXPECT_EQ(second.submits().size(), 0U);
  ExpectIdle();
}

TEST_F(FailoverTest, ADeathWhenOneChoiceHasEndedReplaysTheOthersOnly) {
  StartTwo();
  CallRequest request = Request("hello", 6);
  Sampling(request).set_n(2);
  for (auto& [address, worker] : workers_) {
    worker->SetScript([](const v1::Submit&, int32_t choice) -> std::optional<FakeWorker::Script> {
      if (choice == 0) return FakeWorker::Script{.text = "abc"};
      return std::nullopt;
    });
  }
  const StartedCall call = StartCall(std::move(request));
  FakeWorker& first = Busy();
  FakeWorker& second = Idle();
  first.Step(4);  // the end of the first choice is on its way when it dies
  first.Kill();
  loop_.RunReady();
  ASSERT_EQ(second.submits().size(), 1U);
  EXPECT_EQ(second.submits()[0].first_choice_index(), 1);
  Step(2);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(0), "abc");
  EXPECT_EQ(call.sink->text(1), FakeAnswer("hello", 7, 1, 6));
}

TEST_F(FailoverTest, ADeathDuringTheReplayIsCountedOnceMore) {
  AddWorker("a");
  AddWorker("b");
  AddWorker("c");
  options_.max_deaths = 10;
  StartDispatcher();
  const StartedCall call = StartCall("hello", 20);
  for (int attempt = 1; attempt <= 3; ++attempt) {
    ASSERT_FALSE(call.sink->over()) << attempt;
    for (auto& [address, worker] : workers_) {
      if (worker->running() == 0) continue;
      EXPECT_EQ(worker->submits().back().attempt(), attempt);
      worker->Step(attempt == 2 ? 0 : 3);  // the second dies in its prefill
      worker->Kill();
      break;
    }
    loop_.RunReady();
  }
  EXPECT_EQ(call.sink->error_code(), "replica_lost");
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 6));
  ExpectIdle();
}

TEST_F(FailoverTest, ADeadlineIsNotStretchedByReplays) {
  StartTwo();
  CallRequest request = Request("hello", 100);
  Body(request).mutable_options()->set_timeout(3);
  const StartedCall call = StartCall(std::move(request));
  Step(2);
  Pass(1'000);
  FakeWorker& second = Idle();
  Busy().Kill();
  loop_.RunReady();
  EXPECT_LE(second.submits().at(0).deadline_ms(), 2'000);
  EXPECT_GE(second.submits().at(0).deadline_ms(), 1'900);
  Pass(2'040);
  EXPECT_EQ(call.sink->error_code(), "deadline_exceeded");
  EXPECT_EQ(second.running(), 0);
}

TEST_F(FailoverTest, WorkersThatLeaveInGoodOrderMakeNoPoison) {
  AddWorker("a");
  AddWorker("b");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 40);
  for (int moves = 0; moves < 5; ++moves) {
    Step(3);
    FakeWorker& busy = Busy();
    busy.Leave();
    loop_.RunReady();
    busy.Restart();
    Pass(600);
    ASSERT_FALSE(call.sink->over()) << moves << " " << call.sink->error_code();
  }
  Step(40);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 40));
}

TEST_F(FailoverTest, AnErrorThatAnotherReplicaMayNotHaveIsRetriedThreeTimesAtMost) {
  StartTwo();
  for (auto& [address, worker] : workers_) {
    worker->SetScript([](const v1::Submit&, int32_t) {
      return FakeWorker::Script{
          .text = "", .finish = v1::FINISH_REASON_ERROR, .error = absl::StatusCode::kUnavailable};
    });
  }
  const StartedCall call = StartCall("hello", 10);
  Step(6);
  EXPECT_EQ(call.sink->error_code(), "replica_lost");
  EXPECT_EQ(call.sink->error().status, absl::StatusCode::kUnavailable);
  EXPECT_EQ(workers_["a:1"]->submits().size() + workers_["b:1"]->submits().size(), 3U);
  ExpectIdle();
}

TEST_F(FailoverTest, AnInternalErrorIsNotRetriedAndItsTextStaysInside) {
  StartTwo();
  for (auto& [address, worker] : workers_) {
    worker->SetScript([](const v1::Submit&, int32_t) {
      return FakeWorker::Script{
          .text = "ab", .finish = v1::FINISH_REASON_ERROR, .error = absl::StatusCode::kInternal};
    });
  }
  const StartedCall call = StartCall("hello", 10);
  Step(3);
  EXPECT_EQ(call.sink->error().status, absl::StatusCode::kInternal);
  EXPECT_EQ(workers_["a:1"]->submits().size() + workers_["b:1"]->submits().size(), 1U);
  ExpectIdle();
}

TEST_F(FailoverTest, WhatTheEngineFindsWrongWithTheRequestIsTheRequestsFault) {
  StartTwo();
  for (auto& [address, worker] : workers_) {
    worker->SetScript([](const v1::Submit&, int32_t) {
      return FakeWorker::Script{.text = "ab",
                                .finish = v1::FINISH_REASON_ERROR,
                                .error = absl::StatusCode::kInvalidArgument};
    });
  }
  const StartedCall call = StartCall("hello", 10);
  Step(3);
  EXPECT_EQ(call.sink->error().status, absl::StatusCode::kInvalidArgument);
  ExpectIdle();
}

TEST_F(FailoverTest, TheOnlyReplicaMayComeBack) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 10);
  Step(4);
  worker.Kill();
  loop_.RunReady();
  Pass(8'000);
  EXPECT_FALSE(call.sink->over());
  worker.Restart();
  Pass(6'000);
  Step(6);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 10));
}

TEST_F(FailoverTest, AStreamThatFindsNoReplicaEndsWithAnErrorEvent) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 10);
  Step(4);
  worker.Kill();
  Pass(15'100);
  EXPECT_EQ(call.sink->error_code(), "no_ready_replica");
  ExpectIdle();
}

TEST_F(FailoverTest, ADeadlineCoversFailover) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hello", 10);
  Body(request).mutable_options()->set_timeout(3);
  const StartedCall call = StartCall(std::move(request));
  Step(4);
  worker.Kill();
  Pass(3'100);
  EXPECT_EQ(call.sink->error_code(), "deadline_exceeded");
}

TEST_F(FailoverTest, CancelWhileWaitingForAReplicaEndsIt) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 10);
  worker.Kill();
  loop_.RunReady();
  call.handle->Cancel();
  loop_.RunReady();
  EXPECT_EQ(call.sink->error_code(), "cancelled");
  worker.Restart();
  Pass(1'000);
  EXPECT_EQ(worker.running(), 0);
  ExpectIdle();
}

TEST_F(FailoverTest, APausedStreamStaysPausedOnItsNewReplica) {
  StartTwo();
  const StartedCall call = StartCall("hello", 20);
  Step(2);
  call.handle->SetUnsentBytes(1 << 20);
  loop_.RunReady();
  FakeWorker& second = Idle();
  Busy().Kill();
  loop_.RunReady();
  EXPECT_EQ(second.pauses().size(), 1U);
  Step(3);
  EXPECT_EQ(call.sink->text().size(), 2U);
  call.handle->SetUnsentBytes(0);
  loop_.RunReady();
  Step(18);
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 20));
}

TEST_F(FailoverTest, ReplaysBeyondTheBudgetWaitInsteadOfFailing) {
  AddWorker("a");
  AddWorker("b");
  options_.retry_budget = {.ratio = 0.0, .min_per_second = 1};  // ten in ten seconds
  options_.policy = "round_robin";
  StartDispatcher();
  std::vector<StartedCall> calls;
  for (int i = 0; i < 40; ++i) calls.push_back(StartCall(absl::StrCat("hello ", i), 200));
  Step(1);
  workers_["a:1"]->Kill();
  loop_.RunReady();
  EXPECT_EQ(workers_["b:1"]->running(), 20 + 10);
  Pass(10'200);
  EXPECT_EQ(workers_["b:1"]->running(), 40);
  for (const StartedCall& call : calls) EXPECT_FALSE(call.sink->over());
}

TEST_F(FailoverTest, ReplaysThatTheBudgetHoldsBackOutlastTheWaitForAReplica) {
  AddWorker("a");
  AddWorker("b");
  options_.retry_budget = {.ratio = 0.0, .min_per_second = 1};
  options_.policy = "round_robin";
  StartDispatcher();
  std::vector<StartedCall> calls;
  for (int i = 0; i < 60; ++i) calls.push_back(StartCall(absl::StrCat("hello ", i), 200));
  Step(1);
  workers_["a:1"]->Kill();
  Pass(21'000);  // 30 replays, ten in ten seconds
  EXPECT_EQ(workers_["b:1"]->running(), 60);
  for (const StartedCall& call : calls) EXPECT_FALSE(call.sink->over()) << call.sink->error_code();
}

TEST_F(FailoverTest, TheBudgetIsAShareOfTheRequests) {
  AddWorker("a");
  AddWorker("b");
  options_.retry_budget = {.ratio = 0.1, .min_per_second = 0};
  options_.policy = "round_robin";
  StartDispatcher();
  std::vector<StartedCall> calls;
  for (int i = 0; i < 60; ++i) calls.push_back(StartCall(absl::StrCat("hello ", i), 200));
  Step(1);
  workers_["a:1"]->Kill();
  loop_.RunReady();
  EXPECT_EQ(workers_["b:1"]->running(), 30 + 6);
}

TEST_F(FailoverTest, AnotherModelIsNoReplacement) {
  AddWorker("a", "one");
  AddWorker("b", "two");
  StartDispatcher();
  CallRequest request = Request("hello", 10);
  Body(request).set_model("one");
  const StartedCall call = StartCall(std::move(request));
  Step(2);
  workers_["a:1"]->Kill();
  loop_.RunReady();
  EXPECT_EQ(workers_["b:1"]->running(), 0);
}

// Replicas of one model whose answers differ in their bits.
class NumericsTest : public DispatchTest {
 protected:
  FakeWorker& AddWorkerOf(const std::string& name, const std::string& numerics) {
    v1::WorkerHello hello = FakeHello(name);
    hello.set_numerics(numerics);
    return AddWorker(name, hello);
  }
  void SendFirstToken(FakeWorker& worker, int32_t choice) {
    const v1::Submit submit = worker.submits().back();
    v1::SequenceResult result;
    result.set_request_id(submit.request_id());
    result.set_attempt(submit.attempt());
    result.set_choice_index(choice);
    result.add_token_ids(
        FakeToken({submit.prompt_token_ids().begin(), submit.prompt_token_ids().end()}, 7, choice));
    worker.SendResult(result);
    loop_.RunReady();
  }
};

TEST_F(NumericsTest, AStreamGoesOnWhereTheBitsAreTheSame) {
  FakeWorker& a = AddWorkerOf("a", "x");
  FakeWorker& b = AddWorkerOf("b", "y");
  FakeWorker& c = AddWorkerOf("c", "x");
  b.Kill();
  c.Kill();
  StartDispatcher();
  const StartedCall call = StartCall("hello", 10);
  Step(4);
  b.Restart();
  c.Restart();
  Pass(6'000);
  a.Kill();
  loop_.RunReady();
  EXPECT_EQ(b.submits().size(), 0U);
  ASSERT_EQ(c.submits().size(), 1U);
  Step(6);
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 10));
}

TEST_F(NumericsTest, AStreamEndsWithAnErrorRatherThanWithOtherBits) {
  FakeWorker& a = AddWorkerOf("a", "x");
  FakeWorker& b = AddWorkerOf("b", "y");
  b.Kill();
  StartDispatcher();
  const StartedCall call = StartCall("hello", 10);
  Step(4);
  b.Restart();
  Pass(6'000);
  a.Kill();
  Pass(14'900);
  EXPECT_FALSE(call.sink->over());  // an equal one may still come back
  EXPECT_TRUE(dispatcher_->Ready());
  Pass(300);
  EXPECT_EQ(call.sink->error_code(), "no_equal_replica");
  EXPECT_EQ(call.sink->error().status, absl::StatusCode::kUnavailable);
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 4));
  EXPECT_EQ(b.submits().size(), 0U);
  ExpectIdle();
}

TEST_F(NumericsTest, BeforeItsFirstTokenARequestMayGoAnywhere) {
  FakeWorker& a = AddWorkerOf("a", "x");
  FakeWorker& b = AddWorkerOf("b", "y");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 4);
  FakeWorker& first = a.running() > 0 ? a : b;
  FakeWorker& second = a.running() > 0 ? b : a;
  first.Kill();
  loop_.RunReady();
  EXPECT_EQ(second.running(), 1);
  Step(4);
  EXPECT_TRUE(call.sink->done());
}

TEST_F(NumericsTest, EachChoiceStaysWithItsOwnBits) {
  FakeWorker& a = AddWorkerOf("a", "x");
  FakeWorker& b = AddWorkerOf("b", "y");
  options_.max_deaths = 10;
  b.Kill();
  StartDispatcher();
  CallRequest request = Request("hello", 6);
  Sampling(request).set_n(2);
  const StartedCall call = StartCall(std::move(request));
  SendFirstToken(a, 0);
  b.Restart();
  Pass(6'000);
  a.Kill();
  loop_.RunReady();
  ASSERT_EQ(b.submits().size(), 1U);
  EXPECT_EQ(b.submits()[0].first_choice_index(), 1);  // it has said nothing yet
  Step(2);
  a.Restart();
  Pass(1'000);
  ASSERT_EQ(a.submits().size(), 2U);
  EXPECT_EQ(a.submits()[1].first_choice_index(), 0);
  b.Kill();
  Pass(1'000);
  EXPECT_EQ(a.submits().size(), 2U);  // the other one waits for its own
  b.Restart();
  Pass(6'000);
  Step(6);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(0), FakeAnswer("hello", 7, 0, 6));
  EXPECT_EQ(call.sink->text(1), FakeAnswer("hello", 7, 1, 6));
}

// Whatever happens to the replicas, each stream is exactly what an undisturbed one would be.
TEST_F(FailoverTest, RandomDeathsNeverChangeAStream) {
  for (uint32_t seed = 1; seed <= 30; ++seed) {
    workers_.clear();
    options_.fleet.workers.fixed.clear();
    options_.max_deaths = 1000;
    options_.max_attempts = 1000;
    for (const char* name : {"a", "b", "c"}) AddWorker(name);
    EventLoop loop(&clock_);
    RouterMetrics metrics;
    std::map<std::string, FakeWorker*> links;
    for (auto& [address, worker] : workers_) {
      links[address] = worker.get();
      options_.fleet.workers.fixed.push_back(address);
    }
    Dispatcher dispatcher(options_, &loop, &text_, InMemoryLinks(links), &metrics);
    dispatcher.Start();
    loop.RunReady();
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    std::mt19937 random(seed);
    for (int i = 0; i < 12; ++i) {
      CallRequest request = Request(absl::StrCat("prompt ", i), 30);
      Sampling(request).set_n(1 + i % 3);
      sinks.push_back(std::make_shared<RecordingSink>());
      dispatcher.Start(std::move(request), sinks.back());
    }
    for (int step = 0; step < 400; ++step) {
      auto at = workers_.begin();
      std::advance(at, random() % 3);
      switch (random() % 12) {
        case 0:
          at->second->Kill();
          break;
        case 1:
        case 2:
          at->second->Restart();
          break;
        default:
          break;
      }
      for (auto& [address, worker] : workers_) {
        if (random() % 2 == 0) worker->Step();
        if (step % 4 == 0) worker->Beat();
      }
      clock_.AdvanceMs(50);
      loop.RunReady();
    }
    for (auto& [address, worker] : workers_) worker->Restart();
    for (int step = 0; step < 400; ++step) {
      for (auto& [address, worker] : workers_) {
        worker->Step();
        worker->Beat();
      }
      clock_.AdvanceMs(20);
      loop.RunReady();
    }
    for (int i = 0; i < 12; ++i) {
      ASSERT_TRUE(sinks[i]->done())
          << "seed " << seed << " call " << i << " " << sinks[i]->error_code();
      for (int32_t choice = 0; choice < 1 + i % 3; ++choice) {
        EXPECT_EQ(sinks[i]->text(choice), FakeAnswer(absl::StrCat("prompt ", i), 7, choice, 30));
      }
    }
    dispatcher.BeginDrain();
    EXPECT_TRUE(dispatcher.Drained());
    loop.Stop();
  }
}

}  // namespace
}  // namespace paceline::router
