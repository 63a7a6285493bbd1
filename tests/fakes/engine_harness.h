// An engine over a tiny model, and a client that collects what it answers. Owned by the test; one
// thread besides the engine's.
#ifndef PACELINE_TESTS_FAKES_ENGINE_HARNESS_H_
#define PACELINE_TESTS_FAKES_ENGINE_HARNESS_H_

#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "model/config/model_config.h"
#include "model/gguf/gguf_file.h"
#include "tests/fakes/tiny_model.h"
#include "worker/engine/engine.h"
#include "worker/metrics/worker_metrics.h"
#include "worker/runner/model_shard.h"
#include "worker/runner/rank_group.h"

namespace paceline::worker {

// All that one choice answered.
struct Answer {
  std::vector<int32_t> token_ids;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  FinishReason finish_reason = FinishReason::kNone;
  absl::Status error;
  int32_t cached_tokens = 0;
  int32_t next_index = 0;  // of the next token: frames must be gapless
  bool has_stop_token = false;
  int32_t stop_token_id = 0;
  bool gap = false;        // a frame came out of order
  bool after_end = false;  // or after the end
};

// Bit for bit the same tokens, log-probabilities and end.
bool SameAnswer(const Answer& a, const Answer& b);

class EngineHarness final {
 public:
  struct Options {
    model::TinyModelOptions model;
    int32_t num_threads = 1;
    int32_t num_blocks = 64;
    int32_t max_num_seqs = 64;
    int32_t max_num_batched_tokens = 512;
    bool prefix_caching = true;
    kernels::ComputeType compute = kernels::ComputeType::kInt8;
    kernels::DType kv_dtype = kernels::DType::kF16;
    StepTrace* trace = nullptr;
    SpanSink* spans = nullptr;
    // More than one rank: a thread each.
    int32_t tensor_size = 1;
    TensorMode tensor_mode = TensorMode::kExact;
    int32_t num_stages = 1;
    // Another kind of device than the CPU, and where.
    ModelLoader load = DefaultLoader();
    DevicePlace device;
    bool own_devices = false;  // rank r has device r
    bool has_gpu = false;      // for metrics
  };

  // LoadModel, or where PACELINE_TEST_EARLY is set LoadEarlyModel, so that tests can be run with
  // both.
  static ModelLoader DefaultLoader();

  explicit EngineHarness(const Options& options);
  ~EngineHarness();

  // A request with the given prompt; adjust what matters and pass it on.
  static Request MakeRequest(std::string id, std::vector<int32_t> prompt, int32_t max_tokens);
  // `length` ids that depend on `seed`.
  static std::vector<int32_t> Prompt(int32_t length, int32_t seed);

  void Submit(Request request);
  void Cancel(const std::string& id) { engine_->Cancel(session_, id); }
  void Pause(const std::string& id) { engine_->Pause(session_, id); }
  void Resume(const std::string& id) { engine_->Resume(session_, id); }
  // The answer of a choice, complete. Blocks until it ended.
  Answer Wait(const std::string& id, int32_t choice = 0);
  // Blocks until the choice has at least so many tokens or ended; returns how many it has.
  int32_t WaitForTokens(const std::string& id, int32_t count, int32_t choice = 0);
  // Submits and waits.
  Answer Run(Request request);
  // Blocks until a frame reports no work and all blocks free.
  void WaitUntilIdle();

  Engine& engine() { return *engine_; }
  WorkerMetrics& metrics() { return metrics_; }
  uint64_t session() const { return session_; }
  EngineLoad last_load();
  int64_t num_frames();

 private:
  class Sink;

  ModelShard::Options ShardOptions(const Options& options, RankGroup* group) const;

  std::string model_bytes_;
  std::unique_ptr<model::GgufFile> file_;
  model::ModelConfig config_;
  std::unique_ptr<RankGroup> group_;  // the leader's
  std::vector<std::thread> ranks_;    // the others
  WorkerMetrics metrics_;
  std::shared_ptr<Sink> sink_;
  std::unique_ptr<Engine> engine_;
  uint64_t session_ = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_TESTS_FAKES_ENGINE_HARNESS_H_
