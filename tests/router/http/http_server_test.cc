// Connections: limits in bytes and in time, keep-alive, pipelining, overload, stopping.
#include "router/http/http_server.h"

#include <dirent.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "router/http/api_handler.h"
#include "tests/fakes/fake_service.h"
#include "tests/router/http/raw_client.h"

namespace paceline::router {
namespace {

using std::chrono::milliseconds;

constexpr char kCompletion[] = R"({"prompt":"hi"})";
constexpr char kStreamed[] = R"({"prompt":"hi","stream":true})";

int OpenDescriptors() {
  DIR* directory = opendir("/proc/self/fd");
  int count = 0;
  while (readdir(directory) != nullptr) ++count;
  closedir(directory);
  return count;
}

class HttpServerTest : public testing::Test {
 protected:
  void Serve(HttpServer::Options options = {}) {
    ApiHandler::Options api{.service = &service_, .version = "1"};
    api.on_answered = [this](const HttpAccess& access) {
      const std::lock_guard lock(mutex_);
      answered_.push_back(access);
    };
    handler_ = std::make_unique<ApiHandler>(api);
    server_ = std::make_unique<HttpServer>(options, handler_.get());
    ASSERT_TRUE(server_->Start().ok());
  }
  uint16_t port() const { return server_->port(); }
  bool WaitForConnections(size_t count) {
    return WaitFor([&] { return server_->num_connections() == count; });
  }
  bool WaitForStatus(int status) {
    return WaitFor([&] {
      const std::lock_guard lock(mutex_);
      return std::any_of(answered_.begin(), answered_.end(), [&](const HttpAccess& access) {
        return access.status == status;
      });
    });
  }

  FakeService service_;
  std::mutex mutex_;
  std::vector<HttpAccess> answered_;
  std::unique_ptr<ApiHandler> handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, RefusesATakenPort) {
  Serve();
  HttpServer second({.port = port()}, handler_.get());
  EXPECT_EQ(second.Start().code(), absl::StatusCode::kUnavailable);
  HttpServer third({.host = "not an address"}, handler_.get());
  EXPECT_EQ(third.Start().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(HttpServerTest, BadRequestsAreAnsweredAndClosed) {
  Serve();
  for (const auto& [request, status] : std::vector<std::pair<std::string, int>>{
           {"GET /" + std::string(64 << 10, 'a') + " HTTP/1.1\r\n\r\n", 414},
           {GetRequest("/health", "a: " + std::string(1 << 20, 'b') + "\r\n"), 431},
           {"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            "Content-Length: 10737418240\r\n\r\n" +
                std::string(1 << 20, 'x'),
            413},
           {"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            "0\r\n\r\n" +
                GetRequest("/health"),
            400},
           {"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n-2\r\n",
            400},
           {"GET / HTTP/1.1\nHost: a\n\n", 400}}) {
    RawClient client(port());
    client.Send(request);
    const RawResponse response = client.Receive();
    EXPECT_EQ(response.status, status);
    EXPECT_EQ(response.headers.at("connection"), "close");
    EXPECT_TRUE(response.json().contains("error"));
    EXPECT_EQ(client.received(), "") << "a second response";
    client.ShutdownWrite();
    EXPECT_TRUE(client.WaitForClose());
  }
  EXPECT_EQ(RoundTrip(port(), GetRequest("/health")).status, 200);
}

TEST_F(HttpServerTest, ReadingStopsAtTheLimit) {
  Serve();
  RawClient client(port());
  // An endless head: the server answers and stops taking it in.
  client.Send("GET / HTTP/1.1\r\n");
  const std::string header = "a: " + std::string(1000, 'b') + "\r\n";
  bool open = true;
  for (int i = 0; open && i < 100'000; ++i) open = client.Send(header);
  EXPECT_FALSE(open);
}

TEST_F(HttpServerTest, SlowHeadsTimeOut) {
  Serve({.head_timeout = milliseconds(200)});
  RawClient client(port());
  client.Send("GET /health HT");
  const RawResponse response = client.Receive();
  EXPECT_EQ(response.status, 408);
  EXPECT_EQ(response.error_code(), "request_timeout");
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(HttpServerTest, SlowBodiesTimeOut) {
  Serve({.body_grace = milliseconds(200), .linger_timeout = milliseconds(100)});
  RawClient client(port());
  const std::string request = PostRequest("/v1/completions", kCompletion);
  client.Send(request.substr(0, request.size() - 1));
  EXPECT_EQ(client.Receive().status, 408);
  EXPECT_TRUE(client.WaitForClose());
  EXPECT_EQ(service_.num_calls(), 0u);
}

TEST_F(HttpServerTest, BodiesThatKeepComingAreTaken) {
  Serve({.body_grace = milliseconds(100), .min_body_bytes_per_second = 10});
  const std::string request = PostRequest("/v1/completions", std::string(5000, ' ') + kCompletion);
  RawClient client(port());
  client.Send(request.substr(0, request.size() - 1));
  // Somebody slower, who came later, is refused first.
  RawClient slower(port());
  slower.Send(request.substr(0, request.find("\r\n\r\n") + 4));
  EXPECT_EQ(slower.Receive().status, 408);
  client.Send(request.substr(request.size() - 1));
  EXPECT_EQ(client.Receive().status, 200);
}

TEST_F(HttpServerTest, IdleConnectionsAreClosed) {
  Serve({.idle_timeout = milliseconds(1'000)});
  RawClient fresh(port());
  RawClient used(port());
  used.Send(GetRequest("/health"));
  EXPECT_EQ(used.Receive().status, 200);
  EXPECT_TRUE(fresh.WaitForClose());
  EXPECT_TRUE(used.WaitForClose());
  EXPECT_TRUE(WaitForConnections(0));
}

TEST_F(HttpServerTest, WaitingForAnAnswerIsNotIdle) {
  service_.SetScript(nullptr);
  Serve({.head_timeout = milliseconds(1'000), .idle_timeout = milliseconds(1'000)});
  RawClient client(port());
  client.Send(PostRequest("/v1/completions", kCompletion));
  const auto call = service_.WaitForCall(0);
  RawClient idle(port());
  EXPECT_TRUE(idle.WaitForClose());
  EXPECT_FALSE(call->cancelled());
  call->Emit(MakeChunk("x", v1::FINISH_REASON_STOP));
  call->Done();
  EXPECT_EQ(client.Receive().status, 200);
}

TEST_F(HttpServerTest, AStuckReaderIsGivenUp) {
  service_.SetScript(nullptr);
  Serve({.write_timeout = milliseconds(300)});
  RawClient client(port(), 4096);
  client.Send(PostRequest("/v1/completions", kStreamed));
  const auto call = service_.WaitForCall(0);
  for (int i = 0; i < 200; ++i) call->Emit(MakeChunk(std::string(16384, 'x')));
  EXPECT_TRUE(call->WaitUntilCancelled());
  EXPECT_TRUE(WaitForConnections(0));
}

TEST_F(HttpServerTest, ContinueIsSaidWhenAsked) {
  Serve();
  RawClient client(port());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Expect: 100-continue\r\nContent-Length: 15\r\n\r\n");
  EXPECT_EQ(client.Receive().status, 100);
  client.Send(kCompletion);
  EXPECT_EQ(client.Receive().status, 200);
  // A refusal comes instead of it.
  client.Send(
      "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Expect: 100-continue\r\nContent-Length: 15\r\n\r\n");
  EXPECT_EQ(client.Receive().status, 404);
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(HttpServerTest, ContinueWithoutABodyTimesOut) {
  Serve({.body_grace = milliseconds(200)});
  RawClient client(port());
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Expect: 100-continue\r\nContent-Length: 15\r\n\r\n");
  EXPECT_EQ(client.Receive().status, 100);
  EXPECT_EQ(client.Receive().status, 408);
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  Serve();
  RawClient client(port());
  std::string requests;
  for (int i = 0; i < 1000; ++i) {
    requests += GetRequest("/health", "X-Request-Id: " + std::to_string(i) + "\r\n");
  }
  std::thread sender([&] { client.Send(requests); });
  for (int i = 0; i < 1000; ++i) {
    const RawResponse response = client.Receive();
    ASSERT_EQ(response.status, 200);
    ASSERT_EQ(response.headers.at("x-request-id"), std::to_string(i));
  }
  sender.join();
}

TEST_F(HttpServerTest, AnyCutGivesTheSameAnswers) {
  Serve();
  const std::string bytes =
      PostRequest("/v1/completions", kCompletion) + GetRequest("/version") +
      "POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\n8\r\n{\"prompt\r\n6\r\n\":\"a\"}\r\n0\r\n\r\n";
  for (size_t cut = 1; cut < bytes.size(); cut += 7) {
    RawClient client(port());
    client.Send(bytes.substr(0, cut));
    client.Send(bytes.substr(cut));
    EXPECT_EQ(client.Receive().status, 200) << cut;
    EXPECT_EQ(client.Receive().json()["version"], "1") << cut;
    EXPECT_EQ(client.Receive().json()["count"], 1) << cut;
  }
}

TEST_F(HttpServerTest, TruncatedRequestsAre400) {
  Serve();
  const std::string request = PostRequest("/v1/completions", kCompletion);
  for (size_t length = 1; length < request.size(); length += 3) {
    RawClient client(port());
    client.Send(request.substr(0, length));
    client.ShutdownWrite();
    EXPECT_EQ(client.Receive().status, 400) << length;
    EXPECT_TRUE(client.WaitForClose());
  }
  EXPECT_EQ(service_.num_calls(), 0u);
}

TEST_F(HttpServerTest, SpeaksHttp10) {
  Serve();
  RawClient client(port());
  client.Send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(client.Receive().headers["connection"], "keep-alive");
  const std::string body = kStreamed;
  client.Send(
      "POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n" + body);
  const RawResponse stream = client.Receive();
  EXPECT_FALSE(stream.headers.contains("transfer-encoding"));
  EXPECT_TRUE(stream.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(HttpServerTest, ClosesWhenTheClientWantsIt) {
  Serve();
  RawClient client(port());
  client.Send(GetRequest("/health", "Connection: close\r\n"));
  EXPECT_EQ(client.Receive().headers["connection"], "close");
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(HttpServerTest, IdleConnectionsMakeRoomForNewOnes) {
  Serve({.max_connections = 8});
  std::vector<std::unique_ptr<RawClient>> idle;
  for (int i = 0; i < 50; ++i) {
    idle.push_back(std::make_unique<RawClient>(port()));
    RawClient good(port());
    good.Send(GetRequest("/health"));
    EXPECT_EQ(good.Receive().status, 200) << i;
  }
  EXPECT_TRUE(WaitFor([this] { return server_->num_connections() <= 8; }));
}

TEST_F(HttpServerTest, BusyConnectionsAreNotEvicted) {
  service_.SetScript(nullptr);
  Serve({.max_connections = 4});
  std::vector<std::unique_ptr<RawClient>> busy;
  for (int i = 0; i < 4; ++i) {
    busy.push_back(std::make_unique<RawClient>(port()));
    busy.back()->Send(PostRequest("/v1/completions", kCompletion));
    ASSERT_NE(service_.WaitForCall(i), nullptr);
  }
  RawClient extra(port());
  EXPECT_TRUE(extra.WaitForClose());
  for (int i = 0; i < 4; ++i) {
    service_.call(i)->Emit(MakeChunk("x", v1::FINISH_REASON_STOP));
    service_.call(i)->Done();
    EXPECT_EQ(busy[i]->Receive().status, 200);
  }
}

TEST_F(HttpServerTest, ConnectionStormsLeaveNoDescriptors) {
  Serve();
  EXPECT_EQ(RoundTrip(port(), GetRequest("/health")).status, 200);
  ASSERT_TRUE(WaitForConnections(0));
  const int before = OpenDescriptors();
  for (int i = 0; i < 2000; ++i) {
    RawClient client(port());
    if (i % 3 == 1) client.Send("GET /hea");
    if (i % 3 == 2) client.Send(GetRequest("/health"));
    client.Reset();
  }
  EXPECT_EQ(RoundTrip(port(), GetRequest("/health")).status, 200);
  EXPECT_TRUE(WaitForConnections(0));
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(HttpServerTest, TellsWhoeverCountsWhatWasAnswered) {
  service_.SetScript(nullptr);
  Serve();
  {
    RawClient client(port());
    client.Send(PostRequest("/v1/completions", kCompletion));
    ASSERT_NE(service_.WaitForCall(0), nullptr);
  }
  EXPECT_TRUE(WaitForStatus(499));
  EXPECT_EQ(RoundTrip(port(), GetRequest("/nowhere")).status, 404);
  EXPECT_TRUE(WaitForStatus(404));
  const std::lock_guard lock(mutex_);
  EXPECT_EQ(answered_[0].route, "/v1/completions");
  EXPECT_GT(answered_[0].duration_ns, 0);
  EXPECT_EQ(answered_[1].route, "");
}

TEST_F(HttpServerTest, StoppingLetsAnswersEnd) {
  service_.SetScript(nullptr);
  Serve();
  RawClient idle(port());
  RawClient client(port());
  client.Send(PostRequest("/v1/completions", kStreamed));
  const auto call = service_.WaitForCall(0);
  call->Emit(MakeChunk("x"));
  ASSERT_TRUE(client.ReceiveUntil("\"x\""));
  std::thread stopper([&] { server_->Stop(milliseconds(600'000)); });
  EXPECT_TRUE(idle.WaitForClose());
  EXPECT_TRUE(WaitFor([this] { return !RawClient(port()).connected(); }));
  call->Emit(MakeChunk("y", v1::FINISH_REASON_STOP));
  call->Done();
  const RawResponse response = client.Receive();
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  client.Close();
  stopper.join();
}

TEST_F(HttpServerTest, StoppingEndsLateStreamsWithAnError) {
  service_.SetScript(nullptr);
  Serve();
  RawClient streaming(port());
  RawClient waiting(port());
  RawClient half(port());
  streaming.Send(PostRequest("/v1/completions", kStreamed));
  service_.WaitForCall(0)->Emit(MakeChunk("x"));
  ASSERT_TRUE(streaming.ReceiveUntil("\"x\""));
  waiting.Send(PostRequest("/v1/completions", kCompletion));
  ASSERT_NE(service_.WaitForCall(1), nullptr);
  half.Send("GET /hea");
  server_->Stop(milliseconds(100));
  const RawResponse stream = streaming.Receive();
  EXPECT_TRUE(stream.complete);
  EXPECT_NE(stream.body.find("\"code\":\"draining\""), std::string::npos);
  EXPECT_EQ(stream.body.find("[DONE]"), std::string::npos);
  EXPECT_EQ(waiting.Receive().status, 503);
  EXPECT_TRUE(service_.call(0)->cancelled());
  EXPECT_TRUE(service_.call(1)->cancelled());
  // The core's late events fall on deaf ears.
  service_.call(0)->Emit(MakeChunk("late"));
}

TEST_F(HttpServerTest, ManyClientsAtOnceGetTheirOwnAnswers) {
  service_.SetScript([this](const std::shared_ptr<FakeCall>& call) {
    service_.RunInBackground([call] {
      for (int i = 0; i < 20; ++i) call->Emit(MakeChunk(call->generate().text()));
      call->Emit(MakeChunk("", v1::FINISH_REASON_STOP));
      call->Done();
    });
  });
  Serve();
  std::atomic<int> good{0};
  std::vector<std::thread> clients;
  for (int c = 0; c < 16; ++c) {
    clients.emplace_back([&, c] {
      RawClient client(port());
      for (int i = 0; i < 10; ++i) {
        const std::string text = std::to_string(c) + "." + std::to_string(i) + ";";
        const bool stream = (c + i) % 2 == 0;
        client.Send(PostRequest("/v1/completions",
                                nlohmann::json{{"prompt", text}, {"stream", stream}}.dump()));
        const RawResponse response = client.Receive();
        size_t count = 0;
        for (size_t at = 0; (at = response.body.find(text, at)) != std::string::npos; ++at) ++count;
        good += response.complete && count == 20;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(good, 160);
}

TEST_F(HttpServerTest, CancelStormsLeaveNothingBehind) {
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
  for (int c = 0; c < 8; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 25; ++i) {
        RawClient client(port());
        client.Send(PostRequest("/v1/completions", (c + i) % 2 == 0 ? kStreamed : kCompletion));
        if (i % 3 == 0) client.ReceiveUntil("HTTP/1.1", milliseconds(1'000));
        i % 2 == 0 ? client.Reset() : client.Close();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(WaitForConnections(0));
  for (size_t i = 0; i < service_.num_calls(); ++i) {
    EXPECT_TRUE(WaitFor([&] { return service_.call(i)->finished(); }));
  }
}

}  // namespace
}  // namespace paceline::router
