// Decides which tokens each step computes: continuous batching with chunked prefill, preemption by
// recompute, priorities, deadlines, pause and cancel. Sees no device: Next hands out a Batch,
// whoever runs it answers with Commit. Owned by Engine. Not thread-safe: engine thread only.
//
// Order. Sequences are ordered by (priority, arrival, choice). A sequence is runnable unless it is
// paused, finished or waits to fork. Each step has one budget of tokens: every running decode takes
// one, oldest first; what is left goes to prefills, oldest first, each up to max_prefill_chunk;
// then waiting sequences are admitted strictly in order, each with the blocks of its whole token
// list (so a prefill once admitted needs nothing more).
//
// Blocks. A decode that needs a block when none is available takes those of the last in order of
// the paused sequences, then of the running sequences behind it, by preempting them: they lose
// their KV and wait, in their old place, to recompute prompt and output. When nobody is behind it,
// it sits out the step and keeps what it has. A waiting sequence may take blocks and slots from
// paused sequences; from running ones only if they have a lower priority, or if it is first of all
// runnable ones.
//
// Several batches may be open (planned, not committed), for stages that work at the same time. A
// sequence is in one of them at most and neither planned again nor preempted meanwhile; running
// ones are dealt out evenly.
//
// PROGRESS: whenever a sequence is runnable and no batch is open, the first in order (the head) has
// at least one token in the batch that Next returns. Because:
//   1. no sequence is admitted to the queue that could need more blocks than there are;
//   2. the head may take the blocks and the slots of all others, so it gets those it needs;
//   3. a sequence scheduled in a step is never preempted in it: decodes are visited in order and
//      victims are always behind; admission that preempts running sequences precedes them;
//   4. max_num_seqs <= budget, and at most max_num_seqs - 1 other decodes take a token each.
// While batches are open, a head that is in none and lacks what they hold makes Next return an
// empty batch: so they end, and it goes next. The head stays the head until it ends or one with a
// better priority arrives, so it ends within (tokens of its prompt and output) + 1 steps, and by
// induction so does every sequence. Nobody waits while holding blocks except paused sequences,
// whose blocks are anyone's to take.
//
// A device that computes while the host waits for nothing may be given a step more (NextAhead): the
// next tokens of all that the open batch samples, planned before they are known. Who turns out to
// have ended takes no part in it; what was computed for him is of no use and does no harm, as he
// wrote to a slot of his own and whoever gets its block writes later.
//
// Calls: Next, run, Commit, and again, each Commit for the oldest open batch; an empty batch is not
// open. Every other method may come at any point, also between Next and Commit: then a sequence
// that is in a batch is dealt with by its Commit. Every accepted sequence is handed out by
// TakeFinished exactly once.
#ifndef PACELINE_WORKER_SCHED_SCHEDULER_H_
#define PACELINE_WORKER_SCHED_SCHEDULER_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "worker/cache/kv_cache.h"
#include "worker/core/request.h"
#include "worker/core/sequence.h"
#include "worker/sched/batch.h"
#include "worker/sched/running_set.h"

namespace paceline::worker {

// A sequence that ended, whole, with why. Its blocks are already returned.
struct Finished {
  std::unique_ptr<Sequence> sequence;
  FinishReason reason = FinishReason::kNone;
  absl::Status status;  // not OK exactly when reason is kError
  bool has_stop_token = false;
  int32_t stop_token_id = -1;  // the last of token_ids, when it ended the sequence
};

class Scheduler {
 public:
  struct Options {
    int32_t max_num_seqs = 256;             // sequences running at once
    int32_t max_num_batched_tokens = 2048;  // per step; at least max_num_seqs
    int32_t max_prefill_chunk = 0;  // tokens of one prefill per step; 0: no limit of its own
    int32_t max_open_batches = 1;
    bool runs_ahead = false;    // NextAhead is called; only with one open batch
    int32_t max_model_len = 0;  // tokens
    // Of sequences accepted and not running (waiting or paused); more are refused. One request may
    // exceed either when there are none.
    int32_t max_waiting_seqs = 8192;
    int64_t max_waiting_tokens = 1 << 22;
    int32_t vocab_size = 0;  // token ids are below it
    std::vector<int32_t> eos_token_ids;
    bool prefix_caching = true;  // whether prompts are looked up
  };

  struct Load {
    int32_t running = 0;  // sequences
    int32_t waiting = 0;  // not scheduled now: new or preempted, and choices yet to fork
    int32_t paused = 0;
    int64_t waiting_tokens = 0;  // prefill still to compute, of waiting and running sequences
    int32_t free_blocks = 0;     // including cached ones that nobody references
    int32_t total_blocks = 0;
  };

  struct Counters {
    uint64_t preemptions = 0;
    uint64_t prompt_tokens = 0;  // of sequences first scheduled
    uint64_t cached_tokens = 0;  // of those, from the prefix cache
    uint64_t generated_tokens = 0;
  };

  // OK, or InvalidArgument naming the option that is out of range.
  static absl::Status Validate(const Options& options, const KvCache& cache);

  // REQUIRES: Validate is OK. `cache` outlives this.
  Scheduler(const Options& options, KvCache* cache);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Queues the request's n choices. Refusals change nothing: InvalidArgument (malformed, over the
  // model's context, or needs more KV blocks than exist), ResourceExhausted (the queue is full),
  // AlreadyExists (a live request of the session has this id), DeadlineExceeded.
  absl::Status Add(std::shared_ptr<const Request> request, int64_t now_ns);

  // Ends what is past its deadline, then plans a step. Empty when nothing is runnable, or nothing
  // before open batches are committed. Valid until its Commit.
  // REQUIRES: num_open_batches() < max_open_batches.
  const Batch& Next(int64_t now_ns);
  int32_t num_open_batches() const { return num_open_; }
  // A step of decodes to run after the open batch and before its Commit. Empty when the batch does
  // not sample for all that run, when others wait, and when no block is available. Commit takes out
  // of it who ends or pauses.
  // REQUIRES: options.runs_ahead, num_open_batches() == 1.
  const Batch& NextAhead(int64_t now_ns);

  // Results of the oldest open batch: one per sampler, in the batch's order (entries, then their
  // samplers). Appends tokens, forks choices, ends sequences, publishes full blocks. Its sequences
  // stay alive until what TakeFinished gave is destroyed. Nothing happens when none is open.
  void Commit(absl::Span<const Sampled> sampled, int64_t now_ns);
  // Whom the last Commit took out of the batch ahead.
  absl::Span<Sequence* const> dropped() const { return dropped_; }

  // Unknown ids are ignored: the request may have just ended.
  void Cancel(uint64_t session, std::string_view request_id);
  void CancelSession(uint64_t session);
  // A paused request keeps its state but does not run, and expires like any other.
  void Pause(uint64_t session, std::string_view request_id);
  void Resume(uint64_t session, std::string_view request_id);

  // Swaps what ended since the last call into `finished`, whose old content is destroyed.
  void TakeFinished(std::vector<Finished>& finished);

  // Tokens per step from now on; clamped to [max_num_seqs, max_num_batched_tokens].
  void SetTokenBudget(int32_t num_tokens);

  // When Next has something to expire; INT64_MAX: never. An idle engine wakes for it.
  int64_t next_deadline_ns() const;
  // Whether a sequence is running or waiting (not: paused).
  bool has_runnable() const { return !running_.empty() || !waiting_.empty(); }
  // Sequences accepted and not yet ended.
  int32_t num_sequences() const { return num_sequences_; }
  Load load() const;
  const Counters& counters() const { return counters_; }

  // Walks everything: each sequence is where its state says, slots, tokens and blocks add up.
  absl::Status CheckInvariants() const;

 private:
  using GroupMap = absl::flat_hash_map<std::string, std::unique_ptr<RequestGroup>>;
  using OrderedSet = absl::btree_set<std::pair<SequenceOrder, Sequence*>>;

  // Whom a waiting sequence may preempt to be admitted, beside paused sequences.
  enum class Claim { kNobody, kLowerPriority, kAnybody };

  absl::Status CheckAdmissible(const Request& request, int64_t now_ns) const;
  RequestGroup* FindGroup(uint64_t session, std::string_view request_id) const;
  std::unique_ptr<Sequence> MakeSequence(const std::shared_ptr<const Request>& request,
                                         RequestGroup* group,
                                         int32_t choice);
  // The choices that wait to fork from `leader`.
  absl::Span<const std::unique_ptr<Sequence>> ForksOf(const Sequence& leader) const;

  // Phases of Next and NextAhead.
  void BeginBatch();
  const Batch& EndBatch();
  void Expire(int64_t now_ns);
  // Whether all that run have one token more to come from `batch`, and its slot; those that go on.
  bool MakeSlotsAhead(const Batch& batch);
  // The next two: false when the head must wait for open batches.
  bool AdmitUrgent(int64_t now_ns);
  bool ScheduleDecodes();
  void SchedulePrefills(int64_t now_ns);
  // Entries that a batch takes at most: its share of all that could run.
  size_t EntriesPerBatch() const;
  bool MakeSlot(Sequence* sequence);
  void AddEntry(Sequence* sequence, int32_t num_tokens);

  bool TryAdmit(Sequence* sequence, Claim claim, int64_t now_ns);
  bool PreemptFor(const Sequence& claimant, Claim claim);
  bool ReclaimPaused();
  void DropBlocks(Sequence* sequence);
  void Preempt(Sequence* victim);

  // What a running sequence adds to running_backlog_.
  static int32_t Backlog(const Sequence& sequence) {
    return std::max(0, sequence.num_remaining() - 1);
  }

  // Changes of state; each keeps every count right.
  void EnterWaiting(Sequence* sequence);
  void LeaveWaiting(Sequence* sequence);
  void EnterRunning(Sequence* sequence);
  void LeaveRunning(Sequence* sequence);
  void EnterPaused(Sequence* sequence);
  void LeavePaused(Sequence* sequence);
  void ResumeSequence(Sequence* sequence);
  void Finish(Sequence* sequence, Finished how);
  void FinishGroup(RequestGroup* group, FinishReason reason);
  void Forget(RequestGroup* group);

  // Phases of Commit.
  void CommitEntry(BatchEntry& entry, absl::Span<const Sampled> sampled, int64_t now_ns);
  void SettlePrefill(Sequence* leader);
  void Fork(Sequence* leader, Sequence* fork);
  void Advance(Sequence* sequence, const Sampled& sampled, int64_t now_ns);
  void DropAhead(Sequence* sequence);
  bool IsStopToken(const Sequence& sequence, int32_t token_id) const;

  absl::Status CheckSequence(const Sequence& sequence) const;

  const Options options_;
  KvCache* const cache_;
  int32_t token_budget_;

  absl::flat_hash_map<uint64_t, GroupMap> sessions_;
  // Cancelled while in the batch: their ids are free again, Commit ends them.
  std::vector<std::unique_ptr<RequestGroup>> detached_;
  absl::btree_set<std::pair<int64_t, RequestGroup*>> deadlines_;
  OrderedSet waiting_;
  OrderedSet paused_holders_;  // paused sequences that hold blocks
  RunningSet running_;
  int32_t slots_used_ = 0;  // running sequences and the choices that will fork from them
  int32_t num_sequences_ = 0;
  int32_t num_forking_ = 0;  // choices that wait for their leader's prompt
  int32_t num_paused_ = 0;
  int64_t waiting_tokens_ = 0;  // of waiting sequences
  int64_t paused_tokens_ = 0;
  int64_t running_backlog_ = 0;  // of running prefills: tokens to compute beyond the last one
  uint64_t next_number_ = 1;

  std::vector<Batch> batches_;  // a ring
  int32_t first_open_ = 0;
  int32_t num_open_ = 0;
  Batch* batch_ = nullptr;           // the one that Next plans
  std::vector<Sequence*> prefills_;  // scratch of Next
  std::vector<Sequence*> ahead_;     // scratch of NextAhead
  std::vector<Sequence*> dropped_;
  std::vector<Finished> finished_;
  Counters counters_;
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SCHED_SCHEDULER_H_
