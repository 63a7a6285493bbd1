// `paceline worker`: one replica: a model behind the worker plane.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/child_processes.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/file_watch.h"
#include "cli/grpc_log.h"
#include "cli/loaded_model.h"
#include "cli/nodes.h"
#include "cli/otlp_exporter.h"
#include "cli/progress.h"
#include "cli/ranks.h"
#include "cli/reload.h"
#include "cli/shutdown.h"
#include "cli/stall_watch.h"
#include "cli/worker_plane.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "router/http/http_server.h"
#include "worker/service/worker_server.h"

namespace paceline::cli {
namespace {

// /metrics, /health and /ready of a worker.
class WorkerStatusHandler final : public router::HttpHandler {
 public:
  // All must outlive the handler; `exporter` may be null.
  WorkerStatusHandler(LoadedModel& model,
                      const FileWatch& files,
                      const OtlpExporter* exporter,
                      int32_t lease_ms)
      : model_(model), files_(files), exporter_(exporter), lease_ms_(lease_ms) {}

  std::optional<router::HttpResponse> Admit(router::HttpRequest& request) override {
    request.request_id = "-";
    if (request.method != "GET") return Refuse(405);
    return std::nullopt;
  }

  void Handle(router::HttpRequest request, std::shared_ptr<router::Exchange> exchange) override {
    router::HttpResponse response;
    response.content_type = "text/plain; charset=utf-8";
    if (request.target == "/metrics") {
      response.content_type = "text/plain; version=0.0.4; charset=utf-8";
      response.body = model_.metrics().Text() + files_.MetricsText();
      if (exporter_ != nullptr) response.body += exporter_->MetricsText();
    } else if (request.target == "/health") {
      response.body = "ok\n";
    } else if (request.target == "/ready") {
      // Progress of the engine's own thread: a wedged engine is not ready, whoever answers here.
      const bool moves = model_.engine().MsSinceProgress() <= lease_ms_;
      response.status = moves && !is_draining ? 200 : 503;
      response.body = is_draining ? "draining\n"
                      : moves     ? "ready\n"
                                  : "the engine makes no progress\n";
    } else {
      response = Refuse(404);
    }
    exchange->Respond(std::move(response));
  }

  router::HttpResponse Refuse(int status) override {
    return {.status = status, .content_type = "text/plain", .body = absl::StrCat(status, "\n")};
  }

  std::atomic<bool> is_draining{false};

 private:
  LoadedModel& model_;
  const FileWatch& files_;
  const OtlpExporter* const exporter_;
  const int32_t lease_ms_;
};

// Lets what runs end, for so long or until another signal comes.
void Drain(worker::Engine& engine, int32_t seconds) {
  const int64_t end_ms = SteadyClock::Get().NowMs() + int64_t{seconds} * 1000;
  engine.BeginDrain();
  while (!engine.IsIdle() && SteadyClock::Get().NowMs() < end_ms) {
    if (AsksToStop(WaitForSignal(std::chrono::milliseconds(20)))) return;
  }
}

// `group`: of a worker that has several ranks.
absl::Status Run(const WorkerOptions& options,
                 const std::vector<std::string>& arguments,
                 worker::RankGroup* group) {
  FileWatch files("paceline_worker");
  ASSIGN_OR_RETURN(const auto plane, WorkerPlane::Open(options.plane, files));
  RETURN_IF_ERROR(plane->CheckServes(options.operator_tls));
  ASSIGN_OR_RETURN(const auto exporter,
                   StartOtlpExporter(options.otlp_traces_endpoint,
                                     {.service_name = "paceline-worker",
                                      .instance_id = ReplicaId(options.engine),
                                      .metric_prefix = "paceline_worker"}));
  std::unique_ptr<LoadedModel> model;
  {
    ProgressBar bar(absl::StrCat("loading ", ModelNameFromPath(options.engine.model)));
    LoadedModel::Settings settings{.lease_ms = options.lease_ms,
                                   .vllm_metrics = options.vllm_metrics,
                                   .progress = nullptr,
                                   .group = group,
                                   .rank_restarts = options.rank_restarts,
                                   .spans = exporter.get()};
    // Several workers share the terminal under `serve`, which reports for them.
    if (!options.die_with_parent) {
      settings.progress = [&bar](int64_t done, int64_t total) { bar.Update(done, total); };
    }
    const int64_t start = SteadyClock::Get().NowMs();
    absl::StatusOr<std::unique_ptr<LoadedModel>> loaded =
        LoadedModel::Load(options.engine, settings);
    if (!loaded.ok()) return loaded.status();
    model = *std::move(loaded);
    spdlog::info("loaded in {} ms: {}", SteadyClock::Get().NowMs() - start, model->description());
  }

  std::unique_ptr<WorkerStatusHandler> handler;
  std::unique_ptr<router::HttpServer> status_server;
  if (options.operator_port >= 0) {
    handler =
        std::make_unique<WorkerStatusHandler>(*model, files, exporter.get(), options.lease_ms);
    router::HttpServer::Options http;
    http.host = options.operator_host;
    http.port = static_cast<uint16_t>(options.operator_port);
    http.num_threads = 1;
    http.tls = options.operator_tls ? plane->tls() : nullptr;
    status_server = std::make_unique<router::HttpServer>(http, handler.get());
    if (absl::Status status = status_server->Start(); !status.ok()) return status;
    spdlog::info("metrics on http{}://{}:{}/metrics",
                 options.operator_tls ? "s" : "",
                 options.operator_host,
                 status_server->port());
  }
  auto server = worker::WorkerServer::Start(
      {.host = options.host, .port = options.port, .tls = plane->tls(), .admits = plane->Admits()},
      model->engine(),
      model->identity(),
      model->tokenizer(),
      SteadyClock::Get());
  if (!server.ok()) return server.status();
  spdlog::info("worker plane on {}:{}", options.host, (*server)->port());

  const auto& followed = options.worker_arguments.empty() ? arguments : options.worker_arguments;
  ASSIGN_OR_RETURN(const auto line, ParseWorker(followed));
  WorkerReload reload(followed, line);
  RETURN_IF_ERROR(files.Add("config", {line.config}, [&reload] { return reload.Read(); }));
  for (StallWatch watch(options.lease_ms);;) {
    const std::optional<int> signal = WaitForSignal(std::chrono::milliseconds(kLookMs));
    if (AsksToStop(signal)) break;
    files.Follow(signal);
    if (watch.IsStalled(SteadyClock::Get().NowMs(), model->engine().MsSinceProgress())) {
      spdlog::critical("the engine hangs: no progress for {} s; ending, to be started anew",
                       watch.stalled_ms() / 1000);
      spdlog::shutdown();  // writes what is left
      std::_Exit(1);       // what hangs cannot be waited for
    }
  }
  spdlog::info("stopping: running streams have {} s to end", reload.drain_seconds());
  if (handler != nullptr) handler->is_draining = true;
  Drain(model->engine(), reload.drain_seconds());
  return absl::OkStatus();
}

// Whether a group failed for want of another rank, and may do better next time.
bool IsLostRank(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsAborted(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsAlreadyExists(status);
}

// One of several ranks; the exit status.
int RunOneRank(const WorkerOptions& options, const std::vector<std::string>& arguments) {
  const bool has_nodes = options.nodes.count > 1;
  auto group = JoinRanks(options);
  if (!group.ok()) {
    if (!has_nodes || !IsLostRank(group.status())) return Fail(group.status());
    // Other nodes start, and start anew, when they like.
    spdlog::warn("{}", std::string(group.status().message()));
    return kTryAgainExit;
  }
  if (options.rank == 0) {
    const absl::Status status = Run(options, arguments, group->get());
    return status.ok() ? 0 : Fail(status);
  }
  const absl::Status status = RunOtherRank(options, **group);
  if (IsLostRank(status)) {
    spdlog::error("{}", std::string(status.message()));
    return worker::kLostRankExit;
  }
  if (!status.ok()) return Fail(status);
  return has_nodes ? kTryAgainExit : 0;  // the leader ended in good order, and may come again
}

}  // namespace

int RunWorker(const WorkerOptions& given,
              const LogOptions& log,
              const std::vector<std::string>& arguments) {
  InitLog("worker", log.level, log.format == "json" ? LogFormat::kJson : LogFormat::kText);
  LogForGrpc();
  BlockReloadSignal();
  if (given.die_with_parent) DieWithParent();
  WorkerOptions options = given;
  if (const absl::Status status = SettleNodes(&std::getenv, options); !status.ok()) {
    return Fail(status);
  }
  options.engine.num_nodes = options.nodes.count;
  if (options.rank >= 0) return RunOneRank(options, arguments);
  const EngineOptions& engine = options.engine;
  const bool has_ranks = engine.tensor_parallel_size * engine.pipeline_parallel_size > 1;
  const absl::Status status =
      has_ranks ? SuperviseRanks(arguments) : Run(options, arguments, nullptr);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace paceline::cli
