#include "router/core/event_loop.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace paceline::router {
namespace {

constexpr int64_t kMs = 1'000'000;

TEST(EventLoopTest, RunsPostedTasksInOrder) {
  FakeClock clock;
  EventLoop loop(&clock);
  std::vector<int> order;
  loop.Post([&] {
    order.push_back(1);
    loop.Post([&] { order.push_back(3); });
  });
  loop.Post([&] { order.push_back(2); });
  EXPECT_EQ(loop.RunReady(), 3);
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(EventLoopTest, FiresTimersAtTheirTimeAndNotBefore) {
  FakeClock clock;
  EventLoop loop(&clock);
  int fired = 0;
  loop.RunAt(clock.NowNs() + 5 * kMs, [&] { ++fired; });
  clock.AdvanceMs(4);
  loop.RunReady();
  EXPECT_EQ(fired, 0);
  clock.AdvanceMs(1);
  loop.RunReady();
  EXPECT_EQ(fired, 1);
}

TEST(EventLoopTest, ForgetsCancelledTimers) {
  FakeClock clock;
  EventLoop loop(&clock);
  int fired = 0;
  EventLoop::TimerId id = loop.RunAt(clock.NowNs() + kMs, [&] { ++fired; });
  loop.CancelTimer(id);
  EXPECT_EQ(id, EventLoop::TimerId{});
  clock.AdvanceMs(10);
  loop.RunReady();
  EXPECT_EQ(fired, 0);
}

TEST(EventLoopTest, TimersThatCancelEachOtherFireOnce) {
  FakeClock clock;
  EventLoop loop(&clock);
  int fired = 0;
  EventLoop::TimerId second;
  loop.RunAt(clock.NowNs() + kMs, [&] {
    ++fired;
    loop.CancelTimer(second);
  });
  second = loop.RunAt(clock.NowNs() + kMs, [&] { ++fired; });
  clock.AdvanceMs(1);
  loop.RunReady();
  EXPECT_EQ(fired, 1);
}

TEST(EventLoopTest, DropsTasksPostedAfterStopAndReleasesWhatTheyHold) {
  auto held = std::make_shared<int>(1);
  SteadyClock clock;
  EventLoop loop(&clock);
  const Poster poster = loop.poster();
  loop.Start();
  loop.Stop();
  poster.Post([held] { FAIL(); });
  EXPECT_EQ(held.use_count(), 1);
}

TEST(EventLoopTest, TakesTasksFromManyThreads) {
  SteadyClock clock;
  EventLoop loop(&clock);
  loop.Start();
  int sum = 0;  // loop thread only
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        loop.Post([&] {
          ++sum;
          ++done;
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  while (done < 4000) std::this_thread::yield();
  loop.Stop();
  EXPECT_EQ(sum, 4000);
}

TEST(EventLoopTest, WakesForTimersOnItsThread) {
  SteadyClock clock;
  EventLoop loop(&clock);
  std::atomic<bool> fired{false};
  loop.Post([&] { loop.RunAt(clock.NowNs() + kMs, [&] { fired = true; }); });
  loop.Start();
  while (!fired) std::this_thread::yield();
  loop.Stop();
}

}  // namespace
}  // namespace paceline::router
