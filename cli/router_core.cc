#include "cli/router_core.h"

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/support/status_macros.h"
#include "router/balance/policies.h"
#include "router/core/request_context.h"
#include "router/fleet/address_list.h"

namespace paceline::cli {

absl::StatusOr<router::DispatchOptions> DispatchOptionsOf(const RouterOptions& options) {
  router::DispatchOptions dispatch;
  absl::StatusOr<router::WorkerAddresses> workers =
      router::ParseWorkerAddresses(absl::StrJoin(options.workers, ","));
  if (!workers.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--workers: ", workers.status().message()));
  }
  dispatch.fleet.workers = *std::move(workers);
  dispatch.queue.max_requests = options.max_queued_requests;
  dispatch.queue.max_prompt_tokens = options.max_queued_tokens;
  if (router::FindPolicy(options.balance) == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--balance: unknown policy; one of ", router::PolicyNames()));
  }
  dispatch.policy = options.balance;
  return dispatch;
}

absl::StatusOr<std::unique_ptr<router::RouterCore>> StartRouterCore(
    const RouterOptions& options, router::WorkerLinkFactory make_link) {
  router::RouterCoreOptions core;
  core.vllm_metrics = options.vllm_metrics;
  ASSIGN_OR_RETURN(core.dispatch, DispatchOptionsOf(options));
  core.dispatch.fleet.router_id = router::NewRequestId();
  return std::make_unique<router::RouterCore>(std::move(core), std::move(make_link));
}

void DrainRouterCore(router::RouterCore& core, std::chrono::milliseconds grace) {
  core.dispatcher().BeginDrain();
  const auto end = std::chrono::steady_clock::now() + grace;
  while (!core.dispatcher().Drained() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  core.Stop();
}

}  // namespace paceline::cli
