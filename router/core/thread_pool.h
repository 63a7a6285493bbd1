// A few threads for work that may take milliseconds (templates, tokenising), so that it never
// delays the loop. Owned by whoever embeds the router. Post: any thread.
#ifndef PACELINE_ROUTER_CORE_THREAD_POOL_H_
#define PACELINE_ROUTER_CORE_THREAD_POOL_H_

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "router/core/event_loop.h"

namespace paceline::router {

// Runs tasks somewhere else (or at once, in tests).
class Executor {
 public:
  virtual ~Executor() = default;
  virtual void Post(Task task) = 0;
};

class InlineExecutor final : public Executor {
 public:
  void Post(Task task) override { std::move(task)(); }
};

class ThreadPool final : public Executor {
 public:
  // REQUIRES: num_threads > 0.
  explicit ThreadPool(int num_threads);
  // Finishes running tasks, destroys waiting ones unrun, joins.
  ~ThreadPool() override;
  // First in, first started. The queue has no bound of its own: admission bounds the callers.
  void Post(Task task) override;

 private:
  void Run();

  std::vector<std::thread> threads_;
  std::mutex mutex_;  // guards the two below
  std::condition_variable wake_;
  std::deque<Task> tasks_;
  bool stopped_ = false;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_CORE_THREAD_POOL_H_
