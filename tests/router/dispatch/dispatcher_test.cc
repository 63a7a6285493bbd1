#include "router/dispatch/dispatcher.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/log_capture.h"
#include "tests/router/dispatch/dispatch_world.h"

namespace paceline::router {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

TEST_F(DispatchTest, AnswersFromAWorker) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  EXPECT_TRUE(dispatcher_->Ready());
  const StartedCall call = StartCall("hello", 5);
  EXPECT_EQ(worker.running(), 1);
  Step(5);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 5));
  EXPECT_EQ(call.sink->finish(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(call.sink->usage().prompt_tokens(), 5);
  EXPECT_EQ(call.sink->usage().completion_tokens(), 5);
  EXPECT_EQ(call.sink->usage().total_tokens(), 10);
  EXPECT_THAT(call.sink->chunks(), SizeIs(5));
  EXPECT_EQ(call.sink->chunks()[0].model(), "fake");
  EXPECT_EQ(call.sink->chunks()[1].usage().completion_tokens(), 2);
  ExpectIdle();
}

TEST_F(DispatchTest, SendsWhatTheEngineNeeds) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hi", 5);
  Sampling(request).set_temperature(0.5);
  Body(request).mutable_options()->set_request_id("my-request");
  Body(request).mutable_options()->set_priority(-3);
  Body(request).mutable_options()->set_timeout(10);
  const StartedCall call = StartCall(std::move(request));
  const v1::Submit submit = worker.submits().at(0);
  EXPECT_THAT(submit.request_id(), testing::StartsWith("my-request~"));
  EXPECT_EQ(submit.attempt(), 1);
  EXPECT_EQ(submit.num_prompt_tokens(), 2);
  EXPECT_EQ(submit.seed(), 7U);
  EXPECT_EQ(submit.n(), 1);
  EXPECT_EQ(submit.priority(), -3);
  EXPECT_EQ(submit.sampling().temperature(), 0.5F);
  EXPECT_EQ(submit.sampling().max_tokens(), 5);
  EXPECT_EQ(submit.cache_salt(), "");
  EXPECT_LE(submit.deadline_ms(), 10'000);
  EXPECT_GT(submit.deadline_ms(), 9'000);
}

TEST_F(DispatchTest, ChatsThroughTheTemplate) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  v1::ChatRequest chat;
  v1::ChatMessage& message = *chat.add_messages();
  message.set_role("user");
  message.set_content("hi<|im_end|>");
  chat.mutable_sampling()->set_max_tokens(3);
  CallRequest request;
  request.body = chat;
  const StartedCall call = StartCall(std::move(request));
  const v1::Submit submit = worker.submits().at(0);
  const auto& ids = submit.prompt_token_ids();
  EXPECT_EQ(ids[0], kImStartId);
  // The control token in the content stays plain text: one <|im_end|> only, the template's.
  EXPECT_EQ(std::count(ids.begin(), ids.end(), kImEndId), 1);
  Step(3);
  EXPECT_TRUE(call.sink->done());
}

TEST_F(DispatchTest, RunsSeveralChoicesEachInOrder) {
  AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hello", 6);
  Sampling(request).set_n(3);
  const StartedCall call = StartCall(std::move(request));
  Step(6);
  ASSERT_TRUE(call.sink->done());
  for (int32_t choice = 0; choice < 3; ++choice) {
    EXPECT_EQ(call.sink->text(choice), FakeAnswer("hello", 7, choice, 6));
  }
  EXPECT_NE(call.sink->text(0), call.sink->text(1));
  EXPECT_EQ(call.sink->usage().completion_tokens(), 18);
  EXPECT_EQ(call.sink->usage().prompt_tokens(), 5);
}

TEST_F(DispatchTest, SeveralTokensOfAStepMakeOneChunk) {
  AddWorker("a").SetTokensPerStep(4);
  StartDispatcher();
  const StartedCall call = StartCall("hello", 8);
  Step(2);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 8));
  EXPECT_THAT(call.sink->chunks(), SizeIs(2));
}

TEST_F(DispatchTest, AStopTextEndsTheChoiceAndCancelsTheWorker) {
  FakeWorker& worker = AddWorker("a");
  worker.SetScript([](const v1::Submit&, int32_t) {
    return FakeWorker::Script{.text = "one two END three four five"};
  });
  StartDispatcher();
  CallRequest request = Request("hello", 100);
  Sampling(request).add_stop("END");
  const StartedCall call = StartCall(std::move(request));
  Step(11);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), "one two ");
  EXPECT_EQ(call.sink->finish(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(call.sink->chunks().back().stop_reason(), "END");
  EXPECT_EQ(call.sink->usage().completion_tokens(), 11);
  EXPECT_EQ(worker.cancels().size(), 1U);
  ExpectIdle();
}

TEST_F(DispatchTest, AStopTextOfOneChoiceLeavesTheOthersAlone) {
  FakeWorker& worker = AddWorker("a");
  worker.SetScript([](const v1::Submit&, int32_t choice) {
    return FakeWorker::Script{.text = choice == 0 ? "aaXbbbbbbb" : "cccccccc"};
  });
  StartDispatcher();
  CallRequest request = Request("hello", 100);
  Sampling(request).set_n(2);
  Sampling(request).add_stop("X");
  const StartedCall call = StartCall(std::move(request));
  Step(5);
  EXPECT_EQ(call.sink->finish(0), v1::FINISH_REASON_STOP);
  EXPECT_FALSE(call.sink->over());
  EXPECT_EQ(worker.cancels().size(), 0U);
  Step(4);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(0), "aa");
  EXPECT_EQ(call.sink->text(1), "cccccccc");
  EXPECT_EQ(call.sink->usage().completion_tokens(), 3 + 8);
  EXPECT_EQ(worker.cancels().size(), 1U);  // choice 0 still ran there
  ExpectIdle();
}

TEST_F(DispatchTest, EndOfSequenceIsNotShown) {
  FakeWorker& worker = AddWorker("a");
  worker.SetScript([](const v1::Submit&, int32_t) {
    return FakeWorker::Script{.text = "bye", .has_stop_token = true};
  });
  StartDispatcher();
  CallRequest request = Request("hello", 100);
  Sampling(request).set_return_token_ids(true);
  Sampling(request).set_skip_special_tokens(false);
  const StartedCall call = StartCall(std::move(request));
  Step(4);
  ASSERT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), "bye");
  EXPECT_EQ(call.sink->finish(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(call.sink->chunks().back().stop_reason(), "");
  EXPECT_EQ(call.sink->usage().completion_tokens(), 4);
  EXPECT_THAT(call.sink->chunks().back().token_ids(), ElementsAre(kImEndId));
}

TEST_F(DispatchTest, AStopTokenOfTheRequestIsNamed) {
  FakeWorker& worker = AddWorker("a");
  worker.SetScript([](const v1::Submit&, int32_t) {
    return FakeWorker::Script{.text = "bye", .has_stop_token = true};
  });
  StartDispatcher();
  CallRequest request = Request("hello", 100);
  Sampling(request).add_stop_token_ids(kImEndId);
  const StartedCall call = StartCall(std::move(request));
  Step(4);
  EXPECT_EQ(call.sink->chunks().back().stop_reason(), absl::StrCat(kImEndId));
}

TEST_F(DispatchTest, ReturnsLogprobsIdsEchoAndCachedTokens) {
  AddWorker("a").SetCachedTokens(2);
  StartDispatcher();
  CallRequest request = Request("hello", 2);
  Sampling(request).set_logprobs(3);
  Sampling(request).set_prompt_logprobs(1);
  Sampling(request).set_return_token_ids(true);
  Body(request).set_echo(true);
  const StartedCall call = StartCall(std::move(request));
  Step(2);
  ASSERT_TRUE(call.sink->done());
  const std::string answer = FakeAnswer("hello", 7, 0, 2);
  EXPECT_EQ(call.sink->text(), "hello" + answer);
  const auto chunks = call.sink->chunks();
  EXPECT_THAT(chunks[0].prompt_token_ids(), ElementsAre('h', 'e', 'l', 'l', 'o'));
  EXPECT_THAT(chunks[0].prompt_logprobs(), SizeIs(5));
  EXPECT_EQ(chunks[0].prompt_logprobs(0).rank(), 0);
  EXPECT_EQ(chunks[0].prompt_logprobs(1).token(), "e");
  EXPECT_THAT(chunks[0].token_ids(), ElementsAre(answer[0]));
  ASSERT_THAT(chunks[0].logprobs(), SizeIs(1));
  EXPECT_EQ(chunks[0].logprobs(0).token(), answer.substr(0, 1));
  EXPECT_THAT(chunks[0].logprobs(0).top(), SizeIs(3));
  EXPECT_EQ(chunks[0].logprobs(0).text_offset(), 5);
  EXPECT_EQ(chunks[1].logprobs(0).text_offset(), 6);
  EXPECT_TRUE(chunks[1].prompt_token_ids().empty());
  EXPECT_TRUE(chunks[1].prompt_logprobs().empty());
  EXPECT_EQ(call.sink->usage().cached_tokens(), 2);
}

TEST_F(DispatchTest, PromptLogprobsOfOneChoiceAreGivenToAll) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hi", 2);
  Sampling(request).set_n(2);
  Sampling(request).set_prompt_logprobs(0);
  const StartedCall call = StartCall(std::move(request));
  // Choice 1 is said first, choice 0 carries the scores.
  v1::WorkerMessage message;
  for (const int32_t choice : {1, 0}) {
    v1::SequenceResult& result = *message.mutable_step()->add_results();
    result.set_request_id(worker.submits()[0].request_id());
    result.set_attempt(1);
    result.set_choice_index(choice);
    result.add_token_ids('x');
    result.set_finish_reason(v1::FINISH_REASON_STOP);
    if (choice == 1) continue;
    result.add_prompt_logprobs();
    result.add_prompt_logprobs()->set_rank(1);
  }
  worker.SendMessage(message);
  loop_.RunReady();
  ASSERT_TRUE(call.sink->done());
  for (const auto& chunk : call.sink->chunks()) EXPECT_THAT(chunk.prompt_logprobs(), SizeIs(2));
}

TEST_F(DispatchTest, TruncatesPromptsFromTheLeft) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hello", 2);
  Body(request).mutable_options()->set_truncate_prompt_tokens(3);
  Body(request).set_echo(true);
  const StartedCall call = StartCall(std::move(request));
  EXPECT_THAT(worker.submits()[0].prompt_token_ids(), ElementsAre('l', 'l', 'o'));
  Step(2);
  EXPECT_EQ(call.sink->text(), "llo" + FakeAnswer("llo", 7, 0, 2));
}

TEST_F(DispatchTest, RefusesBadRequestsWithTheField) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hello", 2);
  Sampling(request).set_temperature(std::nan(""));
  EXPECT_EQ(StartCall(std::move(request)).sink->error().param, "temperature");
  EXPECT_EQ(StartCall(std::string(2100, 'x'), 1).sink->error_code(), "context_length_exceeded");
  EXPECT_EQ(StartCall("hello", 2044).sink->error_code(), "context_length_exceeded");
  EXPECT_TRUE(worker.submits().empty());
  ExpectIdle();
}

TEST_F(DispatchTest, RefusesAtOnceWhatNoReplicasCacheHolds) {
  v1::WorkerHello hello = FakeHello("a");
  hello.set_num_blocks(4);  // 64 tokens
  AddWorker("a", hello);
  StartDispatcher();
  EXPECT_EQ(StartCall(std::string(60, 'x'), 10).sink->error_code(), "kv_capacity_exceeded");
  const StartedCall fits = StartCall(std::string(54, 'x'), 10);
  EXPECT_FALSE(fits.sink->over());
}

TEST_F(DispatchTest, TellsModelsApart) {
  FakeWorker& one = AddWorker("a", "one");
  FakeWorker& two = AddWorker("b", "two");
  StartDispatcher();
  EXPECT_THAT(dispatcher_->ListModels(), SizeIs(2));
  CallRequest request = Request("hello", 2);
  EXPECT_EQ(StartCall(request).sink->error().param, "model");
  Body(request).set_model("three");
  const ApiError missing = StartCall(request).sink->error();
  EXPECT_EQ(missing.code, "model_not_found");
  EXPECT_EQ(missing.status, absl::StatusCode::kNotFound);
  Body(request).set_model("two");
  const StartedCall call = StartCall(request);
  EXPECT_EQ(one.running(), 0);
  EXPECT_EQ(two.running(), 1);
  Step(2);
  EXPECT_EQ(call.sink->chunks()[0].model(), "two");
}

TEST_F(DispatchTest, TenantsDoNotShareSalts) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  for (const char* tenant : {"default", "alice", "bob"}) {
    CallRequest request = Request("hello", 2);
    request.tenant = tenant;
    StartCall(std::move(request));
  }
  const auto submits = worker.submits();
  EXPECT_EQ(submits[0].cache_salt(), "");
  EXPECT_NE(submits[1].cache_salt(), "");
  EXPECT_NE(submits[1].cache_salt(), submits[2].cache_salt());
}

TEST_F(DispatchTest, TwoCallsMayCarryTheSameRequestId) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hello", 2);
  Body(request).mutable_options()->set_request_id("same");
  const StartedCall first = StartCall(request);
  const StartedCall second = StartCall(request);
  EXPECT_NE(worker.submits()[0].request_id(), worker.submits()[1].request_id());
  Step(2);
  EXPECT_TRUE(first.sink->done());
  EXPECT_TRUE(second.sink->done());
  EXPECT_EQ(second.sink->chunks()[0].request_id(), "same");
}

TEST_F(DispatchTest, CancelWhilePreparingAnswersAtOnceAndRunsNothing) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  text_.is_held = true;
  const StartedCall call = StartCall("hello", 5);
  call.handle->Cancel();
  loop_.RunReady();
  EXPECT_EQ(call.sink->error().status, absl::StatusCode::kCancelled);
  text_.Release();
  loop_.RunReady();
  EXPECT_TRUE(worker.submits().empty());
  ExpectIdle();
}

TEST_F(DispatchTest, CancelWhileQueuedRunsNothing) {
  v1::WorkerHello hello = FakeHello("a");
  hello.set_max_num_seqs(1);
  FakeWorker& worker = AddWorker("a", hello);
  StartDispatcher();
  std::vector<StartedCall> calls;
  for (int i = 0; i < 4; ++i) calls.push_back(StartCall("hello", 5));
  EXPECT_EQ(worker.running(), 3);  // one, and a queue of two
  calls[3].handle->Cancel();
  loop_.RunReady();
  EXPECT_EQ(calls[3].sink->error_code(), "cancelled");
  EXPECT_EQ(worker.submits().size(), 3U);
  Step(5);
  ExpectIdle();
}

TEST_F(DispatchTest, CancelBeforeTheFirstTokenAndInMidStreamFreesTheWorker) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall early = StartCall("hello", 50);
  const StartedCall late = StartCall("world", 50);
  early.handle->Cancel();
  loop_.RunReady();
  EXPECT_EQ(worker.running(), 1);
  Step(3);
  late.handle->Cancel();
  late.handle->Cancel();
  loop_.RunReady();
  EXPECT_EQ(worker.running(), 0);
  EXPECT_EQ(early.sink->error_code(), "cancelled");
  EXPECT_EQ(late.sink->error_code(), "cancelled");
  EXPECT_EQ(late.sink->text().size(), 3U);
  ExpectIdle();
}

TEST_F(DispatchTest, CancelAfterTheEndChangesNothing) {
  AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 1);
  Step();
  ASSERT_TRUE(call.sink->done());
  call.handle->Cancel();
  loop_.RunReady();
  EXPECT_TRUE(call.sink->done());
}

TEST_F(DispatchTest, ResultsThatCrossACancelAreDropped) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 50);
  worker.Step();  // posted before
  call.handle->Cancel();
  loop_.RunReady();
  worker.Step();
  loop_.RunReady();
  EXPECT_EQ(call.sink->error_code(), "cancelled");
  EXPECT_EQ(call.sink->text().size(), 1U);
}

TEST_F(DispatchTest, ADeadlineThatPassedAtArrivalIsAnsweredAtOnce) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hello", 5);
  request.deadline_ns = clock_.NowNs() - 1;
  EXPECT_EQ(StartCall(std::move(request)).sink->error_code(), "deadline_exceeded");
  EXPECT_TRUE(worker.submits().empty());
}

TEST_F(DispatchTest, ADeadlineInTheQueueIsNeverExecuted) {
  v1::WorkerHello hello = FakeHello("a");
  hello.set_max_num_seqs(1);
  FakeWorker& worker = AddWorker("a", hello);
  StartDispatcher();
  std::vector<StartedCall> calls;
  for (int i = 0; i < 3; ++i) calls.push_back(StartCall("hello", 50));
  CallRequest request = Request("late", 5);
  Body(request).mutable_options()->set_timeout(0.5);
  const StartedCall late = StartCall(std::move(request));
  Pass(480);
  EXPECT_FALSE(late.sink->over());
  Pass(40);
  EXPECT_EQ(late.sink->error_code(), "deadline_exceeded");
  Step(50);
  EXPECT_EQ(worker.submits().size(), 3U);
  ExpectIdle();
}

TEST_F(DispatchTest, ADeadlineInFlightCancelsTheWorkerWithAnErrorEvent) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hello", 50);
  request.deadline_ns = clock_.NowNs() + 1'000'000'000;
  Body(request).mutable_options()->set_timeout(3600);  // the earlier one counts
  const StartedCall call = StartCall(std::move(request));
  Step(2);
  Pass(1'020);
  EXPECT_EQ(call.sink->error().status, absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(worker.running(), 0);
  ExpectIdle();
}

TEST_F(DispatchTest, AFullQueueRejectsWithRetryAfterBeforeAnyTextWork) {
  v1::WorkerHello hello = FakeHello("a");
  hello.set_max_num_seqs(1);
  AddWorker("a", hello);
  options_.queue.max_requests = 2;
  StartDispatcher();
  std::vector<StartedCall> calls;
  for (int i = 0; i < 5; ++i) calls.push_back(StartCall("hello", 5));  // 3 run, 2 wait
  text_.is_held = true;
  const ApiError error = StartCall("hello", 5).sink->error();
  EXPECT_EQ(error.code, "queue_full");
  EXPECT_EQ(error.status, absl::StatusCode::kResourceExhausted);
  EXPECT_GE(error.retry_after_ms, 1'000);
  text_.Release();
  Step(20);
  for (const StartedCall& call : calls) EXPECT_TRUE(call.sink->done());
  ExpectIdle();
}

TEST_F(DispatchTest, TheQueueIsBoundedInPromptTokensToo) {
  v1::WorkerHello hello = FakeHello("a");
  hello.set_max_num_seqs(1);
  AddWorker("a", hello);
  options_.queue.max_prompt_tokens = 100;
  StartDispatcher();
  std::vector<StartedCall> calls;
  for (int i = 0; i < 3; ++i) calls.push_back(StartCall("hello", 5));
  const StartedCall first = StartCall(std::string(60, 'x'), 5);
  const StartedCall second = StartCall(std::string(60, 'x'), 5);
  EXPECT_FALSE(first.sink->over());
  EXPECT_EQ(second.sink->error_code(), "queue_full");
}

TEST_F(DispatchTest, CallsBeingPreparedCountAgainstTheQueue) {
  AddWorker("a");
  options_.queue.max_requests = 2;
  StartDispatcher();
  text_.is_held = true;
  const StartedCall first = StartCall("hello", 5);
  const StartedCall second = StartCall("hello", 5);
  EXPECT_EQ(StartCall("hello", 5).sink->error_code(), "queue_full");
  text_.Release();
  loop_.RunReady();
  Step(5);
  EXPECT_TRUE(first.sink->done() && second.sink->done());
}

TEST_F(DispatchTest, TenantsShareAFullReplicaFairly) {
  v1::WorkerHello hello = FakeHello("a");
  hello.set_max_num_seqs(1);
  AddWorker("a", hello);
  StartDispatcher();
  std::vector<StartedCall> flood;
  for (int i = 0; i < 30; ++i) {
    CallRequest request = Request("hello", 4);
    request.tenant = "flood";
    flood.push_back(StartCall(std::move(request)));
  }
  CallRequest request = Request("hello", 4);
  request.tenant = "small";
  const StartedCall small = StartCall(std::move(request));
  Step(9);  // far less than the flood needs
  EXPECT_TRUE(small.sink->done());
  EXPECT_FALSE(flood.back().sink->over());
}

TEST_F(DispatchTest, NoReplicaReadyIs503WithRetryAfterAfterAShortWait) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  worker.Kill();
  loop_.RunReady();
  EXPECT_FALSE(dispatcher_->Ready());
  const StartedCall call = StartCall("hello", 5);
  Pass(1'900);
  EXPECT_FALSE(call.sink->over());
  Pass(200);
  const ApiError error = call.sink->error();
  EXPECT_EQ(error.code, "no_ready_replica");
  EXPECT_EQ(error.status, absl::StatusCode::kUnavailable);
  EXPECT_GT(error.retry_after_ms, 0);
  ExpectIdle();
}

TEST_F(DispatchTest, AWaitingCallRunsWhenAReplicaComesBackInTime) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  worker.Kill();
  loop_.RunReady();
  const StartedCall call = StartCall("hello", 5);
  Pass(500);
  worker.Restart();
  Pass(1'000);
  Step(5);
  EXPECT_TRUE(call.sink->done());
}

TEST_F(DispatchTest, BeforeAnyModelIsKnownCallsAre503) {
  FakeWorker& worker = AddWorker("a");
  worker.Kill();
  StartDispatcher();
  EXPECT_EQ(StartCall("hello", 5).sink->error_code(), "no_ready_replica");
}

TEST_F(DispatchTest, ASlowReaderIsPausedAndResumed) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 20);
  Step(2);
  call.handle->SetUnsentBytes(256 << 10);
  loop_.RunReady();
  EXPECT_TRUE(worker.pauses().empty());
  call.handle->SetUnsentBytes((256 << 10) + 1);
  call.handle->SetUnsentBytes(300 << 10);
  loop_.RunReady();
  EXPECT_EQ(worker.pauses().size(), 1U);
  Step(2);
  EXPECT_EQ(call.sink->text().size(), 2U);
  call.handle->SetUnsentBytes(200 << 10);  // not yet drained enough
  loop_.RunReady();
  EXPECT_TRUE(worker.resumes().empty());
  Pass(4'000);
  call.handle->SetUnsentBytes(0);
  loop_.RunReady();
  EXPECT_EQ(worker.resumes().size(), 1U);
  Pass(4'000);
  Step(18);
  EXPECT_TRUE(call.sink->done());
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 20));
}

TEST_F(DispatchTest, AReaderThatStaysSlowIsCancelledAndOthersGoOn) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  const StartedCall slow = StartCall("hello", 20);
  const StartedCall other = StartCall("world", 20);
  Step(1);
  slow.handle->SetUnsentBytes(1 << 20);
  loop_.RunReady();
  Step(5);
  EXPECT_EQ(other.sink->text().size(), 6U);
  Pass(5'100);
  EXPECT_EQ(slow.sink->error_code(), "slow_reader");
  EXPECT_EQ(worker.running(), 1);
}

TEST_F(DispatchTest, DrainingRefusesNewCallsAndLetsRunningOnesEnd) {
  AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall("hello", 5);
  Step(1);
  dispatcher_->BeginDrain();
  EXPECT_FALSE(dispatcher_->Ready());
  EXPECT_FALSE(dispatcher_->Drained());
  EXPECT_EQ(StartCall("hello", 5).sink->error_code(), "draining");
  Step(4);
  EXPECT_TRUE(call.sink->done());
  EXPECT_TRUE(dispatcher_->Drained());
}

TEST_F(DispatchTest, PrefersTheReplicaThatHoldsThePrefix) {
  FakeWorker& a = AddWorker("a");
  FakeWorker& b = AddWorker("b");
  StartDispatcher();
  const std::string prompt(64, 'p');
  const std::vector<int32_t> ids(64, 'p');
  std::string stored;
  for (const BlockHash& hash : HashFullBlocks(RootBlockHash("digest-of-fake", "", ""), ids, 16)) {
    for (const uint64_t word : {hash.high, hash.low}) {
      for (int i = 0; i < 8; ++i) stored.push_back(static_cast<char>(word >> (8 * i) & 0xff));
    }
  }
  v1::KvEvents events;
  events.set_stored(stored);
  b.SendKvEvents(events);
  loop_.RunReady();
  for (int i = 0; i < 3; ++i) {
    StartCall(prompt, 4);
    Step(4);
  }
  EXPECT_EQ(a.submits().size(), 0U);
  EXPECT_EQ(b.submits().size(), 3U);
  const std::string matched = R"(matched_prefix_tokens_total{model_name="fake"} 192)";
  EXPECT_THAT(metrics_.Text(), HasSubstr(matched));
  // Another tenant's salt gives other hashes.
  CallRequest request = Request(prompt, 4);
  request.tenant = "alice";
  StartCall(std::move(request));
  EXPECT_THAT(metrics_.Text(), HasSubstr(matched));
}

TEST_F(DispatchTest, TokenizesAndBack) {
  AddWorker("a");
  StartDispatcher();
  v1::TokenizeRequest request;
  EXPECT_EQ(std::get<ApiError>(dispatcher_->Tokenize(request)).param, "text");
  request.set_text("hi");
  request.set_return_token_strs(true);
  const auto result = std::get<TokenizeResult>(dispatcher_->Tokenize(request));
  EXPECT_THAT(result.token_ids, ElementsAre('h', 'i'));
  EXPECT_THAT(result.token_strs, ElementsAre("h", "i"));
  EXPECT_EQ(result.max_model_len, 2048);
  request.clear_text();
  v1::ChatMessage& message = *request.add_messages();
  message.set_role("user");
  message.set_content("hi");
  EXPECT_THAT(std::get<TokenizeResult>(dispatcher_->Tokenize(request)).prompt,
              HasSubstr("<|im_start|>user\nhi"));
  v1::DetokenizeRequest back;
  back.add_token_ids('h');
  back.add_token_ids(kFakeVocabSize);
  EXPECT_EQ(std::get<ApiError>(dispatcher_->Detokenize(back)).param, "token_ids");
  back.set_token_ids(1, '!');
  EXPECT_EQ(std::get<std::string>(dispatcher_->Detokenize(back)), "h!");
}

TEST_F(DispatchTest, CountsWhatItDoes) {
  AddWorker("a");
  StartDispatcher();
  StartCall("hello", 5);
  Step(5);
  Pass(300);
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr(R"(vllm:generation_tokens_total{engine="a",model_name="fake"} 5)"));
  EXPECT_THAT(text, HasSubstr(R"(vllm:prompt_tokens_total{engine="a",model_name="fake"} 5)"));
  EXPECT_THAT(
      text, HasSubstr(R"(vllm:inter_token_latency_seconds_count{engine="a",model_name="fake"} 4)"));
  EXPECT_THAT(text,
              HasSubstr(R"(paceline_router_picks_total{outcome="picked",policy="prefix"} 1)"));
  EXPECT_THAT(text, HasSubstr(R"(replica="a",state="ready"} 1)"));
}

TEST_F(DispatchTest, ADrainedReplicaGetsNoNewWorkAndItsStreamsGoOn) {
  FakeWorker& a = AddWorker("a");
  FakeWorker& b = AddWorker("b");
  options_.policy = "round_robin";
  StartDispatcher();
  const StartedCall first = StartCall("one", 8);
  const StartedCall second = StartCall("two", 8);
  ASSERT_EQ(a.running() + b.running(), 2);
  Step(2);
  absl::Status status = absl::UnknownError("not called");
  dispatcher_->DrainReplica("a", true, [&](const absl::Status& done) { status = done; });
  loop_.RunReady();
  EXPECT_TRUE(status.ok()) << status;
  for (int i = 0; i < 4; ++i) StartCall("more", 2);
  EXPECT_EQ(a.submits().size(), 1U);
  EXPECT_EQ(b.submits().size(), 5U);
  Step(6);
  EXPECT_TRUE(first.sink->done() && second.sink->done());
  EXPECT_EQ(first.sink->text(), FakeAnswer("one", 7, 0, 8));
  EXPECT_EQ(second.sink->text(), FakeAnswer("two", 7, 0, 8));
  // With the other one gone there is nobody left for what is new.
  b.Kill();
  loop_.RunReady();
  EXPECT_FALSE(dispatcher_->Ready());
  const StartedCall waits = StartCall("three", 2);
  EXPECT_EQ(a.running(), 0);
  dispatcher_->DrainReplica("a", false, [](const absl::Status&) {});
  loop_.RunReady();
  Step(2);
  EXPECT_TRUE(waits.sink->done());
}

TEST_F(DispatchTest, AStreamIsNotMovedToADrainedReplica) {
  FakeWorker& a = AddWorker("a");
  FakeWorker& b = AddWorker("b");
  StartDispatcher();
  dispatcher_->DrainReplica("a", true, [](const absl::Status&) {});
  loop_.RunReady();
  const StartedCall call = StartCall("hello", 8);
  Step(2);
  b.Kill();
  Pass(1'000);
  EXPECT_EQ(a.submits().size(), 0U);
  b.Restart();
  Pass(1'000);
  Step(6);
  EXPECT_EQ(call.sink->text(), FakeAnswer("hello", 7, 0, 8));
}

// The first router has filled the replica and has more to send. It learns of each place that
// becomes free with the result that frees it, the second only with the next beat.
TEST_F(DispatchTest, TwoRoutersShareAReplica) {
  v1::WorkerHello hello = FakeHello("a");
  hello.set_max_num_seqs(16);  // 18 with the queue
  FakeWorker& worker = AddWorker("a", hello);
  StartDispatcher();
  for (int i = 0; i < 200; ++i) StartCall(absl::StrCat("first ", i), 1 + i % 5);
  RouterMetrics metrics;
  Dispatcher second(options_, &loop_, &text_, InMemoryLinks({{"a:1", &worker}}), &metrics);
  second.Start();
  loop_.RunReady();
  ASSERT_EQ(worker.running(), 18);
  worker.Beat();
  loop_.RunReady();
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 40; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    second.Start(Request(absl::StrCat("second ", i), 1 + i % 5), sinks.back());
    loop_.RunReady();
  }
  EXPECT_EQ(worker.running(), 18 + 9);
  int served = 0;
  for (int step = 0; step < 15; ++step) {
    Step();
    Pass(20);
  }
  for (const auto& sink : sinks) served += sink->done() ? 1 : 0;
  EXPECT_GE(served, 36);  // 15 steps of nine sequences with three tokens on average: 45
  second.FailAll();
  loop_.RunReady();
}

TEST_F(DispatchTest, FlushesThePrefixCachesOfAModel) {
  FakeWorker& a = AddWorker("a", "one");
  FakeWorker& b = AddWorker("b", "two");
  StartDispatcher();
  const auto flush = [&](const std::string& model) {
    absl::StatusOr<int32_t> count = absl::UnknownError("not called");
    dispatcher_->FlushPrefixCache(model,
                                  [&](const absl::StatusOr<int32_t>& done) { count = done; });
    loop_.RunReady();
    return count;
  };
  EXPECT_EQ(*flush("one"), 1);
  EXPECT_EQ(a.flushes(), 1);
  EXPECT_EQ(b.flushes(), 0);
  EXPECT_EQ(*flush(""), 2);
  EXPECT_EQ(b.flushes(), 1);
  EXPECT_EQ(flush("three").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(DispatchTest, ANumericalErrorIsNamedAndNotTriedElsewhere) {
  FakeWorker& worker = AddWorker("a");
  FakeWorker& other = AddWorker("b");
  StartDispatcher();
  for (FakeWorker* each : {&worker, &other}) {
    each->SetScript([](const v1::Submit& submit, int32_t) {
      return FakeWorker::Script{
          .text = "ab", .finish = v1::FINISH_REASON_ERROR, .error = absl::StatusCode::kDataLoss};
    });
  }
  const StartedCall call = StartCall("hello", 5);
  Step(3);
  EXPECT_EQ(call.sink->error_code(), "numerical");
  EXPECT_EQ(call.sink->error().status, absl::StatusCode::kInternal);
  EXPECT_EQ(worker.submits().size() + other.submits().size(), 1U);
}

TEST_F(DispatchTest, ATraceIsPassedOnAndStandsInTheLog) {
  constexpr char kTrace[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  constexpr char kNote[] = " trace_id=0af7651916cd43dd8448eb211c80319c\n";
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  worker.SetScript([](const v1::Submit& submit, int32_t) {
    return FakeWorker::Script{
        .text = "ab", .finish = v1::FINISH_REASON_ERROR, .error = absl::StatusCode::kInternal};
  });
  const LogCapture log;
  CallRequest request = Request("hello", 5);
  Body(request).mutable_options()->set_request_id("traced");
  request.traceparent = kTrace;
  StartCall(std::move(request));
  Step(3);
  EXPECT_EQ(worker.submits().at(0).traceparent(), kTrace);
  for (const char* line : {"debug request traced goes to replica a",
                           "warning request traced failed at a replica",
                           "warning request traced ends: INTERNAL"}) {
    EXPECT_THAT(log.text(), testing::ContainsRegex(absl::StrCat(line, "[^\n]*", kNote)));
  }
  StartCall("untraced", 5);
  EXPECT_EQ(worker.submits().at(1).traceparent(), "");
}

}  // namespace
}  // namespace paceline::router
