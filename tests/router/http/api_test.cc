// The routes, their answers and their access control, over a real socket.
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "proto/support/clock.h"
#include "router/http/api_handler.h"
#include "router/http/http_server.h"
#include "tests/fakes/fake_service.h"
#include "tests/router/http/raw_client.h"

namespace paceline::router {
namespace {

using nlohmann::json;

constexpr char kCompletion[] = R"({"model":"tiny","prompt":"hi"})";
constexpr char kStreamed[] = R"({"model":"tiny","prompt":"hi","stream":true})";

class ApiTest : public testing::Test {
 protected:
  // `key`: the only valid one; empty: none is needed.
  void Serve(const std::string& key = "") {
    ApiHandler::Options options{.service = &service_, .executor = &pool_, .version = "1.2.3"};
    if (!key.empty()) {
      options.authenticate = [key](std::string_view given) -> std::variant<std::string, ApiError> {
        if (given == key) return "acme";
        return UnauthenticatedError();
      };
    }
    options.on_answered = [this](const HttpAccess& access) {
      const std::lock_guard lock(mutex_);
      answered_.push_back(access);
    };
    handler_ = std::make_unique<ApiHandler>(options);
    server_ = std::make_unique<HttpServer>(HttpServer::Options{}, handler_.get());
    ASSERT_TRUE(server_->Start().ok());
  }
  RawResponse Get(const std::string& target, const std::string& headers = "") {
    return RoundTrip(server_->port(), GetRequest(target, headers));
  }
  RawResponse Post(const std::string& target, const std::string& body) {
    return RoundTrip(server_->port(), PostRequest(target, body));
  }
  RawResponse PostWith(const std::string& headers, const std::string& body = kCompletion) {
    return RoundTrip(server_->port(), PostRequest("/v1/completions", body, headers));
  }

  // Waits for the next answer to be counted: "route status tenant class".
  std::string NextAnswered() {
    const bool came = WaitFor([this] {
      const std::lock_guard lock(mutex_);
      return answered_.size() > num_seen_;
    });
    if (!came) return "nothing";
    const std::lock_guard lock(mutex_);
    const HttpAccess& access = answered_[num_seen_++];
    return std::string(access.route) + " " + std::to_string(access.status) + " " +
           std::string(access.tenant_class);
  }

  FakeService service_;
  ThreadPool pool_{1};
  std::mutex mutex_;
  std::vector<HttpAccess> answered_;  // guarded by mutex_
  size_t num_seen_ = 0;
  std::unique_ptr<ApiHandler> handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(ApiTest, AnswersACompletion) {
  Serve();
  const RawResponse response = Post("/v1/completions", kCompletion);
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-type"), "application/json");
  EXPECT_EQ(response.json()["object"], "text_completion");
  EXPECT_EQ(response.json()["choices"][0]["text"], "Hello world");
  EXPECT_EQ(response.json()["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(response.json()["usage"]["total_tokens"], 5);
  const CallRequest& call = service_.call(0)->request();
  EXPECT_EQ(call.tenant, "default");
  EXPECT_FALSE(call.is_stream);
  EXPECT_EQ(service_.call(0)->generate().text(), "hi");
}

TEST_F(ApiTest, AnswersAChat) {
  Serve();
  const RawResponse response =
      Post("/v1/chat/completions", R"({"messages":[{"role":"user","content":"hi"}]})");
  EXPECT_EQ(response.json()["object"], "chat.completion");
  EXPECT_EQ(response.json()["choices"][0]["message"]["content"], "Hello world");
}

TEST_F(ApiTest, StreamsEventsUpToDone) {
  Serve();
  const RawResponse response = Post("/v1/completions", kStreamed);
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-type"), "text/event-stream; charset=utf-8");
  EXPECT_TRUE(response.complete);
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  const json first = json::parse(response.body.substr(6, response.body.find('\n') - 6));
  EXPECT_EQ(first["choices"][0]["text"], "Hello");
  EXPECT_TRUE(service_.call(0)->request().is_stream);
}

TEST_F(ApiTest, SendsEachEventAsSoonAsItComes) {
  service_.SetScript(nullptr);
  Serve();
  RawClient client(server_->port());
  client.Send(PostRequest("/v1/completions", kStreamed));
  const auto call = service_.WaitForCall(0);
  ASSERT_NE(call, nullptr);
  call->Emit(MakeChunk("one"));
  EXPECT_TRUE(client.ReceiveUntil("\"one\""));
  call->Emit(MakeChunk("two", v1::FINISH_REASON_STOP));
  EXPECT_TRUE(client.ReceiveUntil("\"two\""));
  EXPECT_EQ(client.received().find("[DONE]"), std::string::npos);
  call->Done();
  EXPECT_TRUE(client.Receive().complete);
  // The connection stays usable.
  client.Send(GetRequest("/health"));
  EXPECT_EQ(client.Receive().status, 200);
}

TEST_F(ApiTest, SeveralPromptsBecomeSeveralCalls) {
  Serve();
  const RawResponse response = Post("/v1/completions", R"({"prompt":["a","b"]})");
  const json choices = response.json()["choices"];
  ASSERT_EQ(choices.size(), 2u);
  EXPECT_EQ(choices[1]["index"], 1);
  EXPECT_EQ(response.json()["usage"]["total_tokens"], 10);
  EXPECT_EQ(service_.call(1)->generate().text(), "b");
}

TEST_F(ApiTest, TheFirstErrorEndsEveryCallOfTheRequest) {
  service_.SetScript(nullptr);
  Serve();
  RawClient client(server_->port());
  client.Send(PostRequest("/v1/completions", R"({"prompt":["a","b"]})"));
  ASSERT_NE(service_.WaitForCall(1), nullptr);
  service_.call(1)->Fail(ApiError{.status = absl::StatusCode::kResourceExhausted,
                                  .message = "The queue is full",
                                  .code = "queue_full",
                                  .retry_after_ms = 1500});
  const RawResponse response = client.Receive();
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.headers.at("retry-after"), "2");
  EXPECT_EQ(response.error_code(), "queue_full");
  EXPECT_TRUE(service_.call(0)->WaitUntilCancelled());
}

TEST_F(ApiTest, AnErrorBeforeTheFirstEventHasItsStatus) {
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    call->Fail(InvalidParam("n", "n must be 1 to 16"));
  });
  Serve();
  const RawResponse response = Post("/v1/completions", kStreamed);
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.json()["error"]["param"], "n");
}

TEST_F(ApiTest, AnErrorAfterTheFirstEventEndsTheStreamWithoutDone) {
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    call->Emit(MakeChunk("x"));
    call->Fail(ApiError{.status = absl::StatusCode::kUnavailable, .message = "Lost"});
  });
  Serve();
  RawClient client(server_->port());
  client.Send(PostRequest("/v1/completions", kStreamed));
  const RawResponse response = client.Receive();
  EXPECT_EQ(response.status, 200);
  EXPECT_NE(response.body.find("data: {\"error\":{\"message\":\"Lost\""), std::string::npos);
  EXPECT_EQ(response.body.find("[DONE]"), std::string::npos);
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(ApiTest, EveryErrorStatusReachesTheClient) {
  Serve();
  for (const auto& [code, status] :
       std::map<absl::StatusCode, int>{{absl::StatusCode::kInvalidArgument, 400},
                                       {absl::StatusCode::kPermissionDenied, 403},
                                       {absl::StatusCode::kNotFound, 404},
                                       {absl::StatusCode::kAlreadyExists, 409},
                                       {absl::StatusCode::kCancelled, 499},
                                       {absl::StatusCode::kInternal, 500},
                                       {absl::StatusCode::kUnimplemented, 501},
                                       {absl::StatusCode::kUnavailable, 503},
                                       {absl::StatusCode::kDeadlineExceeded, 504}}) {
    service_.SetScript([code](const std::shared_ptr<FakeCall>& call) {
      call->Fail(ApiError{.status = code, .message = "m"});
    });
    const RawResponse response = Post("/v1/completions", kCompletion);
    EXPECT_EQ(response.status, status);
    EXPECT_TRUE(response.json()["error"].contains("param"));
    EXPECT_EQ(response.headers.contains("retry-after"), status == 503);
  }
}

TEST_F(ApiTest, ALeavingClientCancelsItsCall) {
  service_.SetScript(nullptr);
  Serve();
  for (const bool stream : {false, true}) {
    for (const bool reset : {false, true}) {
      RawClient client(server_->port());
      const size_t index = service_.num_calls();
      client.Send(PostRequest("/v1/completions", stream ? kStreamed : kCompletion));
      const auto call = service_.WaitForCall(index);
      ASSERT_NE(call, nullptr);
      if (stream) {
        call->Emit(MakeChunk("x"));
        ASSERT_TRUE(client.ReceiveUntil("\"x\""));
      }
      reset ? client.Reset() : client.Close();
      EXPECT_TRUE(call->WaitUntilCancelled());
      call->Emit(MakeChunk("nobody reads this"));
    }
  }
}

TEST_F(ApiTest, AHalfClosedConnectionCancelsToo) {
  service_.SetScript(nullptr);
  Serve();
  RawClient client(server_->port());
  client.Send(PostRequest("/v1/completions", kCompletion));
  const auto call = service_.WaitForCall(0);
  client.ShutdownWrite();
  EXPECT_TRUE(call->WaitUntilCancelled());
}

TEST_F(ApiTest, AClientThatLeavesBehindPipelinedRequestsIsNoticed) {
  service_.SetScript(nullptr);
  Serve();
  RawClient client(server_->port());
  client.Send(PostRequest("/v1/completions", kCompletion));
  const auto call = service_.WaitForCall(0);
  for (int i = 0; i < 400; ++i) client.Send(GetRequest("/health"));
  client.Reset();
  EXPECT_TRUE(call->WaitUntilCancelled());
}

TEST_F(ApiTest, ASlowReaderIsReportedAndDrains) {
  service_.SetScript(nullptr);
  Serve();
  RawClient client(server_->port(), 4096);
  client.Send(PostRequest("/v1/completions", kStreamed));
  const auto call = service_.WaitForCall(0);
  ASSERT_NE(call, nullptr);
  for (int i = 0; i < 200; ++i) call->Emit(MakeChunk(std::string(8192, 'x')));
  EXPECT_TRUE(WaitFor([&] { return call->max_unsent_bytes() > 256 << 10; }));
  call->Emit(MakeChunk("end", v1::FINISH_REASON_STOP));
  ASSERT_TRUE(client.ReceiveUntil("\"end\"", RawClient::Timeout(20'000)));
  EXPECT_TRUE(WaitFor([&] { return call->unsent_bytes() < 16 << 10; }));
  call->Done();
  EXPECT_TRUE(client.Receive().complete);
}

TEST_F(ApiTest, WhatWaitsBeforeTheCallIsKnownIsReportedToo) {
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    for (int i = 0; i < 1000; ++i) call->Emit(MakeChunk(std::string(8192, 'x')));
  });
  Serve();
  RawClient client(server_->port(), 4096);
  client.Send(PostRequest("/v1/completions", kStreamed));
  const auto call = service_.WaitForCall(0);
  ASSERT_NE(call, nullptr);
  EXPECT_TRUE(WaitFor([&] { return call->max_unsent_bytes() > 256 << 10; }));
}

TEST_F(ApiTest, EveryRouteButHealthNeedsTheKey) {
  Serve("secret");
  std::string constant_body;
  for (const ApiHandler::RouteInfo& route : ApiHandler::Routes()) {
    const std::string target(route.path);
    const RawResponse response = route.method == "GET" ? Get(target) : Post(target, kCompletion);
    const bool is_health = target == "/health" || target == "/ready";
    EXPECT_EQ(route.needs_key, !is_health) << target;
    EXPECT_EQ(response.status, is_health ? 200 : 401) << target;
    if (is_health) continue;
    EXPECT_EQ(response.headers.at("www-authenticate"), "Bearer");
    if (constant_body.empty()) constant_body = response.body;
    EXPECT_EQ(response.body, constant_body) << target;
  }
  EXPECT_EQ(service_.num_calls(), 0u);
}

TEST_F(ApiTest, OtherSpellingsOfARouteDoNotExist) {
  Serve("secret");
  const std::string key = "Authorization: Bearer secret\r\n";
  for (const std::string target : {"//v1/models",
                                   "/v1//models",
                                   "/v1/../v1/models",
                                   "/v1/%6dodels",
                                   "/V1/models",
                                   "/v1/models;x",
                                   "/v1/models/",
                                   "/metrics",
                                   "/admin",
                                   "/debug",
                                   "/",
                                   "*",
                                   "http://localhost/v1/models",
                                   "/health/",
                                   "/v1"}) {
    EXPECT_EQ(Get(target).status, 401) << target;
    EXPECT_EQ(Get(target, key).status, 404) << target;
  }
  EXPECT_EQ(Get("/v1/models?limit=3", key).status, 200);
}

TEST_F(ApiTest, MalformedCredentialsAreRefusedAlike) {
  Serve("secret");
  EXPECT_EQ(Get("/v1/models", "Authorization: Bearer secret\r\n").status, 200);
  EXPECT_EQ(Get("/v1/models", "authorization: bearer secret\r\n").status, 200);
  for (const std::string header :
       {"",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Basic secret\r\n",
        "Authorization: secret\r\n",
        "Authorization: Bearer secre\r\n",
        "Authorization: Bearer secrett\r\n",
        "Authorization: Bearer secret secret\r\n",
        "Authorization: Bearer secret\r\nAuthorization: Bearer secret\r\n",
        "X-Api-Key: secret\r\n"}) {
    EXPECT_EQ(Get("/v1/models", header).status, 401) << header;
  }
  EXPECT_EQ(Get("/v1/models", "Authorization: Bearer " + std::string(1 << 20, 'a') + "\r\n").status,
            431);
}

TEST_F(ApiTest, TheKeysTenantReachesTheCall) {
  Serve("secret");
  PostWith("Content-Type: application/json\r\nAuthorization: Bearer secret\r\n");
  EXPECT_EQ(service_.call(0)->request().tenant, "acme");
}

TEST_F(ApiTest, WrongMethodsNameTheRightOnes) {
  Serve();
  const RawResponse response = Get("/v1/completions");
  EXPECT_EQ(response.status, 405);
  EXPECT_EQ(response.headers.at("allow"), "POST");
  EXPECT_EQ(Post("/health", "{}").status, 405);
  for (const auto& [method, status] : std::map<std::string, int>{
           {"TRACE", 405}, {"DELETE", 405}, {"OPTIONS", 405}, {"BREW", 501}, {"get", 501}}) {
    EXPECT_EQ(RoundTrip(server_->port(), method + " /health HTTP/1.1\r\nHost: a\r\n\r\n").status,
              status)
        << method;
  }
  EXPECT_EQ(RoundTrip(server_->port(), "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n").status, 404);
}

TEST_F(ApiTest, HeadAnswersWithoutABody) {
  Serve();
  RawClient client(server_->port());
  client.Send("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n" + GetRequest("/version"));
  const RawResponse head = client.Receive(RawClient::Timeout(5'000), /*head_only_body=*/true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-length"), "15");
  EXPECT_EQ(client.Receive().json()["version"], "1.2.3");
}

TEST_F(ApiTest, OnlyPlainJsonBodiesAreTaken) {
  Serve();
  for (const std::string good :
       {"Content-Type: application/json\r\n",
        "content-type: Application/JSON; charset=UTF-8\r\n",
        "Content-Type: application/json\r\nContent-Encoding: identity\r\n"}) {
    EXPECT_EQ(PostWith(good).status, 200) << good;
  }
  for (const std::string bad :
       {"",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/jsonx\r\n",
        "Content-Type: application/json; charset=utf-16\r\n",
        "Content-Type: application/json\r\nContent-Type: application/json\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"}) {
    const RawResponse response = PostWith(bad);
    EXPECT_EQ(response.status, 415) << bad;
    EXPECT_EQ(response.error_code(), "unsupported_media_type");
  }
}

TEST_F(ApiTest, BadBodiesAreRefusedByParam) {
  Serve();
  EXPECT_EQ(Post("/v1/completions", "").status, 400);
  EXPECT_EQ(Post("/v1/completions", "{").error_code(), "invalid_json");
  EXPECT_EQ(Post("/v1/completions", R"({"prompt":"a","zzz":1})").json()["error"]["param"], "zzz");
  EXPECT_EQ(Post("/v1/chat/completions", R"({"messages":1})").json()["error"]["param"], "messages");
  EXPECT_EQ(service_.num_calls(), 0u);
}

TEST_F(ApiTest, LongBodiesAreParsedElsewhereAndAnsweredAlike) {
  Serve();
  const json body = {{"prompt", std::string(1 << 20, 'a')}};
  EXPECT_EQ(Post("/v1/completions", body.dump()).status, 200);
  EXPECT_EQ(service_.call(0)->generate().text().size(), 1u << 20);
}

TEST_F(ApiTest, RequestIdsAreEchoedOrDrawn) {
  Serve();
  const auto id_for = [&](const std::string& header) {
    return Get("/health", header).headers.at("x-request-id");
  };
  EXPECT_EQ(id_for("X-Request-Id: my id 1\r\n"), "my id 1");
  EXPECT_EQ(id_for("").size(), 32u);
  EXPECT_NE(id_for(""), id_for(""));
  EXPECT_EQ(id_for("X-Request-Id: " + std::string(129, 'a') + "\r\n").size(), 32u);
  EXPECT_EQ(id_for("X-Request-Id: h\xC3\xA9\r\n").size(), 32u);
  EXPECT_EQ(id_for("X-Request-Id: a\r\nX-Request-Id: b\r\n").size(), 32u);
  const RawResponse response = PostWith("Content-Type: application/json\r\nX-Request-Id: abc\r\n");
  EXPECT_EQ(response.json()["id"], "cmpl-abc");
  EXPECT_EQ(service_.call(0)->generate().options().request_id(), "abc");
  EXPECT_EQ(Get("/nowhere", "X-Request-Id: lost\r\n").headers.at("x-request-id"), "lost");
}

TEST_F(ApiTest, EveryAnswerIsCountedOnce) {
  Serve("secret");
  const std::string key = "Authorization: Bearer secret\r\nContent-Type: application/json\r\n";
  PostWith(key);
  EXPECT_EQ(NextAnswered(), "/v1/completions 200 keyed");
  PostWith(key, kStreamed);
  EXPECT_EQ(NextAnswered(), "/v1/completions 200 keyed");
  PostWith(key, "{broken");
  EXPECT_EQ(NextAnswered(), "/v1/completions 400 keyed");
  PostWith(key + "Content-Encoding: gzip\r\n");
  EXPECT_EQ(NextAnswered(), "/v1/completions 415 keyed");
  PostWith("Content-Type: application/json\r\n");
  EXPECT_EQ(NextAnswered(), "/v1/completions 401 none");
  Get("/nowhere");
  EXPECT_EQ(NextAnswered(), " 401 none");
  Get("/nowhere", key);
  EXPECT_EQ(NextAnswered(), " 404 keyed");
  Get("/v1/models/none", key);
  EXPECT_EQ(NextAnswered(), "/v1/models/{id} 404 keyed");
  Get("/health");
  EXPECT_EQ(NextAnswered(), "/health 200 none");
  RoundTrip(server_->port(), "not http\r\n\r\n");
  EXPECT_EQ(NextAnswered(), " 400 none");
  EXPECT_EQ(answered_.size(), num_seen_);
}

TEST_F(ApiTest, AStreamCountsAsWhatItEndedWith) {
  Serve();
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) {
    call->Emit(MakeChunk("x"));
    call->Fail(ApiError{.status = absl::StatusCode::kUnavailable, .message = "Lost"});
  });
  EXPECT_EQ(Post("/v1/completions", kStreamed).status, 200);
  EXPECT_EQ(NextAnswered(), "/v1/completions 503 default");
  service_.SetScript([](const std::shared_ptr<FakeCall>& call) { call->Emit(MakeChunk("x")); });
  RawClient client(server_->port());
  client.Send(PostRequest("/v1/completions", kStreamed));
  EXPECT_TRUE(client.ReceiveUntil("\"x\""));
  client.Close();
  EXPECT_EQ(NextAnswered(), "/v1/completions 499 default");
}

TEST_F(ApiTest, TraceContextIsPassedOnWhenItIsOne) {
  Serve();
  const std::string type = "Content-Type: application/json\r\n";
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  PostWith(type + "traceparent: " + trace + "\r\n");
  EXPECT_EQ(service_.call(0)->request().traceparent, trace);
  PostWith(type + "traceparent: " + std::string(55, 'x') + "\r\n");
  EXPECT_EQ(service_.call(1)->request().traceparent, "");
}

TEST_F(ApiTest, TheTimeoutHeaderBecomesADeadline) {
  Serve();
  const std::string type = "Content-Type: application/json\r\n";
  const int64_t before = SteadyClock::Get().NowNs();
  PostWith(type + "X-Request-Timeout: 2.5\r\n");
  const int64_t after = SteadyClock::Get().NowNs();
  const int64_t deadline = service_.call(0)->request().deadline_ns;
  EXPECT_GE(deadline, before + 2'500'000'000);
  EXPECT_LE(deadline, after + 2'500'000'000);
  PostWith(type);
  EXPECT_EQ(service_.call(1)->request().deadline_ns, 0);
  for (const std::string bad : {"0", "-1", "nan", "inf", "x", "", "315360000", "1e999"}) {
    const RawResponse response = PostWith(type + "X-Request-Timeout: " + bad + "\r\n");
    EXPECT_EQ(response.status, 400) << bad;
    EXPECT_EQ(response.json()["error"]["param"], "X-Request-Timeout");
  }
}

TEST_F(ApiTest, HealthIsOurOwnAndReadinessTheFleets) {
  Serve();
  service_.SetReady(false);
  EXPECT_EQ(Get("/health").status, 200);
  const RawResponse response = Get("/ready");
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.error_code(), "no_ready_replica");
  service_.SetReady(true);
  EXPECT_EQ(Get("/ready").status, 200);
}

TEST_F(ApiTest, ListsModelsAndFindsThemBySlashedIds) {
  Serve();
  EXPECT_EQ(Get("/v1/models").json()["data"][1]["id"], "org/tiny-chat");
  EXPECT_EQ(Get("/v1/models/tiny").json()["max_model_len"], 512);
  EXPECT_EQ(Get("/v1/models/org/tiny-chat").status, 200);
  EXPECT_EQ(Get("/v1/models/org%2Ftiny-chat").status, 200);
  for (const std::string bad : {"nope", "../tiny", "%74iny", "tiny/", "%00"}) {
    const RawResponse response = Get("/v1/models/" + bad);
    EXPECT_EQ(response.status, 404) << bad;
    EXPECT_EQ(response.error_code(), "model_not_found");
  }
}

TEST_F(ApiTest, Tokenizes) {
  Serve();
  const json tokens = Post("/tokenize", R"({"prompt":"ab","return_token_strs":true})").json();
  EXPECT_EQ(tokens["tokens"], json({98, 99}));
  EXPECT_EQ(tokens["token_strs"], json({"a", "b"}));
  EXPECT_EQ(tokens["max_model_len"], 512);
  EXPECT_EQ(Post("/detokenize", R"({"tokens":[98,99]})").json()["prompt"], "ab");
  // The core names the messages' fields, bodies have others.
  const json bad_id = Post("/detokenize", R"({"tokens":[999]})").json()["error"];
  EXPECT_EQ(bad_id["param"], "tokens");
  EXPECT_EQ(bad_id["message"], "tokens holds an id outside the vocabulary");
  const json empty = Post("/tokenize", R"({"prompt":""})").json()["error"];
  EXPECT_EQ(empty["param"], "prompt");
  EXPECT_EQ(empty["message"], "exactly one of prompt and messages is required");
  EXPECT_EQ(Post("/v1/embeddings", R"({"input":"a"})").status, 501);
}

TEST_F(ApiTest, ErrorsNeverShowWhatTheClientSent) {
  Serve("secret");
  const std::string canary = "CANARY";
  for (const std::string& request :
       {GetRequest("/" + canary),
        GetRequest("/v1/models", "Authorization: Bearer " + canary + "\r\n"),
        GetRequest("/health", canary + "\r\n"),
        canary + " / HTTP/1.1\r\nHost: a\r\n\r\n",
        PostRequest("/v1/completions",
                    canary,
                    "Authorization: Bearer secret\r\nContent-Type: " + canary + "\r\n")}) {
    const RawResponse response = RoundTrip(server_->port(), request);
    EXPECT_GE(response.status, 400) << request;
    EXPECT_EQ(response.body.find(canary), std::string::npos) << response.body;
  }
}

}  // namespace
}  // namespace paceline::router
