// Scheduler::Commit: what the step's results change.
#include <algorithm>

#include "proto/support/log.h"
#include "worker/sched/request_group.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {

void Scheduler::Commit(absl::Span<const Sampled> sampled, int64_t now_ns) {
  PACELINE_CHECK(static_cast<int32_t>(sampled.size()) == batch_.num_samplers || !batch_open_,
                 "one result per sampler");
  if (!batch_open_) return;
  batch_open_ = false;
  cache_->EndStep();
  size_t done = 0;
  for (BatchEntry& entry : batch_.entries) {
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
    PACELINE_CHECK(sampled[i].sequence == entry.samplers[i], "results in the batch's order");
    Advance(entry.samplers[i], sampled[i], now_ns);
  }
}

// After a chunk that does not end the prompt: what was asked for while it ran.
void Scheduler::SettlePrefill(Sequence* leader) {
  std::vector<Sequence*> forks;
  for (const auto& fork : ForksOf(*leader)) forks.push_back(fork.get());
  const bool cancel = leader->pending == Sequence::Pending::kCancel;
  for (Sequence* fork : forks) {
    fork->in_batch = false;
    fork->pending = Sequence::Pending::kNone;
    if (cancel) Finish(fork, {.reason = FinishReason::kCancelled, .status = absl::OkStatus()});
  }
  leader->in_batch = false;
  if (cancel) {
    Finish(leader, {.reason = FinishReason::kCancelled, .status = absl::OkStatus()});
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
  const bool cancelled = sequence->pending == Sequence::Pending::kCancel;
  if (sampled.numeric_error) cache_->Discard(sequence->table);
  if (cancelled || sampled.numeric_error || sampled.no_candidate) {
    absl::Status status;
    if (!cancelled && sampled.numeric_error) {
      status = absl::InternalError("numerical error in the model's output");
    } else if (!cancelled) {
      status = absl::InvalidArgumentError("the request's own limits leave no token to choose");
    }
    Finish(
        sequence,
        {.reason = cancelled ? FinishReason::kCancelled : FinishReason::kError, .status = status});
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
