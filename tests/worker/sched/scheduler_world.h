// A scheduler with everything around it faked: a clock, a runner whose "KV" is a record of what was
// written where, and a model whose next token is a hash of all tokens before it. The record is the
// oracle: each step checks that every block table shows a sequence exactly its own past, so a wrong
// share, copy, reuse or eviction is seen, and each finished choice is compared with the brute-force
// output of its request alone.
#ifndef PACELINE_TESTS_WORKER_SCHED_SCHEDULER_WORLD_H_
#define PACELINE_TESTS_WORKER_SCHED_SCHEDULER_WORLD_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "proto/support/clock.h"
#include "worker/cache/kv_cache.h"
#include "worker/core/request.h"
#include "worker/sched/scheduler.h"

namespace paceline::worker {

class SchedulerWorld {
 public:
  struct Options {
    Scheduler::Options scheduler;
    KvCache::Options cache;
    // Output index (of any choice of the request) at which the row is bad; by request id.
    std::map<std::string, int32_t> numeric_errors;
    // The same for a row in which the request's masks leave no token.
    std::map<std::string, int32_t> no_candidates;
    bool check_every_step = true;
  };

  struct Result {
    FinishReason reason = FinishReason::kNone;
    absl::StatusCode code = absl::StatusCode::kOk;
    std::vector<int32_t> output;
    int32_t cached_tokens = 0;
    int32_t num_preemptions = 0;
    bool has_stop_token = false;
    int32_t stop_token_id = -1;
    int32_t step = 0;  // in which it was taken
  };

  explicit SchedulerWorld(Options options);

  // Vocabulary 50, eos 0, block size 4, 64 blocks, 8 sequences, 32 tokens per step, context 200.
  static Options SmallOptions();
  // `prompt_tokens` tokens that depend on `prompt_seed`; ignores eos.
  static Request MakeRequest(std::string id,
                             int32_t prompt_tokens,
                             int32_t max_tokens,
                             int32_t prompt_seed = 0);

  absl::Status Add(Request request);
  // Next only; the batch is kept for Run.
  const Batch& Plan();
  bool CanPlan() const { return num_open() < options_.scheduler.max_open_batches; }
  // NextAhead where it may be called. False: it gave nothing.
  bool PlanAhead();
  int32_t num_open() const { return static_cast<int32_t>(open_.size()); }
  // Runs the oldest planned batch and commits.
  void Run();
  // Plans as many batches as may be open, and one ahead, and runs one. False when there was none.
  bool Step();
  // Steps until nothing is runnable; dies after `limit` steps.
  void Drain(int32_t limit = 10'000);

  void Cancel(const std::string& id, uint64_t session = 0) { scheduler_.Cancel(session, id); }
  void Pause(const std::string& id, uint64_t session = 0);
  void Resume(const std::string& id, uint64_t session = 0);

  // What the choice's output is when it runs alone, with its reason.
  Result Expected(const Request& request, int32_t choice_index) const;
  // Nothing left: no sequence, all blocks free or evictable, no references.
  absl::Status CheckEmpty() const;

  Scheduler& scheduler() { return scheduler_; }
  KvCache& cache() { return cache_; }
  FakeClock& clock() { return clock_; }
  const Batch& batch() const { return *batch_; }
  // By (id, choice index).
  const std::map<std::pair<std::string, int32_t>, Result>& results() const { return results_; }
  const Result& result(const std::string& id, int32_t choice = 0) const {
    return results_.at({id, choice});
  }
  bool done(const std::string& id, int32_t choice = 0) const {
    return results_.contains({id, choice});
  }
  int32_t num_steps() const { return num_steps_; }
  int64_t num_copies() const { return num_copies_; }
  int64_t num_ahead() const { return num_ahead_; }
  int64_t num_dropped() const { return num_dropped_; }
  // The sequence of the batch that computes for this request, or null.
  const BatchEntry* EntryOf(const std::string& id) const;

 private:
  struct Live {
    std::shared_ptr<const Request> request;
    uint64_t number;
    std::set<int32_t> choices;  // not finished
    bool paused = false;
  };

  uint64_t KvAfter(const Request& request, uint64_t before, int32_t token) const;
  uint64_t KvRoot(const Request& request) const;
  int32_t NextToken(const Request& request, int32_t choice, uint64_t kv) const;
  static bool Lists(const std::map<std::string, int32_t>& indices,
                    const Request& request,
                    int32_t output_index);
  // Whether the sequence, or what it forks from, is in an open batch.
  bool IsOpen(const std::shared_ptr<const Request>& request, int32_t choice) const;
  void CheckProgress(const Batch& batch) const;
  void PrepareBlocks(const Batch& batch);
  // What a step ahead did for those whom Commit took out of it: it wrote something to their slots.
  void RunDropped(const Batch& batch);
  void RunEntry(const BatchEntry& entry, std::vector<Sampled>& sampled);
  void Collect();

  Options options_;
  FakeClock clock_;
  KvCache cache_;
  Scheduler scheduler_;
  const Batch* batch_ = nullptr;   // the last one planned
  std::deque<const Batch*> open_;  // oldest first
  // To which slots those planned by NextAhead write.
  std::map<const Batch*, std::map<const Sequence*, int64_t>> ahead_slots_;
  std::set<const Sequence*> unsound_;  // whose last row was bad
  std::vector<uint64_t> kv_;           // [num_blocks, block_size]
  std::vector<int32_t> written_in_;    // [num_blocks, block_size]: step of the last write
  std::vector<Finished> finished_;
  std::map<std::pair<uint64_t, std::string>, Live> live_;
  std::map<std::pair<std::string, int32_t>, Result> results_;
  uint64_t next_number_ = 1;
  int32_t num_steps_ = 0;
  int64_t num_copies_ = 0;
  int64_t num_ahead_ = 0;
  int64_t num_dropped_ = 0;
};

}  // namespace paceline::worker

#endif  // PACELINE_TESTS_WORKER_SCHED_SCHEDULER_WORLD_H_
