// The router's core as the command's options describe it: what `router`, `serve` and the offline
// `generate` share. Called by the command's main thread.
#ifndef PACELINE_CLI_ROUTER_CORE_H_
#define PACELINE_CLI_ROUTER_CORE_H_

#include <chrono>
#include <memory>

#include "absl/status/statusor.h"
#include "cli/kubernetes_workers.h"
#include "cli/options.h"
#include "proto/support/span.h"
#include "router/dispatch/router_core.h"
#include "router/fleet/worker_link.h"

namespace paceline::cli {

// What they say of the fleet, the queue and balancing. InvalidArgument names the option at fault.
absl::StatusOr<router::DispatchOptions> DispatchOptionsOf(const RouterOptions& options);

// Starts to attach to options.workers through links of `make_link`. Traces go to `spans`, which
// outlives the core; null: nowhere. InvalidArgument names the option at fault.
absl::StatusOr<std::unique_ptr<router::RouterCore>> StartRouterCore(
    const RouterOptions& options, router::WorkerLinkFactory make_link, SpanSink* spans = nullptr);

// Follows the Kubernetes Service that options.workers names and tells `core`, which outlives it;
// null when they name none. Errors: KubernetesWorkers::Start's; InvalidArgument outside of a pod.
absl::StatusOr<std::unique_ptr<KubernetesWorkers>> FollowWorkers(const RouterOptions& options,
                                                                 router::RouterCore& core);

// Refuses new calls, waits until the running ones have ended, or fails them after `grace`, and
// stops the core's threads.
void DrainRouterCore(router::RouterCore& core, std::chrono::milliseconds grace);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_ROUTER_CORE_H_
