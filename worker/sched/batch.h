// What one step computes. Owned by the Scheduler and reused from step to step; the runner reads it
// between Next and its Commit. Engine thread only.
#ifndef PACELINE_WORKER_SCHED_BATCH_H_
#define PACELINE_WORKER_SCHED_BATCH_H_

#include <cstdint>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "worker/core/block_table.h"
#include "worker/core/sequence.h"

namespace paceline::worker {

// A run of consecutive tokens of one sequence: a decode (one token) or a chunk of a prefill.
struct BatchEntry {
  Sequence* sequence = nullptr;
  int32_t first_position = 0;  // of the tokens whose KV this step computes
  int32_t num_tokens = 0;
  // Sequences that sample their next token from the entry's last row: none for a chunk that does
  // not end the prompt; the leader and the choices that fork from it when one of several choices
  // does; else the sequence itself. The token list that each samples after is its own token_ids.
  absl::InlinedVector<Sequence*, 1> samplers;
};

struct Batch {
  // Decodes first, then prefills; each in order of priority and arrival.
  std::vector<BatchEntry> entries;
  int32_t num_tokens = 0;    // sum over entries
  int32_t num_samplers = 0;  // sum over entries: rows of logits needed at most
  // To do before the step: zero these blocks, then make these copies. Within one list the order
  // does not matter.
  std::vector<int32_t> zero_blocks;
  std::vector<BlockCopy> copies;

  bool empty() const { return entries.empty(); }
};

// The runner's answer for one sampler of the batch.
struct Sampled {
  Sequence* sequence = nullptr;
  int32_t token_id = -1;
  bool numeric_error = false;  // the row held a NaN or an infinity; token_id means nothing
  bool no_candidate = false;   // the request's own masks left no token; token_id means nothing
};

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SCHED_BATCH_H_
