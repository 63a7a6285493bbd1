#include "worker/runner/model_runner.h"

#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
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

// With several stages, a batch of more rows than this passes through them in parts, so that they
// work at the same time: fewer rows leave less idle at both ends, but each part reads all weights.
constexpr int32_t kMicroBatchRows = 64;

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
  const RankGroup* const group = options.shard.group;
  const int32_t depth = group == nullptr ? 1 : group->place.num_stages;
  auto runner = std::unique_ptr<ModelRunner>(new ModelRunner(options, depth));
  ASSIGN_OR_RETURN(runner->shard_, ModelShard::Create(file, config, options.shard));
  if (runner->returns_early()) runner->flights_.resize(depth + 1);
  return runner;
}

ModelRunner::~ModelRunner() {
  if (options_.shard.group == nullptr || options_.shard.group->all == nullptr) return;
  sender_.SendEnd(*options_.shard.group).IgnoreError();  // a lost rank needs no end
}

void ModelRunner::Submit(const Batch& batch, absl::FunctionRef<void()> on_layer) {
  const bool is_ahead = num_in_flight_ == depth();
  PACELINE_CHECK(!is_ahead || can_run_ahead(), "as many steps as stages");
  Flight& flight = flights_[(first_flight_ + num_in_flight_) % flights_.size()];
  ++num_in_flight_;
  RankGroup* const group = options_.shard.group;
  const WorkScope scope(group, work_);
  {
    const TraceSpan span(shard_->track(), "prepare");
    MakePlan(batch, flight);
    if (is_ahead) FindTokenRows(batch, flights_[first_flight_], flight);
    if (group != nullptr && group->all != nullptr) DieUnlessOk(sender_.Send(*group, flight.plan));
    DieUnlessOk(shard_->PrepareBlocks(flight.plan));
  }
  for (const MicroBatch& micro : flight.plan.micro_batches) {
    DieUnlessOk(shard_->Forward(flight.plan, micro, on_layer));
  }
  if (returns_early() && !is_ahead) Ask(flight);
}

void ModelRunner::FindTokenRows(const Batch& batch, const Flight& before, Flight& flight) {
  absl::flat_hash_map<const Sequence*, int32_t> rows;
  for (size_t i = 0; i < before.jobs.size(); ++i) {
    if (before.jobs[i].prompt_target < 0) rows[before.jobs[i].sequence] = static_cast<int32_t>(i);
  }
  for (const BatchEntry& entry : batch.entries) {
    flight.plan.token_rows.push_back(rows.at(entry.sequence));
  }
}

void ModelRunner::Settle(absl::Span<Sequence* const> dropped) {
  if (num_in_flight_ == 0) return;
  Flight& flight = flights_[first_flight_];
  MicroBatch& micro = flight.plan.micro_batches.front();
  for (const Sequence* sequence : dropped) {
    const auto job = std::find_if(flight.jobs.begin(), flight.jobs.end(), [&](const LogitsJob& j) {
      return j.sequence == sequence;
    });
    flight.outcome.choices[job->slot].sequence = nullptr;
    micro.num_best -= job->only_best ? 1 : 0;
    --micro.num_logits;
    flight.plan.logit_rows.erase(flight.plan.logit_rows.begin() + (job - flight.jobs.begin()));
    flight.jobs.erase(job);
  }
  Ask(flight);
}

void ModelRunner::Ask(Flight& flight) {
  const MicroBatch& micro = flight.plan.micro_batches.front();
  if (micro.num_logits == 0 || micro.num_logits > shard_->max_logit_rows()) return;
  for (int32_t i = micro.num_best; i < micro.num_logits; ++i) {
    flight.questions.push_back(QuestionOf(flight.jobs[i]));
  }
  DieUnlessOk(shard_->StartLogits(flight.plan, flight.questions));
  flight.is_asked = true;
}

void ModelRunner::FinishAsked(Flight& flight) {
  absl::StatusOr<ModelShard::LogitRows> rows = shard_->FinishLogits(flight.plan, flight.questions);
  DieUnlessOk(rows.status());
  const size_t num_best = rows->best.size();
  for (size_t i = 0; i < num_best; ++i) FinishJob(flight.jobs[i], rows->best[i], flight.outcome);
  for (size_t i = num_best; i < flight.jobs.size(); ++i) {
    FinishJob(flight.jobs[i], std::move(rows->results[i - num_best]), flight.outcome);
  }
}

void ModelRunner::Collect(StepOutcome& outcome) {
  PACELINE_CHECK(num_in_flight_ > 0, "no step is under way");
  const WorkScope scope(options_.shard.group, work_);
  ++work_.steps;
  Flight& flight = flights_[first_flight_];
  if (flight.is_asked) {
    FinishAsked(flight);
  } else {
    for (const MicroBatch& micro : flight.plan.micro_batches) RunLogits(micro, flight);
  }
  std::erase_if(flight.outcome.choices,
                [](const StepOutcome::Choice& choice) { return choice.sequence == nullptr; });
  std::swap(outcome, flight.outcome);
  first_flight_ = (first_flight_ + 1) % static_cast<int32_t>(flights_.size());
  --num_in_flight_;
}

void ModelRunner::ReadRanks(std::vector<RankWork>& ranks) const {
  ranks.assign(1, work_);
  const RankGroup* const group = options_.shard.group;
  if (group == nullptr) return;
  ranks[0].device = group->exchange_times;
  if (group->seats == nullptr) return;
  ranks[0].beats = ReadWork(*group, 0).beats;
  for (int rank = 1; rank < group->seats->size(); ++rank) {
    ranks.push_back(ReadWork(*group, rank));
  }
}

void ModelRunner::MakePlan(const Batch& batch, Flight& flight) const {
  StepPlan& plan = flight.plan;
  plan.Clear();
  flight.jobs.clear();
  flight.outcome.choices.clear();
  flight.outcome.prompt_parts.clear();
  flight.is_asked = false;
  flight.questions.clear();
  plan.zero_blocks.assign(batch.zero_blocks.begin(), batch.zero_blocks.end());
  for (const BlockCopy& copy : batch.copies) {
    plan.copies.push_back({.from = copy.source, .to = copy.destination});
  }
  const int32_t most_rows = depth() == 1 ? batch.num_tokens : kMicroBatchRows;
  plan.micro_batches.emplace_back();
  for (const BatchEntry& entry : batch.entries) AddEntry(entry, most_rows, flight);
  if (shard_->finds_best()) OrderJobs(flight);
}

void ModelRunner::AddEntry(const BatchEntry& entry, int32_t most_rows, Flight& flight) {
  StepPlan& plan = flight.plan;
  const Sequence& sequence = *entry.sequence;
  const absl::Span<const int32_t> table = sequence.block_table();
  const int32_t end = entry.first_position + entry.num_tokens;
  for (int32_t position = entry.first_position; position < end;) {
    if (plan.micro_batches.back().num_rows == most_rows) {
      plan.micro_batches.push_back({.first_row = static_cast<int32_t>(plan.token_ids.size()),
                                    .first_sequence = static_cast<int32_t>(plan.sequences.size()),
                                    .first_logit = static_cast<int32_t>(plan.logit_rows.size())});
    }
    MicroBatch& micro = plan.micro_batches.back();
    const int32_t first_row = micro.num_rows;
    const int32_t count = std::min(end - position, most_rows - first_row);
    plan.sequences.push_back({.first_row = first_row,
                              .num_rows = count,
                              .context_before = position,
                              .block_table = table});
    plan.keys.push_back(reinterpret_cast<uintptr_t>(&sequence));
    for (int32_t i = position; i < position + count; ++i) {
      plan.AddRow(i < sequence.num_tokens() ? sequence.token_ids[i] : 0, i, table);
    }
    micro.num_rows += count;
    ++micro.num_sequences;
    AddPromptJobs(entry, position, position + count, first_row, flight);
    position += count;
  }
  StepOutcome& outcome = flight.outcome;
  for (Sequence* sampler : entry.samplers) {
    StateOf(*sampler);  // made here, on one thread
    AddJob(
        {.row = plan.micro_batches.back().num_rows - 1,
         .sequence = sampler,
         .slot = static_cast<int32_t>(outcome.choices.size()),
         .only_best = TakesTheBest(sampler->request->sampling, end - sampler->num_prompt_tokens)},
        flight);
    outcome.choices.push_back({.sequence = sampler});
  }
}

void ModelRunner::AddJob(const LogitsJob& job, Flight& flight) {
  flight.jobs.push_back(job);
  flight.plan.logit_rows.push_back(job.row);
  ++flight.plan.micro_batches.back().num_logits;
}

// The row of position p gives the distribution of the prompt token at p + 1.
void ModelRunner::AddPromptJobs(const BatchEntry& entry,
                                int32_t first_position,
                                int32_t end_position,
                                int32_t first_row,
                                Flight& flight) {
  Sequence& sequence = *entry.sequence;
  if (sequence.request->sampling.prompt_logprobs < 0) return;
  // A preempted sequence computes its prompt again, but reports it once.
  const int32_t first = std::max(first_position, sequence.num_scored_prompt_tokens);
  const int32_t end = std::min(end_position, sequence.num_prompt_tokens - 1);
  if (first >= end) return;
  std::vector<StepOutcome::PromptPart>& parts = flight.outcome.prompt_parts;
  if (parts.empty() || parts.back().sequence != &sequence) parts.push_back({.sequence = &sequence});
  const auto scored = static_cast<int32_t>(parts.back().logprobs.size());
  parts.back().logprobs.resize(scored + end - first);
  for (int32_t p = first; p < end; ++p) {
    AddJob({.row = first_row + p - first_position,
            .sequence = &sequence,
            .prompt_target = sequence.token_ids[p + 1],
            .slot = scored + p - first,
            .part = static_cast<int32_t>(parts.size()) - 1},
           flight);
  }
  sequence.num_scored_prompt_tokens = end;
}

void ModelRunner::OrderJobs(Flight& flight) {
  for (MicroBatch& micro : flight.plan.micro_batches) {
    const auto begin = flight.jobs.begin() + micro.first_logit;
    const auto end = begin + micro.num_logits;
    const auto rest =
        std::stable_partition(begin, end, [](const LogitsJob& job) { return job.only_best; });
    micro.num_best = static_cast<int32_t>(rest - begin);
    std::stable_partition(rest, end, [](const LogitsJob& job) { return job.prompt_target < 0; });
  }
  for (size_t i = 0; i < flight.jobs.size(); ++i) flight.plan.logit_rows[i] = flight.jobs[i].row;
}

void ModelRunner::RunLogits(const MicroBatch& batch, Flight& flight) {
  const int32_t most = shard_->max_logit_rows();
  for (int32_t first = 0; first < batch.num_logits; first += most) {
    const int32_t count = std::min(most, batch.num_logits - first);
    const LogitsJob* const jobs = flight.jobs.data() + batch.first_logit + first;
    const int32_t num_best = std::clamp(batch.num_best - first, 0, count);
    questions_.clear();
    if (shard_->samples()) {
      for (int32_t i = num_best; i < count; ++i) questions_.push_back(QuestionOf(jobs[i]));
    }
    absl::StatusOr<ModelShard::LogitRows> rows =
        shard_->Logits(flight.plan, batch, first, count, questions_);
    DieUnlessOk(rows.status());
    const TraceSpan span(shard_->track(), "sampling", {{"rows", count}});
    for (int32_t i = 0; i < num_best; ++i) FinishJob(jobs[i], rows->best[i], flight.outcome);
    if (num_best == count) continue;
    if (!questions_.empty()) {
      for (int32_t i = num_best; i < count; ++i) {
        FinishJob(jobs[i], std::move(rows->results[i - num_best]), flight.outcome);
      }
      continue;
    }
    // Each job has a slot of its own.
    shard_->pool().ForEach(count - num_best, [&](int, int64_t i) {
      const LogitsJob& job = jobs[num_best + i];
      const absl::Span<float> row(rows->logits.row(num_best + i), rows->logits.cols);
      FinishJob(job, RunJob(row, QuestionOf(job)), flight.outcome);
    });
  }
}

SampleJob ModelRunner::QuestionOf(const LogitsJob& job) const {
  const Sequence& sequence = *job.sequence;
  const Request& request = *sequence.request;
  if (job.prompt_target >= 0) return {.request = &request, .prompt_target = job.prompt_target};
  return {.request = &request,
          .choice_index = sequence.choice_index,
          .position = sequence.num_output_tokens(),
          .state = &StateOf(*job.sequence),
          .eos_ids = options_.eos_token_ids};
}

void ModelRunner::FinishJob(const LogitsJob& job, const BestLogit& best, StepOutcome& outcome) {
  SampleResult& result = outcome.choices[job.slot].result;
  result = {};
  result.numeric_error = best.is_finite == 0;
  if (result.numeric_error) return;
  result.token_id = best.id;
  StateOf(*job.sequence).Append(best.id);
}

void ModelRunner::FinishJob(const LogitsJob& job, SampleResult result, StepOutcome& outcome) {
  if (job.prompt_target >= 0) {
    outcome.prompt_parts[job.part].logprobs[job.slot] = std::move(result.logprobs);
    return;
  }
  if (result.token_id >= 0) StateOf(*job.sequence).Append(result.token_id);
  outcome.choices[job.slot].result = std::move(result);
}

}  // namespace paceline::worker
