// What a shard takes of a device's memory, in emulation.
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/emulation/runtime.h"
#include "tests/fakes/tiny_model.h"
#include "worker/models/device/registry.h"
#include "worker/runner/model_shard.h"

namespace paceline::worker {
namespace {

class DeviceRoomTest : public testing::Test {
 protected:
  ~DeviceRoomTest() override { kernels::emulation::SetMemoryBytes(int64_t{1} << 30); }

  absl::StatusOr<std::unique_ptr<ModelShard>> Load(int64_t kv_cache_bytes) {
    bytes_ = model::TinyModelBytes(model_);
    file_ = *model::GgufFile::FromBytes(bytes_);
    const model::ModelConfig config = *model::ModelConfigFromGguf(*file_);
    return ModelShard::Create(*file_,
                              config,
                              {.load = &LoadDeviceModel,
                               .device = {.memory_utilization = 0.5},
                               .compute = kernels::ComputeType::kFloat32,
                               .kv_dtype = kernels::DType::kBF16,
                               .pin_threads = false,
                               .max_batch_tokens = 40,
                               .max_model_len = 512,
                               .kv_cache_bytes = kv_cache_bytes});
  }

  model::TinyModelOptions model_{.head_dim = 64};
  std::string bytes_;
  std::unique_ptr<model::GgufFile> file_;
};

TEST_F(DeviceRoomTest, TheKvCacheTakesWhatIsLeft) {
  kernels::emulation::SetMemoryBytes(int64_t{512} << 20);
  const int64_t before = kernels::emulation::AllocatedBytes();
  {
    const auto shard = Load(/*kv_cache_bytes=*/0);
    ASSERT_TRUE(shard.ok()) << shard.status();
    const int64_t block_bytes = 2 * 2 * 2 * 32 * 64 * 2;  // layers, K and V, heads, tokens, bf16
    EXPECT_EQ((*shard)->kv_cache_bytes(), (*shard)->num_blocks() * block_bytes);
    const int64_t used = kernels::emulation::AllocatedBytes() - before;
    EXPECT_LE(used, int64_t{256} << 20);
    EXPECT_GT(used, (int64_t{256} << 20) - 2 * block_bytes);
  }
  EXPECT_EQ(kernels::emulation::AllocatedBytes(), before);
}

TEST_F(DeviceRoomTest, TooLittleForOneSequenceIsAnErrorThatSaysSo) {
  kernels::emulation::SetMemoryBytes(int64_t{32} << 20);
  const auto shard = Load(/*kv_cache_bytes=*/0);
  EXPECT_EQ(shard.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(shard.status().message()), testing::HasSubstr("GPU memory"));
}

TEST_F(DeviceRoomTest, AKvCacheThatDoesNotFitIsAnError) {
  const auto shard = Load(/*kv_cache_bytes=*/int64_t{2} << 30);
  EXPECT_EQ(shard.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(DeviceRoomTest, HeadsWithoutAKernelAreUnimplemented) {
  model_.head_dim = 32;
  EXPECT_EQ(Load(1 << 20).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace paceline::worker
