#include "worker/models/partition.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace paceline::worker {
namespace {

// SmolLM2-135M.
model::ModelConfig Config() {
  model::ModelConfig config;
  config.num_layers = 30;
  config.hidden_size = 576;
  config.intermediate_size = 1536;
  config.num_heads = 9;
  config.num_kv_heads = 3;
  config.head_dim = 64;
  config.vocab_size = 49152;
  return config;
}

std::vector<int64_t> LayersOfStages(const model::ModelConfig& config, int32_t num_stages) {
  std::vector<int64_t> counts;
  int64_t next = 0;
  for (int32_t stage = 0; stage < num_stages; ++stage) {
    const auto partition = PartitionModel(config, RankPlace::Of(stage, 1, num_stages));
    EXPECT_TRUE(partition.ok()) << partition.status();
    EXPECT_EQ(partition->layers.begin, next);
    next = partition->layers.end;
    counts.push_back(next - partition->layers.begin);
  }
  EXPECT_EQ(next, config.num_layers);
  return counts;
}

TEST(PartitionTest, TheLastStageHasFewerLayersForItHasTheHead) {
  // The head takes as long as 6.4 layers.
  EXPECT_EQ(LayersOfStages(Config(), 1), std::vector<int64_t>({30}));
  EXPECT_EQ(LayersOfStages(Config(), 2), std::vector<int64_t>({18, 12}));
  EXPECT_EQ(LayersOfStages(Config(), 3), std::vector<int64_t>({12, 12, 6}));
}

TEST(PartitionTest, EveryStageHasALayer) {
  model::ModelConfig config = Config();
  config.vocab_size = 1 << 20;  // a head that outweighs all layers
  for (int32_t num_stages = 1; num_stages <= config.num_layers; ++num_stages) {
    for (const int64_t count : LayersOfStages(config, num_stages)) EXPECT_GE(count, 1);
  }
  EXPECT_TRUE(absl::IsInvalidArgument(PartitionModel(config, RankPlace::Of(0, 1, 31)).status()));
}

}  // namespace
}  // namespace paceline::worker
