// Scheduler::Commit: what the step's results change.
#include <algorithm>
#include <utility>

#include "proto/support/log.h"
#include "worker/sched/request_group.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {
namespace {

// How a sequence was asked to end while it was in the batch; kNone: it was not.
FinishReason EndOf(const Sequence& sequence) {
  switch (sequence.pending) {
    case Sequence::Pending::kCancel:
      return FinishReason::kCancelled;
    case Sequence::Pending::kExpire:
      return FinishReason::kDeadline;
    default:
      return FinishReason::kNone;
  }
}

}  // namespace

void Scheduler::Commit(absl::Span<const Sampled> sampled, int64_t now_ns) {
  if (num_open_ == 0) return;
  Batch& batch = batches_[first_open_];
  PACELINE_CHECK(static_cast<int32_t>(sampled.size()) == batch.num_samplers,
                 "one result per sampler");
  first_open_ = (first_open_ + 1) % static_cast<int32_t>(batches_.size());
  --num_open_;
  dropped_.clear();
  size_t done = 0;
  for (BatchEntry& entry : batch.entries) {
    CommitEntry(entry, sampled.subspan(done, entry.samplers.size()), now_ns);
    done += entry.samplers.size();
  }
}

void Scheduler::CommitEntry(BatchEntry& entry, absl::Span<const Sampled> sampled, int64_t now_ns) {
  Sequence* leader = entry.sequence;
  running_backlog_ -= Backlog(*leader);
  leader->num_computed += entry.num_tokens;
  running_backlog_ += Backlog(*leader);
  if (sampled.empty()) {
    SettlePrefill(leader);
    return;
  }
  for (size_t i = 1; i < sampled.size(); ++i) Fork(leader, entry.samplers[i]);
  for (size_t i = 0; i < sampled.size(); ++i) {
    Sequence* const sampler = entry.samplers[i];
    PACELINE_CHECK(sampled[i].sequence == sampler, "results in the batch's order");
    const bool is_ahead = std::exchange(sampler->in_next, false);
    Advance(sampler, sampled[i], now_ns);
    if (!is_ahead) continue;
    sampler->in_batch = sampler->state == Sequence::State::kRunning;
    if (!sampler->in_batch) DropAhead(sampler);
  }
}

void Scheduler::DropAhead(Sequence* sequence) {
  Batch& batch = batches_[first_open_];
  std::erase_if(batch.entries, [&](const BatchEntry& entry) { return entry.sequence == sequence; });
  --batch.num_tokens;
  --batch.num_samplers;
  dropped_.push_back(sequence);
}

// After a chunk that does not end the prompt: what was asked for while it ran.
void Scheduler::SettlePrefill(Sequence* leader) {
  std::vector<Sequence*> forks;
  for (const auto& fork : ForksOf(*leader)) forks.push_back(fork.get());
  const FinishReason end = EndOf(*leader);
  const bool ends = end != FinishReason::kNone;
  for (Sequence* fork : forks) {
    fork->in_batch = false;
    fork->pending = Sequence::Pending::kNone;
    if (ends) Finish(fork, {.reason = end, .status = absl::OkStatus()});
  }
  leader->in_batch = false;
  if (ends) {
    Finish(leader, {.reason = end, .status = absl::OkStatus()});
  } else if (leader->pending == Sequence::Pending::kPause) {
    LeaveRunning(leader);
    EnterPaused(leader);
  }
}

void Scheduler::Fork(Sequence* leader, Sequence* fork) {
  --num_forking_;
  --leader->num_slots;
  --slots_used_;
  cache_->Fork(leader->table, fork->table, leader->num_computed);
  fork->num_computed = leader->num_computed;
  fork->cached_tokens = leader->cached_tokens;
  fork->was_scheduled = true;
  fork->first_scheduled_ns = leader->first_scheduled_ns;
  EnterRunning(fork);
}

void Scheduler::Advance(Sequence* sequence, const Sampled& sampled, int64_t now_ns) {
  sequence->in_batch = false;
  const FinishReason end = EndOf(*sequence);
  const bool cancelled = end != FinishReason::kNone;
  if (sampled.numeric_error) cache_->Discard(sequence->table);
  if (cancelled || sampled.numeric_error || sampled.no_candidate) {
    absl::Status status;
    if (!cancelled && sampled.numeric_error) {
      status = absl::DataLossError("NaN or infinity in the model's output");
    } else if (!cancelled) {
      status = absl::InvalidArgumentError("the request's own limits leave no token to choose");
    }
    Finish(sequence, {.reason = cancelled ? end : FinishReason::kError, .status = status});
    return;
  }

  PACELINE_CHECK(sampled.token_id >= 0 && sampled.token_id < options_.vocab_size,
                 "sampled a token outside the vocabulary");
  sequence->token_ids.push_back(sampled.token_id);
  if (sequence->first_token_ns == 0) sequence->first_token_ns = now_ns;
  sequence->last_token_ns = now_ns;
  ++counters_.generated_tokens;
  // A sound row shows that all KV it attended to is sound.
  cache_->Publish(sequence->table,
                  absl::MakeConstSpan(sequence->token_ids).first(sequence->num_computed));

  if (IsStopToken(*sequence, sampled.token_id)) {
    Finish(sequence,
           {.reason = FinishReason::kStop,
            .status = absl::OkStatus(),
            .has_stop_token = true,
            .stop_token_id = sampled.token_id});
  } else if (sequence->num_tokens() >= sequence->max_total_tokens) {
    Finish(sequence, {.reason = FinishReason::kLength, .status = absl::OkStatus()});
  } else if (sequence->pending == Sequence::Pending::kPause) {
    LeaveRunning(sequence);
    EnterPaused(sequence);
  }
}

bool Scheduler::IsStopToken(const Sequence& sequence, int32_t token_id) const {
  if (sequence.num_tokens() <= sequence.min_total_tokens) return false;
  const auto contains = [token_id](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), token_id) != ids.end();
  };
  return (!sequence.ignore_eos && contains(options_.eos_token_ids)) ||
         (sequence.has_stop_token_ids && contains(sequence.request->sampling.stop_token_ids));
}

}  // namespace paceline::worker
