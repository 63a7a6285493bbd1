#include "router/grpc/admin_server.h"

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "proto/support/log.h"

namespace paceline::router {
namespace {

constexpr char kGoodKey[] = "Bearer op";

class AdminServerTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(server_.Start().ok());
    stub_ = v1::Admin::NewStub(grpc::CreateChannel("127.0.0.1:" + std::to_string(server_.port()),
                                                   grpc::InsecureChannelCredentials()));
  }

  template <class Method, class Request, class Response>
  grpc::Status Call(Method method,
                    const Request& request,
                    Response* response,
                    const std::string& key = kGoodKey) {
    grpc::ClientContext context;
    if (!key.empty()) context.AddMetadata("authorization", key);
    return (stub_.get()->*method)(&context, request, response);
  }
  grpc::Status Drain(const std::string& id, bool undo = false) {
    v1::DrainReplicaRequest request;
    request.set_id(id);
    request.set_undo(undo);
    v1::DrainReplicaResponse response;
    return Call(&v1::Admin::Stub::DrainReplica, request, &response);
  }

  std::vector<std::pair<std::string, bool>> drained_;
  AdminServer server_{
      {},
      {.list_replicas =
           [] {
             std::vector<v1::ReplicaInfo> replicas(1);
             replicas[0].set_id("r0");
             return replicas;
           },
       .drain_replica =
           [this](std::string name, bool is_drained, std::function<void(absl::Status)> done) {
             drained_.emplace_back(name, is_drained);
             if (name == "stopped") return;  // the core drops what it cannot do any more
             done(name == "r0" ? absl::OkStatus() : absl::NotFoundError("No such replica"));
           },
       .flush_prefix_cache =
           [](std::string model, std::function<void(absl::StatusOr<int32_t>)> done) {
             done(model.empty() ? 3 : 1);
           },
       .authenticate = [](std::string_view key) -> std::variant<std::string, ApiError> {
         if (key == "op") return "operator";
         return UnauthenticatedError();
       }}};
  std::unique_ptr<v1::Admin::Stub> stub_;
};

TEST_F(AdminServerTest, ListsReplicas) {
  v1::ListReplicasResponse response;
  ASSERT_TRUE(Call(&v1::Admin::Stub::ListReplicas, v1::ListReplicasRequest(), &response).ok());
  EXPECT_EQ(response.replicas(0).id(), "r0");
}

TEST_F(AdminServerTest, DrainsAndTakesItBack) {
  EXPECT_TRUE(Drain("r0").ok());
  EXPECT_TRUE(Drain("r0", /*undo=*/true).ok());
  EXPECT_THAT(drained_, testing::ElementsAre(std::pair("r0", true), std::pair("r0", false)));
  const grpc::Status unknown = Drain("r1");
  EXPECT_EQ(unknown.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(unknown.error_message(), "No such replica");
}

TEST_F(AdminServerTest, ACallThatTheCoreDropsIsAnswered) {
  EXPECT_EQ(Drain("stopped").error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(AdminServerTest, SaysHowManyReplicasForgetTheirPrefixes) {
  v1::FlushPrefixCacheRequest request;
  v1::FlushPrefixCacheResponse response;
  ASSERT_TRUE(Call(&v1::Admin::Stub::FlushPrefixCache, request, &response).ok());
  EXPECT_EQ(response.replicas(), 3);
  request.set_model("one");
  ASSERT_TRUE(Call(&v1::Admin::Stub::FlushPrefixCache, request, &response).ok());
  EXPECT_EQ(response.replicas(), 1);
}

TEST_F(AdminServerTest, EveryMethodNeedsTheKey) {
  for (const std::string key : {"", "op", "Bearer ops", "Bearer ", "Basic op", kGoodKey}) {
    std::vector<grpc::Status> statuses;
    const auto call = [&](auto method, const auto& request, auto response) {
      statuses.push_back(Call(method, request, &response, key));
    };
    using Stub = v1::Admin::Stub;
    call(&Stub::ListReplicas, v1::ListReplicasRequest(), v1::ListReplicasResponse());
    call(&Stub::DrainReplica, v1::DrainReplicaRequest(), v1::DrainReplicaResponse());
    call(&Stub::LoadAdapter, v1::LoadAdapterRequest(), v1::LoadAdapterResponse());
    call(&Stub::UnloadAdapter, v1::UnloadAdapterRequest(), v1::UnloadAdapterResponse());
    call(&Stub::FlushPrefixCache, v1::FlushPrefixCacheRequest(), v1::FlushPrefixCacheResponse());
    call(&Stub::SetLogLevel, v1::SetLogLevelRequest(), v1::SetLogLevelResponse());
    EXPECT_EQ(
        statuses.size(),
        static_cast<size_t>(v1::ReplicaInfo::descriptor()->file()->service(0)->method_count()));
    for (const grpc::Status& status : statuses) {
      EXPECT_EQ(status.error_code() == grpc::StatusCode::UNAUTHENTICATED, key != kGoodKey) << key;
    }
  }
  EXPECT_EQ(drained_.size(), 1U);  // the one call that had the key
}

TEST_F(AdminServerTest, WhatIsNotBuiltSaysSo) {
  v1::LoadAdapterResponse loaded;
  v1::UnloadAdapterResponse unloaded;
  for (const grpc::Status& status :
       {Call(&v1::Admin::Stub::LoadAdapter, v1::LoadAdapterRequest(), &loaded),
        Call(&v1::Admin::Stub::UnloadAdapter, v1::UnloadAdapterRequest(), &unloaded)}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_EQ(status.error_message(), "Adapters are not supported yet");
  }
}

TEST_F(AdminServerTest, SetsKnownLogLevels) {
  const auto before = spdlog::get_level();
  for (const auto& [level, code] :
       std::map<std::string, grpc::StatusCode>{{"debug", grpc::StatusCode::OK},
                                               {"loud", grpc::StatusCode::INVALID_ARGUMENT},
                                               {"", grpc::StatusCode::INVALID_ARGUMENT}}) {
    v1::SetLogLevelRequest request;
    request.set_level(level);
    v1::SetLogLevelResponse response;
    EXPECT_EQ(Call(&v1::Admin::Stub::SetLogLevel, request, &response).error_code(), code) << level;
  }
  EXPECT_EQ(spdlog::get_level(), spdlog::level::debug);
  spdlog::set_level(before);
}

TEST_F(AdminServerTest, RefusesATakenPort) {
  AdminServer second({.port = server_.port()}, {});
  EXPECT_EQ(second.Start().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace paceline::router
