// Executes batches: builds the model's input from the scheduler's plan, runs the forward pass, and
// samples. Knows devices and sequences, decides nothing. Owned by Engine; created on any one
// thread, then engine thread only.
#ifndef PACELINE_WORKER_RUNNER_MODEL_RUNNER_H_
#define PACELINE_WORKER_RUNNER_MODEL_RUNNER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/gemm/activations.h"
#include "model/config/model_config.h"
#include "model/gguf/gguf_file.h"
#include "worker/core/request.h"
#include "worker/models/causal_lm.h"
#include "worker/sample/sampler.h"
#include "worker/sched/batch.h"
#include "worker/trace/step_trace.h"

namespace paceline::worker {

// What a step found out, beside the tokens themselves; vectors are reused from step to step.
struct StepOutcome {
  struct Choice {
    Sequence* sequence = nullptr;
    SampleResult result;
    int64_t previous_token_ns = 0;  // the engine's: when its last token came; 0: this is the first
  };
  struct PromptPart {
    Sequence* sequence = nullptr;
    std::vector<TokenLogprobs> logprobs;  // of the next prompt tokens, in order
  };
  std::vector<Choice> choices;           // one per sampler, in the batch's order
  std::vector<PromptPart> prompt_parts;  // of requests that ask for prompt_logprobs
};

class ModelRunner {
 public:
  struct Options {
    kernels::ComputeType compute = kernels::ComputeType::kInt8;
    int32_t num_threads = 1;
    bool pin_threads = true;
    int32_t max_batch_tokens = 0;
    int32_t max_model_len = 0;  // tokens
    int64_t kv_cache_bytes = 0;
    std::vector<int32_t> eos_token_ids;
    StepTrace* trace = nullptr;  // may be null; else outlives the runner
    // Called while weights load.
    std::function<void(int64_t loaded_bytes, int64_t total_bytes)> progress;
  };

  // Loads the model and reserves the KV cache. InvalidArgument names what is wrong with the file,
  // or says that kv_cache_bytes is too small for one block; ResourceExhausted: no memory.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(const model::GgufFile& file,
                                                             const model::ModelConfig& config,
                                                             const Options& options);

  // Bytes of one block (32 tokens) of the KV cache of a model with this configuration.
  static int64_t KvBytesPerBlock(const model::ModelConfig& config, kernels::ComputeType compute);

  // Runs one step. `on_layer` is called between layers. Dies on a broken invariant (shapes, ids).
  void Run(const Batch& batch, absl::FunctionRef<void()> on_layer, StepOutcome& outcome);

  int32_t num_blocks() const { return kv_cache_.num_blocks; }
  int32_t vocab_size() const { return model_->vocab_size(); }
  int64_t weight_bytes() const { return model_->weight_bytes(); }
  int64_t kv_cache_bytes() const { return static_cast<int64_t>(kv_memory_.size()); }

 private:
  // One row of logits to compute, and what for.
  struct LogitsJob {
    int32_t row = 0;  // of the batch
    Sequence* sequence = nullptr;
    int32_t prompt_target = -1;  // >= 0: the prompt token to score; else sample
    int32_t slot = 0;            // index in outcome.choices or in the prompt part's logprobs
    int32_t part = 0;            // index in outcome.prompt_parts
  };

  ModelRunner(const Options& options) : options_(options) {}

  void PrepareBlocks(const Batch& batch);
  void PrepareInput(const Batch& batch);
  void PlanLogits(const Batch& batch, StepOutcome& outcome);
  void AddPromptJobs(const BatchEntry& entry, int32_t first_row, StepOutcome& outcome);
  void RunLogits(const ForwardContext& context, StepOutcome& outcome);
  void FinishJob(const LogitsJob& job, absl::Span<float> logits, StepOutcome& outcome);

  const Options options_;
  std::unique_ptr<kernels::ThreadPool> pool_;
  std::unique_ptr<CausalLm> model_;
  kernels::AlignedBuffer kv_memory_;
  kernels::KvCacheView kv_cache_;
  kernels::AttentionWorkspace attention_workspace_;
  kernels::AlignedBuffer logits_;  // [kLogitsRows, vocab] f32

  // Reused from step to step.
  std::vector<int32_t> token_ids_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> slots_;
  std::vector<kernels::SequenceView> sequences_;
  std::vector<kernels::BlockCopy> copies_;
  std::vector<LogitsJob> jobs_;
  std::vector<int32_t> job_rows_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_RUNNER_MODEL_RUNNER_H_
