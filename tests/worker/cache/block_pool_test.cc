#include "worker/cache/block_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "proto/support/log.h"

namespace paceline::worker {
namespace {

using testing::ElementsAre;

class BlockPoolTest : public testing::Test {
 protected:
  bool Allocate(int32_t count, BlockList& list) {
    return pool_.Allocate(count, list, [this](int32_t block) { evicted_.push_back(block); });
  }
  // A list of one cached block.
  BlockList Cached() {
    BlockList list(&pool_);
    EXPECT_TRUE(Allocate(1, list));
    pool_.SetCached(list.back(), true);
    return list;
  }
  void TearDown() override { EXPECT_TRUE(pool_.CheckInvariants().ok()); }

  BlockPool pool_{4};
  std::vector<int32_t> evicted_;
};

TEST_F(BlockPoolTest, StartsWithAllBlocksFree) {
  EXPECT_EQ(pool_.num_free(), 4);
  EXPECT_EQ(pool_.num_used(), 0);
  EXPECT_EQ(pool_.num_evictable(), 0);
}

TEST_F(BlockPoolTest, GivesEachBlockOnce) {
  BlockList list(&pool_);
  ASSERT_TRUE(Allocate(4, list));
  EXPECT_THAT(list.ids(), testing::UnorderedElementsAre(0, 1, 2, 3));
}

TEST_F(BlockPoolTest, RefusesMoreThanAvailableAndChangesNothing) {
  BlockList held(&pool_);
  ASSERT_TRUE(Allocate(3, held));
  BlockList list(&pool_);
  EXPECT_FALSE(Allocate(2, list));
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(pool_.num_free(), 1);
}

TEST_F(BlockPoolTest, ReturnsBlocksWhenListIsDestroyed) {
  {
    BlockList list(&pool_);
    ASSERT_TRUE(Allocate(3, list));
    EXPECT_EQ(pool_.num_used(), 3);
  }
  EXPECT_EQ(pool_.num_free(), 4);
}

TEST_F(BlockPoolTest, MovedListReturnsItsBlocksOnce) {
  BlockList list(&pool_);
  ASSERT_TRUE(Allocate(2, list));
  { BlockList moved = std::move(list); }
  EXPECT_EQ(pool_.num_free(), 4);
}

TEST_F(BlockPoolTest, SharedBlockIsFreedByItsLastReference) {
  BlockList first(&pool_);
  ASSERT_TRUE(Allocate(1, first));
  pool_.Ref(first.back());
  BlockList second(&pool_);
  second.push_back(first.back());
  first.clear();
  EXPECT_EQ(pool_.num_used(), 1);
  second.clear();
  EXPECT_EQ(pool_.num_used(), 0);
}

TEST_F(BlockPoolTest, CachedBlockBecomesEvictableWhenUnreferenced) {
  BlockList list = Cached();
  EXPECT_EQ(pool_.num_evictable(), 0);
  list.clear();
  EXPECT_EQ(pool_.num_evictable(), 1);
  EXPECT_EQ(pool_.num_free(), 3);
}

TEST_F(BlockPoolTest, TakesFreeBlocksBeforeEvictingCachedOnes) {
  Cached().clear();
  BlockList list(&pool_);
  ASSERT_TRUE(Allocate(3, list));
  EXPECT_TRUE(evicted_.empty());
  ASSERT_TRUE(Allocate(1, list));
  EXPECT_EQ(evicted_.size(), 1);
}

TEST_F(BlockPoolTest, EvictsTheLeastRecentlyUsedFirst) {
  std::vector<BlockList> lists;
  for (int i = 0; i < 4; ++i) lists.push_back(Cached());
  const std::vector<int32_t> order = {
      lists[2].back(), lists[0].back(), lists[3].back(), lists[1].back()};
  for (const int i : {2, 0, 3, 1}) lists[i].clear();
  BlockList list(&pool_);
  ASSERT_TRUE(Allocate(4, list));
  EXPECT_EQ(evicted_, order);
}

TEST_F(BlockPoolTest, UseMakesACachedBlockTheMostRecent) {
  BlockList a = Cached();
  BlockList b = Cached();
  const int32_t block_a = a.back();
  const int32_t block_b = b.back();
  a.clear();
  b.clear();
  pool_.Ref(block_a);
  pool_.Release({&block_a, 1});
  BlockList list(&pool_);
  ASSERT_TRUE(Allocate(4, list));
  EXPECT_THAT(evicted_, ElementsAre(block_b, block_a));
}

TEST_F(BlockPoolTest, EndOfAListIsEvictedBeforeItsStart) {
  BlockList list(&pool_);
  ASSERT_TRUE(Allocate(3, list));
  const std::vector<int32_t> ids(list.ids().begin(), list.ids().end());
  for (const int32_t id : ids) pool_.SetCached(id, true);
  list.clear();
  BlockList all(&pool_);
  ASSERT_TRUE(Allocate(4, all));
  EXPECT_THAT(evicted_, ElementsAre(ids[2], ids[1], ids[0]));
}

TEST_F(BlockPoolTest, ReferencedCachedBlockIsNeverEvicted) {
  BlockList list = Cached();
  BlockList rest(&pool_);
  EXPECT_TRUE(Allocate(3, rest));
  EXPECT_FALSE(Allocate(1, rest));
}

TEST_F(BlockPoolTest, UncachingAnEvictableBlockFreesIt) {
  BlockList list = Cached();
  const int32_t block = list.back();
  list.clear();
  pool_.SetCached(block, false);
  EXPECT_EQ(pool_.num_free(), 4);
  EXPECT_EQ(pool_.num_evictable(), 0);
}

TEST_F(BlockPoolTest, HeldBlockIsNotReusedBeforeEndHold) {
  BlockList list(&pool_);
  ASSERT_TRUE(Allocate(1, list));
  pool_.Hold(list.back());
  list.clear();
  EXPECT_EQ(pool_.num_used(), 1);
  BlockList rest(&pool_);
  EXPECT_FALSE(Allocate(4, rest));
  pool_.EndHold();
  EXPECT_EQ(pool_.num_free(), 4);
}

TEST_F(BlockPoolTest, DoubleReleaseDies) {
  const int32_t block = 0;
  InitLog("test", "info", LogFormat::kText);  // to stderr, where it is looked for
  EXPECT_DEATH(pool_.Release({&block, 1}), "released twice");
}

TEST_F(BlockPoolTest, ReferenceToAFreeBlockDies) {
  InitLog("test", "info", LogFormat::kText);
  EXPECT_DEATH(pool_.Ref(0), "free block");
}

}  // namespace
}  // namespace paceline::worker
