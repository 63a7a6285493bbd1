// Copies and clearing of KV blocks for CUDA, in emulation.
#include <numeric>

#include "gtest/gtest.h"
#include "kernels/emulation/grid.h"
#include "kernels/kv_cache/kv_blocks_device.h"
#include "tests/kernels/emulation/device_array.h"

namespace paceline::kernels {
namespace {

constexpr int32_t kBlocks = 7, kLayers = 3;
constexpr int64_t kBlockWords = 4100;  // more than a thread block moves, and not a multiple of it

// Every word is different.
std::vector<uint32_t> Words() {
  std::vector<uint32_t> words(kLayers * kBlocks * kBlockWords);
  std::iota(words.begin(), words.end(), 1u);
  return words;
}
DeviceKvBlocks View(DeviceArray<uint32_t>& words) {
  return {.base = words.data(),
          .layer_bytes = kBlocks * kBlockWords * 4,
          .block_bytes = kBlockWords * 4,
          .num_layers = kLayers};
}

TEST(DeviceKvBlocksTest, CopiesBlocksInAllLayersAndNothingElse) {
  emulation::SetSeed(3);
  DeviceArray<uint32_t> words(Words());
  const std::vector<BlockCopy> copies = {{0, 6}, {2, 1}, {0, 3}};
  const absl::Status status = DeviceCopyBlocks(nullptr, View(words), copies);
  ASSERT_TRUE(status.ok()) << status;
  const int32_t source[kBlocks] = {0, 2, 2, 0, 4, 5, 0};
  const std::vector<uint32_t> before = Words();
  for (int64_t i = 0; i < static_cast<int64_t>(before.size()); ++i) {
    const int64_t block = i / kBlockWords % kBlocks;
    ASSERT_EQ(words[i], before[i + (source[block] - block) * kBlockWords]) << i;
  }
}

TEST(DeviceKvBlocksTest, ClearsBlocksInAllLayersAndNothingElse) {
  emulation::SetSeed(4);
  DeviceArray<uint32_t> words(Words());
  const absl::Status status = DeviceZeroBlocks(nullptr, View(words), {5, 0});
  ASSERT_TRUE(status.ok()) << status;
  const std::vector<uint32_t> before = Words();
  for (int64_t i = 0; i < static_cast<int64_t>(before.size()); ++i) {
    const int64_t block = i / kBlockWords % kBlocks;
    ASSERT_EQ(words[i], block == 0 || block == 5 ? 0u : before[i]) << i;
  }
}

// More than go with one launch.
TEST(DeviceKvBlocksTest, ListsMayBeLong) {
  constexpr int32_t kCount = 600;
  std::vector<uint32_t> numbers(2 * kCount * 4);
  std::iota(numbers.begin(), numbers.end(), 1u);
  DeviceArray<uint32_t> words(numbers);
  const DeviceKvBlocks blocks{
      .base = words.data(), .layer_bytes = 2 * kCount * 16, .block_bytes = 16, .num_layers = 1};
  std::vector<BlockCopy> copies;
  std::vector<int32_t> sources;
  for (int32_t i = 0; i < kCount; ++i) {
    copies.push_back({i, kCount + i});
    sources.push_back(i);
  }
  ASSERT_TRUE(DeviceCopyBlocks(nullptr, blocks, copies).ok());
  ASSERT_TRUE(DeviceZeroBlocks(nullptr, blocks, sources).ok());
  for (int32_t i = 0; i < kCount * 4; ++i) {
    ASSERT_EQ(words[i], 0u) << i;
    ASSERT_EQ(words[kCount * 4 + i], numbers[i]) << i;
  }
}

TEST(DeviceKvBlocksTest, WrongSizesAreInvalid) {
  DeviceArray<uint32_t> words(4);
  DeviceKvBlocks blocks{.base = words.data(), .layer_bytes = 16, .block_bytes = 8, .num_layers = 1};
  EXPECT_EQ(DeviceZeroBlocks(nullptr, blocks, {0}).code(), absl::StatusCode::kInvalidArgument);
  blocks.block_bytes = 16;
  blocks.num_layers = 0;
  EXPECT_EQ(DeviceZeroBlocks(nullptr, blocks, {0}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace paceline::kernels
