#include "worker/cache/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace paceline::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAreArray;

constexpr int32_t kBlockSize = 4;

// All blocks with the same tokens collide, wherever they stand.
BlockHash HashWithoutParent(const BlockHash& parent, absl::Span<const int32_t> tokens) {
  return NextBlockHash(BlockHash{}, tokens);
}
BlockHash ConstantHash(const BlockHash& parent, absl::Span<const int32_t> tokens) { return {7, 7}; }

std::vector<int32_t> Tokens(int32_t count, int32_t first = 100) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

KvCache::Options Small(int32_t num_blocks) {
  KvCache::Options options;
  options.num_blocks = num_blocks;
  options.block_size = kBlockSize;
  options.model_digest = "digest";
  return options;
}

class KvCacheTest : public testing::Test {
 protected:
  explicit KvCacheTest(const KvCache::Options& options = Small(16)) : cache_(options) {}

  BlockTable Bound(std::string_view salt = "") {
    BlockTable table;
    cache_.Bind(table, "", salt);
    return table;
  }
  // Opens and returns the number of cached tokens; -1: refused.
  int32_t Open(BlockTable& table, const std::vector<int32_t>& tokens, int32_t spare = 0) {
    int32_t num_cached = -1;
    return cache_.Open(table, tokens, true, spare, &num_cached) ? num_cached : -1;
  }
  // Computes, publishes and closes `tokens`.
  void Run(const std::vector<int32_t>& tokens, std::string_view salt = "") {
    BlockTable table = Bound(salt);
    ASSERT_GE(Open(table, tokens), 0);
    cache_.Publish(table, tokens);
    cache_.Close(table);
  }
  int32_t CachedTokens(const std::vector<int32_t>& tokens, std::string_view salt = "") {
    BlockTable table = Bound(salt);
    const int32_t cached = Open(table, tokens);
    cache_.Close(table);
    return cached;
  }
  void TearDown() override {
    const absl::Status status = cache_.CheckInvariants();
    EXPECT_TRUE(status.ok()) << status;
  }

  KvCache cache_;
};

TEST_F(KvCacheTest, OpensBlocksForAllTokens) {
  BlockTable table = Bound();
  EXPECT_EQ(Open(table, Tokens(9)), 0);
  EXPECT_EQ(table.ids().size(), 3);
}

TEST_F(KvCacheTest, RefusesToOpenWithoutEnoughBlocks) {
  BlockTable table = Bound();
  EXPECT_EQ(Open(table, Tokens(16 * kBlockSize + 1)), -1);
  EXPECT_TRUE(table.ids().empty());
  EXPECT_EQ(cache_.num_available(), 16);
}

TEST_F(KvCacheTest, RefusesToOpenIntoTheSpareBlocks) {
  BlockTable table = Bound();
  EXPECT_EQ(Open(table, Tokens(8), 15), -1);
  EXPECT_EQ(Open(table, Tokens(8), 14), 0);
}

TEST_F(KvCacheTest, ReusesAPublishedPrefix) {
  Run(Tokens(12));
  EXPECT_EQ(CachedTokens(Tokens(14)), 12);
}

TEST_F(KvCacheTest, NeverTakesTheLastTokenFromTheCache) {
  Run(Tokens(12));
  EXPECT_EQ(CachedTokens(Tokens(12)), 8);
}

TEST_F(KvCacheTest, ReusesOnlyUpToTheFirstDifference) {
  Run(Tokens(12));
  std::vector<int32_t> other = Tokens(14);
  other[5] = 1;
  EXPECT_EQ(CachedTokens(other), 4);
}

TEST_F(KvCacheTest, ReusesWholeBlocksOnly) {
  Run(Tokens(11));
  EXPECT_EQ(CachedTokens(Tokens(14)), 8);
}

TEST_F(KvCacheTest, SharesBlocksWithARunningSequence) {
  BlockTable first = Bound();
  Open(first, Tokens(9));
  cache_.Publish(first, Tokens(9));
  BlockTable second = Bound();
  EXPECT_EQ(Open(second, Tokens(9)), 8);
  EXPECT_EQ(second.ids().first(2), first.ids().first(2));
  EXPECT_NE(second.ids()[2], first.ids()[2]);
  EXPECT_EQ(cache_.stats().used, 4);
}

TEST_F(KvCacheTest, UnpublishedBlocksAreNotShared) {
  BlockTable table = Bound();
  Open(table, Tokens(9));
  cache_.Close(table);
  EXPECT_EQ(CachedTokens(Tokens(9)), 0);
}

TEST_F(KvCacheTest, RequestThatMayNotUseThePrefixStillPublishes) {
  BlockTable table = Bound();
  int32_t num_cached = -1;
  Run(Tokens(5));
  ASSERT_TRUE(cache_.Open(table, Tokens(12), false, 0, &num_cached));
  EXPECT_EQ(num_cached, 0);
  cache_.Publish(table, Tokens(12));
  cache_.Close(table);
  EXPECT_EQ(CachedTokens(Tokens(13)), 12);
}

TEST_F(KvCacheTest, AnotherSaltDoesNotHit) {
  Run(Tokens(12), "tenant a");
  EXPECT_EQ(CachedTokens(Tokens(13), "tenant b"), 0);
  EXPECT_EQ(CachedTokens(Tokens(13)), 0);
  EXPECT_EQ(CachedTokens(Tokens(13), "tenant a"), 12);
}

TEST_F(KvCacheTest, PublishedHashesAreThoseOfTheContract) {
  Run(Tokens(14), "salt");
  EXPECT_THAT(cache_.Hashes(),
              UnorderedElementsAreArray(
                  HashFullBlocks(RootBlockHash("digest", "", "salt"), Tokens(14), kBlockSize)));
}

TEST_F(KvCacheTest, GrowsByOneBlockAtABlockBoundary) {
  BlockTable table = Bound();
  Open(table, Tokens(4));
  EXPECT_FALSE(cache_.HasSlot(table, 4));
  EXPECT_TRUE(cache_.Append(table, 4));
  EXPECT_EQ(table.ids().size(), 2);
  EXPECT_TRUE(cache_.HasSlot(table, 7));
}

TEST_F(KvCacheTest, PublishesBlocksThatFillUpDuringDecode) {
  BlockTable table = Bound();
  Open(table, Tokens(5));
  cache_.Publish(table, Tokens(5));
  cache_.Publish(table, Tokens(7));
  EXPECT_EQ(cache_.Hashes().size(), 1);
  cache_.Publish(table, Tokens(8));
  EXPECT_EQ(cache_.Hashes().size(), 2);
}

TEST_F(KvCacheTest, ForkSharesAllBlocks) {
  BlockTable leader = Bound();
  BlockTable fork = Bound();
  Open(leader, Tokens(6));
  cache_.Fork(leader, fork, 6);
  EXPECT_EQ(fork.ids(), leader.ids());
  EXPECT_EQ(cache_.stats().used, 2);
}

TEST_F(KvCacheTest, FirstWriteAfterAForkCopiesThePartialBlock) {
  BlockTable leader = Bound();
  BlockTable fork = Bound();
  Open(leader, Tokens(6));
  cache_.Fork(leader, fork, 6);
  const int32_t shared = leader.ids()[1];
  EXPECT_FALSE(cache_.HasSlot(leader, 6));
  ASSERT_TRUE(cache_.Append(leader, 6));
  EXPECT_THAT(cache_.copies(), ElementsAre(BlockCopy{shared, leader.ids()[1]}));
  EXPECT_EQ(leader.ids()[0], fork.ids()[0]);
}

TEST_F(KvCacheTest, LastOwnerOfAForkedBlockWritesInPlace) {
  BlockTable leader = Bound();
  BlockTable fork = Bound();
  Open(leader, Tokens(6));
  cache_.Fork(leader, fork, 6);
  const int32_t shared = leader.ids()[1];
  ASSERT_TRUE(cache_.Append(leader, 6));
  ASSERT_TRUE(cache_.Append(fork, 6));
  EXPECT_EQ(fork.ids()[1], shared);
  EXPECT_EQ(cache_.copies().size(), 1);
}

TEST_F(KvCacheTest, ForkAtABlockBoundaryCopiesNothing) {
  BlockTable leader = Bound();
  BlockTable fork = Bound();
  Open(leader, Tokens(8));
  cache_.Fork(leader, fork, 8);
  ASSERT_TRUE(cache_.Append(leader, 8));
  ASSERT_TRUE(cache_.Append(fork, 8));
  EXPECT_THAT(cache_.copies(), IsEmpty());
  EXPECT_NE(leader.ids()[2], fork.ids()[2]);
}

TEST_F(KvCacheTest, CopiedBlockIsNotReusedBeforeTheStepEnds) {
  BlockTable leader = Bound();
  BlockTable fork = Bound();
  Open(leader, Tokens(6));
  cache_.Fork(leader, fork, 6);
  const int32_t shared = leader.ids()[1];
  ASSERT_TRUE(cache_.Append(leader, 6));
  cache_.Close(fork);  // preempted in the same step
  BlockTable other = Bound();
  const int32_t available = cache_.num_available();
  ASSERT_GE(Open(other, Tokens(available * kBlockSize, 500)), 0);
  EXPECT_THAT(other.ids(), testing::Not(testing::Contains(shared)));
  cache_.EndStep();
  EXPECT_EQ(cache_.num_available(), 1);
}

TEST_F(KvCacheTest, EndStepForgetsCopiesAndZeroings) {
  BlockTable leader = Bound();
  BlockTable fork = Bound();
  Open(leader, Tokens(6));
  cache_.Fork(leader, fork, 6);
  cache_.Append(leader, 6);
  cache_.Discard(fork);
  EXPECT_FALSE(cache_.zero_blocks().empty());
  cache_.EndStep();
  EXPECT_THAT(cache_.copies(), IsEmpty());
  EXPECT_THAT(cache_.zero_blocks(), IsEmpty());
}

TEST_F(KvCacheTest, DiscardedBlocksLeaveThePrefixCacheAndAreZeroed) {
  BlockTable table = Bound();
  Open(table, Tokens(10));
  cache_.Publish(table, Tokens(10));
  const std::vector<int32_t> ids(table.ids().begin(), table.ids().end());
  cache_.Discard(table);
  EXPECT_THAT(cache_.zero_blocks(), UnorderedElementsAreArray(ids));
  EXPECT_THAT(cache_.Hashes(), IsEmpty());
  EXPECT_EQ(cache_.stats().free, 16);
}

TEST_F(KvCacheTest, DiscardDoesNotZeroWhatAnotherSequenceUses) {
  Run(Tokens(8));
  BlockTable healthy = Bound();
  BlockTable bad = Bound();
  Open(healthy, Tokens(9));
  Open(bad, Tokens(9));
  cache_.Discard(bad);
  EXPECT_EQ(cache_.zero_blocks().size(), 1);
  EXPECT_THAT(healthy.ids(), testing::Not(testing::Contains(cache_.zero_blocks()[0])));
}

TEST_F(KvCacheTest, FlushForgetsEverythingAndFreesWhatNobodyUses) {
  Run(Tokens(12));
  BlockTable table = Bound();
  Open(table, Tokens(5));
  cache_.Flush();
  EXPECT_THAT(cache_.Hashes(), IsEmpty());
  EXPECT_EQ(cache_.stats().used, 2);
  EXPECT_EQ(cache_.stats().free, 14);
  EXPECT_EQ(CachedTokens(Tokens(13)), 0);
}

TEST_F(KvCacheTest, EvictionIsReportedAsAnEvent) {
  Run(Tokens(4));
  KvEvents events;
  cache_.TakeEvents(events);
  const std::vector<BlockHash> stored = events.stored;
  BlockTable table = Bound();
  ASSERT_EQ(Open(table, Tokens(16 * kBlockSize, 500)), 0);
  cache_.TakeEvents(events);
  EXPECT_EQ(events.removed, stored);
  EXPECT_EQ(cache_.stats().evictions, 1);
}

TEST_F(KvCacheTest, MatchedBlocksAreNotCountedAsRoomForNewOnes) {
  Run(Tokens(16 * kBlockSize));  // everything is evictable
  // 15 of 16 blocks hit; the 2 others needed are not there.
  BlockTable table = Bound();
  EXPECT_EQ(Open(table, Tokens(16 * kBlockSize + 1)), -1);
  EXPECT_EQ(Open(table, Tokens(16 * kBlockSize)), 15 * kBlockSize);
}

TEST_F(KvCacheTest, OffersItsOwnBlocksAgainWhenTheSharedCopyWasEvicted) {
  BlockTable twin = Bound();
  BlockTable original = Bound();
  Open(original, Tokens(8));
  Open(twin, Tokens(8));  // before the other published: its own copies
  cache_.Publish(original, Tokens(8));
  cache_.Publish(twin, Tokens(8));
  cache_.Close(original);
  BlockTable other = Bound();
  ASSERT_GE(Open(other, Tokens(cache_.num_available() * kBlockSize, 500)), 0);
  EXPECT_THAT(cache_.Hashes(), IsEmpty());
  cache_.Close(other);
  ASSERT_TRUE(cache_.Append(twin, 8));
  cache_.Publish(twin, Tokens(12));
  EXPECT_EQ(CachedTokens(Tokens(13)), 12);
}

TEST_F(KvCacheTest, CountsQueriedAndHitTokens) {
  Run(Tokens(8));
  CachedTokens(Tokens(9));
  EXPECT_EQ(cache_.stats().queried_tokens, 17);
  EXPECT_EQ(cache_.stats().hit_tokens, 8);
}

TEST_F(KvCacheTest, ReferenceCheckFindsALeak) {
  BlockTable table = Bound();
  Open(table, Tokens(5));
  const BlockTable* all[] = {&table};
  EXPECT_TRUE(cache_.CheckReferences(all).ok());
  EXPECT_FALSE(cache_.CheckReferences({}).ok());
}

int32_t CachedAfter(KvCache& cache,
                    const std::vector<std::vector<int32_t>>& published,
                    const std::vector<int32_t>& asked,
                    std::string_view salt) {
  for (const std::vector<int32_t>& tokens : published) {
    BlockTable table;
    cache.Bind(table, "", "");
    int32_t ignored = 0;
    EXPECT_TRUE(cache.Open(table, tokens, true, 0, &ignored));
    cache.Publish(table, tokens);
    cache.Close(table);
  }
  BlockTable table;
  cache.Bind(table, "", salt);
  int32_t num_cached = -1;
  EXPECT_TRUE(cache.Open(table, asked, true, 0, &num_cached));
  cache.Close(table);
  EXPECT_TRUE(cache.CheckInvariants().ok());
  return num_cached;
}

TEST(KvCacheCollisionsTest, ForgedCollisionOfTokensIsAMiss) {
  KvCache::Options options = Small(16);
  options.hash = &ConstantHash;
  KvCache cache(options);
  EXPECT_EQ(CachedAfter(cache, {Tokens(4, 100)}, Tokens(5, 200), ""), 0);
}

TEST(KvCacheCollisionsTest, ForgedCollisionOfPrefixesIsAMiss) {
  KvCache::Options options = Small(16);
  options.hash = &HashWithoutParent;
  KvCache cache(options);
  const std::vector<int32_t> first = {1, 1, 1, 1, 9, 9, 9, 9};
  const std::vector<int32_t> second = {2, 2, 2, 2};
  // The second block of `asked` has hash and tokens of a published one that follows another block.
  EXPECT_EQ(CachedAfter(cache, {first, second}, {2, 2, 2, 2, 9, 9, 9, 9, 5}, ""), 4);
}

TEST(KvCacheCollisionsTest, ForgedCollisionOfSaltsIsAMiss) {
  KvCache::Options options = Small(16);
  options.hash = &HashWithoutParent;
  KvCache cache(options);
  EXPECT_EQ(CachedAfter(cache, {Tokens(8)}, Tokens(9), "other tenant"), 0);
  EXPECT_EQ(CachedAfter(cache, {}, Tokens(9), ""), 8);
}

TEST(KvCacheOptionsTest, WithoutPrefixCachingNothingIsReused) {
  KvCache::Options options = Small(16);
  options.prefix_caching = false;
  KvCache cache(options);
  EXPECT_EQ(CachedAfter(cache, {Tokens(8)}, Tokens(9), ""), 0);
  EXPECT_EQ(cache.stats().free, 16);
}

}  // namespace
}  // namespace paceline::worker
