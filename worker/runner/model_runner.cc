#include "worker/runner/model_runner.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "worker/models/registry.h"

namespace paceline::worker {
namespace {

// Rows of logits computed at a time: a prompt whose every token is scored needs no more memory.
constexpr int32_t kLogitsRows = 32;

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

kernels::DType KvType(kernels::ComputeType compute) {
  return compute == kernels::ComputeType::kFloat32 ? kernels::DType::kF32 : kernels::DType::kF16;
}

void DieUnlessOk(const absl::Status& status) {
  PACELINE_CHECK(status.ok(), absl::StrCat("model runner: ", status.message()));
}

}  // namespace

int64_t ModelRunner::KvBytesPerBlock(const model::ModelConfig& config,
                                     kernels::ComputeType compute) {
  return kernels::KvLayout{.num_layers = config.num_layers,
                           .num_kv_heads = config.num_kv_heads,
                           .head_dim = config.head_dim,
                           .dtype = KvType(compute)}
      .BytesPerBlock();
}

absl::StatusOr<std::unique_ptr<ModelRunner>> ModelRunner::Create(const model::GgufFile& file,
                                                                 const model::ModelConfig& config,
                                                                 const Options& options) {
  auto runner = std::unique_ptr<ModelRunner>(new ModelRunner(options));
  runner->pool_ = std::make_unique<kernels::ThreadPool>(options.num_threads, options.pin_threads);
  WeightLoader loader(file, *runner->pool_, options.progress);
  ASSIGN_OR_RETURN(runner->model_,
                   LoadModel(file,
                             config,
                             {.compute = options.compute,
                              .max_batch_tokens = options.max_batch_tokens,
                              .max_logit_rows = kLogitsRows,
                              .max_positions = options.max_model_len},
                             loader));
  file.GiveBackPages();

  kernels::KvLayout layout = runner->model_->kv_layout();
  layout.dtype = KvType(options.compute);
  RETURN_IF_ERROR(kernels::CheckLayout(layout));
  const int64_t num_blocks = options.kv_cache_bytes / layout.BytesPerBlock();
  if (num_blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat("kv-cache-memory: ",
                                                   options.kv_cache_bytes,
                                                   " bytes do not hold one block of ",
                                                   kernels::kKvBlockSize,
                                                   " tokens (",
                                                   layout.BytesPerBlock(),
                                                   " bytes)"));
  }
  // More blocks than the batch could ever address would only waste address space.
  const int64_t bytes = num_blocks * layout.BytesPerBlock();
  ASSIGN_OR_RETURN(runner->kv_memory_, kernels::AlignedBuffer::Allocate(bytes));
  runner->kv_cache_ = {.base = runner->kv_memory_.data(),
                       .num_blocks = static_cast<int32_t>(num_blocks),
                       .layout = layout};
  ASSIGN_OR_RETURN(runner->logits_,
                   kernels::AlignedBuffer::Allocate(int64_t{kLogitsRows} *
                                                    runner->model_->vocab_size() * sizeof(float)));
  return runner;
}

void ModelRunner::Run(const Batch& batch,
                      absl::FunctionRef<void()> on_layer,
                      StepOutcome& outcome) {
  TraceTrack* const track = options_.trace == nullptr ? nullptr : options_.trace->track(0);
  {
    const TraceSpan span(track, "prepare");
    PrepareBlocks(batch);
    PrepareInput(batch);
    PlanLogits(batch, outcome);
  }
  const ForwardContext context{.pool = *pool_,
                               .compute = options_.compute,
                               .attention_workspace = attention_workspace_,
                               .trace = options_.trace,
                               .track = track};
  {
    const TraceSpan span(track, "forward", {{"rows", batch.num_tokens}});
    DieUnlessOk(model_->Forward(context,
                                {.token_ids = token_ids_,
                                 .positions = positions_,
                                 .slots = slots_,
                                 .sequences = sequences_,
                                 .kv_cache = kv_cache_,
                                 .on_layer = on_layer}));
  }
  RunLogits(context, outcome);
}

void ModelRunner::PrepareBlocks(const Batch& batch) {
  const int64_t block_bytes = kv_cache_.layout.BytesPerBlock();
  for (const int32_t block : batch.zero_blocks) {
    std::memset(kv_cache_.base + block * block_bytes, 0, block_bytes);
  }
  if (batch.copies.empty()) return;
  copies_.clear();
  for (const BlockCopy& copy : batch.copies) {
    copies_.push_back({.from = copy.source, .to = copy.destination});
  }
  DieUnlessOk(kernels::CopyBlocks(*pool_, kv_cache_, copies_));
}

void ModelRunner::PrepareInput(const Batch& batch) {
  token_ids_.clear();
  positions_.clear();
  slots_.clear();
  sequences_.clear();
  for (const BatchEntry& entry : batch.entries) {
    const Sequence& sequence = *entry.sequence;
    const absl::Span<const int32_t> table = sequence.block_table();
    sequences_.push_back({.first_row = static_cast<int32_t>(token_ids_.size()),
                          .num_rows = entry.num_tokens,
                          .context_before = entry.first_position,
                          .block_table = table});
    for (int32_t i = 0; i < entry.num_tokens; ++i) {
      const int32_t position = entry.first_position + i;
      token_ids_.push_back(sequence.token_ids[position]);
      positions_.push_back(position);
      slots_.push_back(table[position / kernels::kKvBlockSize] * kernels::kKvBlockSize +
                       position % kernels::kKvBlockSize);
    }
  }
}

void ModelRunner::PlanLogits(const Batch& batch, StepOutcome& outcome) {
  jobs_.clear();
  outcome.choices.clear();
  outcome.prompt_parts.clear();
  int32_t row = 0;
  for (const BatchEntry& entry : batch.entries) {
    AddPromptJobs(entry, row, outcome);
    row += entry.num_tokens;
    for (Sequence* sampler : entry.samplers) {
      StateOf(*sampler);  // made here, on one thread
      jobs_.push_back({.row = row - 1,
                       .sequence = sampler,
                       .slot = static_cast<int32_t>(outcome.choices.size())});
      outcome.choices.push_back({.sequence = sampler});
    }
  }
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
    jobs_.push_back({.row = first_row + p - entry.first_position,
                     .sequence = &sequence,
                     .prompt_target = sequence.token_ids[p + 1],
                     .slot = p - first,
                     .part = static_cast<int32_t>(outcome.prompt_parts.size())});
  }
  sequence.num_scored_prompt_tokens = end;
  outcome.prompt_parts.push_back(std::move(part));
}

void ModelRunner::RunLogits(const ForwardContext& context, StepOutcome& outcome) {
  const int64_t vocab = model_->vocab_size();
  float* const logits = reinterpret_cast<float*>(logits_.data());
  for (size_t begin = 0; begin < jobs_.size(); begin += kLogitsRows) {
    const int64_t count = std::min<int64_t>(kLogitsRows, jobs_.size() - begin);
    job_rows_.clear();
    for (int64_t i = 0; i < count; ++i) job_rows_.push_back(jobs_[begin + i].row);
    {
      const TraceSpan span(context.track, "logits", {{"rows", count}});
      DieUnlessOk(
          model_->ComputeLogits(context, job_rows_, kernels::MutableMatrix(logits, count, vocab)));
    }
    const TraceSpan span(context.track, "sampling", {{"rows", count}});
    pool_->ForEach(count, [&](int, int64_t i) {
      FinishJob(jobs_[begin + i], absl::MakeSpan(logits + i * vocab, vocab), outcome);
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
