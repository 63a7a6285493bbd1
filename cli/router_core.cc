#include "cli/router_core.h"

#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

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
  dispatch.failover_wait_ms = int64_t{options.failover_wait_seconds} * 1000;
  return dispatch;
}

absl::StatusOr<std::unique_ptr<router::RouterCore>> StartRouterCore(
    const RouterOptions& options, router::WorkerLinkFactory make_link, SpanSink* spans) {
  router::RouterCoreOptions core;
  core.vllm_metrics = options.vllm_metrics;
  ASSIGN_OR_RETURN(core.dispatch, DispatchOptionsOf(options));
  core.dispatch.fleet.router_id = router::NewRequestId();
  core.dispatch.spans = spans;
  return std::make_unique<router::RouterCore>(std::move(core), std::move(make_link));
}

absl::StatusOr<std::unique_ptr<KubernetesWorkers>> FollowWorkers(const RouterOptions& options,
                                                                 router::RouterCore& core) {
  auto workers = router::ParseWorkerAddresses(absl::StrJoin(options.workers, ","));
  if (!workers.ok() || workers->service.empty()) return nullptr;
  const char* host = std::getenv("KUBERNETES_SERVICE_HOST");
  const char* port = std::getenv("KUBERNETES_SERVICE_PORT");
  if (host == nullptr || port == nullptr) {
    return absl::InvalidArgumentError(
        "--workers: kubernetes:/// needs a pod: KUBERNETES_SERVICE_HOST and "
        "KUBERNETES_SERVICE_PORT are not set");
  }
  return KubernetesWorkers::Start(
      {.api = {.is_tls = true, .host = host, .port = port, .target = "/"},
       .service = workers->service,
       .name_space = workers->name_space,
       .port = workers->service_port},
      [&core](std::vector<std::string> addresses) {
        core.dispatcher().SetAddresses(std::move(addresses));
      });
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
