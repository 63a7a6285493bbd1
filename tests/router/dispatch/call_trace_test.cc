// The spans of a call, as the dispatcher records them.
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/recording_spans.h"
#include "tests/router/dispatch/dispatch_world.h"

namespace paceline::router {
namespace {

constexpr char kTraceparent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
constexpr char kTraceId[] = "0af7651916cd43dd8448eb211c80319c";

class CallTraceTest : public DispatchTest {
 protected:
  CallTraceTest() { options_.spans = &spans_; }

  Span Only(std::string_view name) {
    const auto found = spans_.Named(name);
    EXPECT_EQ(found.size(), 1U) << name;
    return found.empty() ? Span() : found[0];
  }
  static CallRequest Traced(const std::string& text, int32_t max_tokens) {
    CallRequest request = Request(text, max_tokens);
    request.traceparent = kTraceparent;
    return request;
  }

  RecordingSpans spans_;
};

TEST_F(CallTraceTest, TheCallIsAChildOfTheClientsSpanAndTheParentOfItsParts) {
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  text_.is_held = true;
  StartCall(Traced("hello", 2));
  clock_.AdvanceMs(3);
  text_.Release();
  loop_.RunReady();
  clock_.AdvanceMs(40);
  Step(2);
  const Span root = Only("text_completion fake");
  EXPECT_EQ(root.trace_id, kTraceId);
  EXPECT_EQ(root.parent_id, "b7ad6b7169203331");
  EXPECT_TRUE(root.is_request);
  EXPECT_EQ(root.end_ns - root.start_ns, 43'000'000);
  EXPECT_EQ(root.error, "");
  EXPECT_EQ(TextOf(root, "gen_ai.usage.input_tokens"), "5");
  EXPECT_EQ(TextOf(root, "gen_ai.usage.output_tokens"), "2");
  EXPECT_EQ(TextOf(root, "paceline.finished_reason"), "length");
  std::set<std::string> ids = {root.id};
  for (const char* name : {"tokenise", "queue", "dispatch"}) {
    const Span part = Only(name);
    EXPECT_EQ(part.trace_id, kTraceId) << name;
    EXPECT_EQ(part.parent_id, root.id) << name;
    EXPECT_FALSE(part.is_request) << name;
    EXPECT_LE(root.start_ns, part.start_ns) << name;
    EXPECT_LE(part.start_ns, part.end_ns) << name;
    EXPECT_LE(part.end_ns, root.end_ns) << name;
    EXPECT_TRUE(ids.insert(part.id).second) << name;
  }
  EXPECT_TRUE(spans_.Named("template").empty());
  const Span dispatch = Only("dispatch");
  EXPECT_EQ(dispatch.end_ns - dispatch.start_ns, 40'000'000);
  EXPECT_EQ(TextOf(dispatch, "paceline.replica"), "a");
  // The worker's spans belong under the dispatch.
  EXPECT_EQ(worker.submits().at(0).traceparent(),
            MakeTraceparent(kTraceId, dispatch.id, /*is_sampled=*/true));
}

TEST_F(CallTraceTest, AChatHasATemplate) {
  AddWorker("a");
  StartDispatcher();
  v1::ChatRequest body;
  auto& message = *body.add_messages();
  message.set_role("user");
  message.set_content("hi");
  body.mutable_sampling()->set_max_tokens(1);
  CallRequest request;
  request.body = body;
  request.tenant = "default";
  const StartedCall call = StartCall(std::move(request));
  Step(1);
  ASSERT_TRUE(call.sink->done());
  const Span root = Only("chat fake");
  EXPECT_EQ(Only("template").end_ns, Only("tokenise").start_ns);
  EXPECT_EQ(root.parent_id, "");
  EXPECT_EQ(root.trace_id.size(), 32U);
  EXPECT_NE(root.trace_id, kTraceId);
}

TEST_F(CallTraceTest, AFailoverNamesBothReplicas) {
  AddWorker("a");
  AddWorker("b");
  StartDispatcher();
  const StartedCall call = StartCall(Traced("hello", 10));
  Step(4);
  const bool is_a = workers_["a:1"]->running() > 0;
  workers_[is_a ? "a:1" : "b:1"]->Kill();
  loop_.RunReady();
  Step(6);
  ASSERT_TRUE(call.sink->done());
  const Span failover = Only("failover");
  EXPECT_EQ(TextOf(failover, "paceline.replica.from"), is_a ? "a" : "b");
  EXPECT_EQ(TextOf(failover, "paceline.replica.to"), is_a ? "b" : "a");
  EXPECT_EQ(TextOf(failover, "paceline.resumed_tokens"), "4");
  EXPECT_EQ(TextOf(failover, "paceline.reason"), "replica_lost");
  const auto dispatches = spans_.Named("dispatch");
  ASSERT_EQ(dispatches.size(), 2U);
  EXPECT_EQ(dispatches[0].error, "replica_lost");
  EXPECT_EQ(dispatches[1].error, "");
  EXPECT_EQ(TextOf(dispatches[1], "paceline.attempt"), "2");
  EXPECT_EQ(Only("text_completion fake").error, "");
  EXPECT_EQ(spans_.Named("queue").size(), 1U);
}

TEST_F(CallTraceTest, AFailoverThatFindsNobodyEndsWithTheCall) {
  AddWorker("a");
  StartDispatcher();
  const StartedCall call = StartCall(Traced("hello", 10));
  Step(4);
  workers_["a:1"]->Kill();
  loop_.RunReady();
  Pass(16'000);
  ASSERT_EQ(call.sink->error_code(), "no_ready_replica");
  const Span failover = Only("failover");
  EXPECT_EQ(failover.error, "no_ready_replica");
  EXPECT_EQ(TextOf(failover, "paceline.replica.to"), "");
  const Span root = Only("text_completion fake");
  EXPECT_EQ(root.error, "no_ready_replica");
  EXPECT_EQ(TextOf(root, "error.type"), "no_ready_replica");
}

TEST_F(CallTraceTest, ACallThatDiesInTheQueueSaysSo) {
  options_.no_replica_wait_ms = 500;
  AddWorker("a");
  StartDispatcher();
  workers_["a:1"]->Kill();
  loop_.RunReady();
  StartCall(Traced("hello", 10));
  Pass(1'000);
  EXPECT_EQ(Only("queue").error, "no_ready_replica");
  EXPECT_TRUE(spans_.Named("dispatch").empty());
}

TEST_F(CallTraceTest, AClientThatDoesNotRecordIsFollowed) {
  constexpr char kUnsampled[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
  FakeWorker& worker = AddWorker("a");
  StartDispatcher();
  CallRequest request = Request("hello", 2);
  request.traceparent = kUnsampled;
  StartCall(std::move(request));
  spans_.samples_new = false;
  StartCall("hello", 2);
  Step(2);
  EXPECT_TRUE(spans_.All().empty());
  EXPECT_EQ(worker.submits().at(0).traceparent(), kUnsampled);
  EXPECT_EQ(worker.submits().at(1).traceparent(), "");
}

}  // namespace
}  // namespace paceline::router
