// A model file opened, checked and put behind a running engine: what `worker`, `generate` and
// `bench` share. Owned by the command; made on its main thread.
#ifndef PACELINE_CLI_LOADED_MODEL_H_
#define PACELINE_CLI_LOADED_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "cli/device.h"
#include "cli/options.h"
#include "model/config/model_config.h"
#include "proto/paceline/v1/worker.pb.h"
#include "worker/engine/engine.h"
#include "worker/metrics/worker_metrics.h"
#include "worker/service/attach_session.h"
#include "worker/trace/step_trace.h"

namespace paceline::cli {

class LoadedModel {
 public:
  struct Settings {
    int32_t lease_ms = 2000;
    bool vllm_metrics = true;
    // Called while weights load.
    std::function<void(int64_t loaded_bytes, int64_t total_bytes)> progress;
    worker::RankGroup* group = nullptr;  // the leader's, when there are several ranks
    int32_t rank_restarts = 0;
    SpanSink* spans = nullptr;  // where traces go; null: nowhere. Outlives the model
  };

  // Opens the file, sizes the KV cache, loads the weights, starts the engine. Errors name the file
  // or the option at fault; nothing is left running.
  static absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const EngineOptions& options,
                                                           const Settings& settings);

  worker::Engine& engine() { return *engine_; }
  worker::WorkerMetrics& metrics() { return *metrics_; }
  const worker::Identity& identity() const { return identity_; }
  const v1::TokenizerBundle& tokenizer() const { return tokenizer_; }
  const model::ModelConfig& config() const { return config_; }
  // One paragraph about what was chosen (threads, KV cache, types), for the log.
  const std::string& description() const { return description_; }
  int32_t num_threads() const { return num_threads_; }

 private:
  LoadedModel() = default;

  model::ModelConfig config_;
  worker::Identity identity_;
  v1::TokenizerBundle tokenizer_;
  std::string description_;
  int32_t num_threads_ = 1;
  std::unique_ptr<worker::WorkerMetrics> metrics_;
  std::unique_ptr<worker::GpuMonitor> gpu_monitor_;  // null: nothing to watch
  std::unique_ptr<worker::StepTrace> trace_;         // null without --step-trace
  std::unique_ptr<worker::Engine> engine_;           // last: stops first
};

// "models/SmolLM2-135M.Q4_1.gguf" → "SmolLM2-135M.Q4_1".
std::string ModelNameFromPath(const std::string& path);

// By which routers and traces know this process: the model's name, host and process id.
std::string ReplicaId(const EngineOptions& options);

// As --threads says, or this rank's share of the cores.
int32_t ThreadsPerRank(const EngineOptions& options);

worker::TensorMode TensorModeOf(const EngineOptions& options);
// The name of everything that device and options decide about an answer's bits.
std::string NumericsOf(std::string_view model_digest,
                       const EngineOptions& options,
                       const DeviceChoice& device);

// Refuses no path, hf:// and directories. InvalidArgument.
absl::Status CheckModelPath(const std::string& path);

// Refuses a file that is not there, broken, or of a model that nothing here runs: so much is known
// without its weights.
absl::Status CheckModelFile(const std::string& path);

// Refuses such paths as CheckModelPath does, and options that contradict each other.
// InvalidArgument.
absl::Status CheckEngineOptions(const EngineOptions& options);

}  // namespace paceline::cli

#endif  // PACELINE_CLI_LOADED_MODEL_H_
