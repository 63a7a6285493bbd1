// `paceline router`: the front ends and the core over workers that run elsewhere.
#include <chrono>
#include <csignal>
#include <optional>

#include "cli/commands.h"
#include "cli/router_core.h"
#include "cli/router_servers.h"
#include "cli/shutdown.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "router/fleet/grpc_worker_link.h"

namespace paceline::cli {
namespace {

absl::Status Run(const RouterOptions& options) {
  if (options.workers.empty()) {
    return absl::InvalidArgumentError(
        "--workers: needed, as host:port,host:port or dns:///name:port");
  }
  ASSIGN_OR_RETURN(const auto core, StartRouterCore(options, router::GrpcWorkerLinkFactory()));
  ASSIGN_OR_RETURN(const auto servers, RouterServers::Start(options, *core));
  spdlog::info("http://{0}:{1}  grpc://{0}:{2}  operator http://{3}:{4}",
               options.host,
               servers->http_port(),
               servers->grpc_port(),
               options.operator_host,
               servers->operator_port());
  if (servers->admin_port() >= 0) {
    spdlog::info("admin grpc://{}:{}", options.operator_host, servers->admin_port());
  }
  for (;;) {
    const std::optional<int> signal = WaitForSignal(std::chrono::seconds(3600));
    if (signal.has_value() && *signal != SIGCHLD) break;
  }
  spdlog::info("draining for up to {} s", options.drain_seconds);
  ForceExitOnNextSignal();
  servers->Stop(std::chrono::seconds(options.drain_seconds));
  return absl::OkStatus();
}

}  // namespace

int RunRouter(const RouterOptions& options, const LogOptions& log) {
  InitLog("router", log.level, log.format == "json" ? LogFormat::kJson : LogFormat::kText);
  const absl::Status status = Run(options);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace paceline::cli
