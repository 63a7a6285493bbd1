#include "cli/reload.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/router_core.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::cli {
namespace {

constexpr std::string_view kRouterReloads[] = {"admin-key",
                                               "api-key",
                                               "balance",
                                               "drain-seconds",
                                               "log-level",
                                               "max-queued-requests",
                                               "max-queued-tokens",
                                               "workers"};
constexpr std::string_view kWorkerReloads[] = {"drain-seconds", "log-level"};

// Takes those of `reloads` over into `running`; the others are named in the log. Names only: values
// may be keys.
template <size_t kCount>
void Settle(const std::string_view (&reloads)[kCount], const Settings& now, Settings& running) {
  std::vector<std::string> taken;
  for (const std::string& name : ChangedSettings(running, now)) {
    if (std::find(std::begin(reloads), std::end(reloads), name) == std::end(reloads)) {
      spdlog::warn("--config: {} has changed, which needs a restart to take effect", name);
      continue;
    }
    taken.push_back(name);
    const auto found = now.find(name);
    found == now.end() ? void(running.erase(name)) : void(running[name] = found->second);
  }
  if (!taken.empty()) spdlog::info("--config: new {}", absl::StrJoin(taken, ", "));
}

}  // namespace

RouterReload::RouterReload(std::vector<std::string> arguments,
                           CommandLine<RouterOptions> running,
                           router::RouterCore& core,
                           RouterServers& servers)
    : arguments_(std::move(arguments)),
      running_(std::move(running)),
      core_(core),
      servers_(servers) {}

absl::Status RouterReload::Read() {
  ASSIGN_OR_RETURN(const CommandLine<RouterOptions> line, ParseRouter(arguments_));
  const RouterOptions& now = line.options;
  ASSIGN_OR_RETURN(router::DispatchOptions dispatch, DispatchOptionsOf(now));
  const auto is_service = [](const RouterOptions& options) {
    return !options.workers.empty() && absl::StartsWith(options.workers[0], "kubernetes:");
  };
  if (now.workers != running_.options.workers &&
      (is_service(now) || is_service(running_.options))) {
    return absl::InvalidArgumentError("--workers: to or from kubernetes:/// needs a restart");
  }
  RETURN_IF_ERROR(servers_.SetKeys(now));
  // A Service's endpoints are followed by who started this process.
  if (dispatch.fleet.workers.service.empty()) {
    core_.dispatcher().SetWorkers(std::move(dispatch.fleet.workers));
  }
  core_.dispatcher().SetLimits(dispatch.queue, dispatch.policy);
  spdlog::set_level(spdlog::level::from_str(line.log.level));
  running_.options.drain_seconds = now.drain_seconds;
  Settle(kRouterReloads, line.settings, running_.settings);
  return absl::OkStatus();
}

WorkerReload::WorkerReload(std::vector<std::string> arguments, CommandLine<WorkerOptions> running)
    : arguments_(std::move(arguments)), running_(std::move(running)) {}

absl::Status WorkerReload::Read() {
  ASSIGN_OR_RETURN(const CommandLine<WorkerOptions> line, ParseWorker(arguments_));
  spdlog::set_level(spdlog::level::from_str(line.log.level));
  running_.options.drain_seconds = line.options.drain_seconds;
  Settle(kWorkerReloads, line.settings, running_.settings);
  return absl::OkStatus();
}

}  // namespace paceline::cli
