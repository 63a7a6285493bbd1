#include "worker/cache/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace paceline::worker {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr BlockHash kHashA{1, 1};
constexpr BlockHash kHashB{2, 2};

class PrefixCacheTest : public testing::Test {
 protected:
  PrefixCache::Outcome Store(int32_t block,
                             const BlockHash& hash,
                             const PrefixCache::Link& parent,
                             const std::vector<int32_t>& tokens) {
    return cache_.Store(block, hash, parent, tokens, &link_, &displaced_);
  }
  void TearDown() override { EXPECT_TRUE(cache_.CheckInvariants().ok()); }

  PrefixCache cache_{8, 2};
  PrefixCache::Link root_{-1, cache_.RootId("", "")};
  PrefixCache::Link link_;
  int32_t displaced_ = -1;
  KvEvents events_;
};

TEST_F(PrefixCacheTest, FindsWhatWasStored) {
  EXPECT_EQ(Store(3, kHashA, root_, {5, 6}), PrefixCache::Outcome::kStored);
  EXPECT_EQ(cache_.Find(kHashA, root_, {5, 6}), 3);
}

TEST_F(PrefixCacheTest, MissesOnAnUnknownHash) {
  EXPECT_EQ(cache_.Find(kHashA, root_, {5, 6}), -1);
}

TEST_F(PrefixCacheTest, EqualHashWithOtherTokensIsAMiss) {
  Store(3, kHashA, root_, {5, 6});
  EXPECT_EQ(cache_.Find(kHashA, root_, {5, 7}), -1);
}

TEST_F(PrefixCacheTest, EqualHashAndTokensAfterAnotherBlockIsAMiss) {
  Store(3, kHashA, root_, {5, 6});
  const PrefixCache::Link first = link_;
  Store(4, kHashB, first, {7, 8});
  EXPECT_EQ(cache_.Find(kHashB, first, {7, 8}), 4);
  EXPECT_EQ(cache_.Find(kHashB, root_, {7, 8}), -1);
}

TEST_F(PrefixCacheTest, EqualHashAndTokensUnderAnotherSaltIsAMiss) {
  Store(3, kHashA, root_, {5, 6});
  const PrefixCache::Link other{-1, cache_.RootId("", "other")};
  EXPECT_EQ(cache_.Find(kHashA, other, {5, 6}), -1);
}

TEST_F(PrefixCacheTest, ARootIdNamesAdapterAndSaltSeparately) {
  EXPECT_NE(cache_.RootId("a", "bc"), cache_.RootId("ab", "c"));
  EXPECT_EQ(cache_.RootId("a", "bc"), cache_.RootId("a", "bc"));
}

TEST_F(PrefixCacheTest, ManySaltsDoNotMixUpPublishedBlocks) {
  Store(3, kHashA, root_, {5, 6});
  for (int i = 0; i < 10'000; ++i) cache_.RootId("", std::to_string(i));
  EXPECT_EQ(cache_.RootId("", ""), root_.generation);
  EXPECT_EQ(cache_.Find(kHashA, root_, {5, 6}), 3);
}

TEST_F(PrefixCacheTest, SameContentTwiceKeepsTheFirst) {
  Store(3, kHashA, root_, {5, 6});
  const PrefixCache::Link first = link_;
  EXPECT_EQ(Store(4, kHashA, root_, {5, 6}), PrefixCache::Outcome::kDuplicate);
  EXPECT_EQ(link_, first);
  EXPECT_EQ(cache_.Find(kHashA, root_, {5, 6}), 3);
}

TEST_F(PrefixCacheTest, CollisionKeepsTheFirst) {
  Store(3, kHashA, root_, {5, 6});
  EXPECT_EQ(Store(4, kHashA, root_, {5, 7}), PrefixCache::Outcome::kCollision);
  EXPECT_EQ(cache_.Find(kHashA, root_, {5, 6}), 3);
}

TEST_F(PrefixCacheTest, EntryWhoseParentIsGoneGivesWay) {
  Store(3, kHashA, root_, {5, 6});
  Store(4, kHashB, link_, {7, 8});
  cache_.Remove(3);
  Store(5, kHashA, root_, {5, 6});
  const PrefixCache::Link parent = link_;
  EXPECT_EQ(cache_.Find(kHashB, parent, {7, 8}), -1);
  EXPECT_EQ(Store(6, kHashB, parent, {7, 8}), PrefixCache::Outcome::kStored);
  EXPECT_EQ(displaced_, 4);
  EXPECT_EQ(cache_.Find(kHashB, parent, {7, 8}), 6);
}

TEST_F(PrefixCacheTest, RemovedBlockIsNotFound) {
  Store(3, kHashA, root_, {5, 6});
  cache_.Remove(3);
  EXPECT_EQ(cache_.Find(kHashA, root_, {5, 6}), -1);
  EXPECT_EQ(cache_.size(), 0);
}

TEST_F(PrefixCacheTest, EventsNameWhatChanged) {
  Store(3, kHashA, root_, {5, 6});
  cache_.TakeEvents(events_);
  EXPECT_THAT(events_.stored, ElementsAre(kHashA));
  EXPECT_THAT(events_.removed, IsEmpty());
  Store(4, kHashB, root_, {7, 8});
  cache_.Remove(3);
  cache_.TakeEvents(events_);
  EXPECT_THAT(events_.stored, ElementsAre(kHashB));
  EXPECT_THAT(events_.removed, ElementsAre(kHashA));
}

TEST_F(PrefixCacheTest, EventsAreTakenOnce) {
  Store(3, kHashA, root_, {5, 6});
  cache_.TakeEvents(events_);
  cache_.TakeEvents(events_);
  EXPECT_TRUE(events_.empty());
}

TEST_F(PrefixCacheTest, StoredAndRemovedBetweenTwoTakesIsNoEvent) {
  Store(3, kHashA, root_, {5, 6});
  Store(4, kHashB, root_, {7, 8});
  cache_.Remove(3);
  cache_.TakeEvents(events_);
  EXPECT_THAT(events_.stored, ElementsAre(kHashB));
  EXPECT_THAT(events_.removed, IsEmpty());
}

TEST_F(PrefixCacheTest, RemovedAndStoredBetweenTwoTakesIsNoEvent) {
  Store(3, kHashA, root_, {5, 6});
  cache_.TakeEvents(events_);
  cache_.Remove(3);
  Store(5, kHashA, root_, {5, 6});
  cache_.TakeEvents(events_);
  EXPECT_TRUE(events_.empty());
}

TEST_F(PrefixCacheTest, HashesListsAllThatIsStored) {
  Store(3, kHashA, root_, {5, 6});
  Store(4, kHashB, root_, {7, 8});
  EXPECT_THAT(cache_.Hashes(), UnorderedElementsAre(kHashA, kHashB));
}

}  // namespace
}  // namespace paceline::worker
