#include "router/core/thread_pool.h"

#include <future>
#include <memory>

#include "gtest/gtest.h"

namespace paceline::router {
namespace {

TEST(ThreadPoolTest, RunsTasksOnItsThreads) {
  ThreadPool pool(2);
  std::promise<std::thread::id> where;
  pool.Post([&] { where.set_value(std::this_thread::get_id()); });
  EXPECT_NE(where.get_future().get(), std::this_thread::get_id());
}

TEST(ThreadPoolTest, ATaskThatBlocksDoesNotHoldUpTheOtherThread) {
  ThreadPool pool(2);
  std::promise<void> release;
  std::promise<void> ran;
  pool.Post([&] { release.get_future().wait(); });
  pool.Post([&] { ran.set_value(); });
  ran.get_future().wait();
  release.set_value();
}

TEST(ThreadPoolTest, DestroysWaitingTasksUnrun) {
  auto held = std::make_shared<int>(1);
  std::promise<void> started;
  std::promise<void> release;
  auto pool = std::make_unique<ThreadPool>(1);
  pool->Post([&] {
    started.set_value();
    release.get_future().wait();
  });
  started.get_future().wait();
  pool->Post([held] { FAIL(); });
  std::thread destroyer([&] { pool.reset(); });
  while (held.use_count() > 1) std::this_thread::yield();
  release.set_value();
  destroyer.join();
}

}  // namespace
}  // namespace paceline::router
