#include "cli/router_core.h"

#include <future>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/support/clock.h"
#include "proto/support/status_macros.h"
#include "router/balance/policies.h"
#include "router/core/request_context.h"
#include "router/fleet/address_list.h"

namespace paceline::cli {
namespace {

// Rendering and tokenising: enough threads that a long prompt does not hold up a short one.
constexpr int kTextThreads = 2;

}  // namespace

RouterCore::RouterCore(bool vllm_metrics)
    : metrics_(vllm_metrics),
      loop_(&SteadyClock::Get()),
      text_(std::make_unique<router::ThreadPool>(kTextThreads)) {}

absl::StatusOr<std::unique_ptr<RouterCore>> RouterCore::Start(const RouterOptions& options,
                                                              router::WorkerLinkFactory make_link) {
  auto core = std::unique_ptr<RouterCore>(new RouterCore(options.vllm_metrics));
  router::DispatchOptions dispatch;
  absl::StatusOr<router::WorkerAddresses> workers =
      router::ParseWorkerAddresses(absl::StrJoin(options.workers, ","));
  if (!workers.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--workers: ", workers.status().message()));
  }
  dispatch.fleet.workers = *std::move(workers);
  dispatch.fleet.router_id = router::NewRequestId();
  dispatch.queue.max_requests = options.max_queued_requests;
  dispatch.queue.max_prompt_tokens = options.max_queued_tokens;
  if (router::FindPolicy(options.balance) == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("--balance: unknown policy; one of ", router::PolicyNames()));
  }
  dispatch.policy = options.balance;
  core->dispatcher_ = std::make_unique<router::Dispatcher>(
      std::move(dispatch), &core->loop_, core->text_.get(), std::move(make_link), &core->metrics_);
  core->dispatcher_->Start();
  core->loop_.Start();
  return core;
}

void RouterCore::Drain(std::chrono::milliseconds grace) {
  dispatcher_->BeginDrain();
  const auto end = std::chrono::steady_clock::now() + grace;
  while (!dispatcher_->Drained() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  std::promise<void> failed;
  loop_.Post([&] {
    dispatcher_->FailAll();
    failed.set_value();
  });
  failed.get_future().wait();
}

RouterCore::~RouterCore() {
  text_.reset();  // no text work posts to the loop any more
  loop_.Stop();
}

}  // namespace paceline::cli
