#include "cli/ranks.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cli/child_processes.h"
#include "cli/command_line.h"
#include "cli/config_file.h"
#include "cli/loaded_model.h"
#include "cli/nodes.h"
#include "cli/rank_guard.h"
#include "cli/shutdown.h"
#include "cli/version.h"
#include "cli/worker_arguments.h"
#include "cli/worker_plane.h"
#include "kernels/dispatch.h"
#include "model/gguf/gguf_file.h"
#include "proto/support/clock.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "worker/models/partition.h"
#include "worker/runner/model_shard.h"
#include "worker/runner/numerics.h"

namespace paceline::cli {
namespace {

constexpr int64_t kStopGraceMs = 2000;

struct OpenModel {
  std::unique_ptr<model::GgufFile> file;
  model::ModelConfig config;
};

absl::Status InFile(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::StatusOr<OpenModel> Open(const std::string& path) {
  OpenModel model;
  absl::StatusOr<std::unique_ptr<model::GgufFile>> file = model::GgufFile::Open(path);
  if (!file.ok()) return InFile(path, file.status());
  model.file = *std::move(file);
  absl::StatusOr<model::ModelConfig> config = model::ModelConfigFromGguf(*model.file);
  if (!config.ok()) return InFile(path, config.status());
  model.config = *std::move(config);
  return model;
}

worker::HostPlace HostPlaceOf(const WorkerOptions& options) {
  return {.node = options.nodes.rank, .num_nodes = options.nodes.count};
}

// Among the ranks of its host.
int32_t LocalRank(const WorkerOptions& options) {
  const EngineOptions& engine = options.engine;
  const int32_t ranks = engine.tensor_parallel_size * engine.pipeline_parallel_size;
  return options.rank % std::max(1, ranks / engine.num_nodes);
}

// What ranks exchange in a step, at most. InvalidArgument when they cannot share the model.
absl::StatusOr<int64_t> StepBytes(const EngineOptions& engine) {
  RETURN_IF_ERROR(CheckEngineOptions(engine));
  ASSIGN_OR_RETURN(const OpenModel model, Open(engine.model));
  RETURN_IF_ERROR(
      worker::PartitionModel(
          model.config,
          worker::RankPlace::Of(0, engine.tensor_parallel_size, engine.pipeline_parallel_size))
          .status());
  return int64_t{engine.max_num_batched_tokens} * model.config.hidden_size *
         static_cast<int64_t>(sizeof(float));
}

std::vector<std::string> NamesOf(const Settings& settings) {
  std::vector<std::string> names;
  for (const auto& [name, values] : settings) names.push_back(name);
  return names;
}

// Fresh shared memory for each start.
absl::StatusOr<Launch> LaunchRanks(const std::vector<std::string>& arguments, int32_t restarts) {
  ASSIGN_OR_RETURN(CommandLine<WorkerOptions> line, ParseWorker(arguments));
  WorkerOptions& options = line.options;
  RETURN_IF_ERROR(SettleNodes(&std::getenv, options));
  options.engine.num_nodes = options.nodes.count;
  ASSIGN_OR_RETURN(const int64_t step_bytes, StepBytes(options.engine));
  ASSIGN_OR_RETURN(worker::LocalRanks ranks,
                   worker::LocalRanks::Create(options.engine.tensor_parallel_size,
                                              options.engine.pipeline_parallel_size,
                                              HostPlaceOf(options),
                                              step_bytes));
  Launch launch;
  launch.first_rank = ranks.first();
  launch.inherited_fds = ranks.fds();
  WorkerOptions rank = options;
  rank.die_with_parent = true;
  rank.rank_fds = launch.inherited_fds;
  rank.rank_restarts = restarts;
  for (int32_t i = 0; i < ranks.count(); ++i) {
    rank.rank = ranks.first() + i;
    rank.worker_arguments.clear();
    if (rank.rank == 0 && !line.config.empty()) {
      rank.worker_arguments = WithEnvironment(arguments, NamesOf(line.settings));
    }
    launch.commands.push_back(WorkerArguments(rank, line.log));
  }
  const auto kept = std::make_shared<worker::LocalRanks>(std::move(ranks));
  launch.resources = kept;
  launch.beats = [kept = kept.get()](size_t i) {
    return kept->Beats(kept->first() + static_cast<int32_t>(i))->load(std::memory_order_relaxed);
  };
  return launch;
}

// "t.json" of rank 1 is "t.rank1.json".
std::string StepTracePath(const WorkerOptions& options) {
  const std::filesystem::path path = options.engine.step_trace;
  const std::string name =
      absl::StrCat(path.stem().string(), ".rank", options.rank, path.extension().string());
  return path.parent_path() / name;
}

}  // namespace

absl::Status SuperviseRanks(const std::vector<std::string>& arguments) {
  ASSIGN_OR_RETURN(const CommandLine<WorkerOptions> start, ParseWorker(arguments));
  ChildProcesses ranks;
  RETURN_IF_ERROR(
      ranks.Start([&, restarts = 0]() mutable { return LaunchRanks(arguments, restarts++); }));
  for (;;) {
    const std::optional<int> signal = WaitForSignal(std::chrono::milliseconds(100));
    if (AsksToStop(signal)) break;
    if (signal == SIGHUP) ranks.Signal(SIGHUP);
    RETURN_IF_ERROR(ranks.Tend(SteadyClock::Get().NowMs()));
  }
  // Rank 0 lets its streams end, for as long as its file says now, and the others end with it.
  const auto now = ParseWorker(arguments);
  const int32_t drain_seconds = (now.ok() ? *now : start).options.drain_seconds;
  ranks.Stop(int64_t{drain_seconds} * 1000 + kStopGraceMs);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<worker::RankGroup>> JoinRanks(const WorkerOptions& options) {
  const EngineOptions& engine = options.engine;
  ASSIGN_OR_RETURN(const worker::LocalRanks ranks,
                   worker::LocalRanks::Open(engine.tensor_parallel_size,
                                            engine.pipeline_parallel_size,
                                            HostPlaceOf(options),
                                            options.rank_fds));
  if (options.nodes.count == 1) return worker::JoinLocalRanks(ranks, options.rank);
  RETURN_IF_ERROR(kernels::SetActiveCpuIsaFromEnvironment());
  ASSIGN_OR_RETURN(const OpenModel model, Open(engine.model));
  // Ranks that would compute other bits, or another share, are not of this group.
  ASSIGN_OR_RETURN(const DeviceChoice device, ChooseDevice(engine, LocalRank(options)));
  const std::string numerics = NumericsOf(model.file->Digest(), engine, device);
  ASSIGN_OR_RETURN(std::vector<std::string> tokens, ReadTokens(options.plane.token_file));
  auto group = worker::JoinRanksOfNodes(
      ranks,
      options.rank,
      {.master_addr = options.nodes.master_addr,
       .master_port = options.nodes.master_port,
       .group = absl::StrCat(
           numerics, " ", engine.tensor_parallel_size, "x", engine.pipeline_parallel_size),
       .tokens = std::move(tokens)});
  if (absl::IsFailedPrecondition(group.status())) {
    return absl::FailedPreconditionError(absl::StrCat(
        std::string(group.status().message()),
        ": give every node the same model file, release, --worker-token-file, "
        "--device, --compute-dtype, --kv-cache-dtype, --prefill-attention, "
        "--tensor-parallel-mode, --tensor-parallel-size and --pipeline-parallel-size (this one: ",
        numerics,
        ")"));
  }
  if (group.ok()) {
    RETURN_IF_ERROR(StartRankGuard((*group)->peers));
    (*group)->peers.clear();
  }
  return group;
}

absl::Status RunOtherRank(const WorkerOptions& options, worker::RankGroup& group) {
  const EngineOptions& engine = options.engine;
  RETURN_IF_ERROR(kernels::SetActiveCpuIsaFromEnvironment());
  ASSIGN_OR_RETURN(const OpenModel model, Open(engine.model));
  ASSIGN_OR_RETURN(const DeviceChoice device, ChooseDevice(engine, LocalRank(options)));
  const int32_t num_threads = ThreadsPerRank(engine);
  std::unique_ptr<worker::StepTrace> trace;
  if (!engine.step_trace.empty()) {
    ASSIGN_OR_RETURN(trace,
                     worker::StepTrace::Open({.path = StepTracePath(options),
                                              .process_name = absl::StrCat("rank ", options.rank),
                                              .num_threads = num_threads},
                                             SteadyClock::Get()));
  }
  const auto gpu_monitor = WatchGpu(device, [](const worker::GpuReading&) {});
  return worker::RunRank(*model.file,
                         model.config,
                         {.load = device.load,
                          .device = device.place,
                          .compute = device.compute,
                          .kv_dtype = device.kv_dtype,
                          .tensor_mode = TensorModeOf(engine),
                          .num_threads = num_threads,
                          .pin_threads = false,
                          .trace = trace.get(),
                          .group = &group,
                          .progress = nullptr});
}

}  // namespace paceline::cli
