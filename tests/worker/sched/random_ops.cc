#include "tests/worker/sched/random_ops.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "proto/support/log.h"
#include "tests/worker/sched/scheduler_world.h"

namespace paceline::worker {
namespace {

class Bytes {
 public:
  explicit Bytes(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}
  bool empty() const { return bytes_.empty(); }
  // 0 .. bound - 1; 0 after the end.
  int32_t Below(int32_t bound) {
    if (bytes_.empty()) return 0;
    const int32_t value = bytes_.front() % bound;
    bytes_.remove_prefix(1);
    return value;
  }
  bool OneIn(int32_t n) { return Below(n) == n - 1; }

 private:
  absl::Span<const uint8_t> bytes_;
};

// Collides often: the low bits of a sum, without the parent.
BlockHash WeakHash(const BlockHash& parent, absl::Span<const int32_t> tokens) {
  uint64_t sum = 0;
  for (const int32_t token : tokens) sum += token;
  return {1, sum % 7};
}

class Driver {
 public:
  explicit Driver(Bytes& bytes) : bytes_(bytes), world_(MakeOptions(bytes)) {}

  RandomOpsReport Run() {
    while (!bytes_.empty()) Operate();
    Finish();
    const KvCache::Stats stats = world_.cache().stats();
    RandomOpsReport report;
    report.steps = world_.num_steps();
    report.finished = static_cast<int64_t>(world_.results().size());
    report.preemptions = static_cast<int64_t>(world_.scheduler().counters().preemptions);
    report.cached_tokens = static_cast<int64_t>(stats.hit_tokens);
    report.evictions = static_cast<int64_t>(stats.evictions);
    report.copies = world_.num_copies();
    report.ahead = world_.num_ahead();
    report.dropped = world_.num_dropped();
    return report;
  }

 private:
  static SchedulerWorld::Options MakeOptions(Bytes& bytes) {
    SchedulerWorld::Options options = SchedulerWorld::SmallOptions();
    options.cache.num_blocks = 6 + bytes.Below(30);
    options.cache.block_size = 1 + bytes.Below(5);
    options.cache.prefix_caching = !bytes.OneIn(5);
    if (bytes.OneIn(4)) options.cache.hash = &WeakHash;
    Scheduler::Options& s = options.scheduler;
    s.max_num_seqs = 1 + bytes.Below(8);
    s.max_num_batched_tokens = s.max_num_seqs + bytes.Below(24);
    s.max_prefill_chunk = bytes.Below(10);
    s.max_open_batches = 1 + std::max(0, bytes.Below(6) - 2);
    s.runs_ahead = s.max_open_batches == 1 && bytes.OneIn(2);
    s.max_model_len = 20 + bytes.Below(60);
    s.max_waiting_seqs = 4 + bytes.Below(40);
    s.max_waiting_tokens = 40 + 10 * bytes.Below(100);
    s.vocab_size = 10;
    for (int32_t i = 0; i < 100; i += 7) {
      options.numeric_errors[absl::StrCat("r", i)] = bytes.Below(6);
      options.no_candidates[absl::StrCat("r", i + 3)] = bytes.Below(6);
    }
    return options;
  }

  void Operate() {
    switch (bytes_.Below(16)) {
      case 0:
      case 1:
      case 2:
        AddRequest();
        break;
      case 3:
        world_.scheduler().Cancel(0, Pick());
        break;
      case 4:
        world_.Pause(Pick());
        break;
      case 5:
        world_.Resume(Pick());
        break;
      case 6:
        world_.clock().AdvanceMs(bytes_.Below(20));
        break;
      case 7:
        world_.scheduler().SetTokenBudget(bytes_.Below(40));
        break;
      case 8:
        StepWithOperationsInside();
        break;
      case 9:
        if (bytes_.OneIn(8)) world_.cache().Flush();
        if (bytes_.OneIn(16)) world_.scheduler().CancelSession(0);
        break;
      default:
        world_.Step();
        break;
    }
    Mirror();
  }

  // Everything but Next may come while a batch runs.
  void StepWithOperationsInside() {
    if (world_.CanPlan()) world_.Plan();
    if (bytes_.OneIn(2)) world_.PlanAhead();
    for (int32_t i = bytes_.Below(4); i > 0; --i) {
      switch (bytes_.Below(5)) {
        case 0:
          AddRequest();
          break;
        case 1:
          world_.scheduler().Cancel(0, Pick());
          break;
        case 2:
          world_.Pause(Pick());
          break;
        case 3:
          world_.Resume(Pick());
          break;
        default:
          if (bytes_.OneIn(16)) world_.scheduler().CancelSession(0);
          break;
      }
    }
    if (world_.num_open() > 0) world_.Run();
  }

  void AddRequest() {
    // Few prompts, so that prefixes are shared; few ids, so that some are used again.
    const int32_t length = 1 + bytes_.Below(30);
    Request request = SchedulerWorld::MakeRequest("", length, 1 + bytes_.Below(20), 0);
    const int32_t variant = bytes_.Below(3);
    for (int32_t i = 0; i < length; ++i) {
      request.token_ids[i] = (i < 9 ? 1 : 1 + variant) + (i * i) % 5;
    }
    request.id = absl::StrCat("r", next_id_++ % 100);
    request.seed = bytes_.Below(3);
    request.priority = bytes_.OneIn(4) ? bytes_.Below(3) - 1 : 0;
    request.sampling.ignore_eos = bytes_.OneIn(2);
    request.sampling.min_tokens = bytes_.OneIn(4) ? bytes_.Below(request.sampling.max_tokens) : 0;
    if (bytes_.OneIn(4)) request.sampling.stop_token_ids = {bytes_.Below(10)};
    if (bytes_.OneIn(8)) request.sampling.prompt_logprobs = 1;
    if (bytes_.OneIn(3)) request.n = 1 + bytes_.Below(5);
    if (bytes_.OneIn(6)) request.cache_salt = "other";
    if (bytes_.OneIn(6))
      request.deadline_ns = world_.clock().NowNs() + bytes_.Below(60) * 1'000'000;
    if (request.n == 1 && bytes_.OneIn(5)) {  // a replay
      const std::vector<int32_t> output = world_.Expected(request, 0).output;
      const size_t kept = output.empty() ? 0 : bytes_.Below(static_cast<int32_t>(output.size()));
      request.token_ids.insert(request.token_ids.end(), output.begin(), output.begin() + kept);
    }
    if (world_.Add(request).ok()) longest_ += int64_t{request.n} * (length + 21);
  }

  std::string Pick() {
    const int32_t back = bytes_.Below(12);
    return absl::StrCat("r", (next_id_ + 100 - 1 - back) % 100);
  }

  // The router's copy of the index, kept by events alone.
  void Mirror() {
    world_.cache().TakeEvents(events_);
    for (const BlockHash& hash : events_.removed) {
      PACELINE_CHECK(mirror_.erase({hash.high, hash.low}) == 1, "removed what was not stored");
    }
    for (const BlockHash& hash : events_.stored) {
      PACELINE_CHECK(mirror_.insert({hash.high, hash.low}).second, "stored twice");
    }
    std::set<std::pair<uint64_t, uint64_t>> actual;
    for (const BlockHash& hash : world_.cache().Hashes()) actual.insert({hash.high, hash.low});
    PACELINE_CHECK(mirror_ == actual, "the mirror differs");
  }

  void Finish() {
    for (int32_t i = 0; i < 100; ++i) world_.Resume(absl::StrCat("r", i));
    // Each round of open batches computes at least one token of the first in order, or ends them so
    // that the next does, and a sequence computes its tokens once while it is first.
    world_.Drain(static_cast<int32_t>(8 * (longest_ + 1)));
    const absl::Status status = world_.CheckEmpty();
    PACELINE_CHECK(status.ok(), status.ToString());
    Mirror();
  }

  Bytes& bytes_;
  SchedulerWorld world_;
  int32_t next_id_ = 1;
  int64_t longest_ = 0;
  KvEvents events_;
  std::set<std::pair<uint64_t, uint64_t>> mirror_;
};

}  // namespace

RandomOpsReport RunRandomOps(absl::Span<const uint8_t> bytes) {
  Bytes source(bytes);
  return Driver(source).Run();
}

}  // namespace paceline::worker
