// What every rank of a replica does in one step, and how the leader tells the others: block tables
// travel as differences to what a rank already has, so a step's message does not grow with the
// context. Plain values; engine thread or rank loop only.
#ifndef PACELINE_WORKER_RUNNER_STEP_PLAN_H_
#define PACELINE_WORKER_RUNNER_STEP_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/kv_cache/layout.h"
#include "kernels/kv_cache/write_kv.h"

namespace paceline::worker {

// Rows that pass through the model together: the batch, or with several pipeline stages a part of
// it, so that stages work at the same time.
struct MicroBatch {
  int32_t first_row = 0;
  int32_t num_rows = 0;
  int32_t first_sequence = 0;
  int32_t num_sequences = 0;
  int32_t first_logit = 0;
  int32_t num_logits = 0;
  int32_t num_best = 0;  // of them, the first: rows of which only the best logit is asked for
};

struct StepPlan {
  std::vector<MicroBatch> micro_batches;  // one after the other
  // Rows, [num_rows].
  std::vector<int32_t> token_ids;
  std::vector<int32_t> token_rows;  // of a step ahead, of one rank: ForwardInput's; else empty
  std::vector<int32_t> positions;
  std::vector<int32_t> slots;
  // Of each micro-batch in turn; rows count from its first one.
  std::vector<kernels::SequenceView> sequences;
  std::vector<uint64_t> keys;  // leader only: who each sequence is
  std::vector<int32_t> logit_rows;
  // To do first: zero these blocks, then make these copies.
  std::vector<int32_t> zero_blocks;
  std::vector<kernels::BlockCopy> copies;

  void Clear();
  // A row more, of the sequence whose KV blocks are `table`.
  void AddRow(int32_t token_id, int32_t position, absl::Span<const int32_t> table);
};

// The leader's end. Remembers what it sent.
class PlanEncoder {
 public:
  // Fills `message` for PlanDecoder.
  void Encode(const StepPlan& plan, std::vector<int32_t>& message);

 private:
  struct Known {
    int32_t slot = 0;
    std::vector<int32_t> table;
  };
  absl::flat_hash_map<uint64_t, Known> known_;
};

// A rank's end. Remembers what it got.
class PlanDecoder {
 public:
  // Fills `plan`, whose tables stay valid until the next call. Internal: no message of an encoder.
  absl::Status Decode(absl::Span<const int32_t> message, StepPlan& plan);

 private:
  std::vector<std::vector<int32_t>> tables_;  // by slot
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_RUNNER_STEP_PLAN_H_
