// min_p, top_k and top_p: which tokens can be drawn at all. Passes over the row with a threshold
// and selection among the few survivors; the vocabulary is never sorted. Tokens rank by logit,
// lowest id first among equals. Stateless; any thread.
#ifndef PACELINE_WORKER_SAMPLE_TRUNCATION_H_
#define PACELINE_WORKER_SAMPLE_TRUNCATION_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/sampling/logits.h"

namespace paceline::worker {

struct TruncationParams {
  double inverse_temperature = 1.0;
  double min_p = 0.0;  // 0: off
  int32_t top_k = 0;   // 0: off
  double top_p = 1.0;  // 1: off
};

// True when TruncateRow would keep every token of a row of `vocab_size`.
bool KeepsEverything(const TruncationParams& params, int64_t vocab_size);

// The tokens of the row that the three leave, in no particular order, into `kept`; never empty.
// REQUIRES: `best` is the row's ArgMax and finite; no NaN or +infinity in the row.
void TruncateRow(const TruncationParams& params,
                 absl::Span<const float> logits,
                 const kernels::TokenLogit& best,
                 std::vector<kernels::TokenLogit>& kept);

// The same of a list of candidates, in place.
// REQUIRES: not empty; finite logits, distinct ids.
void TruncateCandidates(const TruncationParams& params,
                        std::vector<kernels::TokenLogit>& candidates);

}  // namespace paceline::worker

#endif  // PACELINE_WORKER_SAMPLE_TRUNCATION_H_
