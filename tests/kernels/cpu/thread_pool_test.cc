#include "kernels/cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace paceline::kernels {
namespace {

TEST(SplitWorkTest, PartsAreConsecutiveAndNearlyEqual) {
  for (int64_t count : {0, 1, 5, 16, 1000}) {
    for (int64_t parts : {1, 2, 3, 7}) {
      int64_t at = 0;
      for (int64_t part = 0; part < parts; ++part) {
        const WorkRange range = SplitWork(count, part, parts);
        EXPECT_EQ(range.begin, at);
        EXPECT_LE(range.end - range.begin, count / parts + 1);
        at = range.end;
      }
      EXPECT_EQ(at, count);
    }
  }
}

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, EveryItemRunsOnceInEveryRegion) {
  ThreadPool pool(GetParam(), false);
  for (int64_t count : {0, 1, 2, 3, 64, 1000}) {
    for (int repeat = 0; repeat < 200; ++repeat) {
      std::vector<int> runs(count);  // not atomic: a data race here is a bug
      pool.ForEach(count, [&](int thread, int64_t item) {
        ASSERT_LT(thread, pool.num_threads());
        ++runs[item];
      });
      ASSERT_EQ(std::count(runs.begin(), runs.end(), 1), count);
    }
  }
}

TEST_P(ThreadPoolTest, WritesOfOneRegionAreSeenByTheNext) {
  ThreadPool pool(GetParam(), false);
  std::vector<int64_t> values(64, 0);
  for (int step = 0; step < 2000; ++step) {
    pool.ForEach(64, [&](int, int64_t i) { values[i] = values[i] + i; });
  }
  for (int64_t i = 0; i < 64; ++i) EXPECT_EQ(values[i], 2000 * i);
}

TEST_P(ThreadPoolTest, RunCallsEveryPartOnce) {
  ThreadPool pool(GetParam(), true);
  std::vector<int> runs(GetParam());
  pool.Run([&](int part, int num_parts) {
    EXPECT_EQ(num_parts, GetParam());
    ++runs[part];
  });
  EXPECT_EQ(runs, std::vector<int>(GetParam(), 1));
}

TEST_P(ThreadPoolTest, ForRangeCoversEverythingOnceWhateverTheCost) {
  ThreadPool pool(GetParam(), false);
  for (int64_t cost : {0, 1, 100, 1000000}) {
    for (int64_t count : {0, 1, 17, 500}) {
      std::vector<int> runs(count);
      pool.ForRange(count, cost, [&](WorkRange range) {
        for (int64_t i = range.begin; i < range.end; ++i) ++runs[i];
      });
      EXPECT_EQ(std::accumulate(runs.begin(), runs.end(), 0), count);
      EXPECT_EQ(std::count(runs.begin(), runs.end(), 1), count);
    }
  }
}

// Returns when all workers sleep; they do so by themselves a moment after the last region.
void WaitUntilParked(const ThreadPool& pool) {
  while (pool.num_parked() != pool.num_threads() - 1) std::this_thread::yield();
}

TEST_P(ThreadPoolTest, WorksAgainAfterItsWorkersParked) {
  ThreadPool pool(GetParam(), false);
  std::atomic<int> total = 0;
  for (int i = 0; i < 5; ++i) {
    WaitUntilParked(pool);
    pool.ForEach(10, [&](int, int64_t) { total += 1; });
  }
  EXPECT_EQ(total, 50);
}

TEST_P(ThreadPoolTest, ReturnsOnlyWhenSlowItemsAreDone) {
  ThreadPool pool(GetParam(), false);
  std::atomic<int> done = 0;
  pool.ForEach(GetParam(), [&](int, int64_t item) {
    // Slow enough for the owner to fall asleep while it waits.
    if (item != 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    done += 1;
  });
  EXPECT_EQ(done, GetParam());
}

TEST_P(ThreadPoolTest, ManyRegionsRightAfterOneAnother) {
  ThreadPool pool(GetParam(), false);
  std::atomic<int64_t> total = 0;
  for (int i = 0; i < 20000; ++i) pool.ForEach(2, [&](int, int64_t item) { total += item; });
  EXPECT_EQ(total, 20000);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 16));

}  // namespace
}  // namespace paceline::kernels
