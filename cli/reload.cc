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

// Takes those of `reloads` over into `running`. FailedPrecondition when others have changed too:
// their names, since values may be keys.
template <size_t kCount>
absl::Status Settle(const std::string_view (&reloads)[kCount],
                    const Settings& now,
                    Settings& running) {
  std::vector<std::string> taken;
  std::vector<std::string> waiting;
  for (const std::string& name : ChangedSettings(running, now)) {
    if (std::find(std::begin(reloads), std::end(reloads), name) == std::end(reloads)) {
      waiting.push_back(name);
      continue;
    }
    taken.push_back(name);
    const auto found = now.find(name);
    found == now.end() ? void(running.erase(name)) : void(running[name] = found->second);
  }
  if (!taken.empty()) spdlog::info("--config: new {}", absl::StrJoin(taken, ", "));
  if (waiting.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--config: a restart is needed for ", absl::StrJoin(waiting, ", ")));
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
  return Settle(kRouterReloads, line.settings, running_.settings);
}

WorkerReload::WorkerReload(std::vector<std::string> arguments, CommandLine<WorkerOptions> running)
    : arguments_(std::move(arguments)), running_(std::move(running)) {}

absl::Status WorkerReload::Read() {
  ASSIGN_OR_RETURN(const CommandLine<WorkerOptions> line, ParseWorker(arguments_));
  spdlog::set_level(spdlog::level::from_str(line.log.level));
  running_.options.drain_seconds = line.options.drain_seconds;
  return Settle(kWorkerReloads, line.settings, running_.settings);
}

}  // namespace paceline::cli
