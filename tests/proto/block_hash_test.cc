#include "proto/block_hash.h"

#include <numeric>

#include "absl/container/flat_hash_set.h"
#include "gtest/gtest.h"

namespace paceline {
namespace {

std::vector<int32_t> Iota(int32_t count, int32_t first = 0) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

TEST(BlockHashTest, OnlyFullBlocksAreHashed) {
  const BlockHash root = RootBlockHash("m", "", "");
  EXPECT_EQ(HashFullBlocks(root, Iota(31), 32).size(), 0U);
  EXPECT_EQ(HashFullBlocks(root, Iota(32), 32).size(), 1U);
  EXPECT_EQ(HashFullBlocks(root, Iota(95), 32).size(), 2U);
}

TEST(BlockHashTest, AHashCoversThePrefixBeforeIt) {
  const BlockHash root = RootBlockHash("m", "", "");
  std::vector<int32_t> a = Iota(96);
  std::vector<int32_t> b = a;
  b[3] = 1000;
  const auto ha = HashFullBlocks(root, a, 32);
  const auto hb = HashFullBlocks(root, b, 32);
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(ha[i] == hb[i]) << i;
  b = a;
  b[40] = 1000;
  const auto hc = HashFullBlocks(root, b, 32);
  EXPECT_EQ(ha[0], hc[0]);
  EXPECT_FALSE(ha[1] == hc[1]);
  EXPECT_FALSE(ha[2] == hc[2]);
}

TEST(BlockHashTest, ModelAdapterAndSaltSeparate) {
  absl::flat_hash_set<BlockHash> roots = {RootBlockHash("m", "", ""),
                                          RootBlockHash("n", "", ""),
                                          RootBlockHash("m", "a", ""),
                                          RootBlockHash("m", "", "a"),
                                          RootBlockHash("", "m", "")};
  EXPECT_EQ(roots.size(), 5U);
}

// Router and worker may be different builds: the values are part of the protocol.
TEST(BlockHashTest, ValuesAreFrozen) {
  const BlockHash root = RootBlockHash("model", "", "tenant");
  const BlockHash block = NextBlockHash(root, Iota(32));
  EXPECT_EQ(root.high, 3552119949911526297ULL);
  EXPECT_EQ(block.low, 16855992481762204052ULL);
}

TEST(BlockHashTest, NearbyBlocksDoNotCollide) {
  absl::flat_hash_set<uint64_t> high;
  absl::flat_hash_set<uint64_t> low;
  const BlockHash root = RootBlockHash("m", "", "");
  constexpr int kCount = 200'000;
  for (int i = 0; i < kCount; ++i) {
    std::vector<int32_t> ids(4, 7);
    ids[i % 4] = i;
    ids[(i + 1) % 4] = i / 4;
    const BlockHash h = NextBlockHash(root, ids);
    high.insert(h.high);
    low.insert(h.low);
  }
  EXPECT_EQ(high.size(), kCount);
  EXPECT_EQ(low.size(), kCount);
}

}  // namespace
}  // namespace paceline
