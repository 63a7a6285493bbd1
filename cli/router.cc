// `paceline router`: the front ends and the core over workers that run elsewhere.
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/file_watch.h"
#include "cli/grpc_log.h"
#include "cli/otlp_exporter.h"
#include "cli/reload.h"
#include "cli/router_core.h"
#include "cli/router_servers.h"
#include "cli/shutdown.h"
#include "cli/worker_plane.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "router/core/request_context.h"
#include "router/fleet/grpc_worker_link.h"

namespace paceline::cli {
namespace {

absl::Status Run(const RouterOptions& options, const std::vector<std::string>& arguments) {
  if (options.workers.empty()) {
    return absl::InvalidArgumentError(
        "--workers: needed, as host:port,host:port, dns:///name:port or "
        "kubernetes:///service.namespace:port");
  }
  ASSIGN_OR_RETURN(const auto exporter,
                   StartOtlpExporter(options.otlp_traces_endpoint,
                                     {.service_name = "paceline-router",
                                      .instance_id = router::NewRequestId(),
                                      .metric_prefix = "paceline_router"}));
  FileWatch files("paceline_router");
  ASSIGN_OR_RETURN(const auto plane, WorkerPlane::Open(options.plane, files));
  ASSIGN_OR_RETURN(const auto links, plane->LinkOptions());
  ASSIGN_OR_RETURN(const auto core,
                   StartRouterCore(options, router::GrpcWorkerLinkFactory(links), exporter.get()));
  ASSIGN_OR_RETURN(const auto servers, RouterServers::Start(options, *core, files, exporter.get()));
  ASSIGN_OR_RETURN(const auto workers, FollowWorkers(options, *core));
  const char* tls = options.tls.cert_file.empty() ? "" : "s";
  spdlog::info("http{5}://{0}:{1}  grpc{5}://{0}:{2}  operator http{6}://{3}:{4}",
               options.host,
               servers->http_port(),
               servers->grpc_port(),
               options.operator_host,
               servers->operator_port(),
               tls,
               options.operator_tls ? "s" : "");
  if (servers->admin_port() >= 0) {
    spdlog::info("admin grpc{}://{}:{}", tls, options.operator_host, servers->admin_port());
  }
  ASSIGN_OR_RETURN(const auto line, ParseRouter(arguments));
  RouterReload reload(arguments, line, *core, *servers);
  RETURN_IF_ERROR(files.Add("config", {line.config}, [&reload] { return reload.Read(); }));
  for (;;) {
    const std::optional<int> signal = WaitForSignal(std::chrono::seconds(1));
    if (AsksToStop(signal)) break;
    files.Follow(signal);
  }
  spdlog::info("draining for up to {} s", reload.drain_seconds());
  ForceExitOnNextSignal();
  servers->Stop(std::chrono::seconds(reload.drain_seconds()));
  return absl::OkStatus();
}

}  // namespace

int RunRouter(const RouterOptions& options,
              const LogOptions& log,
              const std::vector<std::string>& arguments) {
  InitLog("router", log.level, log.format == "json" ? LogFormat::kJson : LogFormat::kText);
  LogForGrpc();
  BlockReloadSignal();
  const absl::Status status = Run(options, arguments);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace paceline::cli
