#include "worker/sched/running_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace paceline::worker {
namespace {

using testing::ElementsAre;

class RunningSetTest : public testing::Test {
 protected:
  RunningSetTest() {
    for (int i = 0; i < 6; ++i) sequences_[i].order.number = i;
  }
  Sequence* At(int i) { return &sequences_[i]; }
  std::vector<uint64_t> Members() {
    set_.Compact();
    std::vector<uint64_t> numbers;
    for (const RunningSet::Slot& slot : set_.slots()) numbers.push_back(slot.order.number);
    return numbers;
  }

  Sequence sequences_[6];
  RunningSet set_;
};

TEST_F(RunningSetTest, KeepsOrderWhateverTheOrderOfInsertion) {
  for (const int i : {3, 0, 5, 1}) set_.Insert(At(i));
  EXPECT_THAT(Members(), ElementsAre(0, 1, 3, 5));
}

TEST_F(RunningSetTest, PriorityComesBeforeArrival) {
  sequences_[4].order.priority = -1;
  for (const int i : {0, 1, 4}) set_.Insert(At(i));
  EXPECT_EQ(set_.front(), At(4));
}

TEST_F(RunningSetTest, RemovalLeavesPositionsAsTheyAre) {
  for (const int i : {0, 1, 2}) set_.Insert(At(i));
  set_.Remove(At(1));
  ASSERT_EQ(set_.slots().size(), 3);
  EXPECT_EQ(set_.slots()[1].sequence, nullptr);
  EXPECT_EQ(set_.size(), 2);
}

TEST_F(RunningSetTest, FrontAndBackSkipHoles) {
  for (const int i : {0, 1, 2, 3}) set_.Insert(At(i));
  set_.Remove(At(0));
  set_.Remove(At(3));
  EXPECT_EQ(set_.front(), At(1));
  EXPECT_EQ(set_.back(), At(2));
}

TEST_F(RunningSetTest, InsertionReusesAHole) {
  for (const int i : {0, 2, 4}) set_.Insert(At(i));
  set_.Remove(At(2));
  set_.Insert(At(3));
  EXPECT_EQ(set_.slots().size(), 3);
  EXPECT_THAT(Members(), ElementsAre(0, 3, 4));
}

TEST_F(RunningSetTest, FrontFindsASequenceInsertedBeforeIt) {
  for (const int i : {0, 1, 3}) set_.Insert(At(i));
  set_.Remove(At(0));
  EXPECT_EQ(set_.front(), At(1));
  set_.Insert(At(0));
  EXPECT_EQ(set_.front(), At(0));
}

TEST_F(RunningSetTest, KnowsItsMembers) {
  set_.Insert(At(1));
  EXPECT_TRUE(set_.Contains(At(1)));
  EXPECT_FALSE(set_.Contains(At(2)));
  set_.Remove(At(1));
  EXPECT_FALSE(set_.Contains(At(1)));
  EXPECT_TRUE(set_.empty());
}

}  // namespace
}  // namespace paceline::worker
