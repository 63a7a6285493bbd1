// The router's core with the threads that it needs, without front ends: what `router`, `serve` and
// the offline `generate` share. Owned by the command. service(): any thread; the rest: one thread.
#ifndef PACELINE_CLI_ROUTER_CORE_H_
#define PACELINE_CLI_ROUTER_CORE_H_

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/options.h"
#include "router/core/event_loop.h"
#include "router/core/thread_pool.h"
#include "router/dispatch/dispatcher.h"
#include "router/fleet/worker_link.h"
#include "router/metrics/router_metrics.h"

namespace paceline::cli {

class RouterCore {
 public:
  // Starts to attach to options.workers through links of `make_link`. InvalidArgument names the
  // option at fault.
  static absl::StatusOr<std::unique_ptr<RouterCore>> Start(const RouterOptions& options,
                                                           router::WorkerLinkFactory make_link);
  // Ends every call that is still running.
  ~RouterCore();
  RouterCore(const RouterCore&) = delete;
  RouterCore& operator=(const RouterCore&) = delete;

  router::Dispatcher& service() { return *dispatcher_; }
  router::RouterMetrics& metrics() { return metrics_; }
  router::Executor& text_threads() { return *text_; }

  // Refuses new calls, then waits until the running ones have ended, or fails them after `grace`.
  void Drain(std::chrono::milliseconds grace);

 private:
  explicit RouterCore(bool vllm_metrics);

  router::RouterMetrics metrics_;
  router::EventLoop loop_;
  std::unique_ptr<router::ThreadPool> text_;
  std::unique_ptr<router::Dispatcher> dispatcher_;
};

}  // namespace paceline::cli

#endif  // PACELINE_CLI_ROUTER_CORE_H_
