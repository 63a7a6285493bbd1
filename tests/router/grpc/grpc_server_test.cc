#include "router/grpc/grpc_server.h"

#include <atomic>
#include <chrono>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "proto/paceline/v1/inference.grpc.pb.h"
#include "proto/support/clock.h"
#include "tests/fakes/fake_service.h"

namespace paceline::router {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class GrpcServerTest : public testing::Test {
 protected:
  // `key`: the only valid one; empty: none is needed.
  void Serve(const std::string& key = "") {
    Authenticate authenticate;
    if (!key.empty()) {
      authenticate = [key](std::string_view given) -> std::variant<std::string, ApiError> {
        if (given == key) return "acme";
        return UnauthenticatedError();
      };
    }
    server_ = std::make_unique<GrpcServer>(
        ListenerOptions(), &service_, &pool_, authenticate, [this](const GrpcAccess& access) {
          const std::lock_guard lock(mutex_);
          answered_.push_back(std::string(access.route) + " " +
                              absl::StatusCodeToString(access.code) + " " +
                              std::string(access.tenant_class));
        });
    ASSERT_TRUE(server_->Start().ok());
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(server_->port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }

  static v1::GenerateRequest Prompt(const std::string& text) {
    v1::GenerateRequest request;
    request.set_text(text);
    return request;
  }
  static std::string Trailer(const grpc::ClientContext& context, const std::string& key) {
    const auto it = context.GetServerTrailingMetadata().find(key);
    if (it == context.GetServerTrailingMetadata().end()) return "(none)";
    return std::string(it->second.data(), it->second.size());
  }
  // SERVING is 1, NOT_SERVING 2. health.proto's classes are not installed, so its two one-field
  // messages are written and read by hand.
  int Health(const std::string& service) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(60));
    std::string bytes;
    if (!service.empty()) bytes = std::string("\x0a") + static_cast<char>(service.size()) + service;
    const grpc::Slice slice(bytes);
    const grpc::ByteBuffer request(&slice, 1);
    grpc::ByteBuffer response;
    std::promise<grpc::Status> done;
    stub.UnaryCall(&context,
                   "/grpc.health.v1.Health/Check",
                   {},
                   &request,
                   &response,
                   [&](grpc::Status status) { done.set_value(std::move(status)); });
    const grpc::Status status = done.get_future().get();
    if (!status.ok()) return -status.error_code();
    std::vector<grpc::Slice> slices;
    if (!response.Dump(&slices).ok() || slices.empty() || slices[0].size() < 2) return 0;
    return slices[0].begin()[1];
  }

  // "route code tenant class" of what was answered since the last call.
  std::vector<std::string> TakeAnswered() {
    const std::lock_guard lock(mutex_);
    return std::exchange(answered_, {});
  }

  FakeService service_;
  ThreadPool pool_{1};
  std::mutex mutex_;
  std::vector<std::string> answered_;  // guarded by mutex_
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(GrpcServerTest, GeneratesAWholeAnswer) {
  Serve();
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "id-1");
  context.AddMetadata("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  v1::GenerateResponse response;
  ASSERT_TRUE(stub_->Generate(&context, Prompt("hi"), &response).ok());
  ASSERT_EQ(response.choices_size(), 1);
  EXPECT_EQ(response.choices(0).text(), "Hello world");
  EXPECT_EQ(response.choices(0).finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(response.usage().total_tokens(), 5);
  EXPECT_GT(response.created_unix_seconds(), 0);
  const CallRequest& call = service_.call(0)->request();
  EXPECT_EQ(call.tenant, "default");
  EXPECT_EQ(call.traceparent, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  EXPECT_EQ(call.deadline_ns, 0);
  EXPECT_FALSE(call.is_stream);
  EXPECT_EQ(service_.call(0)->generate().options().request_id(), "id-1");
  EXPECT_EQ(context.GetServerInitialMetadata().find("x-request-id")->second, "id-1");
}

TEST_F(GrpcServerTest, StreamsChunksWithUsageOnTheLast) {
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  std::string text;
  v1::GenerateChunk chunk;
  v1::GenerateChunk last;
  while (reader->Read(&chunk)) {
    EXPECT_FALSE(last.has_usage());
    text += chunk.text();
    last = chunk;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "Hello world");
  EXPECT_EQ(last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(last.usage().total_tokens(), 5);
  EXPECT_EQ(service_.call(0)->generate().options().request_id().size(), 32u);
}

TEST_F(GrpcServerTest, EveryChoiceEndsWithItsReason) {
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    call->Emit(MakeChunk("a", v1::FINISH_REASON_UNSPECIFIED, 0));
    call->Emit(MakeChunk("b", v1::FINISH_REASON_UNSPECIFIED, 1));
    call->Emit(MakeChunk("c", v1::FINISH_REASON_LENGTH, 0));
    call->Emit(MakeChunk("d", v1::FINISH_REASON_UNSPECIFIED, 1));
    call->Emit(MakeChunk("e", v1::FINISH_REASON_STOP, 1));
    call->Done();
  });
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  std::string texts[2];
  bool finished[2] = {};
  v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
    const int index = chunk.choice_index();
    EXPECT_FALSE(finished[index]);
    texts[index] += chunk.text();
    finished[index] = chunk.finish_reason() != v1::FINISH_REASON_UNSPECIFIED;
  }
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(texts[0], "ac");
  EXPECT_EQ(texts[1], "bde");
  EXPECT_TRUE(finished[0] && finished[1]);
}

TEST_F(GrpcServerTest, SendsEachChunkAsSoonAsItComes) {
  service_.SetScript(nullptr);
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  const auto call = service_.WaitForCall(0);
  v1::GenerateChunk chunk;
  for (const char* text : {"one", "two"}) {
    call->Emit(MakeChunk(text));
    ASSERT_TRUE(reader->Read(&chunk));
    EXPECT_EQ(chunk.text(), text);
  }
  call->Emit(MakeChunk("", v1::FINISH_REASON_STOP));
  call->Done();
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_TRUE(chunk.has_usage());
  EXPECT_FALSE(reader->Read(&chunk));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, Chats) {
  Serve();
  v1::ChatRequest request;
  request.add_messages()->set_role("user");
  {
    grpc::ClientContext context;
    v1::ChatResponse response;
    ASSERT_TRUE(stub_->Chat(&context, request, &response).ok());
    EXPECT_EQ(response.choices(0).message().role(), "assistant");
    EXPECT_EQ(response.choices(0).message().content(), "Hello world");
    EXPECT_EQ(response.usage().total_tokens(), 5);
  }
  grpc::ClientContext context;
  auto reader = stub_->ChatStream(&context, request);
  std::string text;
  v1::ChatChunk chunk;
  while (reader->Read(&chunk)) text += chunk.content_delta();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(text, "Hello world");
  EXPECT_TRUE(chunk.has_usage());
}

TEST_F(GrpcServerTest, ErrorsCarryTheirDetailsAsTrailers) {
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    call->Fail(ApiError{.status = absl::StatusCode::kResourceExhausted,
                        .message = "The queue is full",
                        .param = "prompt",
                        .code = "queue_full",
                        .retry_after_ms = 1500});
  });
  Serve();
  grpc::ClientContext unary;
  v1::GenerateResponse response;
  const grpc::Status status = stub_->Generate(&unary, Prompt("hi"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(status.error_message(), "The queue is full");
  EXPECT_EQ(Trailer(unary, "paceline-error-param"), "prompt");
  EXPECT_EQ(Trailer(unary, "paceline-error-code"), "queue_full");
  EXPECT_EQ(Trailer(unary, "grpc-retry-pushback-ms"), "1500");
  grpc::ClientContext stream;
  auto reader = stub_->GenerateStream(&stream, Prompt("hi"));
  v1::GenerateChunk chunk;
  EXPECT_FALSE(reader->Read(&chunk));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(Trailer(stream, "paceline-error-code"), "queue_full");
}

TEST_F(GrpcServerTest, AnErrorInAStreamComesAfterItsChunks) {
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    call->Emit(MakeChunk("x"));
    call->Emit(MakeChunk("y", v1::FINISH_REASON_STOP));
    call->Fail(ApiError{.message = "Lost"});
  });
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  v1::GenerateChunk chunk;
  std::string text;
  while (reader->Read(&chunk)) {
    text += chunk.text();
    EXPECT_FALSE(chunk.has_usage());
  }
  EXPECT_EQ(text, "xy");
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::INTERNAL);
}

TEST_F(GrpcServerTest, CancellingAClientCancelsItsCall) {
  service_.SetScript(nullptr);
  Serve();
  {
    grpc::ClientContext context;
    auto reader = stub_->GenerateStream(&context, Prompt("hi"));
    const auto call = service_.WaitForCall(0);
    call->Emit(MakeChunk("x"));
    v1::GenerateChunk chunk;
    ASSERT_TRUE(reader->Read(&chunk));
    context.TryCancel();
    EXPECT_TRUE(call->WaitUntilCancelled());
    EXPECT_FALSE(reader->Read(&chunk));
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
    call->Emit(MakeChunk("nobody reads this"));
  }
  grpc::ClientContext context;
  std::thread canceller([&] {
    EXPECT_NE(service_.WaitForCall(1), nullptr);
    context.TryCancel();
  });
  v1::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&context, Prompt("hi"), &response).error_code(),
            grpc::StatusCode::CANCELLED);
  canceller.join();
  EXPECT_TRUE(service_.call(1)->WaitUntilCancelled());
}

TEST_F(GrpcServerTest, DeadlinesArePassedOnAndKept) {
  service_.SetScript(nullptr);
  Serve();
  const int64_t before = SteadyClock::Get().NowNs();
  int64_t timeout_ms = 100;
  // Longer and longer, until the call reaches the server before it is over.
  while (service_.num_calls() == 0) {
    timeout_ms *= 2;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + milliseconds(timeout_ms));
    v1::GenerateResponse response;
    EXPECT_EQ(stub_->Generate(&context, Prompt("hi"), &response).error_code(),
              grpc::StatusCode::DEADLINE_EXCEEDED);
  }
  const int64_t after = SteadyClock::Get().NowNs();
  const auto call = service_.call(0);
  EXPECT_GT(call->request().deadline_ns, before);
  EXPECT_LE(call->request().deadline_ns, after + timeout_ms * 1'000'000);
  EXPECT_TRUE(call->WaitUntilCancelled());
}

TEST_F(GrpcServerTest, ASlowReaderIsReportedAndDrains) {
  service_.SetScript(nullptr);
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  const auto call = service_.WaitForCall(0);
  for (int i = 0; i < 2000; ++i) call->Emit(MakeChunk(std::string(8192, 'x')));
  EXPECT_TRUE(WaitFor([&] { return call->max_unsent_bytes() > 256 << 10; }));
  call->Emit(MakeChunk("", v1::FINISH_REASON_STOP));
  size_t bytes = 0;
  v1::GenerateChunk chunk;
  while (bytes < 2000 * 8192 && reader->Read(&chunk)) bytes += chunk.text().size();
  EXPECT_EQ(bytes, 2000u * 8192);
  EXPECT_TRUE(WaitFor([&] { return call->unsent_bytes() < 16 << 10; }));
  call->Done();
  EXPECT_TRUE(reader->Read(&chunk));
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, WhatWaitsBeforeTheCallIsKnownIsReportedToo) {
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    for (int i = 0; i < 2000; ++i) call->Emit(MakeChunk(std::string(8192, 'x')));
  });
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  const auto call = service_.WaitForCall(0);
  ASSERT_NE(call, nullptr);
  EXPECT_TRUE(WaitFor([&] { return call->max_unsent_bytes() > 256 << 10; }));
  context.TryCancel();
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, AStuckReadersStreamEndsWhenTheCoreGivesUp) {
  service_.SetScript(nullptr);
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  const auto call = service_.WaitForCall(0);
  for (int i = 0; i < 2000; ++i) call->Emit(MakeChunk(std::string(8192, 'x')));
  call->Fail(ApiError{.status = absl::StatusCode::kResourceExhausted, .message = "Too slow"});
  // Without a read by the client the server's side is over: it can stop without an end to wait for.
  server_->Stop(seconds(3'600));
  v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
  }
  EXPECT_FALSE(reader->Finish().ok());
}

TEST_F(GrpcServerTest, EveryMethodNeedsTheKey) {
  Serve("secret");
  const auto with = [](grpc::ClientContext& context, const std::string& value) {
    if (!value.empty()) context.AddMetadata("authorization", value);
  };
  for (const std::string bad : {"", "secret", "Bearer wrong", "Bearer ", "Basic secret"}) {
    std::vector<grpc::Status> statuses;
    const auto call = [&](auto method, const auto& request, auto response) {
      grpc::ClientContext context;
      with(context, bad);
      statuses.push_back((stub_.get()->*method)(&context, request, &response));
    };
    using Stub = v1::Inference::Stub;
    call(&Stub::Generate, Prompt("x"), v1::GenerateResponse());
    call(&Stub::Chat, v1::ChatRequest(), v1::ChatResponse());
    call(&Stub::Embed, v1::EmbedRequest(), v1::EmbedResponse());
    call(&Stub::Tokenize, v1::TokenizeRequest(), v1::TokenizeResponse());
    call(&Stub::Detokenize, v1::DetokenizeRequest(), v1::DetokenizeResponse());
    call(&Stub::ListModels, v1::ListModelsRequest(), v1::ListModelsResponse());
    call(&Stub::GetModel, v1::GetModelRequest(), v1::ModelInfo());
    grpc::ClientContext generate_context;
    with(generate_context, bad);
    v1::GenerateChunk chunk;
    auto generate = stub_->GenerateStream(&generate_context, Prompt("x"));
    EXPECT_FALSE(generate->Read(&chunk));
    statuses.push_back(generate->Finish());
    grpc::ClientContext chat_context;
    with(chat_context, bad);
    v1::ChatChunk chat_chunk;
    auto chat = stub_->ChatStream(&chat_context, v1::ChatRequest());
    EXPECT_FALSE(chat->Read(&chat_chunk));
    statuses.push_back(chat->Finish());
    EXPECT_EQ(
        statuses.size(),
        static_cast<size_t>(v1::GenerateRequest::descriptor()->file()->service(0)->method_count()));
    for (const grpc::Status& status : statuses) {
      EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAUTHENTICATED) << bad;
      EXPECT_EQ(status.error_message(), UnauthenticatedError().message);
    }
  }
  EXPECT_EQ(service_.num_calls(), 0u);
  grpc::ClientContext context;
  with(context, "Bearer secret");
  v1::GenerateResponse response;
  EXPECT_TRUE(stub_->Generate(&context, Prompt("x"), &response).ok());
  EXPECT_EQ(service_.call(0)->request().tenant, "acme");
  EXPECT_EQ(Health(""), 1);  // health does not need it
}

TEST_F(GrpcServerTest, EveryAnswerIsCountedOnce) {
  using testing::ElementsAre;
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    call->Emit(MakeChunk("x"));
    if (call->generate().text() == "bad") return call->Fail(InvalidParam("n", "n is wrong"));
    call->Emit(MakeChunk("", v1::FINISH_REASON_STOP));
    call->Done();
  });
  Serve("secret");
  for (const bool has_key : {true, false}) {
    const auto unary = [&](const std::string& text) {
      grpc::ClientContext context;
      if (has_key) context.AddMetadata("authorization", "Bearer secret");
      v1::GenerateResponse response;
      stub_->Generate(&context, Prompt(text), &response);
    };
    const auto stream = [&](const std::string& text) {
      grpc::ClientContext context;
      if (has_key) context.AddMetadata("authorization", "Bearer secret");
      auto reader = stub_->GenerateStream(&context, Prompt(text));
      for (v1::GenerateChunk chunk; reader->Read(&chunk);) {
      }
      reader->Finish();
    };
    unary("good");
    unary("bad");
    stream("good");
    stream("bad");
    grpc::ClientContext context;
    if (has_key) context.AddMetadata("authorization", "Bearer secret");
    v1::ModelInfo model;
    stub_->GetModel(&context, v1::GetModelRequest(), &model);
    EXPECT_THAT(TakeAnswered(),
                has_key ? ElementsAre("Inference/Generate OK keyed",
                                      "Inference/Generate INVALID_ARGUMENT keyed",
                                      "Inference/GenerateStream OK keyed",
                                      "Inference/GenerateStream INVALID_ARGUMENT keyed",
                                      "Inference/GetModel NOT_FOUND keyed")
                        : ElementsAre("Inference/Generate UNAUTHENTICATED none",
                                      "Inference/Generate UNAUTHENTICATED none",
                                      "Inference/GenerateStream UNAUTHENTICATED none",
                                      "Inference/GenerateStream UNAUTHENTICATED none",
                                      "Inference/GetModel UNAUTHENTICATED none"));
  }
}

TEST_F(GrpcServerTest, ReflectionNeedsTheKeyToo) {
  Serve("secret");
  const auto list_services = [&](const std::string& authorization) {
    grpc::GenericStub stub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(60));
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    grpc::CompletionQueue queue;
    auto stream = stub.PrepareCall(
        &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
    void* tag;
    bool ok;
    const auto wait = [&] { return queue.Next(&tag, &ok) && ok; };
    stream->StartCall(nullptr);
    wait();
    const grpc::Slice slice(std::string("\x3a\x00", 2));  // list_services: ""
    stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    wait();
    grpc::ByteBuffer response;
    stream->Read(&response, nullptr);
    std::string bytes;
    if (wait()) {
      std::vector<grpc::Slice> slices;
      EXPECT_TRUE(response.Dump(&slices).ok());
      for (const grpc::Slice& part : slices) bytes.append(part.begin(), part.end());
    }
    context.TryCancel();
    grpc::Status status;
    stream->Finish(&status, nullptr);
    wait();
    queue.Shutdown();
    while (queue.Next(&tag, &ok)) {
    }
    return bytes;
  };
  EXPECT_NE(list_services("Bearer secret").find("paceline.v1.Inference"), std::string::npos);
  EXPECT_EQ(list_services(""), "");
  EXPECT_EQ(list_services("Bearer wrong"), "");
}

TEST_F(GrpcServerTest, HealthFollowsReadiness) {
  Serve();
  EXPECT_EQ(Health(""), 1);
  EXPECT_EQ(Health("paceline.v1.Inference"), 1);
  service_.SetReady(false);
  EXPECT_TRUE(WaitFor([this] { return Health("") == 2; }));
  EXPECT_EQ(Health("paceline.v1.Inference"), 2);
  EXPECT_EQ(Health("other"), -grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcServerTest, TokenizesAndListsModels) {
  Serve();
  {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.set_text("ab");
    request.set_return_token_strs(true);
    v1::TokenizeResponse response;
    ASSERT_TRUE(stub_->Tokenize(&context, request, &response).ok());
    EXPECT_EQ(response.token_ids(1), 'b' + 1);
    EXPECT_EQ(response.count(), 2);
    EXPECT_EQ(response.max_model_len(), 512);
    EXPECT_EQ(response.token_strs(0), "a");
  }
  {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.add_token_ids('a' + 1);
    v1::DetokenizeResponse response;
    ASSERT_TRUE(stub_->Detokenize(&context, request, &response).ok());
    EXPECT_EQ(response.text(), "a");
  }
  {
    grpc::ClientContext context;
    v1::DetokenizeRequest request;
    request.add_token_ids(-1);
    v1::DetokenizeResponse response;
    EXPECT_EQ(stub_->Detokenize(&context, request, &response).error_code(),
              grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_EQ(Trailer(context, "paceline-error-param"), "token_ids");
  }
  {
    grpc::ClientContext context;
    v1::ListModelsResponse response;
    ASSERT_TRUE(stub_->ListModels(&context, {}, &response).ok());
    EXPECT_EQ(response.models_size(), 2);
  }
  for (const auto& [id, code] : std::map<std::string, grpc::StatusCode>{
           {"org/tiny-chat", grpc::StatusCode::OK}, {"nope", grpc::StatusCode::NOT_FOUND}}) {
    grpc::ClientContext context;
    v1::GetModelRequest request;
    request.set_id(id);
    v1::ModelInfo response;
    EXPECT_EQ(stub_->GetModel(&context, request, &response).error_code(), code) << id;
  }
  grpc::ClientContext context;
  v1::EmbedResponse response;
  EXPECT_EQ(stub_->Embed(&context, {}, &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(GrpcServerTest, RefusesMessagesOverTheLimit) {
  Serve();
  for (const auto& [bytes, code] :
       std::map<size_t, grpc::StatusCode>{{(4 << 20) - 100, grpc::StatusCode::OK},
                                          {(4 << 20) + 1, grpc::StatusCode::RESOURCE_EXHAUSTED}}) {
    grpc::ClientContext context;
    v1::GenerateResponse response;
    EXPECT_EQ(stub_->Generate(&context, Prompt(std::string(bytes, 'a')), &response).error_code(),
              code);
  }
  grpc::ClientContext context;
  context.AddMetadata("big", std::string(64 << 10, 'a'));
  v1::GenerateResponse response;
  EXPECT_EQ(stub_->Generate(&context, Prompt("a"), &response).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(GrpcServerTest, RefusesATakenPort) {
  Serve();
  GrpcServer second({.port = server_->port()}, &service_, &pool_, nullptr);
  EXPECT_EQ(second.Start().code(), absl::StatusCode::kUnavailable);
}

TEST_F(GrpcServerTest, StoppingLetsCallsEnd) {
  service_.SetScript(nullptr);
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  const auto call = service_.WaitForCall(0);
  call->Emit(MakeChunk("x"));
  v1::GenerateChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  std::thread stopper([&] { server_->Stop(seconds(600)); });
  EXPECT_TRUE(WaitFor([this] {
    grpc::ClientContext refused;
    v1::ListModelsResponse models;
    return !stub_->ListModels(&refused, {}, &models).ok();
  }));
  call->Emit(MakeChunk("y", v1::FINISH_REASON_STOP));
  call->Done();
  ASSERT_TRUE(reader->Read(&chunk));
  EXPECT_EQ(chunk.text(), "y");
  EXPECT_TRUE(reader->Finish().ok());
  stopper.join();
  EXPECT_FALSE(call->cancelled());
}

TEST_F(GrpcServerTest, StoppingEndsLateCallsWithUnavailable) {
  service_.SetScript(nullptr);
  Serve();
  grpc::ClientContext context;
  auto reader = stub_->GenerateStream(&context, Prompt("hi"));
  const auto call = service_.WaitForCall(0);
  call->Emit(MakeChunk("x"));
  v1::GenerateChunk chunk;
  ASSERT_TRUE(reader->Read(&chunk));
  server_->Stop(milliseconds(100));
  EXPECT_FALSE(reader->Read(&chunk));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(Trailer(context, "paceline-error-code"), "draining");
  EXPECT_TRUE(call->WaitUntilCancelled());
  call->Emit(MakeChunk("late"));
}

TEST_F(GrpcServerTest, CancelStormsLeaveNothingBehind) {
  service_.SetScript([this](const std::shared_ptr<FakeCall>& call) {
    service_.RunInBackground([call] {
      for (int i = 0; i < 50 && !call->cancelled(); ++i) {
        call->Emit(MakeChunk("x"));
        std::this_thread::yield();
      }
      call->Done();
    });
  });
  Serve();
  std::vector<std::thread> clients;
  for (int c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 50; ++i) {
        grpc::ClientContext context;
        if ((c + i) % 2 == 0) {
          auto reader = stub_->GenerateStream(&context, Prompt("hi"));
          v1::GenerateChunk chunk;
          for (int k = 0; k < i % 5; ++k) reader->Read(&chunk);
          context.TryCancel();
          reader->Finish();
        } else {
          context.set_deadline(std::chrono::system_clock::now() +
                               std::chrono::microseconds(i * 50));
          v1::GenerateResponse response;
          stub_->Generate(&context, Prompt("hi"), &response);
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  server_->Stop(seconds(5));
  for (size_t i = 0; i < service_.num_calls(); ++i) {
    EXPECT_TRUE(WaitFor([&] { return service_.call(i)->finished(); }));
  }
}

}  // namespace
}  // namespace paceline::router
