// One rank's part of a model, its KV cache, and what it exchanges with the other ranks in a step.
// Owned by the model runner (leader) or the rank loop (the others); created on any one thread, then
// one thread only.
#ifndef PACELINE_WORKER_RUNNER_MODEL_SHARD_H_
#define PACELINE_WORKER_RUNNER_MODEL_SHARD_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "model/config/model_config.h"
#include "model/gguf/gguf_file.h"
#include "worker/models/causal_lm.h"
#include "worker/models/registry.h"
#include "worker/runner/rank_group.h"
#include "worker/runner/step_plan.h"
#include "worker/trace/step_trace.h"

namespace paceline::worker {

class ModelShard {
 public:
  struct Options {
    ModelLoader load = &LoadModel;  // of the kind of device
    DevicePlace device;             // where it is not the CPU
    kernels::ComputeType compute = kernels::ComputeType::kInt8;
    kernels::DType kv_dtype = kernels::DType::kF16;
    TensorMode tensor_mode = TensorMode::kExact;
    int32_t num_threads = 1;
    bool pin_threads = true;
    int32_t max_batch_tokens = 0;
    int32_t max_model_len = 0;  // tokens
    // Of the replica, all ranks together; 0: what the device has left.
    int64_t kv_cache_bytes = 0;
    StepTrace* trace = nullptr;  // may be null; else outlives the shard
    RankGroup* group = nullptr;  // null: one rank; else outlives the shard
    // Called while weights load.
    std::function<void(int64_t loaded_bytes, int64_t total_bytes)> progress;
  };

  // Loads this rank's weights and reserves its KV cache, and waits until every rank has; the leader
  // first tells the others what it decided. InvalidArgument names what is wrong with
  // the file, or says that kv_cache_bytes is too small for one block; ResourceExhausted: no memory.
  static absl::StatusOr<std::unique_ptr<ModelShard>> Create(const model::GgufFile& file,
                                                            const model::ModelConfig& config,
                                                            const Options& options);

  // Bytes of one block (32 tokens) of the KV cache of a whole model with this configuration.
  static int64_t KvBytesPerBlock(const model::ModelConfig& config, kernels::DType kv_dtype);

  // What precedes a step's forward passes.
  absl::Status PrepareBlocks(const StepPlan& plan);
  // Takes a micro-batch from the stage before, through this one's layers, to the stage after.
  // `on_layer` is called between layers. Errors: a broken invariant, or the communicator's.
  absl::Status Forward(const StepPlan& plan,
                       const MicroBatch& batch,
                       absl::FunctionRef<void()> on_layer);
  // Rows of logits, the first of which may be known by their best one only.
  struct LogitRows {
    absl::Span<const BestLogit> best;
    absl::Span<SampleResult> results;  // of jobs
    kernels::MutableMatrix logits;     // [count, vocab], unspecified for rows with one of these
  };
  // The last stage computes the logits of rows [first, first + count) of the micro-batch's logit
  // rows, the leader gets them, others do nothing. Chunks in the same order everywhere, right after
  // the micro-batch's Forward on the last stage. `count` is at most max_logit_rows(). Where the
  // shard samples, the leader has a job for each row after the best. Valid until the next call.
  absl::StatusOr<LogitRows> Logits(const StepPlan& plan,
                                   const MicroBatch& batch,
                                   int32_t first,
                                   int32_t count,
                                   absl::Span<const SampleJob> jobs);

  // Logits in two, where returns_early(): of all logit rows of the plan's only micro-batch. Jobs
  // stay as they are until FinishLogits.
  absl::Status StartLogits(const StepPlan& plan, absl::Span<const SampleJob> jobs);
  absl::StatusOr<LogitRows> FinishLogits(const StepPlan& plan, absl::Span<const SampleJob> jobs);

  kernels::ThreadPool& pool() { return *pool_; }
  int32_t num_blocks() const { return num_blocks_; }
  int32_t vocab_size() const { return model_->sizes().vocab_size; }
  int32_t max_logit_rows() const { return model_->sizes().max_logit_rows; }
  bool returns_early() const { return model_->sizes().returns_early; }
  bool samples() const { return model_->sizes().samples; }
  // Rows of which only the best logit is wanted should come first (MicroBatch::num_best).
  bool finds_best() const {
    return model_->sizes().finds_best ||
           (options_.group != nullptr && options_.group->all != nullptr);
  }
  int64_t weight_bytes() const { return model_->sizes().weight_bytes; }
  int64_t kv_cache_bytes() const { return model_->sizes().kv_cache_bytes; }
  TraceTrack* track() const {
    return options_.trace == nullptr ? nullptr : options_.trace->track(0);
  }

 private:
  explicit ModelShard(const Options& options) : options_(options) {}

  RankPlace place() const {
    return options_.group == nullptr ? RankPlace{} : options_.group->place;
  }
  ForwardContext context();
  Pulse* pulse() const { return options_.group == nullptr ? nullptr : options_.group->pulse.get(); }

  const Options options_;
  std::unique_ptr<kernels::ThreadPool> pool_;
  int32_t num_blocks_ = 0;
  kernels::AttentionWorkspace attention_workspace_;
  std::unique_ptr<CausalLm> model_;    // after what its passes use: it waits for the last
  std::vector<BestLogit> best_;        // [max_logit_rows]
  std::vector<SampleResult> results_;  // [max_logit_rows]
};

// What the leader decides for all ranks.
struct ShardSetup {
  int64_t kv_cache_bytes = 0;
  int32_t max_batch_tokens = 0;
  int32_t max_model_len = 0;
};

// The life of a rank that is not the leader: loads its part as the leader's setup says, then does
// what its plans say until the leader ends it (OK). `options.group` is this rank's. Errors:
// Create's, a broken invariant, or the communicator's.
absl::Status RunRank(const model::GgufFile& file,
                     const model::ModelConfig& config,
                     ModelShard::Options options);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_RUNNER_MODEL_SHARD_H_
