#include "worker/runner/model_runner.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"

namespace paceline::worker {
namespace {

// The sampler's state as a sequence carries it.
struct SamplerAttachment final : SequenceAttachment {
  explicit SamplerAttachment(SamplerState s) : state(std::move(s)) {}
  SamplerState state;
};

SamplerState& StateOf(Sequence& sequence) {
  if (sequence.sampler_state == nullptr) {
    sequence.sampler_state = std::make_unique<SamplerAttachment>(SamplerState::Create(
        *sequence.request, sequence.choice_index, sequence.prompt(), sequence.output()));
  }
  return static_cast<SamplerAttachment&>(*sequence.sampler_state).state;
}

// How many parts a batch is cut into so that all stages work: more of them leave less idle at both
// ends of the step, but each reads all weights.
constexpr int32_t kMicroBatchesPerStage = 2;

// A rank that is lost ends the replica: its requests go on elsewhere, and its supervisor starts it
// anew.
void DieUnlessOk(const absl::Status& status) {
  if (status.ok()) return;
  if (status.code() == absl::StatusCode::kInvalidArgument ||
      status.code() == absl::StatusCode::kInternal) {
    PACELINE_CHECK(false, absl::StrCat("model runner: ", status.message()));
  }
  spdlog::critical("replica ends: {}", std::string(status.message()));
  spdlog::shutdown();
  _exit(kLostRankExit);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const model::GgufFile& file,
                                                                 const model::ModelConfig& config,
                                                                 const Options& options) {
  auto runner = std::unique_ptr<ModelRunner>(new ModelRunner(options));
  ASSIGN_OR_RETURN(runner->shard_, ModelShard::Create(file, config, options.shard));
  return runner;
}

ModelRunner::~ModelRunner() {
  if (options_.shard.group == nullptr || options_.shard.group->all == nullptr) return;
  sender_.SendEnd(*options_.shard.group).IgnoreError();  // a lost rank needs no end
}

void ModelRunner::Run(const Batch& batch,
                      absl::FunctionRef<void()> on_layer,
                      StepOutcome& outcome) {
  RankGroup* const group = options_.shard.group;
  {
    const TraceSpan span(shard_->track(), "prepare");
    MakePlan(batch, outcome);
    if (group != nullptr && group->all != nullptr) DieUnlessOk(sender_.Send(*group, plan_));
    DieUnlessOk(shard_->PrepareBlocks(plan_));
  }
  // The last stage is as many micro-batches behind as there are stages before it. Its logits are
  // taken as they come: it waits for that before it goes on.
  const size_t lag = group == nullptr ? 0 : group->place.num_stages - 1;
  const std::vector<MicroBatch>& batches = plan_.micro_batches;
  for (size_t i = 0; i < batches.size() + lag; ++i) {
    if (i < batches.size()) DieUnlessOk(shard_->Forward(plan_, batches[i], on_layer));
    if (i >= lag) RunLogits(batches[i - lag], outcome);
  }
}

void ModelRunner::MakePlan(const Batch& batch, StepOutcome& outcome) {
  plan_.Clear();
  jobs_.clear();
  outcome.choices.clear();
  outcome.prompt_parts.clear();
  plan_.zero_blocks.assign(batch.zero_blocks.begin(), batch.zero_blocks.end());
  for (const BlockCopy& copy : batch.copies) {
    plan_.copies.push_back({.from = copy.source, .to = copy.destination});
  }
  const RankGroup* const group = options_.shard.group;
  const int32_t stages = group == nullptr ? 1 : group->place.num_stages;
  const int32_t most = stages == 1 ? 1 : stages * kMicroBatchesPerStage;
  // A micro-batch ends with the entry that fills its part of the rows.
  int32_t rows = 0;
  for (const BatchEntry& entry : batch.entries) {
    const int64_t part = int64_t{rows} * most / batch.num_tokens;
    if (plan_.micro_batches.empty() ||
        part > int64_t{plan_.micro_batches.back().first_row} * most / batch.num_tokens) {
      plan_.micro_batches.push_back({.first_row = rows,
                                     .first_sequence = static_cast<int32_t>(plan_.sequences.size()),
                                     .first_logit = static_cast<int32_t>(plan_.logit_rows.size())});
    }
    AddEntry(entry, outcome);
    rows += entry.num_tokens;
  }
}

void ModelRunner::AddEntry(const BatchEntry& entry, StepOutcome& outcome) {
  MicroBatch& micro = plan_.micro_batches.back();
  const Sequence& sequence = *entry.sequence;
  const absl::Span<const int32_t> table = sequence.block_table();
  const int32_t first_row = micro.num_rows;
  plan_.sequences.push_back({.first_row = first_row,
                             .num_rows = entry.num_tokens,
                             .context_before = entry.first_position,
                             .block_table = table});
  plan_.keys.push_back(reinterpret_cast<uintptr_t>(&sequence));
  for (int32_t i = 0; i < entry.num_tokens; ++i) {
    const int32_t position = entry.first_position + i;
    plan_.AddRow(sequence.token_ids[position], position, table);
  }
  micro.num_rows += entry.num_tokens;
  ++micro.num_sequences;

  AddPromptJobs(entry, first_row, outcome);
  for (Sequence* sampler : entry.samplers) {
    StateOf(*sampler);  // made here, on one thread
    AddJob({.row = micro.num_rows - 1,
            .sequence = sampler,
            .slot = static_cast<int32_t>(outcome.choices.size())});
    outcome.choices.push_back({.sequence = sampler});
  }
}

void ModelRunner::AddJob(const LogitsJob& job) {
  jobs_.push_back(job);
  plan_.logit_rows.push_back(job.row);
  ++plan_.micro_batches.back().num_logits;
}

// The row of position p gives the distribution of the prompt token at p + 1.
void ModelRunner::AddPromptJobs(const BatchEntry& entry, int32_t first_row, StepOutcome& outcome) {
  Sequence& sequence = *entry.sequence;
  if (sequence.request->sampling.prompt_logprobs < 0) return;
  // A preempted sequence computes its prompt again, but reports it once.
  const int32_t first = std::max(entry.first_position, sequence.num_scored_prompt_tokens);
  const int32_t end =
      std::min(entry.first_position + entry.num_tokens, sequence.num_prompt_tokens - 1);
  if (first >= end) return;
  StepOutcome::PromptPart part{.sequence = &sequence};
  part.logprobs.resize(end - first);
  for (int32_t p = first; p < end; ++p) {
    AddJob({.row = first_row + p - entry.first_position,
            .sequence = &sequence,
            .prompt_target = sequence.token_ids[p + 1],
            .slot = p - first,
            .part = static_cast<int32_t>(outcome.prompt_parts.size())});
  }
  sequence.num_scored_prompt_tokens = end;
  outcome.prompt_parts.push_back(std::move(part));
}

void ModelRunner::RunLogits(const MicroBatch& batch, StepOutcome& outcome) {
  for (int32_t first = 0; first < batch.num_logits; first += kLogitsRows) {
    const int32_t count = std::min(kLogitsRows, batch.num_logits - first);
    absl::StatusOr<kernels::MutableMatrix> logits = shard_->Logits(plan_, batch, first, count);
    DieUnlessOk(logits.status());
    const TraceSpan span(shard_->track(), "sampling", {{"rows", count}});
    shard_->pool().ForEach(count, [&](int, int64_t i) {
      FinishJob(jobs_[batch.first_logit + first + i],
                absl::MakeSpan(logits->row(i), logits->cols),
                outcome);
    });
  }
}

// Runs on the pool's threads; each job has a slot of its own.
void ModelRunner::FinishJob(const LogitsJob& job, absl::Span<float> logits, StepOutcome& outcome) {
  Sequence& sequence = *job.sequence;
  const Request& request = *sequence.request;
  if (job.prompt_target >= 0) {
    outcome.prompt_parts[job.part].logprobs[job.slot] =
        PromptLogprobs(logits, job.prompt_target, request.sampling.prompt_logprobs);
    return;
  }
  SamplerState& state = StateOf(sequence);
  SampleResult result = Sample(logits,
                               request,
                               sequence.choice_index,
                               sequence.num_output_tokens(),
                               &state,
                               options_.eos_token_ids);
  if (result.token_id >= 0) state.Append(result.token_id);
  outcome.choices[job.slot].result = std::move(result);
}

}  // namespace paceline::worker
