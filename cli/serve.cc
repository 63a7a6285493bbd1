// `paceline serve MODEL`: the whole cluster on this machine: a router in this process, workers as
// its children.
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/child_processes.h"
#include "cli/commands.h"
#include "cli/grpc_log.h"
#include "cli/loaded_model.h"
#include "cli/otlp_exporter.h"
#include "cli/progress.h"
#include "cli/router_core.h"
#include "cli/router_servers.h"
#include "cli/shutdown.h"
#include "cli/worker_arguments.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "proto/support/log_format.h"
#include "proto/support/status_macros.h"
#include "router/core/request_context.h"
#include "router/fleet/grpc_worker_link.h"

namespace paceline::cli {
namespace {

constexpr int kFirstWorkerPort = 50061;

// One file a worker: "trace.json" of the second of several is "trace.1.json".
std::string StepTracePath(const ServeOptions& options, int replica) {
  const std::filesystem::path path = options.worker.engine.step_trace;
  if (options.replicas == 1) return path;
  const std::string name =
      absl::StrCat(path.stem().string(), ".", replica, path.extension().string());
  return path.parent_path() / name;
}

int CountReady(router::Dispatcher& service) {
  int ready = 0;
  for (const v1::ReplicaInfo& replica : service.Replicas()) ready += replica.state() == "ready";
  return ready;
}

void PrintWelcome(const RouterOptions& options, const RouterServers& servers, int64_t load_ms) {
  const bool has_tls = !options.tls.cert_file.empty();
  const std::string base =
      absl::StrCat(has_tls ? "https://" : "http://", options.host, ":", servers.http_port());
  if (servers.admin_port() >= 0) {
    spdlog::info("admin grpc://{}:{}", options.operator_host, servers.admin_port());
  }
  if (LogsJson()) {
    spdlog::info("ready after {:.1f} s: {}/v1  grpc://{}:{}  operator http://{}:{}",
                 static_cast<double>(load_ms) / 1000,
                 base,
                 options.host,
                 servers.grpc_port(),
                 options.operator_host,
                 servers.operator_port());
    return;
  }
  const bool needs_key = !options.api_keys.empty() || !options.api_key_file.empty();
  const std::string key = needs_key ? " -H 'Authorization: Bearer YOUR_KEY'" : "";
  absl::FPrintF(stderr,
                "Ready after %.1f s.\n"
                "  OpenAI API   %s/v1\n"
                "  gRPC         %s:%d\n"
                "  status page  %s://%s:%d/\n"
                "Try it:\n"
                "  curl -N %s/v1/chat/completions -H 'Content-Type: application/json'%s -d "
                "'{\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}],\"stream\":true}'\n",
                static_cast<double>(load_ms) / 1000,
                base,
                options.host,
                servers.grpc_port(),
                options.operator_tls ? "https" : "http",
                options.operator_host,
                servers.operator_port(),
                base,
                key);
}

absl::Status Run(const ServeOptions& options, const LogOptions& log) {
  RETURN_IF_ERROR(CheckEngineOptions(options.worker.engine));
  RETURN_IF_ERROR(CheckModelFile(options.worker.engine.model));
  const int64_t start = SteadyClock::Get().NowMs();
  RouterOptions router = options.router;
  router.vllm_metrics = options.worker.vllm_metrics;
  ASSIGN_OR_RETURN(const auto exporter,
                   StartOtlpExporter(router.otlp_traces_endpoint,
                                     {.service_name = "paceline-router",
                                      .instance_id = router::NewRequestId(),
                                      .metric_prefix = "paceline_router"}));
  ChildProcesses workers;
  int port = kFirstWorkerPort - 1;
  for (int i = 0; i < options.replicas; ++i) {
    port = ReservePort(port + 1);
    router.workers.push_back(absl::StrCat("127.0.0.1:", port));
    WorkerOptions worker = options.worker;
    worker.host = "127.0.0.1";
    worker.port = port;
    worker.die_with_parent = true;
    worker.drain_seconds = router.drain_seconds;
    worker.otlp_traces_endpoint = router.otlp_traces_endpoint;
    worker.engine.replicas_on_host = options.replicas;
    worker.engine.replica_on_host = i;
    if (!worker.engine.step_trace.empty()) worker.engine.step_trace = StepTracePath(options, i);
    // Several workers share the terminal: serve reports for them.
    const LogOptions quiet{.level = log.level == "info" ? "warn" : log.level, .format = log.format};
    RETURN_IF_ERROR(workers.Start(WorkerArguments(worker, quiet)));
  }
  ASSIGN_OR_RETURN(auto core,
                   StartRouterCore(router, router::GrpcWorkerLinkFactory(), exporter.get()));
  FileWatch files("paceline_router");
  ASSIGN_OR_RETURN(auto servers, RouterServers::Start(router, *core, files, exporter.get()));

  auto bar =
      std::make_unique<ProgressBar>(absl::StrCat("starting ", options.replicas, " replica(s)"));
  bool welcomed = false;
  for (;;) {
    if (AsksToStop(WaitForSignal(std::chrono::milliseconds(welcomed ? 500 : 20)))) break;
    files.Poll();
    RETURN_IF_ERROR(workers.Tend(SteadyClock::Get().NowMs()));
    if (welcomed) continue;
    const int ready = CountReady(core->dispatcher());
    bar->Update(ready, options.replicas, absl::StrCat(ready, "/", options.replicas, " ready"));
    // The replicas are there before the router has made its tokenizer from what they sent.
    if (ready == options.replicas && core->service().Ready()) {
      bar.reset();
      PrintWelcome(router, *servers, SteadyClock::Get().NowMs() - start);
      welcomed = true;
    }
  }
  bar.reset();
  spdlog::info("stopping: running streams have {} s to end", router.drain_seconds);
  ForceExitOnNextSignal();
  servers->Stop(std::chrono::seconds(router.drain_seconds));
  servers.reset();
  core.reset();
  workers.Stop(/*grace_ms=*/2000);
  return absl::OkStatus();
}

}  // namespace

int RunServe(const ServeOptions& options, const LogOptions& log) {
  InitLog("serve", log.level, log.format == "json" ? LogFormat::kJson : LogFormat::kText);
  LogForGrpc();
  const absl::Status status = Run(options, log);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace paceline::cli
