#include "worker/service/worker_server.h"

#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "proto/frame_checksum.h"
#include "proto/paceline/v1/worker.grpc.pb.h"
#include "tests/fakes/engine_harness.h"
#include "tests/fakes/log_capture.h"
#include "worker/service/attach_session.h"

namespace paceline::worker {
namespace {

constexpr int kLeaseMs = 60'000;

// Holds the engine in its first frame.
class Gate final : public FrameSink {
 public:
  void OnFrame(Frame) override {
    if (std::exchange(is_passed_, true)) return;
    is_entered.set_value();
    opens.get_future().wait();
  }
  std::promise<void> is_entered;
  std::promise<void> opens;

 private:
  bool is_passed_ = false;
};

class WorkerServerTest : public testing::Test {
 protected:
  explicit WorkerServerTest(int lease_ms = kLeaseMs) : engine_({.num_blocks = 512}) {
    v1::WorkerHello& hello = identity_.hello;
    hello.set_replica_id("tiny-1");
    hello.set_epoch(5);
    hello.set_protocol(kAttachProtocol);
    hello.set_vocab_size(288);
    hello.set_max_model_len(512);
    hello.set_lease_ms(lease_ms);
    tokenizer_.set_digest("digest");
    tokenizer_.add_tokens("a");
    auto server =
        WorkerServer::Start({}, engine_.engine(), identity_, tokenizer_, SteadyClock::Get());
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::Worker::NewStub(grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                                    grpc::InsecureChannelCredentials()));
  }

  using Stream = grpc::ClientReaderWriter<v1::RouterMessage, v1::WorkerMessage>;

  static bool Write(Stream& stream, v1::RouterMessage message) {
    Seal(message);
    return stream.Write(message);
  }
  static bool Read(Stream& stream, v1::WorkerMessage* message) {
    return stream.Read(message) && Unseal(*message);
  }

  std::unique_ptr<Stream> Attach(grpc::ClientContext& context) {
    auto stream = stub_->Attach(&context);
    v1::RouterMessage hello;
    hello.mutable_hello()->set_router_id("router");
    hello.mutable_hello()->set_protocol(kAttachProtocol);
    EXPECT_TRUE(Write(*stream, hello));
    v1::WorkerMessage answer;
    EXPECT_TRUE(Read(*stream, &answer));
    EXPECT_EQ(answer.hello().replica_id(), "tiny-1");
    return stream;
  }

  static v1::RouterMessage Submit(const std::string& id, int32_t max_tokens) {
    v1::RouterMessage message;
    v1::Submit& submit = *message.mutable_submit();
    submit.set_request_id(id);
    for (const int32_t token : EngineHarness::Prompt(40, 1)) submit.add_prompt_token_ids(token);
    submit.set_num_prompt_tokens(40);
    submit.set_n(1);
    v1::EngineSampling& s = *submit.mutable_sampling();
    s.set_max_tokens(max_tokens);
    s.set_top_p(1);
    s.set_repetition_penalty(1);
    s.set_ignore_eos(true);
    s.set_logprobs(0);
    s.set_prompt_logprobs(-1);
    return message;
  }

  // The next result of `id`; nullopt when the stream ended first.
  static std::optional<v1::SequenceResult> NextResult(Stream& stream, const std::string& id) {
    v1::WorkerMessage message;
    while (Read(stream, &message)) {
      for (const v1::SequenceResult& result : message.step().results()) {
        if (result.request_id() == id) return result;
      }
    }
    return std::nullopt;
  }

  // Submits a request that the engine finds paused, so that it does not end by itself.
  void SubmitPaused(Stream& stream, const v1::RouterMessage& submit) {
    const auto gate = std::make_shared<Gate>();
    const uint64_t session = engine_.engine().Attach(gate);
    gate->is_entered.get_future().wait();
    v1::RouterMessage pause;
    pause.mutable_pause()->set_request_id(submit.submit().request_id());
    // The session refuses this one itself: its answer shows that the engine's inbox has the others.
    v1::RouterMessage bad = Submit("bad", 0);
    EXPECT_TRUE(Write(stream, submit) && Write(stream, pause) && Write(stream, bad));
    EXPECT_TRUE(NextResult(stream, "bad").has_value());
    gate->opens.set_value();
    engine_.engine().Detach(session);
  }

  EngineHarness engine_;
  Identity identity_;
  v1::TokenizerBundle tokenizer_;
  std::unique_ptr<WorkerServer> server_;
  std::unique_ptr<v1::Worker::Stub> stub_;
};

TEST_F(WorkerServerTest, AnswersARequestTokenByToken) {
  Request same = EngineHarness::MakeRequest("same", EngineHarness::Prompt(40, 1), 6);
  const Answer golden = engine_.Run(same);
  grpc::ClientContext context;
  auto stream = Attach(context);
  ASSERT_TRUE(Write(*stream, Submit("r", 6)));
  std::vector<int32_t> tokens;
  for (;;) {
    const auto result = NextResult(*stream, "r");
    ASSERT_TRUE(result.has_value());
    EXPECT_EQ(result->first_index(), static_cast<int>(tokens.size()));
    tokens.insert(tokens.end(), result->token_ids().begin(), result->token_ids().end());
    EXPECT_EQ(result->logprobs_size(), result->token_ids_size());
    if (result->finish_reason() != 0) {
      EXPECT_EQ(result->finish_reason(), static_cast<int>(FinishReason::kLength));
      break;
    }
  }
  EXPECT_EQ(tokens, golden.token_ids);
}

TEST_F(WorkerServerTest, RefusesABadSubmitByAResult) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  v1::RouterMessage bad = Submit("bad", 5);
  bad.mutable_submit()->set_prompt_token_ids(0, 100'000);
  ASSERT_TRUE(Write(*stream, bad));
  const auto result = NextResult(*stream, "bad");
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->error_code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(result->error_message(), testing::HasSubstr("prompt_token_ids"));
  ASSERT_TRUE(Write(*stream, Submit("good", 2)));
  EXPECT_TRUE(NextResult(*stream, "good").has_value());
}

// Without a socket, so that the log is complete when the engine has gone.
TEST(AttachSessionTest, ATraceStandsInTheLogLinesOfItsRequest) {
  const LogCapture log;
  {
    EngineHarness engine({});
    Identity identity;
    identity.hello.set_vocab_size(288);
    identity.hello.set_max_model_len(512);
    std::promise<void> ended;
    const auto session = AttachSession::Create(
        engine.engine(), identity, SteadyClock::Get(), {.send = [&](v1::WorkerMessage message) {
          for (const v1::SequenceResult& result : message.step().results()) {
            if (result.request_id() == "traced" && result.finish_reason() != 0) ended.set_value();
          }
        }});
    v1::RouterMessage hello;
    hello.mutable_hello()->set_protocol(kAttachProtocol);
    ASSERT_TRUE(session->OnMessage(hello).ok());
    v1::RouterMessage submit;
    v1::Submit& fields = *submit.mutable_submit();
    fields.set_request_id("bad");
    fields.set_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    fields.add_prompt_token_ids(5);
    fields.set_num_prompt_tokens(1);
    fields.mutable_sampling()->set_max_tokens(3);
    fields.mutable_sampling()->set_top_p(1);
    fields.mutable_sampling()->set_repetition_penalty(1);
    ASSERT_TRUE(session->OnMessage(submit).ok());
    // Only the end of the sequence is allowed, and that not yet: the engine finds no token.
    fields.set_request_id("traced");
    fields.set_n(1);
    fields.mutable_sampling()->set_min_tokens(2);
    fields.mutable_sampling()->add_allowed_token_ids(model::kTinyImEnd);
    ASSERT_TRUE(session->OnMessage(submit).ok());
    ended.get_future().wait();
    session->Close();
  }
  for (const char* line : {"warning a request is refused: n: ",
                           "debug request traced: 1 tokens, 1 choices",
                           "warning request traced choice 0 failed: "}) {
    EXPECT_THAT(log.text(),
                testing::ContainsRegex(std::string(line) +
                                       "[^\n]* trace_id=0af7651916cd43dd8448eb211c80319c\n"));
  }
}

TEST(AttachSessionTest, TimeInWhichTheWorkerDidNotRunIsNoSilenceOfItsRouters) {
  EngineHarness engine({});
  Identity identity;
  identity.hello.set_lease_ms(2'000);
  FakeClock clock;
  int expired = 0;
  const auto session =
      AttachSession::Create(engine.engine(),
                            identity,
                            clock,
                            {.send = [](v1::WorkerMessage) {}, .expired = [&] { ++expired; }});
  const auto beat = [&](int64_t after_ms) {
    clock.AdvanceMs(after_ms);
    session->OnFrame({});
  };
  beat(500);
  beat(5'000);  // what the router said meanwhile has not been read yet
  for (int i = 0; i < 4; ++i) beat(500);
  EXPECT_EQ(expired, 0);
  beat(500);
  EXPECT_EQ(expired, 1);
}

TEST_F(WorkerServerTest, ARequestIsAcceptedBeforeAnythingIsDoneAboutIt) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  ASSERT_TRUE(Write(*stream, Submit("r", 2)));
  v1::WorkerMessage message;
  while (Read(*stream, &message) && !message.has_accepted()) {
    ASSERT_EQ(message.step().results_size(), 0);
  }
  EXPECT_EQ(message.accepted().request_id(), "r");
  EXPECT_TRUE(NextResult(*stream, "r").has_value());
}

TEST_F(WorkerServerTest, CancelEndsARequest) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  SubmitPaused(*stream, Submit("r", 400));
  v1::RouterMessage cancel;
  cancel.mutable_cancel()->set_request_id("r");
  ASSERT_TRUE(Write(*stream, cancel));
  const auto result = NextResult(*stream, "r");
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->finish_reason(), static_cast<int>(FinishReason::kCancelled));
  engine_.WaitUntilIdle();
}

TEST_F(WorkerServerTest, AStreamThatBreaksFreesItsRequests) {
  {
    grpc::ClientContext context;
    auto stream = Attach(context);
    SubmitPaused(*stream, Submit("r", 400));
    context.TryCancel();
  }
  // A paused request counts as no load, so look until its end is counted.
  for (int beats = 0; beats < 500 && engine_.metrics().vllm_success_abort->Value() == 0; ++beats) {
    engine_.WaitUntilIdle();
  }
  EXPECT_EQ(engine_.metrics().vllm_success_abort->Value(), 1);
}

TEST_F(WorkerServerTest, ForgetsItsPrefixesWhenToldTo) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  const auto cached_tokens = [&](const std::string& id) {
    EXPECT_TRUE(Write(*stream, Submit(id, 1)));
    const auto result = NextResult(*stream, id);
    return result ? result->cached_tokens() : -1;
  };
  EXPECT_EQ(cached_tokens("first"), 0);
  EXPECT_EQ(cached_tokens("second"), 32);
  v1::RouterMessage flush;
  flush.mutable_flush_prefix_cache();
  ASSERT_TRUE(Write(*stream, flush));
  EXPECT_EQ(cached_tokens("third"), 0);
}

TEST_F(WorkerServerTest, TheFirstMessageMustBeAHello) {
  grpc::ClientContext context;
  auto stream = stub_->Attach(&context);
  ASSERT_TRUE(Write(*stream, Submit("r", 4)));
  v1::WorkerMessage message;
  EXPECT_FALSE(Read(*stream, &message));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(WorkerServerTest, ADamagedFrameEndsTheStream) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  v1::RouterMessage submit = Submit("r", 2);
  Seal(submit);
  submit.mutable_submit()->set_prompt_token_ids(7, submit.submit().prompt_token_ids(7) ^ 1);
  ASSERT_TRUE(stream->Write(submit));
  v1::WorkerMessage message;
  while (Read(*stream, &message)) EXPECT_EQ(message.step().results_size(), 0);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DATA_LOSS);
}

TEST_F(WorkerServerTest, SaysThatItDrainsAndWhoIsAttached) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  grpc::ClientContext other_context;
  auto other = Attach(other_context);
  engine_.engine().BeginDrain();
  v1::WorkerMessage message;
  v1::Load load;
  do {
    ASSERT_TRUE(Read(*stream, &message));
    if (message.has_heartbeat()) load = message.heartbeat().load();
  } while (!load.is_draining());
  EXPECT_EQ(load.routers(), 3);  // the harness is one
  // What is on its way is still run.
  ASSERT_TRUE(Write(*stream, Submit("r", 2)));
  EXPECT_TRUE(NextResult(*stream, "r").has_value());
}

TEST_F(WorkerServerTest, AnotherProtocolIsRefused) {
  grpc::ClientContext context;
  auto stream = stub_->Attach(&context);
  v1::RouterMessage hello;
  hello.mutable_hello()->set_protocol(2);
  ASSERT_TRUE(Write(*stream, hello));
  v1::WorkerMessage message;
  EXPECT_FALSE(Read(*stream, &message));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(WorkerServerTest, WhatOnlyANewerRouterKnowsIsLeftAlone) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  v1::RouterMessage unknown;
  unknown.GetReflection()->MutableUnknownFields(&unknown)->AddLengthDelimited(100, "a new kind");
  ASSERT_TRUE(Write(*stream, unknown));
  v1::RouterMessage submit = Submit("r", 2);
  v1::Submit& body = *submit.mutable_submit();
  body.GetReflection()->MutableUnknownFields(&body)->AddVarint(100, 1);
  ASSERT_TRUE(Write(*stream, submit));
  EXPECT_TRUE(NextResult(*stream, "r").has_value());
}

TEST_F(WorkerServerTest, HandsOutItsTokenizerByDigest) {
  v1::GetTokenizerRequest request;
  request.set_digest("digest");
  v1::TokenizerBundle bundle;
  {
    grpc::ClientContext context;
    EXPECT_TRUE(stub_->GetTokenizer(&context, request, &bundle).ok());
    EXPECT_EQ(bundle.tokens(0), "a");
  }
  request.set_digest("other");
  grpc::ClientContext context;
  EXPECT_EQ(stub_->GetTokenizer(&context, request, &bundle).error_code(),
            grpc::StatusCode::NOT_FOUND);
}

TEST_F(WorkerServerTest, AStoppingWorkerEndsItsStreamsAsCancelled) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  server_.reset();
  v1::WorkerMessage message;
  while (Read(*stream, &message)) {
  }
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_THAT(status.error_message(), testing::HasSubstr("stopping"));
}

TEST_F(WorkerServerTest, APortInUseIsAnError) {
  const auto second = WorkerServer::Start(
      {.port = server_->port()}, engine_.engine(), identity_, tokenizer_, SteadyClock::Get());
  ASSERT_FALSE(second.ok());
  EXPECT_THAT(std::string(second.status().message()),
              testing::HasSubstr(std::to_string(server_->port())));
}

class ShortLeaseTest : public WorkerServerTest {
 protected:
  ShortLeaseTest() : WorkerServerTest(200) {}
};

TEST_F(ShortLeaseTest, ASilentRouterIsCutOff) {
  grpc::ClientContext context;
  auto stream = Attach(context);
  ASSERT_TRUE(Write(*stream, Submit("r", 400)));
  v1::WorkerMessage message;
  while (Read(*stream, &message)) {
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  engine_.WaitUntilIdle();
}

TEST_F(WorkerServerTest, ARouterWithoutTheTokenIsRefused) {
  const auto server =
      WorkerServer::Start({.admits = [](std::string_view token) { return token == "secret"; }},
                          engine_.engine(),
                          identity_,
                          tokenizer_,
                          SteadyClock::Get());
  ASSERT_TRUE(server.ok());
  const auto stub = v1::Worker::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string((*server)->port()), grpc::InsecureChannelCredentials()));
  const auto ask = [&](const std::vector<std::string>& authorizations) {
    grpc::ClientContext attach;
    grpc::ClientContext get;
    for (const std::string& authorization : authorizations) {
      attach.AddMetadata("authorization", authorization);
      get.AddMetadata("authorization", authorization);
    }
    v1::GetTokenizerRequest request;
    request.set_digest("digest");
    v1::TokenizerBundle bundle;
    const grpc::StatusCode got = stub->GetTokenizer(&get, request, &bundle).error_code();
    const auto stream = stub->Attach(&attach);
    v1::RouterMessage hello;
    hello.mutable_hello()->set_router_id("router");
    hello.mutable_hello()->set_protocol(kAttachProtocol);
    Write(*stream, hello);
    v1::WorkerMessage answer;
    const bool is_attached = Read(*stream, &answer);
    if (is_attached) attach.TryCancel();
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(is_attached, got == grpc::StatusCode::OK);
    if (!is_attached) {
      EXPECT_EQ(status.error_code(), got);
      EXPECT_THAT(status.error_message(), testing::HasSubstr("--worker-token-file"));
      EXPECT_THAT(status.error_message(), testing::Not(testing::HasSubstr("secret")));
    }
    return got;
  };
  EXPECT_EQ(ask({"Bearer secret"}), grpc::StatusCode::OK);
  EXPECT_EQ(ask({}), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ask({"Bearer "}), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ask({"secret"}), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ask({"Bearer secret2"}), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(ask({"Bearer secret", "Bearer secret"}), grpc::StatusCode::UNAUTHENTICATED);
}

}  // namespace
}  // namespace paceline::worker
