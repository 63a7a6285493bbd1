#include "router/admission/rates.h"

#include "gtest/gtest.h"

namespace paceline::router {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

TEST(SlidingCountTest, ForgetsWhatIsOlderThanTheWindow) {
  SlidingCount count;
  count.Add(100 * kSecond, 5);
  count.Add(105 * kSecond, 7);
  EXPECT_EQ(count.Sum(109 * kSecond), 12);
  EXPECT_EQ(count.Sum(110 * kSecond), 7);
  EXPECT_EQ(count.Sum(115 * kSecond), 0);
  EXPECT_EQ(count.Sum(1000 * kSecond), 0);
}

TEST(RetryAfterTest, FollowsTheDrainRateWithinItsLimits) {
  EXPECT_EQ(RetryAfterMs(100, 100), 10'000);  // 10 a second
  EXPECT_EQ(RetryAfterMs(100, 1'000'000), 1'000);
  EXPECT_EQ(RetryAfterMs(1'000'000, 1), 60'000);
  EXPECT_EQ(RetryAfterMs(10, 0), 5'000);
}

TEST(RetryBudgetTest, AllowsAFloorAndThenAShareOfTheRequests) {
  RetryBudget budget({.ratio = 0.1, .min_per_second = 1});
  int taken = 0;
  while (budget.Take(50 * kSecond)) ++taken;
  EXPECT_EQ(taken, 10);  // one a second over the window
  for (int i = 0; i < 300; ++i) budget.CountRequest(51 * kSecond);
  while (budget.Take(51 * kSecond)) ++taken;
  EXPECT_EQ(taken, 30);
  EXPECT_TRUE(budget.Take(70 * kSecond));
}

}  // namespace
}  // namespace paceline::router
