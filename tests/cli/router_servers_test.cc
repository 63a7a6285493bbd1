// A router's ports over real sockets, around a core with fake workers.
#include "cli/router_servers.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "proto/paceline/v1/inference.grpc.pb.h"
#include "proto/support/log.h"
#include "router/fleet/grpc_worker_link.h"
#include "tests/fakes/fake_service.h"
#include "tests/fakes/fake_worker.h"
#include "tests/router/http/raw_client.h"

namespace paceline::cli {
namespace {

using router::WaitFor;

bool CanConnect(const char* host, int port) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_port = htons(static_cast<uint16_t>(port))};
  inet_pton(AF_INET, host, &address.sin_addr);
  const bool connected = connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return connected;
}

class RouterServersTest : public testing::Test {
 protected:
  RouterServersTest() {
    options_.port = options_.grpc_port = options_.operator_port = 0;
    for (const char* id : {"r0", "r1"}) {
      workers_.push_back(std::make_unique<router::FakeWorker>(router::FakeHello(id)));
      worker_servers_.push_back(std::make_unique<router::FakeWorkerServer>(workers_.back().get()));
      options_.workers.push_back(worker_servers_.back()->address());
    }
  }
  ~RouterServersTest() override {
    if (servers_ != nullptr) servers_->Stop(std::chrono::milliseconds(0));
  }

  absl::Status Start() {
    auto core = StartRouterCore(options_, router::GrpcWorkerLinkFactory());
    if (!core.ok()) return core.status();
    core_ = *std::move(core);
    auto servers = RouterServers::Start(options_, *core_, files_);
    if (!servers.ok()) return servers.status();
    servers_ = *std::move(servers);
    return absl::OkStatus();
  }
  // With all replicas ready.
  void StartReady() {
    ASSERT_TRUE(Start().ok());
    ASSERT_TRUE(WaitFor([this] {
      return core_->service().Ready() && States() == std::vector<std::string>{"ready", "ready"};
    }));
    inference_ = v1::Inference::NewStub(Channel(servers_->grpc_port()));
    if (servers_->admin_port() >= 0) admin_ = v1::Admin::NewStub(Channel(servers_->admin_port()));
  }
  static std::shared_ptr<grpc::Channel> Channel(int port) {
    return grpc::CreateChannel(absl::StrCat("127.0.0.1:", port),
                               grpc::InsecureChannelCredentials());
  }
  std::vector<std::string> States() {
    std::vector<std::string> states;
    for (const v1::ReplicaInfo& info : core_->dispatcher().Replicas()) {
      states.push_back(info.state());
    }
    return states;
  }
  template <class Method, class Request, class Response>
  grpc::Status Admin(Method method, const Request& request, Response* response) {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer op-key");
    return (admin_.get()->*method)(&context, request, response);
  }
  static v1::GenerateRequest Prompt(const std::string& text, int32_t max_tokens) {
    v1::GenerateRequest request;
    request.set_text(text);
    request.mutable_sampling()->set_max_tokens(max_tokens);
    request.mutable_sampling()->set_seed(7);
    return request;
  }

  std::vector<std::unique_ptr<router::FakeWorker>> workers_;
  std::vector<std::unique_ptr<router::FakeWorkerServer>> worker_servers_;
  RouterOptions options_;
  std::unique_ptr<router::RouterCore> core_;
  FileWatch files_{"paceline_router"};
  std::unique_ptr<RouterServers> servers_;
  std::unique_ptr<v1::Inference::Stub> inference_;
  std::unique_ptr<v1::Admin::Stub> admin_;
};

TEST_F(RouterServersTest, AnOperatorDrainsAReplicaUnderAStream) {
  options_.admin_port = 0;
  options_.admin_keys = {"op-key"};
  StartReady();

  grpc::ClientContext context;
  auto stream = inference_->GenerateStream(&context, Prompt("hello", 40));
  ASSERT_TRUE(WaitFor([this] { return workers_[0]->running() + workers_[1]->running() == 1; }));
  router::FakeWorker& busy = *workers_[workers_[0]->running() == 1 ? 0 : 1];
  router::FakeWorker& idle = *workers_[workers_[0]->running() == 1 ? 1 : 0];

  v1::ListReplicasResponse list;
  ASSERT_TRUE(Admin(&v1::Admin::Stub::ListReplicas, v1::ListReplicasRequest(), &list).ok());
  ASSERT_EQ(list.replicas_size(), 2);
  EXPECT_EQ(list.replicas(0).id(), "r0");
  EXPECT_EQ(list.replicas(0).address(), options_.workers[0]);

  v1::DrainReplicaRequest drain;
  drain.set_id(&busy == workers_[0].get() ? "r0" : "r1");
  v1::DrainReplicaResponse drained;
  ASSERT_TRUE(Admin(&v1::Admin::Stub::DrainReplica, drain, &drained).ok());
  busy.StepEvery(1000);
  idle.StepEvery(1000);
  for (int i = 0; i < 4; ++i) {
    grpc::ClientContext new_context;
    v1::GenerateResponse response;
    EXPECT_TRUE(inference_->Generate(&new_context, Prompt("new", 2), &response).ok());
  }
  std::string text;
  for (v1::GenerateChunk chunk; stream->Read(&chunk);) text += chunk.text();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(text, router::FakeAnswer("hello", 7, 0, 40));
  EXPECT_EQ(busy.submits().size(), 1U);
  EXPECT_EQ(idle.submits().size(), 4U);
  EXPECT_TRUE(WaitFor([this] {
    const std::vector<std::string> states = States();
    return std::count(states.begin(), states.end(), "draining") == 1;
  }));
}

TEST_F(RouterServersTest, AnOperatorFlushesPrefixesAndSetsTheLogLevel) {
  options_.admin_port = 0;
  options_.admin_keys = {"op-key"};
  StartReady();
  v1::FlushPrefixCacheResponse flushed;
  v1::FlushPrefixCacheRequest flush;
  ASSERT_TRUE(Admin(&v1::Admin::Stub::FlushPrefixCache, flush, &flushed).ok());
  EXPECT_EQ(flushed.replicas(), 2);
  EXPECT_TRUE(WaitFor([this] { return workers_[0]->flushes() + workers_[1]->flushes() == 2; }));

  const auto before = spdlog::get_level();
  v1::SetLogLevelRequest level;
  level.set_level("error");
  v1::SetLogLevelResponse set;
  EXPECT_TRUE(Admin(&v1::Admin::Stub::SetLogLevel, level, &set).ok());
  EXPECT_EQ(spdlog::get_level(), spdlog::level::err);
  spdlog::set_level(before);

  v1::LoadAdapterResponse loaded;
  EXPECT_EQ(Admin(&v1::Admin::Stub::LoadAdapter, v1::LoadAdapterRequest(), &loaded).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  grpc::ClientContext without_key;
  EXPECT_EQ(admin_->FlushPrefixCache(&without_key, flush, &flushed).error_code(),
            grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(RouterServersTest, AdminOutlivesTheCoreAndSaysSo) {
  options_.admin_port = 0;
  StartReady();
  core_->Stop();
  v1::FlushPrefixCacheResponse flushed;
  EXPECT_EQ(Admin(&v1::Admin::Stub::FlushPrefixCache, v1::FlushPrefixCacheRequest(), &flushed)
                .error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(RouterServersTest, WithoutAPortThereIsNoAdmin) {
  StartReady();
  EXPECT_EQ(servers_->admin_port(), -1);
  const auto stub = v1::Admin::NewStub(Channel(servers_->grpc_port()));
  grpc::ClientContext context;
  v1::ListReplicasResponse list;
  EXPECT_EQ(stub->ListReplicas(&context, {}, &list).error_code(), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(RouterServersTest, OperatorsPortsDoNotFollowTheHost) {
  options_.host = "127.0.0.2";
  options_.admin_port = 0;
  ASSERT_TRUE(Start().ok());
  EXPECT_TRUE(CanConnect("127.0.0.2", servers_->http_port()));
  EXPECT_TRUE(CanConnect("127.0.0.2", servers_->grpc_port()));
  for (const int port : {servers_->operator_port(), servers_->admin_port()}) {
    EXPECT_TRUE(CanConnect("127.0.0.1", port));
    EXPECT_FALSE(CanConnect("127.0.0.2", port));
  }
}

TEST_F(RouterServersTest, OffLoopbackAdminNeedsAKey) {
  options_.admin_port = 0;
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "example.org"}) {
    options_.operator_host = host;
    const absl::Status status = Start();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << host;
    EXPECT_TRUE(absl::StrContains(status.message(), "--admin-key")) << status;
  }
  options_.operator_host = "127.0.0.3";
  EXPECT_TRUE(Start().ok());
}

TEST_F(RouterServersTest, KeysWithoutAPortAndEmptyKeysAreRefused) {
  options_.admin_keys = {"op-key"};
  EXPECT_EQ(Start().code(), absl::StatusCode::kInvalidArgument);
  options_.admin_port = 0;
  options_.admin_keys = {""};
  EXPECT_EQ(Start().message(), "--admin-key: set, but holds no key");
}

TEST_F(RouterServersTest, MetricsCountWhatIsRefusedToo) {
  options_.api_keys = {"api-key"};
  for (const auto& worker : workers_) worker->StepEvery(1000);
  StartReady();
  const std::string json = "Content-Type: application/json\r\n";
  const std::string key = json + "Authorization: Bearer api-key\r\n";
  const auto post = [&](const std::string& body, const std::string& headers) {
    return router::RoundTrip(static_cast<uint16_t>(servers_->http_port()),
                             router::PostRequest("/v1/completions", body, headers))
        .status;
  };
  EXPECT_EQ(post(R"({"prompt":"a","max_tokens":2})", key), 200);
  EXPECT_EQ(post(R"({"prompt":)", key), 400);
  EXPECT_EQ(post(R"({"prompt":"a"})", json), 401);
  grpc::ClientContext context;
  v1::GenerateResponse response;
  EXPECT_FALSE(inference_->Generate(&context, Prompt("a", 2), &response).ok());
  for (const char* series :
       {R"({code="ok",route="/v1/completions",tenant_class="keyed"} 1)",
        R"({code="invalid_argument",route="/v1/completions",tenant_class="keyed"} 1)",
        R"({code="unauthenticated",route="/v1/completions",tenant_class="none"} 1)",
        R"({code="unauthenticated",route="Inference/Generate",tenant_class="none"} 1)"}) {
    EXPECT_TRUE(WaitFor([&] {
      const std::string text = router::RoundTrip(static_cast<uint16_t>(servers_->operator_port()),
                                                 router::GetRequest("/metrics"))
                                   .body;
      return absl::StrContains(text, absl::StrCat("paceline_router_requests_total", series));
    })) << series;
  }
}

}  // namespace
}  // namespace paceline::cli
