#include "cli/nodes.h"

#include <map>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::cli {
namespace {

using ::testing::HasSubstr;

// Two ranks on each of two nodes; this one is the second.
WorkerOptions Given() {
  WorkerOptions options;
  options.engine.tensor_parallel_size = 2;
  options.engine.pipeline_parallel_size = 2;
  options.nodes = {.count = 2, .rank = 1, .master_addr = "10.0.0.1"};
  return options;
}

using Environment = std::map<std::string, std::string>;

Environment LeaderWorkerSet() {
  return {{"LWS_GROUP_SIZE", "4"}, {"LWS_WORKER_INDEX", "3"}, {"LWS_LEADER_ADDRESS", "lws-0.lws"}};
}

absl::Status Settle(WorkerOptions& options, const Environment& environment = {}) {
  return SettleNodes(
      [&](const char* name) {
        const auto found = environment.find(name);
        return found == environment.end() ? nullptr : found->second.c_str();
      },
      options);
}

TEST(NodesTest, OptionsAreTakenAsGiven) {
  WorkerOptions options = Given();
  ASSERT_TRUE(Settle(options, LeaderWorkerSet()).ok());
  EXPECT_EQ(options.nodes.count, 2);
  EXPECT_EQ(options.nodes.rank, 1);
  EXPECT_EQ(options.nodes.master_addr, "10.0.0.1");
  EXPECT_EQ(options.nodes.master_port, 29500);
}

TEST(NodesTest, ALeaderWorkerSetSaysWhatOptionsDoNot) {
  WorkerOptions options = Given();
  options.nodes = {};
  ASSERT_TRUE(Settle(options, LeaderWorkerSet()).ok());
  EXPECT_EQ(options.nodes.count, 4);
  EXPECT_EQ(options.nodes.rank, 3);
  EXPECT_EQ(options.nodes.master_addr, "lws-0.lws");
}

TEST(NodesTest, WithoutEitherThereIsOneNode) {
  WorkerOptions options;
  ASSERT_TRUE(Settle(options).ok());
  EXPECT_EQ(options.nodes.count, 1);
  EXPECT_EQ(options.nodes.rank, 0);
}

TEST(NodesTest, AGroupOfOneIsOneNode) {
  WorkerOptions options;
  Environment environment = LeaderWorkerSet();
  environment["LWS_GROUP_SIZE"] = "1";
  environment["LWS_WORKER_INDEX"] = "0";
  ASSERT_TRUE(Settle(options, environment).ok());
  EXPECT_EQ(options.nodes.count, 1);
  EXPECT_EQ(options.nodes.rank, 0);
}

TEST(NodesTest, WhatIsMissingOrDoesNotFitIsNamed) {
  const auto expect = [](NodeOptions nodes, const std::string& text) {
    WorkerOptions options = Given();
    options.nodes = nodes;
    const absl::Status status = Settle(options);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(text));
  };
  expect({.count = 2, .master_addr = "a"}, "--node-rank: missing");
  expect({.count = 2, .rank = 2, .master_addr = "a"}, "--node-rank: 2, but 2 nodes");
  expect({.count = 2, .rank = 0}, "--master-addr: missing");
  expect({.count = 2, .rank = 0, .master_addr = "a", .master_port = 0}, "--master-port");
  expect({.count = 3, .rank = 0, .master_addr = "a"}, "--nnodes: 3 nodes cannot share 4 ranks");
  expect({.rank = 1}, "--node-rank: 1, but there is one node");
  expect({.count = 1, .rank = 1}, "--node-rank: 1, but there is one node");
  expect({.master_addr = "a"}, "--master-addr: of use with several nodes only");
}

TEST(NodesTest, AVariableThatIsNoNumberIsNamed) {
  for (const char* name : {"LWS_GROUP_SIZE", "LWS_WORKER_INDEX"}) {
    for (const char* value : {"", "two", "-1", "1e3"}) {
      WorkerOptions options = Given();
      options.nodes = {};
      Environment environment = LeaderWorkerSet();
      environment[name] = value;
      const absl::Status status = Settle(options, environment);
      EXPECT_TRUE(absl::IsInvalidArgument(status)) << name << " " << value;
      EXPECT_THAT(std::string(status.message()), HasSubstr(name));
    }
  }
}

}  // namespace
}  // namespace paceline::cli
