// A whole router core: loop, text threads, metrics and dispatcher, started and stopped in the right
// order. Owned by the process (`paceline router`, `serve`, `generate`). Any thread.
#ifndef PACELINE_ROUTER_DISPATCH_ROUTER_CORE_H_
#define PACELINE_ROUTER_DISPATCH_ROUTER_CORE_H_

#include <memory>

#include "router/core/event_loop.h"
#include "router/core/thread_pool.h"
#include "router/dispatch/dispatcher.h"
#include "router/metrics/router_metrics.h"

namespace paceline::router {

struct RouterCoreOptions {
  DispatchOptions dispatch;
  int text_threads = 2;
  bool vllm_metrics = true;
};

class RouterCore {
 public:
  // Starts to attach to the fleet. `clock` must outlive the core.
  RouterCore(RouterCoreOptions options,
             WorkerLinkFactory make_link,
             const Clock* clock = &SteadyClock::Get(),
             Fleet::ResolveFn resolve = nullptr);
  // Stops.
  ~RouterCore();
  RouterCore(const RouterCore&) = delete;
  RouterCore& operator=(const RouterCore&) = delete;

  Service& service() { return *dispatcher_; }
  Dispatcher& dispatcher() { return *dispatcher_; }
  RouterMetrics& metrics() { return metrics_; }
  // For the front ends' own long work, also when the core has stopped.
  Executor& text_threads() { return *text_; }

  // Ends calls that still run with 503 draining, then the loop; calls started later get the same on
  // the caller's thread. Idempotent; not from a sink.
  void Stop();

 private:
  RouterMetrics metrics_;
  EventLoop loop_;
  std::unique_ptr<Dispatcher> dispatcher_;
  std::unique_ptr<ThreadPool> text_;  // joined before dispatcher_, which its tasks use, goes
  bool is_stopped_ = false;
};

}  // namespace paceline::router

#endif  // PACELINE_ROUTER_DISPATCH_ROUTER_CORE_H_
