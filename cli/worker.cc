// `paceline worker`: one replica: a model behind the worker plane.
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/progress.h"
#include "cli/ranks.h"
#include "cli/shutdown.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "router/http/http_server.h"
#include "worker/service/worker_server.h"

namespace paceline::cli {
namespace {

// /metrics, /health and /ready of a worker.
class WorkerStatusHandler final : public router::HttpHandler {
 public:
  WorkerStatusHandler(LoadedModel& model, int32_t lease_ms) : model_(model), lease_ms_(lease_ms) {}

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
      response.body = model_.metrics().Text();
    } else if (request.target == "/health") {
      response.body = "ok\n";
    } else if (request.target == "/ready") {
      // Progress of the engine's own thread: a wedged engine is not ready, whoever answers here.
      const bool ready = model_.engine().MsSinceProgress() <= lease_ms_;
      response.status = ready ? 200 : 503;
      response.body = ready ? "ready\n" : "the engine makes no progress\n";
    } else {
      response = Refuse(404);
    }
    exchange->Respond(std::move(response));
  }

  router::HttpResponse Refuse(int status) override {
    return {.status = status, .content_type = "text/plain", .body = absl::StrCat(status, "\n")};
  }

 private:
  LoadedModel& model_;
  const int32_t lease_ms_;
};

absl::Status Run(const WorkerOptions& options) {
  std::unique_ptr<worker::RankGroup> group;
  if (options.rank >= 0) {
    auto joined = JoinRanks(options);
    if (!joined.ok()) return joined.status();
    group = *std::move(joined);
  }
  std::unique_ptr<LoadedModel> model;
  {
    ProgressBar bar(absl::StrCat("loading ", ModelNameFromPath(options.engine.model)));
    LoadedModel::Settings settings{.lease_ms = options.lease_ms,
                                   .vllm_metrics = options.vllm_metrics,
                                   .progress = nullptr,
                                   .group = group.get()};
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
    handler = std::make_unique<WorkerStatusHandler>(*model, options.lease_ms);
    router::HttpServer::Options http;
    http.host = options.operator_host;
    http.port = static_cast<uint16_t>(options.operator_port);
    http.num_threads = 1;
    status_server = std::make_unique<router::HttpServer>(http, handler.get());
    if (absl::Status status = status_server->Start(); !status.ok()) return status;
    spdlog::info("metrics on http://{}:{}/metrics", options.operator_host, status_server->port());
  }
  auto server = worker::WorkerServer::Start({.host = options.host, .port = options.port},
                                            model->engine(),
                                            model->identity(),
                                            model->tokenizer(),
                                            SteadyClock::Get());
  if (!server.ok()) return server.status();
  spdlog::info("worker plane on {}:{}", options.host, (*server)->port());

  for (;;) {
    const std::optional<int> signal = WaitForSignal(std::chrono::seconds(3600));
    if (signal.has_value() && *signal != SIGCHLD) break;
  }
  spdlog::info("stopping");
  return absl::OkStatus();
}

}  // namespace

int RunWorker(const WorkerOptions& options, const LogOptions& log) {
  InitLog("worker", log.level, log.format == "json" ? LogFormat::kJson : LogFormat::kText);
  if (options.die_with_parent) DieWithParent();
  const EngineOptions& engine = options.engine;
  const bool has_ranks = engine.tensor_parallel_size * engine.pipeline_parallel_size > 1;
  absl::Status status;
  if (has_ranks && options.rank < 0) {
    status = SuperviseRanks(options, log);
  } else if (options.rank > 0) {
    status = RunOtherRank(options);
    const absl::StatusCode code = status.code();
    if (code == absl::StatusCode::kUnavailable || code == absl::StatusCode::kAborted ||
        code == absl::StatusCode::kDeadlineExceeded) {
      spdlog::error("{}", std::string(status.message()));
      return worker::kLostRankExit;
    }
  } else {
    status = Run(options);
  }
  return status.ok() ? 0 : Fail(status);
}

}  // namespace paceline::cli
