// Scheduler::Next and NextAhead: who computes what in the coming step.
#include <algorithm>

#include "proto/support/log.h"
#include "worker/sched/request_group.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {
namespace {

// How far ahead of the walk over running sequences their memory is asked for.
constexpr size_t kPrefetchDistance = 8;

void Prefetch(const std::vector<RunningSet::Slot>& slots, size_t index) {
  if (index >= slots.size() || slots[index].sequence == nullptr) return;
  const char* bytes = reinterpret_cast<const char*>(slots[index].sequence);
  __builtin_prefetch(bytes);
  __builtin_prefetch(bytes + 64);
  __builtin_prefetch(bytes + 128);
}

}  // namespace

const Batch& Scheduler::Next(int64_t now_ns) {
  PACELINE_CHECK(num_open_ < options_.max_open_batches, "Next before Commit");
  BeginBatch();
  prefills_.clear();
  Expire(now_ns);
  if (AdmitUrgent(now_ns) && ScheduleDecodes()) SchedulePrefills(now_ns);
  if (batch_->empty()) {
    PACELINE_CHECK(num_open_ > 0 || !has_runnable(),
                   "nothing scheduled though something is runnable");
    return *batch_;
  }
  return EndBatch();
}

void Scheduler::BeginBatch() {
  batch_ = &batches_[(first_open_ + num_open_) % batches_.size()];
  batch_->entries.clear();
  batch_->num_tokens = 0;
  batch_->num_samplers = 0;
}

const Batch& Scheduler::EndBatch() {
  // Batches run in the order of their planning, so later ones may count on this.
  batch_->zero_blocks.assign(cache_->zero_blocks().begin(), cache_->zero_blocks().end());
  batch_->copies.assign(cache_->copies().begin(), cache_->copies().end());
  cache_->EndStep();
  ++num_open_;
  return *batch_;
}

const Batch& Scheduler::NextAhead(int64_t now_ns) {
  PACELINE_CHECK(options_.runs_ahead && num_open_ == 1, "NextAhead without one open batch");
  BeginBatch();
  Expire(now_ns);
  if (!MakeSlotsAhead(batches_[first_open_]) || ahead_.empty()) return *batch_;
  for (Sequence* sequence : ahead_) {
    BatchEntry& entry = batch_->entries.emplace_back();
    entry.sequence = sequence;
    entry.first_position = sequence->num_tokens();  // of the token that the open batch samples
    entry.num_tokens = 1;
    entry.samplers.push_back(sequence);
    sequence->in_next = true;
  }
  batch_->num_tokens = batch_->num_samplers = static_cast<int32_t>(ahead_.size());
  return EndBatch();
}

bool Scheduler::MakeSlotsAhead(const Batch& batch) {
  ahead_.clear();
  if (!waiting_.empty() || running_.size() != static_cast<int32_t>(batch.entries.size())) {
    return false;
  }
  for (const BatchEntry& entry : batch.entries) {
    Sequence* const sequence = entry.sequence;
    if (entry.samplers.size() != 1) return false;
    const bool is_last = sequence->num_tokens() + 1 >= sequence->max_total_tokens;
    if (is_last || sequence->pending != Sequence::Pending::kNone) continue;
    const int32_t position = sequence->num_tokens();
    if (!cache_->HasSlot(sequence->table, position) && !cache_->Append(sequence->table, position)) {
      return false;
    }
    ahead_.push_back(sequence);
  }
  return true;
}

size_t Scheduler::EntriesPerBatch() const {
  const int64_t all =
      std::min<int64_t>(options_.max_num_seqs, slots_used_ + static_cast<int64_t>(waiting_.size()));
  return (all + options_.max_open_batches - 1) / options_.max_open_batches;
}

void Scheduler::Expire(int64_t now_ns) {
  while (!deadlines_.empty() && deadlines_.begin()->first <= now_ns) {
    FinishGroup(deadlines_.begin()->second, FinishReason::kDeadline);
  }
}

// Admits what has a claim on others' blocks and slots, while nothing is scheduled yet and so anyone
// can still be preempted.
bool Scheduler::AdmitUrgent(int64_t now_ns) {
  while (!waiting_.empty()) {
    Sequence* sequence = waiting_.begin()->second;
    if (running_.empty() || sequence->order < running_.front()->order) {
      if (TryAdmit(sequence, Claim::kAnybody, now_ns)) continue;
      PACELINE_CHECK(num_open_ > 0, "the head cannot be admitted");
      return false;
    }
    const bool outranks = sequence->order.priority < running_.back()->order.priority;
    if (!outranks || running_backlog_ >= token_budget_) return true;
    if (!TryAdmit(sequence, Claim::kLowerPriority, now_ns)) return true;
  }
  return true;
}

bool Scheduler::ScheduleDecodes() {
  running_.Compact();
  const size_t most = EntriesPerBatch();
  // Preemption shortens the list from its end while it is walked.
  for (size_t i = 0; i < running_.slots().size(); ++i) {
    Prefetch(running_.slots(), i + kPrefetchDistance);
    Sequence* sequence = running_.slots()[i].sequence;
    if (sequence == nullptr || sequence->in_batch) continue;
    if (sequence->num_remaining() > 1) {
      prefills_.push_back(sequence);
    } else if (batch_->entries.size() == most) {
      continue;
    } else if (cache_->HasSlot(sequence->table, sequence->num_computed) || MakeSlot(sequence)) {
      AddEntry(sequence, 1);
    } else if (sequence == running_.front()) {
      return false;
    }
  }
  return true;
}

bool Scheduler::MakeSlot(Sequence* sequence) {
  while (!cache_->Append(sequence->table, sequence->num_computed)) {
    if (ReclaimPaused()) continue;
    Sequence* victim = running_.LastIdle();
    if (victim == sequence) {
      PACELINE_CHECK(num_open_ > 0 || running_.size() > 1, "the head has no slot");
      return false;
    }
    Preempt(victim);
  }
  return true;
}

void Scheduler::SchedulePrefills(int64_t now_ns) {
  const int32_t chunk_limit =
      options_.max_prefill_chunk > 0 ? options_.max_prefill_chunk : token_budget_;
  size_t next_running = 0;
  const size_t most = EntriesPerBatch();
  const size_t num_decodes = batch_->entries.size();
  bool admitting = true;
  while (batch_->num_tokens < token_budget_) {
    // One prefill goes along with however many decodes: it may be the head.
    if (batch_->entries.size() >= most && batch_->entries.size() > num_decodes) return;
    Sequence* sequence = next_running < prefills_.size() ? prefills_[next_running] : nullptr;
    if (admitting && !waiting_.empty() &&
        (sequence == nullptr || waiting_.begin()->first < sequence->order)) {
      sequence = waiting_.begin()->second;
      admitting = TryAdmit(sequence, Claim::kNobody, now_ns);
      if (!admitting) continue;
    } else if (sequence != nullptr) {
      ++next_running;
    } else {
      return;
    }
    const int32_t left = token_budget_ - batch_->num_tokens;
    AddEntry(sequence, std::min({sequence->num_remaining(), left, chunk_limit}));
  }
}

void Scheduler::AddEntry(Sequence* sequence, int32_t num_tokens) {
  BatchEntry& entry = batch_->entries.emplace_back();
  entry.sequence = sequence;
  entry.first_position = sequence->num_computed;
  entry.num_tokens = num_tokens;
  batch_->num_tokens += num_tokens;
  sequence->in_batch = true;
  const bool samples = num_tokens == sequence->num_remaining();
  if (samples) entry.samplers.push_back(sequence);
  for (const auto& fork : ForksOf(*sequence)) {
    fork->in_batch = true;
    if (samples) entry.samplers.push_back(fork.get());
  }
  batch_->num_samplers += static_cast<int32_t>(entry.samplers.size());
}

bool Scheduler::TryAdmit(Sequence* sequence, Claim claim, int64_t now_ns) {
  while (slots_used_ + sequence->num_slots > options_.max_num_seqs) {
    if (!PreemptFor(*sequence, claim)) return false;
  }
  // Without spare blocks for those that run, the newcomer would soon be preempted for them.
  const int32_t spare =
      claim == Claim::kAnybody ? 0 : std::min(running_.size(), cache_->num_blocks() / 50);
  const bool use_prefix =
      options_.prefix_caching && sequence->request->sampling.prompt_logprobs < 0;
  int32_t num_cached = 0;
  while (!cache_->Open(sequence->table, sequence->token_ids, use_prefix, spare, &num_cached)) {
    if (!ReclaimPaused() && !PreemptFor(*sequence, claim)) return false;
  }
  LeaveWaiting(sequence);
  sequence->num_computed = num_cached;
  EnterRunning(sequence);
  if (!sequence->was_scheduled) {
    sequence->was_scheduled = true;
    sequence->first_scheduled_ns = now_ns;
    sequence->cached_tokens = num_cached;
    counters_.prompt_tokens += sequence->num_tokens();
    counters_.cached_tokens += num_cached;
  }
  return true;
}

bool Scheduler::PreemptFor(const Sequence& claimant, Claim claim) {
  if (claim == Claim::kNobody) return false;
  Sequence* victim = running_.LastIdle();
  if (victim == nullptr) return false;
  if (claim == Claim::kLowerPriority && victim->order.priority <= claimant.order.priority) {
    return false;
  }
  Preempt(victim);
  return true;
}

bool Scheduler::ReclaimPaused() {
  if (paused_holders_.empty()) return false;
  Sequence* victim = paused_holders_.rbegin()->second;
  paused_holders_.erase(std::prev(paused_holders_.end()));
  DropBlocks(victim);
  return true;
}

}  // namespace paceline::worker
