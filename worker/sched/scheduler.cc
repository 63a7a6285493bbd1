// Requests in and out, and the changes of state. The step itself: schedule_step.cc (Next) and
// commit_step.cc (Commit).
#include "worker/sched/scheduler.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "proto/support/status_macros.h"
#include "worker/sched/request_check.h"
#include "worker/sched/request_group.h"

namespace paceline::worker {
namespace {

std::pair<SequenceOrder, Sequence*> Key(Sequence* sequence) { return {sequence->order, sequence}; }

// Room in a new token list for this much output without moving it.
constexpr int32_t kReservedOutput = 64;

}  // namespace

absl::Status Scheduler::Validate(const Options& options, const KvCache& cache) {
  if (options.max_num_seqs < 1) {
    return absl::InvalidArgumentError("max_num_seqs: must be at least 1");
  }
  if (options.max_num_batched_tokens < options.max_num_seqs) {
    return absl::InvalidArgumentError("max_num_batched_tokens: must be at least max_num_seqs");
  }
  if (options.max_prefill_chunk < 0) {
    return absl::InvalidArgumentError("max_prefill_chunk: must not be negative");
  }
  if (options.max_open_batches < 1) {
    return absl::InvalidArgumentError("max_open_batches: must be at least 1");
  }
  if (options.runs_ahead && options.max_open_batches > 1) {
    return absl::InvalidArgumentError("runs_ahead: not with several open batches");
  }
  if (options.max_model_len < 2) {
    return absl::InvalidArgumentError("max_model_len: must be at least 2");
  }
  if (options.vocab_size < 1) return absl::InvalidArgumentError("vocab_size: must be at least 1");
  if (options.max_waiting_seqs < 1 || options.max_waiting_tokens < 1) {
    return absl::InvalidArgumentError("max_waiting_seqs, max_waiting_tokens: must be at least 1");
  }
  if (cache.num_blocks() < 1) return absl::InvalidArgumentError("num_blocks: must be at least 1");
  return absl::OkStatus();
}

Scheduler::Scheduler(const Options& options, KvCache* cache)
    : options_(options),
      cache_(cache),
      token_budget_(options.max_num_batched_tokens),
      batches_(options.max_open_batches + (options.runs_ahead ? 1 : 0)) {
  const absl::Status status = Validate(options, *cache);
  PACELINE_CHECK(status.ok(), status.ToString());
}

Scheduler::~Scheduler() = default;

// ---- Requests in and out ---------------------------------------------------------------------

absl::Status Scheduler::CheckAdmissible(const Request& request, int64_t now_ns) const {
  const RequestLimits limits{options_.vocab_size,
                             options_.max_model_len,
                             int64_t{cache_->num_blocks()} * cache_->block_size()};
  RETURN_IF_ERROR(CheckRequest(request, limits));
  if (FindGroup(request.session, request.id) != nullptr) {
    return absl::AlreadyExistsError("a request with this id is running");
  }
  if (request.deadline_ns != 0 && request.deadline_ns <= now_ns) {
    return absl::DeadlineExceededError("the deadline has passed");
  }
  const int32_t idle_seqs = num_sequences_ - slots_used_;
  const int64_t idle_tokens = waiting_tokens_ + paused_tokens_;
  if (idle_seqs > 0 && idle_seqs + request.n > options_.max_waiting_seqs) {
    return absl::ResourceExhaustedError("queue_full: too many sequences are waiting");
  }
  if (idle_tokens > 0 &&
      idle_tokens + static_cast<int64_t>(request.token_ids.size()) > options_.max_waiting_tokens) {
    return absl::ResourceExhaustedError("queue_full: too many prompt tokens are waiting");
  }
  return absl::OkStatus();
}

absl::Status Scheduler::Add(std::shared_ptr<const Request> request, int64_t now_ns) {
  RETURN_IF_ERROR(CheckAdmissible(*request, now_ns));
  auto owned = std::make_unique<RequestGroup>();
  RequestGroup* group = owned.get();
  group->request = request;
  group->sequences.reserve(request->n);
  sessions_[request->session].emplace(request->id, std::move(owned));
  if (request->deadline_ns != 0) deadlines_.emplace(request->deadline_ns, group);

  // Choices fork from the first one's prompt. More than can run at once form several such groups.
  Sequence* leader = nullptr;
  for (int32_t choice = 0; choice < request->n; ++choice) {
    group->sequences.push_back(MakeSequence(request, group, choice));
    Sequence* sequence = group->sequences.back().get();
    if (choice % options_.max_num_seqs == 0) {
      leader = sequence;
      leader->num_slots = std::min(request->n - choice, options_.max_num_seqs);
      EnterWaiting(leader);
    } else {
      sequence->state = Sequence::State::kForking;
      ++num_forking_;
    }
  }
  return absl::OkStatus();
}

std::unique_ptr<Sequence> Scheduler::MakeSequence(const std::shared_ptr<const Request>& request,
                                                  RequestGroup* group,
                                                  int32_t choice) {
  auto sequence = std::make_unique<Sequence>();
  sequence->max_total_tokens = MaxTotalTokens(*request, options_.max_model_len);
  sequence->token_ids.reserve(
      std::min<size_t>(sequence->max_total_tokens, request->token_ids.size() + kReservedOutput));
  sequence->token_ids = request->token_ids;
  sequence->num_prompt_tokens = request->num_prompt_tokens;
  sequence->ignore_eos = request->sampling.ignore_eos;
  sequence->has_stop_token_ids = !request->sampling.stop_token_ids.empty();
  sequence->min_total_tokens = request->num_prompt_tokens + request->sampling.min_tokens;
  sequence->choice_index = request->first_choice_index + choice;
  sequence->order = {request->priority, next_number_++};
  sequence->request = request;
  sequence->group = group;
  sequence->arrival_ns = request->arrival_ns;
  sequence->num_sent_tokens = sequence->num_output_tokens();
  // One choice scores the prompt for all; the others may compute it again, but do not report it.
  if (choice > 0) sequence->num_scored_prompt_tokens = request->num_prompt_tokens;
  cache_->Bind(sequence->table, /*adapter=*/"", request->cache_salt);
  ++num_sequences_;
  return sequence;
}

RequestGroup* Scheduler::FindGroup(uint64_t session, std::string_view request_id) const {
  const auto groups = sessions_.find(session);
  if (groups == sessions_.end()) return nullptr;
  const auto group = groups->second.find(absl::string_view(request_id.data(), request_id.size()));
  return group == groups->second.end() ? nullptr : group->second.get();
}

absl::Span<const std::unique_ptr<Sequence>> Scheduler::ForksOf(const Sequence& leader) const {
  if (leader.num_slots == 1) return {};
  const auto& all = leader.group->sequences;
  const auto it = std::find_if(
      all.begin(), all.end(), [&](const auto& sequence) { return sequence.get() == &leader; });
  return absl::MakeConstSpan(all).subspan(it - all.begin() + 1, leader.num_slots - 1);
}

void Scheduler::Cancel(uint64_t session, std::string_view request_id) {
  if (RequestGroup* group = FindGroup(session, request_id); group != nullptr) {
    FinishGroup(group, FinishReason::kCancelled);
  }
}

void Scheduler::CancelSession(uint64_t session) {
  const auto groups = sessions_.find(session);
  if (groups == sessions_.end()) return;
  std::vector<RequestGroup*> all;
  all.reserve(groups->second.size());
  for (const auto& [id, group] : groups->second) all.push_back(group.get());
  for (RequestGroup* group : all) FinishGroup(group, FinishReason::kCancelled);
}

void Scheduler::FinishGroup(RequestGroup* group, FinishReason reason) {
  std::vector<Sequence*> idle;
  bool in_batch = false;
  for (const auto& sequence : group->sequences) {
    if (sequence->in_batch) {
      sequence->pending = reason == FinishReason::kDeadline ? Sequence::Pending::kExpire
                                                            : Sequence::Pending::kCancel;
      in_batch = true;
    } else {
      idle.push_back(sequence.get());
    }
  }
  if (in_batch) Forget(group);
  // The last one ends the group.
  for (Sequence* sequence : idle) {
    Finish(sequence, {.reason = reason, .status = absl::OkStatus()});
  }
}

void Scheduler::Forget(RequestGroup* group) {
  const Request& request = *group->request;
  if (request.deadline_ns != 0) deadlines_.erase({request.deadline_ns, group});
  const auto groups = sessions_.find(request.session);
  const auto it = groups->second.find(request.id);
  std::unique_ptr<RequestGroup> owned = std::move(it->second);
  groups->second.erase(it);
  if (groups->second.empty()) sessions_.erase(groups);
  if (!group->sequences.empty()) {
    group->detached = true;
    detached_.push_back(std::move(owned));
  }
}

void Scheduler::Pause(uint64_t session, std::string_view request_id) {
  RequestGroup* group = FindGroup(session, request_id);
  if (group == nullptr) return;
  for (const auto& sequence : group->sequences) {
    switch (sequence->state) {
      case Sequence::State::kWaiting:
        LeaveWaiting(sequence.get());
        EnterPaused(sequence.get());
        break;
      case Sequence::State::kRunning:
        if (sequence->in_batch) {
          sequence->pending = Sequence::Pending::kPause;
        } else {
          LeaveRunning(sequence.get());
          EnterPaused(sequence.get());
        }
        break;
      case Sequence::State::kForking:
        // Stays behind its leader; one that forks in this very step is paused by Commit.
        if (sequence->in_batch) sequence->pending = Sequence::Pending::kPause;
        break;
      case Sequence::State::kPaused:
      case Sequence::State::kFinished:
        break;
    }
  }
}

void Scheduler::Resume(uint64_t session, std::string_view request_id) {
  RequestGroup* group = FindGroup(session, request_id);
  if (group == nullptr) return;
  for (const auto& sequence : group->sequences) {
    sequence->pending = Sequence::Pending::kNone;
    if (sequence->state == Sequence::State::kPaused) ResumeSequence(sequence.get());
  }
}

void Scheduler::TakeFinished(std::vector<Finished>& finished) {
  finished.clear();
  finished.swap(finished_);
}

// ---- Changes of state ------------------------------------------------------------------------

void Scheduler::EnterWaiting(Sequence* sequence) {
  sequence->state = Sequence::State::kWaiting;
  waiting_.insert(Key(sequence));
  waiting_tokens_ += sequence->num_tokens();
}

void Scheduler::LeaveWaiting(Sequence* sequence) {
  waiting_.erase(Key(sequence));
  waiting_tokens_ -= sequence->num_tokens();
}

void Scheduler::EnterRunning(Sequence* sequence) {
  sequence->state = Sequence::State::kRunning;
  running_.Insert(sequence);
  slots_used_ += sequence->num_slots;
  running_backlog_ += Backlog(*sequence);
}

void Scheduler::LeaveRunning(Sequence* sequence) {
  running_.Remove(sequence);
  slots_used_ -= sequence->num_slots;
  running_backlog_ -= Backlog(*sequence);
}

void Scheduler::EnterPaused(Sequence* sequence) {
  sequence->state = Sequence::State::kPaused;
  sequence->pending = Sequence::Pending::kNone;
  ++num_paused_;
  paused_tokens_ += sequence->num_tokens();
  if (!sequence->table.blocks.empty()) paused_holders_.insert(Key(sequence));
}

void Scheduler::LeavePaused(Sequence* sequence) {
  --num_paused_;
  paused_tokens_ -= sequence->num_tokens();
  if (!sequence->table.blocks.empty()) paused_holders_.erase(Key(sequence));
}

void Scheduler::ResumeSequence(Sequence* sequence) {
  LeavePaused(sequence);
  const bool holds_blocks = !sequence->table.blocks.empty();
  if (holds_blocks && slots_used_ + sequence->num_slots <= options_.max_num_seqs) {
    EnterRunning(sequence);
    return;
  }
  if (holds_blocks) DropBlocks(sequence);
  EnterWaiting(sequence);
}

void Scheduler::DropBlocks(Sequence* sequence) {
  cache_->Close(sequence->table);
  sequence->num_computed = 0;
  ++sequence->num_preemptions;
  ++counters_.preemptions;
}

void Scheduler::Preempt(Sequence* victim) {
  PACELINE_CHECK(!victim->in_batch, "preempted after it was scheduled");
  LeaveRunning(victim);
  DropBlocks(victim);
  EnterWaiting(victim);
}

void Scheduler::Finish(Sequence* sequence, Finished how) {
  switch (sequence->state) {
    case Sequence::State::kWaiting:
      LeaveWaiting(sequence);
      break;
    case Sequence::State::kRunning:
      LeaveRunning(sequence);
      break;
    case Sequence::State::kPaused:
      LeavePaused(sequence);
      break;
    case Sequence::State::kForking:
      --num_forking_;
      break;
    case Sequence::State::kFinished:
      Die(__FILE__, __LINE__, "finished twice");
  }
  sequence->state = Sequence::State::kFinished;
  sequence->pending = Sequence::Pending::kNone;
  sequence->in_batch = false;
  cache_->Close(sequence->table);
  --num_sequences_;

  RequestGroup* group = std::exchange(sequence->group, nullptr);
  auto& all = group->sequences;
  const auto it = std::find_if(
      all.begin(), all.end(), [&](const auto& other) { return other.get() == sequence; });
  how.sequence = std::move(*it);
  all.erase(it);
  finished_.push_back(std::move(how));
  if (!all.empty()) return;
  if (group->detached) {
    std::erase_if(detached_, [&](const auto& other) { return other.get() == group; });
  } else {
    Forget(group);
  }
}

// ---- What others ask -------------------------------------------------------------------------

void Scheduler::SetTokenBudget(int32_t num_tokens) {
  token_budget_ = std::clamp(num_tokens, options_.max_num_seqs, options_.max_num_batched_tokens);
}

int64_t Scheduler::next_deadline_ns() const {
  return deadlines_.empty() ? std::numeric_limits<int64_t>::max() : deadlines_.begin()->first;
}

Scheduler::Load Scheduler::load() const {
  Load load;
  load.running = running_.size();
  load.waiting = static_cast<int32_t>(waiting_.size()) + num_forking_;
  load.paused = num_paused_;
  load.waiting_tokens = waiting_tokens_ + running_backlog_;
  load.free_blocks = cache_->num_available();
  load.total_blocks = cache_->num_blocks();
  return load;
}

}  // namespace paceline::worker
