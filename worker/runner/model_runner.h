// Executes batches: lays the scheduler's batch out as a plan for all ranks, runs the leader's part
// of it, and samples. Knows devices and sequences, decides nothing. Owned by Engine; created on any
// one thread, then engine thread only.
#ifndef PACELINE_WORKER_RUNNER_MODEL_RUNNER_H_
#define PACELINE_WORKER_RUNNER_MODEL_RUNNER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "model/config/model_config.h"
#include "model/gguf/gguf_file.h"
#include "worker/core/request.h"
#include "worker/runner/model_shard.h"
#include "worker/runner/rank_group.h"
#include "worker/runner/rank_work.h"
#include "worker/runner/step_plan.h"
#include "worker/sample/sampler.h"
#include "worker/sched/batch.h"

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
    ModelShard::Options shard;
    std::vector<int32_t> eos_token_ids;
  };

  // Loads the leader's part of the model. Errors: ModelShard::Create's.
  static absl::StatusOr<std::unique_ptr<ModelRunner>> Create(const model::GgufFile& file,
                                                             const model::ModelConfig& config,
                                                             const Options& options);
  // Ends the other ranks.
  ~ModelRunner();

  // Steps that may be under way at once: one for each pipeline stage.
  int32_t depth() const { return depth_; }
  int32_t num_in_flight() const { return num_in_flight_; }
  // Submit returns before the step's work is done: the caller may do something else meanwhile.
  bool returns_early() const { return shard_->returns_early(); }
  // Whether a step more may be submitted, of Scheduler::NextAhead.
  bool can_run_ahead() const { return num_in_flight_ == 1 && flights_[first_flight_].is_asked; }

  // Starts a step: computes this stage's layers and leaves the rest to the others. `on_layer` is
  // called between layers. The batch's sequences must stay as they are until its Collect, but for
  // the tokens that a step ahead waits for.
  // REQUIRES: num_in_flight() < depth() or can_run_ahead().
  void Submit(const Batch& batch, absl::FunctionRef<void()> on_layer);
  // After the Commit of the step before one ahead: its sequences have their tokens, and those
  // `dropped` take no part any more. Nothing happens when no step is under way.
  void Settle(absl::Span<Sequence* const> dropped);
  // Ends the oldest step under way. REQUIRES: there is one.
  void Collect(StepOutcome& outcome);
  // Both die on a broken invariant (shapes, ids) and when another rank is lost, which they name.

  // What each rank has done so far: this one first, then those whose memory it shares.
  void ReadRanks(std::vector<RankWork>& ranks) const;

  int32_t num_blocks() const { return shard_->num_blocks(); }
  int32_t vocab_size() const { return shard_->vocab_size(); }
  int64_t weight_bytes() const { return shard_->weight_bytes(); }
  int64_t kv_cache_bytes() const { return shard_->kv_cache_bytes(); }

 private:
  // One row of logits to compute, and what for.
  struct LogitsJob {
    int32_t row = 0;  // of the micro-batch
    Sequence* sequence = nullptr;
    int32_t prompt_target = -1;  // >= 0: the prompt token to score; else sample
    int32_t slot = 0;            // index in outcome.choices or in the prompt part's logprobs
    int32_t part = 0;            // index in outcome.prompt_parts
    bool only_best = false;      // the best logit decides
  };

  // A step under way; reused.
  struct Flight {
    StepPlan plan;
    std::vector<LogitsJob> jobs;  // one a logit row of the plan
    StepOutcome outcome;
    bool is_asked = false;             // its logits were started
    std::vector<SampleJob> questions;  // then
  };

  ModelRunner(const Options& options, int32_t depth)
      : options_(options), depth_(depth), flights_(depth) {}

  void MakePlan(const Batch& batch, Flight& flight) const;
  // Where its tokens will be: in the rows of `before`.
  static void FindTokenRows(const Batch& batch, const Flight& before, Flight& flight);
  void Ask(Flight& flight);
  void FinishAsked(Flight& flight);
  static void AddEntry(const BatchEntry& entry, int32_t most_rows, Flight& flight);
  static void AddPromptJobs(const BatchEntry& entry,
                            int32_t first_position,
                            int32_t end_position,
                            int32_t first_row,
                            Flight& flight);
  static void AddJob(const LogitsJob& job, Flight& flight);
  // In each micro-batch jobs for which the best logit is enough come first, then others that
  // sample.
  static void OrderJobs(Flight& flight);
  void RunLogits(const MicroBatch& batch, Flight& flight);
  SampleJob QuestionOf(const LogitsJob& job) const;
  static void FinishJob(const LogitsJob& job, const BestLogit& best, StepOutcome& outcome);
  static void FinishJob(const LogitsJob& job, SampleResult result, StepOutcome& outcome);

  const Options options_;
  std::unique_ptr<ModelShard> shard_;
  PlanSender sender_;
  RankWork work_;
  std::vector<SampleJob> questions_;  // of one ModelShard::Logits

  const int32_t depth_;
  std::vector<Flight> flights_;  // a ring: one for each step under way, and one ahead
  int32_t first_flight_ = 0;
  int32_t num_in_flight_ = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_RUNNER_MODEL_RUNNER_H_
