#include "router/admission/fair_queue.h"

#include <map>
#include <string>

#include "gtest/gtest.h"

namespace paceline::router {
namespace {

QueueItem Item(uint64_t id, const std::string& tenant = "t", int32_t priority = 0) {
  return {.id = id, .model = "m", .tenant = tenant, .priority = priority, .prompt_tokens = 10};
}

uint64_t TakeNext(FairQueue& queue, int64_t charge = 0) {
  const QueueItem* next = queue.Next("m");
  if (next == nullptr) return 0;
  const QueueItem item = *queue.Remove(next->id);
  queue.Charge(item.tenant, charge);
  return item.id;
}

TEST(FairQueueTest, KeepsTheOrderOfArrivalWithinATenant) {
  FairQueue queue({});
  for (uint64_t id = 1; id <= 3; ++id) queue.Push(Item(id));
  EXPECT_EQ(TakeNext(queue), 1U);
  EXPECT_EQ(TakeNext(queue), 2U);
  EXPECT_EQ(TakeNext(queue), 3U);
  EXPECT_EQ(TakeNext(queue), 0U);
}

TEST(FairQueueTest, LowerPriorityNumbersGoFirstWithinATenant) {
  FairQueue queue({});
  queue.Push(Item(1, "t", 5));
  queue.Push(Item(2, "t", -5));
  queue.Push(Item(3, "t", 5));
  EXPECT_EQ(TakeNext(queue), 2U);
  EXPECT_EQ(TakeNext(queue), 1U);
}

TEST(FairQueueTest, PrioritiesDoNotReachAcrossTenants) {
  FairQueue queue({});
  uint64_t id = 1;
  for (int i = 0; i < 10; ++i) queue.Push(Item(id++, "greedy", -1000));
  queue.Push(Item(id, "modest", 1000));
  int position = 0;
  while (TakeNext(queue, 100) != id) ++position;
  EXPECT_LE(position, 1);
}

TEST(FairQueueTest, AFloodDoesNotStarveAnotherTenant) {
  FairQueue queue({});
  uint64_t id = 1;
  for (; id <= 100; ++id) queue.Push(Item(id, "flood"));
  for (; id <= 110; ++id) queue.Push(Item(id, "small"));
  int small = 0;
  for (int i = 0; i < 20; ++i) small += TakeNext(queue, 50) > 100 ? 1 : 0;
  EXPECT_EQ(small, 10);
}

TEST(FairQueueTest, ServiceIsCountedInTokensNotRequests) {
  FairQueue queue({});
  uint64_t id = 1;
  for (; id <= 50; ++id) queue.Push(Item(id, "long"));
  for (; id <= 100; ++id) queue.Push(Item(id, "short"));
  std::map<bool, int> count;
  for (int i = 0; i < 44; ++i) {
    const bool is_short = queue.Next("m")->tenant == "short";
    TakeNext(queue, is_short ? 10 : 100);
    ++count[is_short];
  }
  EXPECT_NEAR(count[true], 40, 2);
  EXPECT_NEAR(count[false], 4, 2);
}

TEST(FairQueueTest, ATenantThatWasAwayHasSavedNothingUp) {
  FairQueue queue({});
  queue.Push(Item(1, "new"));
  TakeNext(queue);  // known, with a counter of 0
  uint64_t id = 2;
  for (; id <= 41; ++id) queue.Push(Item(id, "old"));
  for (int i = 0; i < 20; ++i) TakeNext(queue, 1000);
  for (; id <= 60; ++id) queue.Push(Item(id, "new"));
  int of_new = 0;
  for (int i = 0; i < 10; ++i) {
    of_new += queue.Next("m")->tenant == "new" ? 1 : 0;
    TakeNext(queue, 1000);
  }
  EXPECT_NEAR(of_new, 5, 1);
}

TEST(FairQueueTest, IsBoundedInRequestsAndInPromptTokens) {
  FairQueue queue({.max_requests = 3, .max_prompt_tokens = 25});
  EXPECT_TRUE(queue.HasRoom(1, 1000));  // alone, even a large one
  queue.Push(Item(1));
  EXPECT_TRUE(queue.HasRoom(1, 15));
  EXPECT_FALSE(queue.HasRoom(1, 16));
  queue.Push(Item(2));
  EXPECT_TRUE(queue.HasRoom(1, 5));
  EXPECT_FALSE(queue.HasRoom(2, 0));
  queue.Remove(1);
  EXPECT_EQ(queue.prompt_tokens(), 10);
  EXPECT_TRUE(queue.HasRoom(2, 0));
}

TEST(FairQueueTest, LinesOfModelsAreApart) {
  FairQueue queue({});
  QueueItem other = Item(7);
  other.model = "other";
  queue.Push(other);
  queue.Push(Item(8));
  EXPECT_EQ(queue.Next("m")->id, 8U);
  EXPECT_EQ(queue.Next("other")->id, 7U);
  EXPECT_EQ(queue.Next("none"), nullptr);
  EXPECT_EQ(queue.num_requests("other"), 1);
}

TEST(FairQueueTest, RemovesFromTheMiddleAndTellsTheOldest) {
  FairQueue queue({});
  for (uint64_t id = 1; id <= 3; ++id) {
    QueueItem item = Item(id);
    item.enqueued_ns = static_cast<int64_t>(id * 100);
    queue.Push(item);
  }
  EXPECT_EQ(queue.oldest_ns(), 100);
  EXPECT_TRUE(queue.Remove(2).has_value());
  EXPECT_FALSE(queue.Remove(2).has_value());
  EXPECT_EQ(TakeNext(queue), 1U);
  EXPECT_EQ(queue.oldest_ns(), 300);
  EXPECT_EQ(TakeNext(queue), 3U);
  EXPECT_EQ(queue.oldest_ns(), 0);
  EXPECT_EQ(queue.prompt_tokens(), 0);
}

}  // namespace
}  // namespace paceline::router
