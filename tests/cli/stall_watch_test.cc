#include "cli/stall_watch.h"

#include "gtest/gtest.h"

namespace paceline::cli {
namespace {

constexpr int64_t kLeaseMs = 2'000;

// Looks once a second from `*now_ms` on, without progress since `progress_ms`; how many until the
// engine counts as stalled, 100 if never.
int LooksUntilStalled(StallWatch& watch, int64_t* now_ms, int64_t progress_ms) {
  for (int looks = 1; looks < 100; ++looks) {
    *now_ms += kLookMs;
    if (watch.IsStalled(*now_ms, *now_ms - progress_ms)) return looks;
  }
  return 100;
}

TEST(StallWatchTest, EightSecondsWithoutProgressAreAStall) {
  StallWatch watch(kLeaseMs);
  int64_t now = 1'000'000;
  EXPECT_FALSE(watch.IsStalled(now, 0));
  EXPECT_EQ(LooksUntilStalled(watch, &now, 1'000'000 - 1), 8);
}

TEST(StallWatchTest, AnIdleEngineWithALongLeaseIsNotStalled) {
  StallWatch watch(60'000);
  int64_t now = 1'000'000;
  for (int i = 0; i <= 90; ++i) {  // progress at every quarter of the lease
    now += kLookMs;
    EXPECT_FALSE(watch.IsStalled(now, i % 15 * kLookMs + 10));
  }
  EXPECT_EQ(LooksUntilStalled(watch, &now, now - 1), 30);
}

TEST(StallWatchTest, ProgressStartsItAnew) {
  StallWatch watch(kLeaseMs);
  int64_t now = 1'000'000;
  for (int i = 0; i < 100; ++i) {
    now += kLookMs;
    EXPECT_FALSE(watch.IsStalled(now, i % 7 == 0 ? 10 : i % 7 * kLookMs + 10));
  }
}

TEST(StallWatchTest, ATimeInWhichNobodyLookedDoesNotCount) {
  StallWatch watch(kLeaseMs);
  int64_t now = 1'000'000;
  const int64_t progress = now - 1;
  for (int i = 0; i < 50; ++i) {  // stopped for a minute, then woken up, again and again
    for (int look = 0; look < 5; ++look) {
      now += kLookMs;
      EXPECT_FALSE(watch.IsStalled(now, now - progress));
    }
    now += 60'000;
    EXPECT_FALSE(watch.IsStalled(now, now - progress));
  }
  EXPECT_EQ(LooksUntilStalled(watch, &now, progress), 8);
}

}  // namespace
}  // namespace paceline::cli
